package cache

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
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

// minVersion is the first major version of Redis that has what the scripts use. Valkey 8 says 7.
const minVersion = 7

// link holds the connections to Redis: made when it answers, used once it has passed a check. A connection made after the
// last check may lead to another server, or one started anew with another configuration, and so is not trusted to be
// durable before the next.
type link struct {
	option  rueidis.ClientOption
	probe   script
	vouched bool
	log     *slog.Logger
	warning sync.Once

	shift atomic.Int64 // ms; only tests move it

	current    atomic.Pointer[session] // nil until a check was passed
	background sync.WaitGroup

	mu      sync.Mutex     // guards what follows
	client  rueidis.Client // nil until Redis answered once
	attempt *attempt       // to make the client; nil: none is under way
	dials   int            // connections made so far
	closed  bool
}

// session is what the last check found. It is immutable but for the clocks.
type session struct {
	client  rueidis.Client
	durable bool
	dials   int // connections made before the check
	epoch   time.Time
	skew    []atomic.Int64 // of Redis's clock in ms against the time since epoch: one, or in a cluster one for each tag
	shift   *atomic.Int64  // ms that tests let records live ahead of Redis's clock
}

func newLink(cfg RedisConfig, probe script) (*link, error) {
	l := &link{probe: probe, vouched: cfg.Vouched, log: cfg.Log}
	option, err := rueidis.ParseURL(cfg.URL)
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err // the error itself would show the password
		}
		return nil, fmt.Errorf("cache: redis URL: %w", err)
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
	if err == nil || errors.Is(err, errUnsuitable) {
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

var (
	// errUnchecked says that Redis was not reached since the cache was opened, or was found unsuitable.
	errUnchecked = errors.New("redis has not passed a check yet")
	// errUnsuitable says that Redis answers but must not be used as it is.
	errUnsuitable = errors.New("redis cannot be used as the cache")
)

// check connects where that was not done yet and inspects Redis. Where connections were made meanwhile, as in a cluster
// by the first inspection, it inspects again: what it found must hold for all of them.
func (l *link) check(ctx context.Context) error {
	client, err := l.connect(ctx)
	if err != nil {
		return unavailable("check", err)
	}
	for range maxInspections {
		if err := l.inspect(ctx, client); err != nil {
			return unavailable("check", err)
		}
		if l.settled() {
			break
		}
	}
	return nil
}

const maxInspections = 3

// settled reports whether the last inspection saw all connections.
func (l *link) settled() bool {
	s := l.current.Load()
	l.mu.Lock()
	defer l.mu.Unlock()
	return s != nil && s.dials == l.dials
}

// inspect asks every node how it is set up, and shows that every part of the cache takes writes.
func (l *link) inspect(ctx context.Context, client rueidis.Client) error {
	l.mu.Lock()
	dials := l.dials
	l.mu.Unlock()
	logs, err := askNodes(ctx, client)
	if errors.Is(err, errUnsuitable) {
		l.current.Store(nil)
	}
	if err != nil {
		return err
	}
	s := &session{client: client, durable: logs || l.vouched, dials: dials, epoch: time.Now(), shift: &l.shift}
	if err := s.probe(ctx, l.probe); err != nil {
		return err
	}
	if !s.durable {
		l.warning.Do(func() {
			l.log.Warn("redis keeps no append-only file: replies stay in their output queue until they are read")
		})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return rueidis.ErrClosing
	}
	l.current.Store(s)
	return nil
}

// askNodes reports whether every node that answers keeps an append-only file. errUnsuitable: one is too old or drops
// records. A node that does not answer is no error: where it is needed, the probe fails.
func askNodes(ctx context.Context, client rueidis.Client) (logs bool, err error) {
	nodes := client.Nodes()
	infos := make(chan nodeInfo, len(nodes))
	for _, node := range nodes {
		go func() {
			text, err := node.Do(ctx, node.B().Info().Build()).ToString()
			infos <- nodeInfo{fields: parseInfo(text), err: err}
		}()
	}
	logs = true
	for range nodes {
		info := <-infos
		if info.err != nil {
			err = errors.Join(err, info.err)
			continue
		}
		if fault := info.fault(); fault != nil {
			return false, fault
		}
		logs = logs && info.fields["aof_enabled"] == "1"
	}
	if err != nil && len(nodes) == 1 {
		return false, err
	}
	return logs, nil
}

// nodeInfo is what a node says of itself.
type nodeInfo struct {
	fields map[string]string
	err    error
}

// parseInfo reads the answer to INFO: lines of "name:value".
func parseInfo(text string) map[string]string {
	fields := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			fields[name] = value
		}
	}
	return fields
}

