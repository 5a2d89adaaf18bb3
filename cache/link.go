package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"
)

// How long Redis may take, where the URL does not say (dial_timeout, write_timeout). A call's own bound is its context.
const (
	dialTimeout    = 200 * time.Millisecond // connect and handshake
	silenceTimeout = 500 * time.Millisecond // a connection that says nothing for longer is given up
)

// bufferSize is what each connection buffers in each direction, in bytes.
const bufferSize = 64 << 10

// link holds the connections to Redis: made when it answers, used once it has passed a check. A connection made after the
// last check may lead to another server, or one started anew with another configuration, and so is not trusted to be
// durable before the next.
type link struct {
	option   rueidis.ClientOption
	probe    script
	vouched  bool
	replicas int
	log      *slog.Logger

	shift     atomic.Int64 // ms; only tests move it
	redirects atomic.Int64 // so often a cluster sent a call to another node; counted only where replicas are asked for

	current    atomic.Pointer[session] // nil until a check was passed
	background sync.WaitGroup

	mu      sync.Mutex     // guards what follows
	client  rueidis.Client // nil until Redis answered once
	attempt *attempt       // to make the client; nil: none is under way
	doubts  int            // so often what was known of Redis may have become wrong
	weak    string         // why it was not durable at the last check; "": it was
	closed  bool
}

// session is what the last check found. It is immutable but for the clocks.
type session struct {
	client  rueidis.Client
	durable bool
	doubts  int // those before the check
	epoch   time.Time
	skew    []atomic.Int64 // of Redis's clock in ms against the time since epoch: one, or in a cluster one for each tag
	shift   *atomic.Int64  // ms that tests let records live ahead of Redis's clock
}

func newLink(cfg RedisConfig, probe script) (*link, error) {
	l := &link{probe: probe, vouched: cfg.Vouched, replicas: cfg.Replicas, log: cfg.Log}
	option, err := rueidis.ParseURL(cfg.URL)
	if err != nil {
		if parse, ok := errors.AsType[*url.Error](err); ok {
			err = parse.Err // the error itself would show the password
		}
		return nil, fmt.Errorf("cache: redis URL: %w", err)
	}
	if err := useTLS(&option, cfg); err != nil {
		return nil, err
	}
	option.DisableRetry = true     // of reads too: the caller's budget is short
	option.DisableCache = true     // nothing is read twice
	option.AlwaysPipelining = true // a lost connection is noticed at once, and one slow call does not cut the others
	option.ReadBufferEachConn, option.WriteBufferEachConn = bufferSize, bufferSize
	option.Dialer.Timeout = cmp.Or(option.Dialer.Timeout, dialTimeout)
	option.ConnWriteTimeout = cmp.Or(option.ConnWriteTimeout, silenceTimeout)
	option.PipelineMultiplex = -1 // one connection a node: a new one means that the old one was lost
	option.ClientName = cmp.Or(option.ClientName, "signal-device")
	option.ClusterOption.MaxMovedRedirections = 3
	option.Sentinel.Dialer, option.Sentinel.TLSConfig = option.Dialer, option.TLSConfig
	option.Sentinel.TopologyRefreshInterval = 5 * time.Second
	option.DialCtxFn = l.dialer(option.DialCtxFn)
	l.option = option
	return l, nil
}

// open makes the first check. Only what will not mend itself is an error.
func (l *link) open(ctx context.Context) error {
	err := l.check(ctx)
	if err == nil || errors.Is(err, errUnsuitable) || refused(err) {
		return err
	}
	l.log.Warn("the cache does not answer, going on without it", "error", err)
	return nil
}

// close ends the connections and waits for the work in the background.
func (l *link) close() {
	l.mu.Lock()
	l.closed = true
	client := l.client
	l.mu.Unlock()
	l.current.Store(nil)
	if client != nil {
		client.Close()
	}
	l.background.Wait()
}

// attempt is one try to make the client.
type attempt struct {
	done   chan struct{}
	client rueidis.Client
	err    error
}

// connect returns the client, which is made once Redis answers. Making it takes no context and so has a goroutine of
// its own, one at a time.
func (l *link) connect(ctx context.Context) (rueidis.Client, error) {
	l.mu.Lock()
	if l.client != nil || l.closed {
		defer l.mu.Unlock()
		if l.closed {
			return nil, rueidis.ErrClosing
		}
		return l.client, nil
	}
	if l.attempt == nil {
		l.attempt = &attempt{done: make(chan struct{})}
		l.background.Go(l.makeClient)
	}
	a := l.attempt
	l.mu.Unlock()
	select {
	case <-a.done:
		return a.client, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *link) makeClient() {
	client, err := rueidis.NewClient(l.option)
	l.mu.Lock()
	defer l.mu.Unlock()
	a := l.attempt
	l.attempt = nil
	defer close(a.done)
	switch {
	case err != nil:
		a.err = err
	case l.closed:
		client.Close()
		a.err = rueidis.ErrClosing
	default:
		l.client, a.client = client, client
	}
}

// session returns what calls go through, or CacheUnavailable where no check was passed yet.
func (l *link) session(op string) (*session, error) {
	if s := l.current.Load(); s != nil {
		return s, nil
	}
	return nil, unavailable(op, errUnchecked)
}

func (l *link) durable() bool {
	s := l.current.Load()
	return s != nil && s.durable && l.settled()
}

// errUnchecked says that Redis was not reached since the cache was opened, or was found unsuitable.
var errUnchecked = errors.New("redis has not passed a check yet")

// check connects where that was not done yet and inspects Redis. Where connections were made meanwhile, as in a cluster
// by the first inspection, it inspects again: what it found must hold for all of them. Where time is too short for that,
// Redis counts as not durable.
func (l *link) check(ctx context.Context) error {
	client, err := l.connect(ctx)
	if err != nil {
		return unavailable("check", err)
	}
	for i := range maxInspections {
		if err := l.inspect(ctx, client); err != nil {
			if i > 0 && !errors.Is(err, errUnsuitable) && !refused(err) {
				break // Redis took writes a moment ago
			}
			return unavailable("check", err)
		}
		if l.settled() {
			break
		}
	}
	return nil
}

const maxInspections = 3

// doubt notes that what is known of Redis may be wrong. It counts as not durable until an inspection that begins later.
func (l *link) doubt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.doubts++
}

// settled reports whether nothing was doubted since the last inspection began.
func (l *link) settled() bool {
	s := l.current.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	return s != nil && s.doubts == l.doubts
}

// inspect asks every node how it is set up, and shows that every part of the cache takes writes.
func (l *link) inspect(ctx context.Context, client rueidis.Client) error {
	l.mu.Lock()
	doubts := l.doubts
	l.mu.Unlock()
	found, err := askNodes(ctx, client)
	if errors.Is(err, errUnsuitable) {
		l.current.Store(nil)
	}
	if err != nil {
		return err
	}
	weak := ""
	switch {
	case found.slow:
		weak = "a node of redis is slow to tell how it is set up"
	case !found.logs && !l.vouched:
		weak = "redis keeps no append-only file"
	case found.replicas < l.replicas:
		weak = "redis has fewer replicas in reach than asked for"
	}
	s := &session{client: client, durable: weak == "", doubts: doubts, epoch: time.Now(), shift: &l.shift}
	if err := s.probe(ctx, l.probe); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return rueidis.ErrClosing
	}
	if weak != l.weak && weak != "" {
		l.log.Warn("replies stay in their output queue until they are read", "because", weak)
	}
	l.weak = weak
	l.current.Store(s)
	return nil
}
