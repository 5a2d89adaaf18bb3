package mqtt

import (
	"sync"

	mochi "github.com/mochi-mqtt/server/v2"
)

func (s *Server) nextConnection() uint64 { return s.serial.Add(1) }

// open makes the session of a connection that was let in.
func (s *Server) open(cl *mochi.Client, c *conn) *Session {
	x := &Session{
		server: s, client: cl, conn: c, device: c.device, since: s.cfg.Clock(), gone: make(chan struct{}),
		filters: map[string]byte{}, inflight: map[uint16]func(){},
	}
	x.room = sync.NewCond(&x.ackMu)
	x.seen()
	s.mu.Lock()
	s.sessions[cl] = x
	s.mu.Unlock()
	c.ended = func() { s.close(cl, x) }
	return x
}

// receive makes the session the one that receives its device's commands. The one that did before is cut: the newest
// subscriber wins.
func (s *Server) receive(x *Session) {
	s.mu.Lock()
	old := s.receivers[x.device]
	s.receivers[x.device] = x
	s.mu.Unlock()
	if old == x {
		return
	}
	if old != nil {
		old.cut(errReplace)
	}
	s.cfg.Handler.Subscribed(x)
}

// release takes the session out of those that receive commands.
func (s *Server) release(x *Session) {
	s.mu.Lock()
	was := s.receivers[x.device] == x
	if was {
		delete(s.receivers, x.device)
	}
	s.mu.Unlock()
	if was {
		s.cfg.Handler.Unsubscribed(x)
	}
}

// close forgets the session of a connection that has ended.
func (s *Server) close(cl *mochi.Client, x *Session) {
	x.cut(nil)
	s.mu.Lock()
	delete(s.sessions, cl)
	s.mu.Unlock()
	s.mochi.Clients.Delete(cl.ID) // the protocol layer itself keeps a client whose CONNACK it could not write
	s.release(x)
}
