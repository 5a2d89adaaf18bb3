package dispatch_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// accident is what may happen to one call from a process to the broker or the cache.
type accident string

// The accidents. Together they put an end, a failure and another process's work between any two steps of a reply's way.
const (
	refused   accident = "refused" // the call fails and has no effect
	cut       accident = "cut"     // it has its effect, and its answer is lost
	delayed   accident = "delayed" // its answer is lost, and it has its effect much later
	diesAt    accident = "dies at" // the process dies before the call has its effect
	diesAfter accident = "dies after"
	meanwhile accident = "meanwhile" // the other process reads all there is right after it
)

var accidents = []accident{refused, cut, delayed, diesAt, diesAfter, meanwhile}

// plan says which calls of a poll have an accident: one, or that one and all that follow.
type plan struct {
	what    accident
	at      int
	lasting bool
	pierce  func(op string) // what happens on meanwhile

	mu    sync.Mutex
	calls int
	hit   string // the call that had the first accident; "": none
}

// next returns the accident of the call that comes next.
func (p *plan) next(op string) accident {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.calls
	p.calls++
	if n != p.at && !(p.lasting && n > p.at) {
		return ""
	}
	if p.hit == "" {
		p.hit = op
	}
	return p.what
}

// life is one process from its start to its end, with its own way to the broker and to the cache. A dead process may go
// on computing, but nothing that it does reaches anybody.
type life struct {
	*dispatch.Dispatcher
	cache dispatch.Cache // this process's way to it

	w    *world
	end  context.CancelFunc
	over chan struct{}

	mu   sync.Mutex
	plan *plan
	dead bool
}

// newLife starts a process.
func (w *world) newLife() *life {
	l := &life{w: w, over: make(chan struct{})}
	replies := w.newCache()
	l.cache = replies
	ctx, end := context.WithCancel(context.Background())
	l.end = end
	l.Dispatcher = dispatch.New(dispatch.Config{
		ReplyGrace: dispatch.DefaultReplyGrace, Catalogue: fakeCatalogue{},
		Broker: lifeBroker{w.broker, l}, Cache: lifeCache{replies, l},
	})
	go func() {
		defer close(l.over)
		l.Run(ctx)
	}()
	return l
}

// stop ends what runs of the process, dead or not.
func (l *life) stop() {
	l.end()
	<-l.over
}

func (l *life) isDead() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dead
}

func (l *life) die() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
}

func (l *life) setPlan(p *plan) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.plan = p
}

// next returns the accident of a call, and whether the process lives.
func (l *life) next(op string) (accident, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead || l.plan == nil {
		return "", !l.dead
	}
	return l.plan.next(op), true
}

var errDead = errors.New("the process is dead")

// call makes a call that has an effect, unless an accident prevents it. down is what a refusal says.
func (l *life) call(op string, down device.Kind, effect func() error) error {
	what, alive := l.next(op)
	if !alive {
		return errDead
	}
	if what != "" && what != meanwhile {
		l.w.touch()
	}
	switch what {
	case refused:
		return device.Errorf(down, "refused")
	case cut:
		_ = effect() // nobody learns of it
		return device.Errorf(device.OutcomeUnknown, "cut off")
	case delayed:
		l.w.later(effect)
		return device.Errorf(device.OutcomeUnknown, "cut off")
	case diesAt:
		l.die()
		return errDead
	case diesAfter:
		_ = effect()
		l.die()
		return errDead
	}
	err := effect()
	if what == meanwhile && op != "acknowledge" { // which may be made in the background
		l.w.touch() // two polls at the same time may both give a reply
		l.plan.pierce(op)
	}
	return err
}

// lifeBroker is a process's way to the broker.
type lifeBroker struct {
	dispatch.Broker
	l *life
}

func (b lifeBroker) Drain(ctx context.Context, q dispatch.Drain) (page dispatch.DrainPage, err error) {
	err = b.l.call("drain", device.BrokerUnavailable, func() (err error) {
		page, err = b.Broker.Drain(context.WithoutCancel(ctx), q)
		return err
	})
	if err != nil {
		return dispatch.DrainPage{}, err
	}
	return page, nil
}

func (b lifeBroker) Acknowledge(ctx context.Context, dev device.ID, positions [][]byte, after time.Duration) error {
	return b.l.call("acknowledge", device.BrokerUnavailable, func() error {
		return b.Broker.Acknowledge(context.WithoutCancel(ctx), dev, positions, after)
	})
}

func (b lifeBroker) Requests(ctx context.Context, m device.Mailbox, ids []device.RequestID) (list []device.Request, err error) {
	err = b.l.call("requests", device.BrokerUnavailable, func() (err error) {
		list, err = b.Broker.Requests(context.WithoutCancel(ctx), m, ids)
		return err
	})
	if err != nil {
		return nil, err
	}
	return list, nil
}

// lifeCache is a process's way to the cache.
type lifeCache struct {
	dispatch.Cache
	l *life
}

func (c lifeCache) Put(ctx context.Context, replies []device.Reply) (results []dispatch.PutResult, err error) {
	replies = slices.Clone(replies)
	err = c.l.call("put", device.CacheUnavailable, func() error {
		got, err := c.Cache.Put(context.WithoutCancel(ctx), replies)
		results = got
		return err
	})
	if err != nil {
		return nil, err
	}
	return results, nil
}

func (c lifeCache) Take(ctx context.Context, q dispatch.Take) (taken dispatch.Taken, err error) {
	err = c.l.call("take", device.CacheUnavailable, func() error {
		got, err := c.Cache.Take(context.WithoutCancel(ctx), q)
		taken = got
		return err
	})
	if err != nil {
		return dispatch.Taken{}, err
	}
	return taken, nil
}
