package dispatch

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"signaldevice/device"
)

// MaxWait is the longest wait that one call may ask for.
const MaxWait = 60 * time.Second

// Bounds of waiting.
const (
	maxWaitersPerClient = 100
	maxWaiters          = 10_000
	maxFinalsNoted      = 64 // final replies that a waiter remembers hints of
)

// How soon a waiter reads again without having been woken, for hints are at most once.
const (
	recheckPause = 5 * time.Second         // while hints flow
	blindPause   = 1500 * time.Millisecond // while they do not
	resyncSpread = time.Second             // after hints broke off or began: over this time, not all at once
)

// How the stream of hints is kept open.
const (
	watchReadyWithin = 2 * time.Second
	watchPause       = 500 * time.Millisecond
)

// place is where a waiter waits: one client's replies from one device.
type place struct {
	mailbox device.Mailbox
	device  device.ID
}

// waiters are the calls that wait for replies now. A waiter is registered before its first read, so no hint between
// reading and waiting is missed.
type waiters struct {
	mu     sync.Mutex
	at     map[place]map[*waiter]struct{}
	perBox map[device.Mailbox]int
	total  int
}

func newWaiters() *waiters {
	return &waiters{at: map[place]map[*waiter]struct{}{}, perBox: map[device.Mailbox]int{}}
}

// waiter is one call that waits. Only its own call uses it, but for wake and finals.
type waiter struct {
	place
	ids    []device.RequestID // whose replies wake it; none: any
	wake   chan struct{}      // holds one wake-up; more would say nothing new
	finals []device.RequestID // requests whose final reply a hint told of; guarded by waiters.mu
}

// join registers a waiter, or refuses with RateLimited. Every waiter must leave.
func (ws *waiters) join(at place, ids []device.RequestID) (*waiter, error) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if ws.perBox[at.mailbox] >= maxWaitersPerClient {
		return nil, tooManyWaiters("this client has too many calls that wait")
	}
	if ws.total >= maxWaiters {
		return nil, tooManyWaiters("too many calls wait")
	}
	w := &waiter{place: at, ids: ids, wake: make(chan struct{}, 1)}
	if ws.at[at] == nil {
		ws.at[at] = map[*waiter]struct{}{}
	}
	ws.at[at][w] = struct{}{}
	ws.perBox[at.mailbox]++
	ws.total++
	return w, nil
}

func tooManyWaiters(message string) error {
	return &device.Error{Kind: device.RateLimited, Message: message + "; ask without wait", RetryAfter: time.Second}
}

func (ws *waiters) leave(w *waiter) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.at[w.place], w)
	if len(ws.at[w.place]) == 0 {
		delete(ws.at, w.place)
	}
	ws.perBox[w.mailbox]--
	if ws.perBox[w.mailbox] == 0 {
		delete(ws.perBox, w.mailbox)
	}
	ws.total--
}

// notify wakes those who wait for a reply to this request. It never blocks.
func (ws *waiters) notify(at place, id device.RequestID, final bool) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for w := range ws.at[at] {
		if len(w.ids) > 0 && !slices.Contains(w.ids, id) {
			continue
		}
		if final && len(w.finals) < maxFinalsNoted {
			w.finals = append(w.finals, id)
		}
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// sawFinal reports whether a hint told that the final reply of the request is in.
func (ws *waiters) sawFinal(w *waiter, id device.RequestID) bool {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return slices.Contains(w.finals, id)
}

// await blocks until the waiter should read again, and reports whether it may wait once more after that: not when the
// time is up, the caller has left, or the Dispatcher closes. failed tells that the last read was of no use: no hint comes
// for what it has missed.
func (d *Dispatcher) await(ctx context.Context, w *waiter, until time.Time, failed bool) bool {
	flowing, changed := d.watching.state()
	pause := jitter(blindPause)
	switch {
	case failed:
		pause = jitter(retryPause)
	case flowing:
		pause = jitter(recheckPause)
	}
	timer := time.NewTimer(min(pause, time.Until(until)))
	defer timer.Stop()
	for {
		select {
		case <-w.wake:
		case <-timer.C:
		case <-changed:
			// Whatever was hinted at meanwhile may have been missed.
			changed = nil
			timer.Reset(min(rand.N(resyncSpread), time.Until(until)))
			continue
		case <-ctx.Done():
			return false
		case <-d.closing:
			return false
		}
		return time.Now().Before(until)
	}
}

// watching tells whether hints flow, and lets the stream be restarted.
type watching struct {
	mu      sync.Mutex
	flowing bool
	changed chan struct{} // closed and replaced at each change
	stop    func()        // ends the present stream; nil: there is none
}

func newWatching() *watching { return &watching{changed: make(chan struct{})} }

func (w *watching) state() (flowing bool, changed <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flowing, w.changed
}

// set reports whether this was a change.
func (w *watching) set(flowing bool) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.flowing == flowing {
		return false
	}
	w.flowing = flowing
	close(w.changed)
	w.changed = make(chan struct{})
	return true
}

func (w *watching) begin(stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stop = stop
}

// restart ends the stream of hints, so that it is opened anew: after an outage it may be dead without knowing.
func (w *watching) restart() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stop != nil {
		w.stop()
	}
}

// watch keeps the broker's stream of hints open until ctx ends.
func (d *Dispatcher) watch(ctx context.Context) {
	for {
		err := d.watchOnce(ctx)
		if ctx.Err() != nil {
			return
		}
		d.broker.suspect() // a stream that breaks off is often the first to know of an outage
		if d.watching.set(false) {
			d.log.Warn("hints broke off; waiting calls read on their own", "err", err)
		}
		if !sleep(ctx, jitter(watchPause)) {
			return
		}
	}
}

func (d *Dispatcher) watchOnce(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	d.watching.begin(stop)
	unready := time.AfterFunc(watchReadyWithin, stop)
	defer unready.Stop()
	ready := func() {
		unready.Stop()
		if d.watching.set(true) {
			d.log.Info("hints flow")
		}
		d.streams.resync()
	}
	return d.broker.Watch(ctx, ready, d.hint)
}

// hint wakes those who wait and tells those who watch.
func (d *Dispatcher) hint(h Hint) {
	d.streams.publish(h)
	if r := h.Reply; r != nil {
		d.waiters.notify(place{r.Mailbox, r.Device}, r.Request, r.Final)
		if r.Final {
			d.streams.publish(Hint{Request: &RequestHint{r.Device, r.Mailbox, r.Request, device.StateAnswered}})
		}
	}
	if r := h.Request; r != nil && (settled(r.State) || r.State == device.StateNoReply) {
		d.waiters.notify(place{r.Mailbox, r.Device}, r.Request, false)
	}
}
