package mqtt

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/listeners"

	"signaldevice/device"
)

// listener does the TLS handshake itself, with a deadline and at a bounded rate: a connection that says nothing, or ten
// thousand that come at once, hold up nobody.
type listener struct {
	cfg         Config
	ln          net.Listener
	connections *atomic.Int64
	refused     *atomic.Uint64
	admission   *admission
	closing     chan struct{}
	once        sync.Once
	served      chan struct{}  // closed when nothing more is accepted
	running     sync.WaitGroup // handshakes and connections

	mu   sync.Mutex
	open map[net.Conn]struct{} // accepted and not closed yet
}

func (l *listener) Init(*slog.Logger) (err error) {
	l.ln, err = new(net.ListenConfig).Listen(context.Background(), "tcp", l.cfg.Addr)
	return err
}

func (l *listener) ID() string       { return "devices" }
func (l *listener) Address() string  { return l.cfg.Addr }
func (l *listener) Protocol() string { return "tcp" }

// Close does nothing: stop has done it. The protocol layer's way to close its clients takes a read lock twice and hangs
// where a client leaves in between, and it counts clients in a group that it already waits for.
func (l *listener) Close(listeners.CloseFn) {}

// stop accepts no more, closes every connection and returns when all of them have ended.
func (l *listener) stop() {
	l.once.Do(func() {
		close(l.closing)
		l.ln.Close()
	})
	<-l.served
	l.mu.Lock()
	for c := range l.open {
		c.Close()
	}
	l.mu.Unlock()
	l.running.Wait()
}

// track remembers a connection until it is closed.
func (l *listener) track(c net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open[c] = struct{}{}
}

func (l *listener) forget(c net.Conn) {
	l.mu.Lock()
	delete(l.open, c)
	l.mu.Unlock()
	l.connections.Add(-1)
}

func (l *listener) Serve(establish listeners.EstablishFn) {
	defer close(l.served)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l.running.Go(func() {
		l.admission.run(ctx, func(c net.Conn) { l.running.Go(func() { l.handshake(c, establish) }) })
	})
	for {
		c, err := l.ln.Accept()
		if err != nil {
			select {
			case <-l.closing:
				return
			case <-time.After(50 * time.Millisecond): // out of file descriptors, most likely: let some go first
				l.cfg.Log.Warn("connection not accepted", "error", err)
				continue
			}
		}
		l.track(c)
		if l.connections.Add(1) > int64(l.cfg.MaxConnections) || !l.admission.join(c) {
			l.refused.Add(1)
			c.Close()
			l.forget(c)
		}
	}
}

func (l *listener) handshake(c net.Conn, establish listeners.EstablishFn) {
	handed := false
	defer func() {
		if !handed {
			c.Close()
			l.forget(c)
		}
	}()
	c.SetDeadline(time.Now().Add(l.cfg.ConnectTimeout)) // for CONNECT too: until then nobody else sets one
	t := tls.Server(c, l.tlsConfig())
	if err := t.HandshakeContext(context.Background()); err != nil { // the connection's deadline bounds it
		l.cfg.Log.Debug("TLS handshake failed", "remote", c.RemoteAddr().String(), "error", err)
		return
	}
	handed = true
	// In a goroutine of its own, so that the stack which the handshake grew is given back.
	l.running.Go(func() {
		defer l.forget(c)
		device := &conn{Conn: t, writeTimeout: l.cfg.WriteTimeout, ended: func() {}}
		if err := establish(l.ID(), device); err != nil {
			l.cfg.Log.Debug("connection ended", "remote", c.RemoteAddr().String(), "error", err)
		}
		device.ended() // however it ended: the protocol layer tells its hooks of some ways only
		device.linger()
	})
}

// tlsConfig asks for a certificate of any issuer: which ones are registered is looked up after the handshake, where the
// answer can be an MQTT return code. The handshake has proved that the device holds the key.
func (l *listener) tlsConfig() *tls.Config {
	minimum := uint16(tls.VersionTLS13)
	if l.cfg.TLS12 {
		minimum = tls.VersionTLS12
	}
	return &tls.Config{
		MinVersion:             minimum,
		Certificates:           []tls.Certificate{*l.cfg.Certificate},
		ClientAuth:             tls.RequireAnyClientCert,
		SessionTicketsDisabled: true, // a resumed session would skip the proof of the key
		VerifyConnection:       l.verify,
	}
}

// verify refuses what no registration could make good.
func (l *listener) verify(state tls.ConnectionState) error {
	now := l.cfg.Clock()
	switch cert := state.PeerCertificates[0]; {
	case now.After(cert.NotAfter):
		return x509.CertificateInvalidError{Cert: cert, Reason: x509.Expired}
	case now.Before(cert.NotBefore):
		return errors.New("the certificate is not valid yet")
	}
	return nil
}

// conn is a device's connection. Each write has its own deadline, so that a device which reads nothing cannot hold up
// its writer, whatever keepalive it asked for.
type conn struct {
	*tls.Conn
	writeTimeout time.Duration
	device       device.ID // known after CONNECT
	peer         *x509.Certificate
	ended        func()
	leaving      atomic.Bool               // it sent DISCONNECT
	until        atomic.Pointer[time.Time] // when the command that is being written must not be written any more (I4)
}

// How long a device that sent DISCONNECT may take to close its connection, and what it may still send meanwhile.
const (
	lingerFor   = 500 * time.Millisecond
	lingerBytes = 64 << 10
)

// Close closes the connection, unless the device has said that it is about to do so itself [MQTT-3.14.4-1]: closing
// first would reset the connection under its last words, which some clients report as an error. linger closes it then.
func (c *conn) Close() error {
	if c.leaving.Load() {
		return nil
	}
	return c.Conn.Close()
}

// linger waits for the device to close, and closes.
func (c *conn) linger() {
	if c.leaving.Load() && c.Conn.SetReadDeadline(time.Now().Add(lingerFor)) == nil {
		_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes) // whatever ends it, the connection is closed next
	}
	_ = c.Conn.Close() // it may be closed already
}

func (c *conn) certificate() *x509.Certificate {
	if c.peer == nil {
		c.peer = c.Conn.ConnectionState().PeerCertificates[0]
	}
	return c.peer
}

func (c *conn) Write(b []byte) (int, error) {
	now := time.Now()
	deadline := now.Add(c.writeTimeout)
	if until := c.until.Load(); until != nil && until.Before(deadline) {
		if !now.Before(*until) {
			return 0, os.ErrDeadlineExceeded
		}
		deadline = *until
	}
	if err := c.Conn.SetWriteDeadline(deadline); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// SetDeadline is called by the protocol layer for every packet that it reads; writes have their own.
func (c *conn) SetDeadline(t time.Time) error { return c.Conn.SetReadDeadline(t) }
