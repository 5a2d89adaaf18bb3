package dispatch

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"signaldevice/device"
)

// DefaultReplyGrace is how long a client can read a reply again after its first read, by the request's id.
const DefaultReplyGrace = 30 * time.Second

// MaxReplyGrace is the longest grace that the broker accepts.
const MaxReplyGrace = time.Hour

// Config holds what a Dispatcher needs. Broker, Cache and Catalogue must be set.
type Config struct {
	ReplyGrace time.Duration // up to MaxReplyGrace; 0: a reply can be read once only

	Broker    Broker
	Cache     Cache
	Catalogue Catalogue

	Observer Observer         // nil: nobody counts
	Log      *slog.Logger     // nil: nothing is logged
	Clock    func() time.Time // nil: time.Now; for outages only
}

// Observer counts what a Dispatcher does. Its methods must not block; they are called concurrently.
type Observer interface {
	// Sent is called once for each Send, at its end. The outcome is the state that the caller is told, "repeated", or the
	// text of the error's kind. The command is empty where it is not known.
	Sent(command, outcome string)
	// Drained counts replies that were read from output queues.
	Drained(whose Whose, n int)
	// DependencyUp tells whether "broker" or "cache" is asked now. It is called at the start and at each change.
	DependencyUp(dependency string, up bool)
	// OutcomeUnknown counts a call to "broker" or "cache" that was cut after it was sent, and may have changed something.
	// Calls whose own caller left are not among them.
	OutcomeUnknown(dependency string)
}

// Whose tells of a drained reply whom it was for.
type Whose string

// The kinds of drained reply.
const (
	Own           Whose = "own"       // of the client whose poll drained it
	Foreign       Whose = "foreign"   // of another client
	DuplicateCopy Whose = "duplicate" // known to the cache already
)

type nobody struct{}

func (nobody) Sent(string, string)       {}
func (nobody) Drained(Whose, int)        {}
func (nobody) DependencyUp(string, bool) {}
func (nobody) OutcomeUnknown(string)     {}

// Dispatcher is the implementation of Service. Run must be running for waits to be woken and for outages to be noticed
// and to end.
type Dispatcher struct {
	grace     time.Duration
	catalogue Catalogue
	cache     *cachePort
	broker    *brokerPort
	waiters   *waiters
	streams   *streams
	watching  *watching
	moves     moves
	observer  Observer
	log       *slog.Logger

	closing   chan struct{}
	closeOnce sync.Once
}

var _ Service = (*Dispatcher)(nil)

// New returns a Dispatcher over the configured ports. It makes no call and starts nothing.
func New(cfg Config) *Dispatcher {
	if cfg.Observer == nil {
		cfg.Observer = nobody{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	d := &Dispatcher{
		grace:     min(max(0, cfg.ReplyGrace), MaxReplyGrace),
		catalogue: cfg.Catalogue,
		waiters:   newWaiters(),
		streams:   newStreams(),
		watching:  newWatching(),
		observer:  cfg.Observer,
		log:       cfg.Log,
		closing:   make(chan struct{}),
	}
	d.cache = &cachePort{
		Cache:      cfg.Cache,
		dependency: newDependency("cache", device.CacheUnavailable, cfg.Cache.Ping, cfg),
		room:       room{clock: cfg.Clock, log: cfg.Log},
	}
	d.broker = &brokerPort{
		Broker:     cfg.Broker,
		dependency: newDependency("broker", device.BrokerUnavailable, cfg.Broker.Ping, cfg),
	}
	d.broker.recovered = d.watching.restart
	return d
}

// Run watches the broker's hints and probes both dependencies until ctx ends or Close is called. It returns once every
// goroutine that it started has ended. Call it once.
func (d *Dispatcher) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { d.broker.probe(ctx) })
	running.Go(func() { d.cache.probe(ctx) })
	running.Go(func() { d.watch(ctx) })
	select {
	case <-ctx.Done():
	case <-d.closing:
	}
	d.Close()
	cancel()
	running.Wait()
}

// Close ends Run, every wait and every stream of events; waiting calls answer at once with what they know. Calls made
// afterwards work, but do not wait. It is safe to call more than once.
func (d *Dispatcher) Close() {
	d.closeOnce.Do(func() {
		close(d.closing)
		d.streams.close()
	})
}

// Degraded names the dependencies that do not answer now, or did not at some time since began, and since when: the broker
// first. So the answer to a call that began then names what the call may have had to do without.
func (d *Dispatcher) Degraded(began time.Time) []Outage {
	var outages []Outage
	if since, out := d.broker.outage(began); out {
		outages = append(outages, Outage{d.broker.name, since, d.broker.reason()})
	}
	since, out := d.cache.outage(began)
	reason := d.cache.reason()
	if full, isFull := d.cache.room.outage(began); isFull && (!out || full.Before(since)) {
		since, out, reason = full, true, "the cache is full"
	}
	if out {
		outages = append(outages, Outage{d.cache.name, since, reason})
	}
	return outages
}

// brokerPort is the broker behind its breaker.
type brokerPort struct {
	Broker
	*dependency
}

// cachePort is the cache behind its breaker.
type cachePort struct {
	Cache
	*dependency
	room room
}
