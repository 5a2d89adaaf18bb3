package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/failsafe-go/failsafe-go/circuitbreaker"

	"signaldevice/device"
)

// What one call may spend on each dependency (I7).
const (
	cacheBudget  = 250 * time.Millisecond
	brokerBudget = 1500 * time.Millisecond
)

// What has to be left of the cache's time for one more Put with the Take after it, and for one more Take. A Take that is
// cut off for want of time would leave its outcome unknown.
const (
	putNeeds  = 100 * time.Millisecond
	takeNeeds = 25 * time.Millisecond
)

// How the health of a dependency is judged. An outage that ends is noticed within 2 s: a pause, a probe that the end came
// too late for, and another pause.
const (
	failuresToOpen = 5
	slowCall       = 400 * time.Millisecond // one attempt at one node (I7): a call that takes longer is looked into
	probeTimeout   = 400 * time.Millisecond // a ping of the cache is several round trips: a call needs three in 250 ms
	probePause     = 2 * time.Second        // while all is well
	retryPause     = 300 * time.Millisecond // while it is not
	probeSpacing   = 50 * time.Millisecond  // between any two probes
	fullLingers    = time.Second            // a full cache is not tried again
)

// allowance is what is left of one call's time for one dependency.
type allowance struct {
	left    time.Duration
	slowest time.Duration // of what was done so far
}

// spend runs work with a context that ends when the allowance does, and takes the time it took from the allowance.
func (a *allowance) spend(ctx context.Context, work func(context.Context) error) error {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, a.left)
	defer cancel()
	err := work(ctx)
	took := time.Since(start)
	a.slowest = max(a.slowest, took)
	a.pay(took)
	return err
}

func (a *allowance) pay(cost time.Duration) { a.left = max(0, a.left-cost) }

// fits reports whether so many calls more are likely to end in time, half as slow again as the slowest until now.
func (a *allowance) fits(calls int, atLeast time.Duration) bool {
	return a.left >= max(atLeast, time.Duration(calls)*a.slowest*3/2)
}

// dependency watches over calls to the broker or the cache. Its breaker refuses calls while the dependency is out.
//
// Calls raise suspicion, probes in the background judge: a failed call counts towards opening the breaker once a probe
// has failed too. So one shard of the broker that elects a leader fails its own calls and nobody else's. Only a probe
// closes the breaker; no live call is ever spent on trying.
type dependency struct {
	name      string
	down      device.Kind // of the error for a call that was not made
	ping      func(context.Context) error
	breaker   circuitbreaker.CircuitBreaker[any]
	recovered func() // called when the breaker closes; may be nil
	suspicion chan struct{}
	clock     func() time.Time
	observer  Observer
	log       *slog.Logger

	mu          sync.Mutex
	unjudged    int       // failed calls since the last probe or answer
	failing     bool      // the last probe failed
	since, last time.Time // first and last moment of the present or last outage
	cause       error     // of the last failure
}

func newDependency(name string, down device.Kind, ping func(context.Context) error, cfg Config) *dependency {
	d := &dependency{
		name:      name,
		down:      down,
		ping:      ping,
		suspicion: make(chan struct{}, 1),
		clock:     cfg.Clock,
		observer:  cfg.Observer,
		log:       cfg.Log,
	}
	d.breaker = circuitbreaker.NewBuilder[any]().
		WithFailureThreshold(failuresToOpen).
		WithDelay(math.MaxInt64). // never half-open by itself: that would let a live call probe
		OnStateChanged(func(e circuitbreaker.StateChangedEvent) { d.changed(e.NewState, cfg.Observer) }).
		Build()
	cfg.Observer.DependencyUp(name, true)
	return d
}

func (d *dependency) changed(state circuitbreaker.State, o Observer) {
	up := state == circuitbreaker.ClosedState
	o.DependencyUp(d.name, up)
	d.mu.Lock()
	since, cause := d.since, d.cause
	d.mu.Unlock()
	if !up {
		d.log.Warn("dependency is out", "dependency", d.name, "since", since, "err", cause)
		return
	}
	d.log.Info("dependency is back", "dependency", d.name, "out_since", since)
	if d.recovered != nil {
		d.recovered()
	}
}

// ask makes a call that changes nothing: cut off, it is as if it had not been made.
func (d *dependency) ask(ctx context.Context, a *allowance, op func(context.Context) error) error {
	err := d.call(ctx, a, op)
	if device.Is(err, device.OutcomeUnknown) {
		return device.Wrap(d.down, err, "the "+d.name+" does not answer")
	}
	return err
}

// tell makes a call that may change something: cut off, its outcome is unknown. A call that is not made, because the
// breaker is open or the allowance spent, gets the dependency's own kind.
func (d *dependency) tell(ctx context.Context, a *allowance, op func(context.Context) error) error {
	err := d.call(ctx, a, op)
	if device.Is(err, device.OutcomeUnknown) && ctx.Err() == nil {
		d.observer.OutcomeUnknown(d.name)
	}
	return err
}

