package cache

import (
	"bytes"
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync/atomic"
)

// dialer wraps how rueidis connects, in order to know of every new connection that is answered.
func (l *link) dialer(dial dialFunc) dialFunc {
	if dial == nil {
		dial = dialTCP
	}
	return func(ctx context.Context, addr string, d *net.Dialer, cfg *tls.Config) (net.Conn, error) {
		conn, err := dial(ctx, addr, d, cfg)
		if err != nil {
			return nil, &notSentError{err}
		}
		return &freshConn{Conn: conn, link: l}, nil
	}
}

type dialFunc = func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error)

func dialTCP(ctx context.Context, addr string, d *net.Dialer, cfg *tls.Config) (net.Conn, error) {
	if cfg == nil {
		return d.DialContext(ctx, "tcp", addr)
	}
	return (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(ctx, "tcp", addr)
}

// freshConn marks failures of a connection that has not carried a command yet, so that they are known to have had no
// effect. rueidis writes its handshake in one go and reads the answers; what it writes next is a command.
type freshConn struct {
	net.Conn
	link    *link
	greeted atomic.Bool // an answer to the handshake has come
	used    atomic.Bool // a command was written
	last    []byte      // the last bytes that were read; only Read uses it
}

// Read implements net.Conn.
func (c *freshConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && c.greeted.CompareAndSwap(false, true) {
		// What is known of Redis is not known of what a new connection leads to. One that is never answered leads nowhere:
		// else a node that hangs, and is tried at each check, would leave all of them in doubt.
		c.link.doubt()
	}
	c.notice(b[:n])
	return n, c.mark(err)
}

// notice counts answers by which a cluster sends a call to another node. rueidis follows them and does not tell. What is
// no such answer but part of a reply only makes a put less sure than it is.
func (c *freshConn) notice(b []byte) {
	if c.link.replicas == 0 {
		return
	}
	const overlap = len("-MOVED ") - 1 // one may come in two pieces
	seam := slices.Concat(c.last, b[:min(len(b), overlap)])
	if redirects(seam) || redirects(b) {
		c.link.redirects.Add(1)
	}
	c.last = slices.Concat(c.last, b[max(0, len(b)-overlap):])
	c.last = c.last[max(0, len(c.last)-overlap):]
}

func redirects(b []byte) bool {
	return bytes.Contains(b, []byte("-MOVED ")) || bytes.Contains(b, []byte("-ASK "))
}

// Write implements net.Conn.
func (c *freshConn) Write(b []byte) (int, error) {
	if c.greeted.Load() {
		c.used.Store(true)
	}
	n, err := c.Conn.Write(b)
	return n, c.mark(err)
}

func (c *freshConn) mark(err error) error {
	if err == nil || c.used.Load() {
		return err
	}
	return &notSentError{err}
}
