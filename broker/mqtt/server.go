// Package mqtt is the broker's side towards the devices: MQTT 3.1.1 over mutual TLS.
//
// A device is known by its registered certificate alone. It may publish to its own events and state, and subscribe to its
// own commands and config; anything else cuts the connection or is refused. The package hands events on and writes
// commands, and promises two things about acknowledgements: a device gets the PUBACK of an event only after the event's
// Done(nil), in packet order, and a command counts as delivered only after the device's own PUBACK for it.
//
// The protocol itself is read and written by mochi-mqtt. Its map of messages in flight, its subscription tree and its
// takeover of client ids are not used: the first is shared by both directions and loses acknowledgements when packet ids
// clash, and the last would let a client id cut a connection. Everything here is safe for concurrent use.
package mqtt

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"

	"signaldevice/broker/identity"
	"signaldevice/device"
)

// ratePerProcessor is how many devices are let in a second by default, for each processor: about a fifth of what one could
// do, so that a storm of them leaves the rest to everyone else.
const ratePerProcessor = 100

// Event is a message of a device, as it came.
type Event struct {
	Device  device.ID
	Topic   string // in full form: `$devices/<id>/events…` or `$devices/<id>/state…`
	Payload []byte
	Gone    <-chan struct{} // closed when the connection has ended
	Parked  func()          // to be called when the event has to wait for room
	Done    func(error)     // to be called once: nil lets the device forget the event, an error cuts its connection
}

// Handler receives what devices do. Its methods are called from a connection's own goroutine.
type Handler interface {
	// Event takes an event in. It should return soon: the connection reads nothing meanwhile.
	Event(e Event)
	// Subscribed tells that the device can receive commands through the session from now on.
	Subscribed(s *Session)
	// Unsubscribed tells that this session no longer receives commands.
	Unsubscribed(s *Session)
}

// Config says how devices are let in. The zero value of a limit means its default.
type Config struct {
	Addr           string           // host:port to listen on
	Certificate    *tls.Certificate // of the server
	TLS12          bool             // accept TLS 1.2 too
	MaxConnections int              // default 20,000
	ConnectRate    int              // devices let in a second; default 100 for each processor. Who would wait over 5 s is cut
	ConnectTimeout time.Duration    // for handshake and CONNECT together, from the device's turn on; default 10 s
	WriteTimeout   time.Duration    // for one write to a device; default 10 s
	// Identify returns the device of a certificate, or an error when it is not registered or cannot be checked now
	// (BrokerUnavailable).
	Identify func(der []byte) (device.ID, error)
	Handler  Handler
	Clock    func() time.Time
	Log      *slog.Logger
}

// Server accepts devices.
type Server struct {
	cfg      Config
	mochi    *mochi.Server
	listener *listener

	mu        sync.RWMutex
	sessions  map[*mochi.Client]*Session
	receivers map[device.ID]*Session // who gets the device's commands

	serial      atomic.Uint64 // numbers connections
	connections atomic.Int64
	refused     atomic.Uint64
	stopped     context.CancelFunc
	done        sync.WaitGroup
}

// Why a connection was cut.
var (
	ErrExpired = errors.New("the certificate has expired")
	ErrRevoked = errors.New("the certificate or its device was removed")
	errReplace = errors.New("a newer connection of the device receives its commands")
	errStop    = errors.New("the broker stops")
)

// New prepares a server. Listen starts it.
func New(cfg Config) (*Server, error) {
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 20_000
	}
	if cfg.ConnectRate == 0 {
		cfg.ConnectRate = ratePerProcessor * runtime.GOMAXPROCS(0)
	}
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 10 * time.Second
	}
	if cfg.WriteTimeout == 0 {
		cfg.WriteTimeout = 10 * time.Second
	}
	s := &Server{cfg: cfg, sessions: map[*mochi.Client]*Session{}, receivers: map[device.ID]*Session{}}
	s.mochi = mochi.New(&mochi.Options{
		Logger:                  slog.New(slog.DiscardHandler), // its lines hold whole packets; ours do not
		ClientNetReadBufferSize: 512,                           // one for each idle device
		SysTopicResendInterval:  24 * 3600,
	})
	c := s.mochi.Options.Capabilities
	c.MinimumProtocolVersion = 4
	c.MaximumQos = 1
	c.RetainAvailable = 0
	c.SharedSubAvailable = 0
	c.MaximumClientWritesPending = 1 // our sender does not use that queue
	c.MaximumPacketSize = device.MaxPayload + maxTopic + 16
	c.MaximumClients = int64(cfg.MaxConnections)
	if err := s.mochi.AddHook(&hook{server: s}, nil); err != nil {
		return nil, fmt.Errorf("mqtt: %w", err)
	}
	s.listener = &listener{
		cfg: s.cfg, connections: &s.connections, refused: &s.refused, admission: newAdmission(cfg.ConnectRate),
		closing: make(chan struct{}), served: make(chan struct{}), open: map[net.Conn]struct{}{},
	}
	return s, nil
}

// Listen binds the address and starts to accept devices, which call the handler from then on. Close ends it.
func (s *Server) Listen() error {
	if err := s.mochi.AddListener(s.listener); err != nil {
		return fmt.Errorf("mqtt: listen on %s: %w", s.cfg.Addr, err)
	}
	if err := s.mochi.Serve(); err != nil {
		return fmt.Errorf("mqtt: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stopped = cancel
	s.done.Go(func() { s.watchExpiry(ctx) })
	return nil
}

// Addr is the address that the server listens on.
func (s *Server) Addr() net.Addr { return s.listener.ln.Addr() }

// Close stops accepting and cuts every connection.
func (s *Server) Close() error {
	s.stopped()
	s.done.Wait()
	s.cut(errStop, func(*Session) bool { return true })
	s.listener.stop()
	return s.mochi.Close()
}

// Session returns the session that receives the device's commands; nil when there is none.
func (s *Server) Session(id device.ID) *Session {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.receivers[id]
}

// CutDevice ends every connection of a device.
func (s *Server) CutDevice(id device.ID) {
	s.cut(ErrRevoked, func(x *Session) bool { return x.device == id })
}

// CutCertificates ends every connection of a device that was made with one of these certificates, named by fingerprint.
func (s *Server) CutCertificates(id device.ID, fingerprints []string) {
	s.cut(ErrRevoked, func(x *Session) bool {
		return x.device == id && slices.Contains(fingerprints, identity.Fingerprint(x.conn.certificate().Raw))
	})
}

// Waiting is the number of connections that wait for their turn to be let in.
func (s *Server) Waiting() int { return len(s.listener.admission.line) }

// Connections is the number of devices connected now, those that wait included.
func (s *Server) Connections() int { return int(s.connections.Load()) }

// Refused counts the connections that were turned away since the start.
func (s *Server) Refused() uint64 { return s.refused.Load() }

func (s *Server) cut(cause error, which func(*Session) bool) {
	s.mu.RLock()
	var found []*Session
	for _, x := range s.sessions {
		if which(x) {
			found = append(found, x)
		}
	}
	s.mu.RUnlock()
	for _, x := range found {
		x.cut(cause)
	}
}

// watchExpiry cuts connections whose certificate has run out, within a minute.
func (s *Server) watchExpiry(ctx context.Context) {
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			now := s.cfg.Clock()
			s.cut(ErrExpired, func(x *Session) bool { return now.After(x.conn.certificate().NotAfter) })
		}
	}
}

func (s *Server) session(cl *mochi.Client) *Session {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sessions[cl]
}
