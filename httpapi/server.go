package httpapi

import (
	"cmp"
	"container/list"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	maxHeader    = 16 << 10 // bytes; more is 431
	defaultConns = 4096
)

// Timeouts bound how long a connection may take for each part of a call. Zero values take the defaults.
type Timeouts struct {
	Header time.Duration // from the first byte of a call to the end of its header; default 5 s
	Body   time.Duration // from then to the end of the body; default 10 s
	Write  time.Duration // from the header to the end of the answer, besides the wait that a call asks for; default 15 s
	Idle   time.Duration // between two calls; default 60 s
}

func (t Timeouts) withDefaults() Timeouts {
	return Timeouts{
		Header: cmp.Or(t.Header, 5*time.Second),
		Body:   cmp.Or(t.Body, 10*time.Second),
		Write:  cmp.Or(t.Write, 15*time.Second),
		Idle:   cmp.Or(t.Idle, 60*time.Second),
	}
}

// ServerConfig is what a server is made from. Handler is needed.
type ServerConfig struct {
	MaxConns int      // connections at the same time; default 4096
	Timeouts Timeouts // the same as the handler's

	Handler http.Handler
	Log     *slog.Logger // default: slog.Default()
}

// NewServer returns a server whose every connection is bounded in time and in header size, and whose connections are
// bounded in number. It listens nowhere yet.
//
// ReadTimeout is not set: it would go on running while a call waits for a reply and would end it. The handler gives
// each body a deadline instead.
func NewServer(cfg ServerConfig) *http.Server {
	log := cfg.Log
	if log == nil {
		log = slog.Default()
	}
	timeouts := cfg.Timeouts.withDefaults()
	return &http.Server{
		Handler:           cfg.Handler,
		ReadHeaderTimeout: timeouts.Header,
		WriteTimeout:      timeouts.Write,
		IdleTimeout:       timeouts.Idle,
		MaxHeaderBytes:    maxHeader - 4096, // net/http adds 4096 bytes of its own
		ConnState:         newConnections(cmp.Or(cfg.MaxConns, defaultConns)).changed,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // what peers do wrong below HTTP

		DisableGeneralOptionsHandler: true, // OPTIONS * is a call like any other
	}
}

// connections bounds how many connections there are. Where there are too many, the one that has been without a call
// for the longest is closed; where all are busy, the new one. So idle connections, however many, keep nobody out. (A
// listener that stops to accept at a limit would let them.)
//
// It is safe for concurrent use.
type connections struct {
	max int

	mu    sync.Mutex
	idle  *list.List                 // of net.Conn without a call, the longest idle in front
	known map[net.Conn]*list.Element // every connection; nil: it is busy
}

func newConnections(most int) *connections {
	return &connections{max: most, idle: list.New(), known: map[net.Conn]*list.Element{}}
}

// changed is the server's ConnState hook. A new connection counts as idle until the header of its first call is read.
func (c *connections) changed(conn net.Conn, state http.ConnState) {
	if victim := c.track(conn, state); victim != nil {
		if t, ok := victim.(*tls.Conn); ok {
			victim = t.NetConn() // without waiting to send an alert
		}
		_ = victim.Close()
	}
}

func (c *connections) track(conn net.Conn, state http.ConnState) (victim net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.known[conn] = c.idle.PushBack(conn)
		if len(c.known) > c.max {
			victim = c.idle.Front().Value.(net.Conn)
			c.forget(victim)
		}
	case http.StateActive:
		if e := c.known[conn]; e != nil {
			c.idle.Remove(e)
			c.known[conn] = nil
		}
	case http.StateIdle:
		if e, ok := c.known[conn]; ok && e == nil {
			c.known[conn] = c.idle.PushBack(conn)
		}
	default: // closed or hijacked
		c.forget(conn)
	}
	return victim
}

func (c *connections) forget(conn net.Conn) {
	if e := c.known[conn]; e != nil {
		c.idle.Remove(e)
	}
	delete(c.known, conn)
}