// fault tells why a node cannot be used.
func (n nodeInfo) fault() error {
	version, policy := n.fields["redis_version"], n.fields["maxmemory_policy"]
	major, _, _ := strings.Cut(version, ".")
	if v, err := strconv.Atoi(major); err != nil || v < minVersion {
		return fmt.Errorf("%w: version %q, at least Redis %d.0 or Valkey 8 is needed", errUnsuitable, version, minVersion)
	}
	if policy != "noeviction" {
		return fmt.Errorf("%w: maxmemory-policy is %q and would silently drop replies, it must be noeviction",
			errUnsuitable, policy)
	}
	return nil
}

// probe shows that every part of the cache takes writes, and learns the clocks.
func (s *session) probe(ctx context.Context, probe script) error {
	tags := allTags()
	if s.client.Mode() != rueidis.ClientModeCluster {
		tags = tags[:1]
	}
	s.skew = make([]atomic.Int64, len(tags))
	calls := make([]call, len(tags))
	for i, t := range tags {
		calls[i] = call{tag: t, keys: []string{"probe" + t.String()}}
	}
	for _, a := range s.run(ctx, probe, calls) {
		if a.err != nil {
			return a.err
		}
	}
	return nil
}

// clock returns the skew of the Redis that has the tag.
func (s *session) clock(t tag) *atomic.Int64 { return &s.skew[int(t)%len(s.skew)] }

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

// dialer wraps how rueidis connects, in order to know of every new connection.
func (l *link) dialer(dial dialFunc) dialFunc {
	if dial == nil {
		dial = dialTCP
	}
	return func(ctx context.Context, addr string, d *net.Dialer, cfg *tls.Config) (net.Conn, error) {
		conn, err := dial(ctx, addr, d, cfg)
		if err != nil {
			return nil, &notSentError{err}
		}
		l.dialed()
		return &newConn{Conn: conn}, nil
	}
}

type dialFunc = func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error)

func dialTCP(ctx context.Context, addr string, d *net.Dialer, cfg *tls.Config) (net.Conn, error) {
	if cfg == nil {
		return d.DialContext(ctx, "tcp", addr)
	}
	return (&tls.Dialer{NetDialer: d, Config: cfg}).DialContext(ctx, "tcp", addr)
}

// dialed notes a new connection: what is known of Redis is not known of what it leads to.
func (l *link) dialed() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dials++
}

// newConn marks failures of a connection that has not carried a command yet, so that they are known to have had no
// effect. rueidis writes its handshake in one go and reads the answers; what it writes next is a command.
type newConn struct {
	net.Conn
	greeted atomic.Bool // an answer to the handshake has come
	used    atomic.Bool // a command was written
}

// Read implements net.Conn.
func (c *newConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.greeted.Store(true)
	}
	return n, c.mark(err)
}

// Write implements net.Conn.
func (c *newConn) Write(b []byte) (int, error) {
	if c.greeted.Load() {
		c.used.Store(true)
	}
	n, err := c.Conn.Write(b)
	return n, c.mark(err)
}

func (c *newConn) mark(err error) error {
	if err == nil || c.used.Load() {
		return err
	}
	return &notSentError{err}
}
