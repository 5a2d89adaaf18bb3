package stream

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/nats-io/nats.go"
)

// answers is one permanent inbox for requests that get several answers. A subscription for each request would cost
// more than the request itself.
type answers struct {
	prefix  string
	next    atomic.Uint64
	mu      sync.Mutex
	waiting map[string]chan *nats.Msg
}

func newAnswers(conn *nats.Conn) (*answers, error) {
	a := &answers{prefix: conn.NewInbox() + ".", waiting: map[string]chan *nats.Msg{}}
	sub, err := conn.Subscribe(a.prefix+"*", a.receive)
	if err != nil {
		return nil, err
	}
	return a, sub.SetPendingLimits(-1, -1) // what may come is bounded by what is asked for, and a gap would look like an end
}

func (a *answers) receive(m *nats.Msg) {
	token := strings.TrimPrefix(m.Subject, a.prefix)
	a.mu.Lock()
	ch := a.waiting[token]
	a.mu.Unlock()
	if ch == nil {
		return // its asker has given up
	}
	select {
	case ch <- m:
	default: // more than was asked for
	}
}

// open returns an inbox for up to n answers; done frees it.
func (a *answers) open(n int) (inbox string, ch <-chan *nats.Msg, done func()) {
	token := strconv.FormatUint(a.next.Add(1), 36)
	c := make(chan *nats.Msg, n)
	a.mu.Lock()
	a.waiting[token] = c
	a.mu.Unlock()
	return a.prefix + token, c, func() {
		a.mu.Lock()
		delete(a.waiting, token)
		a.mu.Unlock()
	}
}

// receive returns the next answer. One that is there counts, even where the time is up.
func receive(ctx context.Context, ch <-chan *nats.Msg) (*nats.Msg, error) {
	select {
	case m := <-ch:
		return m, nil
	case <-ctx.Done():
	}
	select {
	case m := <-ch:
		return m, nil
	default:
		return nil, ctx.Err()
	}
}
