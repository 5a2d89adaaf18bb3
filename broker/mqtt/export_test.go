package mqtt

// Keepalives returns the keepalive, in seconds, of every client that the protocol layer holds.
func (s *Server) Keepalives() []uint16 {
	var all []uint16
	for _, cl := range s.mochi.Clients.GetAll() {
		all = append(all, cl.State.Keepalive)
	}
	return all
}