func (d *dependency) call(ctx context.Context, a *allowance, op func(context.Context) error) error {
	if d.breaker.IsOpen() {
		d.missed()
		return device.Errorf(d.down, "the %s does not answer", d.name)
	}
	if a.left <= 0 {
		d.missed()
		return device.Errorf(d.down, "the %s did not answer in time", d.name)
	}
	slow := time.AfterFunc(slowCall, d.suspect)
	err := d.own(a.spend(ctx, op))
	slow.Stop()
	switch {
	case ctx.Err() != nil: // the caller left, which says nothing of the dependency
	case !unanswered(err):
		d.answered()
	default:
		d.failed(err)
	}
	if errors.Is(err, context.DeadlineExceeded) && device.KindOf(err) == device.Internal {
		return device.Wrap(device.OutcomeUnknown, err, "the "+d.name+" did not answer in time")
	}
	return err
}

// own turns a refusal of this service itself, whose certificate or password is not accepted, into an outage: the caller
// has done nothing wrong.
func (d *dependency) own(err error) error {
	switch device.KindOf(err) {
	case device.Unauthenticated, device.Forbidden:
		return device.Wrap(d.down, err, "the "+d.name+" does not accept this service")
	}
	return err
}

// unanswered tells an outage from the dependency's own refusal.
func unanswered(err error) bool {
	switch device.KindOf(err) {
	case device.BrokerUnavailable, device.CacheUnavailable, device.Unavailable, device.OutcomeUnknown:
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

func (d *dependency) answered() {
	d.mu.Lock()
	d.unjudged = 0
	d.mu.Unlock()
	d.breaker.RecordSuccess()
}

func (d *dependency) failed(err error) {
	d.mu.Lock()
	confirmed := d.failing
	d.blame(err)
	if !confirmed {
		d.unjudged++
	}
	d.mu.Unlock()
	if confirmed {
		d.breaker.RecordFailure()
	}
	d.suspect()
}

// blame dates a failure. It is called with the lock held.
func (d *dependency) blame(err error) {
	now := d.clock()
	if !d.out() && d.unjudged == 0 {
		d.since = now
	}
	d.last, d.cause = now, err
}

// missed notes that a call had to do without the dependency, which is no failure of its own.
func (d *dependency) missed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.blame(d.cause)
}

// out reports whether the dependency does not answer. It is called with the lock held.
func (d *dependency) out() bool { return d.failing || d.breaker.IsOpen() }

// outage reports whether the dependency is out or has failed at some time since began, and when that began.
func (d *dependency) outage(began time.Time) (since time.Time, out bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.since, d.out() || !d.last.IsZero() && !d.last.Before(began)
}

// reason tells why the last call or probe failed, in the words for callers.
func (d *dependency) reason() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e, ok := errors.AsType[*device.Error](d.cause); ok {
		return e.Message
	}
	return ""
}

func (d *dependency) suspect() {
	select {
	case d.suspicion <- struct{}{}:
	default: // a probe is due already
	}
}

// probe pings the dependency until ctx ends: now and then while all is well, soon after a suspicion, often in an outage.
func (d *dependency) probe(ctx context.Context) {
	failing := false
	for d.rest(ctx, failing) {
		err := (&allowance{left: probeTimeout}).spend(ctx, d.ping)
		if ctx.Err() != nil {
			return
		}
		d.judge(err)
		failing = err != nil
	}
}

func (d *dependency) rest(ctx context.Context, failing bool) bool {
	pause, suspicion := jitter(probePause), d.suspicion
	if failing {
		pause, suspicion = jitter(retryPause), nil
	}
	if !sleep(ctx, probeSpacing) {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-suspicion:
	case <-timer.C:
	}
	return true
}

// judge is the verdict of a probe, also on the calls that failed since the one before.
func (d *dependency) judge(err error) {
	d.mu.Lock()
	suspects := d.unjudged
	switch {
	case err != nil:
		d.blame(err)
	case d.out(): // until now: calls that it refused may still be under way
		d.last = d.clock()
	}
	d.unjudged = 0
	d.failing = err != nil
	d.mu.Unlock()
	if err == nil {
		d.breaker.RecordSuccess()
		d.breaker.Close()
		return
	}
	for range min(suspects+1, failuresToOpen) {
		d.breaker.RecordFailure()
	}
}

// room remembers for a moment that the cache was full, so that a device's whole queue is not read in vain at each poll.
type room struct {
	clock func() time.Time
	log   *slog.Logger

	mu      sync.Mutex
	full    bool
	since   time.Time
	refusal time.Time // the last
	missed  time.Time // when a call last had to do without room
}

func (r *room) refused() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	if !r.full {
		r.full, r.since = true, now
		r.log.Warn("cache is full", "since", now)
	}
	r.refusal, r.missed = now, now
}

func (r *room) stored() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.full {
		r.full = false
		r.log.Info("cache has room again", "full_since", r.since)
	}
}

// turnsAway reports whether the cache was full a moment ago, so that a call does not try it.
func (r *room) turnsAway() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock()
	if !r.isFull(now) {
		return false
	}
	r.missed = now
	return true
}

// isFull is called with the lock held.
func (r *room) isFull(now time.Time) bool { return r.full && now.Sub(r.refusal) < fullLingers }

// outage reports whether the cache is full, or had no room for some call since began, and since when.
func (r *room) outage(began time.Time) (since time.Time, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.since, r.isFull(r.clock()) || !r.missed.IsZero() && !r.missed.Before(began)
}

// jitter returns a duration within a third of d, so that many instances do not act at once.
func jitter(d time.Duration) time.Duration { return d*2/3 + rand.N(d*2/3) }

// sleep reports whether the whole time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
