package dispatch_test

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"signaldevice/cache"
	"signaldevice/device"
	"signaldevice/dispatch"
)

// The ledger is a model of a reply's way: queued, drained, cached, acknowledged, taken, expired. Two processes of the
// service, which die and are born again, share one broker and one cache, or have a cache in memory each. Each call that
// they make to broker or cache is a step, and an accident may come before, in and after it. Time is the bubble's.

// The caches that the ledger is kept over.
const (
	durableCache = "durable cache"
	fleeting     = "cache that is not durable"
	inMemory     = "each process its own cache in memory"
)

// How long things live in the world: short, so that a test passes all ends with few ticks.
const (
	cacheTTL  = time.Minute
	retention = 2 * time.Minute // in the output queue
)

// well is how long everything takes to find out that all is well.
const well = 3 * time.Second

type world struct {
	ledger
	kind     string
	broker   *fakeBroker
	shared   *fakeCache // nil where each process has its own
	lives    [2]*life
	requests []*request
	pending  []func() error // effects that come later
}

type request struct {
	id     device.RequestID
	client dispatch.Caller
	device device.ID
	next   int // seq
	done   bool
}

func newWorld(kind string) *world {
	w := &world{kind: kind, ledger: ledger{facts: map[device.ReplyKey]*fact{}, keptFor: retention}}
	w.broker = newFakeBroker(time.Now, cam, cam2)
	w.broker.retention = retention
	if kind != inMemory {
		w.shared = newFakeCache(time.Now, kind == durableCache)
		w.shared.ttl = cacheTTL
	}
	w.apart = kind == inMemory
	if kind == durableCache {
		w.keptFor = cacheTTL // at least: a reply that was moved is nowhere else
	}
	for i := range w.lives {
		w.lives[i] = w.newLife()
	}
	return w
}

// inWorld runs a test in a world of its own, in a bubble. What rapid or the test panics with passes through.
func inWorld(t *testing.T, kind string, test func(w *world)) {
	var cause any
	synctest.Test(t, func(*testing.T) {
		w := newWorld(kind)
		defer func() {
			cause = recover()
			for _, l := range w.lives {
				l.stop()
			}
		}()
		test(w)
	})
	// To rapid, failures with one trace are the same, and a draw that is not possible must not be taken for one.
	if fmt.Sprintf("%T", cause) == "rapid.invalidData" {
		panic(cause)
	}
	if cause != nil {
		panic(cause)
	}
}

// newCache returns the cache as a new process finds it.
func (w *world) newCache() dispatch.Cache {
	if w.shared != nil {
		return w.shared
	}
	return cache.NewMemory(cache.MemoryConfig{TTL: cacheTTL})
}

// cached reports whether a cache holds the reply. Of one in memory nothing is expected: what it has is in the queue too
// until its client has read it.
func (w *world) cached(key device.ReplyKey) bool { return w.shared != nil && w.shared.holds(key) }

// later keeps an effect for the time when what is frozen thaws.
func (w *world) later(effect func() error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pending = append(w.pending, effect)
}

// thaw lets everything happen that was held up, in its order.
func (w *world) thaw() {
	w.touch()
	w.mu.Lock()
	effects := w.pending
	w.pending = nil
	w.mu.Unlock()
	for _, effect := range effects {
		_ = effect() // nobody waits for its answer any more
	}
}

var (
	worldClients = []dispatch.Caller{alice, bob, caller("carol")}
	worldDevices = []device.ID{cam, cam, cam2}
)

func (w *world) send(t rapid.TB, c dispatch.Caller, dev device.ID) *request {
	out, err := w.lives[0].Send(context.Background(), c, dispatch.SendInput{Device: dev, Command: "ping"})
	if err != nil {
		t.Fatalf("send: %v", err)
	}
	r := &request{id: out.Request.ID, client: c, device: dev}
	w.requests = append(w.requests, r)
	return r
}

// arrive is a reply that its camera gets a PUBACK for.
func (w *world) arrive(r *request, final bool) {
	body := fmt.Sprintf("%q", "reply "+strconv.Itoa(len(w.facts)))
	if w.broker.arrive(r.id, r.next, final, body) {
		w.mu.Lock()
		w.facts[device.ReplyKey{Request: r.id, Seq: r.next}] = &fact{
			client: r.client.Client, device: r.device, body: body, final: final, arrived: time.Now(),
		}
		w.mu.Unlock()
	}
	r.next, r.done = r.next+1, final
}

func (w *world) idsOf(c dispatch.Caller, dev device.ID) (ids []device.RequestID) {
	for _, r := range w.requests {
		if r.client.Client == c.Client && r.device == dev {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// poll makes one poll at a process and checks what came of it; where the process dies in it, there is no answer and
// another one takes its place. What the process does behind its answer is over when poll returns, or the process dies of
// it: the client has its answer then.
func (w *world) poll(t rapid.TB, i int, c dispatch.Caller, dev device.ID, ids []device.RequestID) (dispatch.Replies, error) {
	got, err := w.pollNow(t, i, c, dev, ids)
	synctest.Wait()
	for i, l := range w.lives {
		if l.isDead() {
			l.stop()
			w.lives[i] = w.newLife()
		}
	}
	return got, err
}

func (w *world) pollNow(t rapid.TB, i int, c dispatch.Caller, dev device.ID, ids []device.RequestID) (dispatch.Replies, error) {
	l := w.lives[i]
	got, err := l.Replies(context.Background(), c, dispatch.RepliesInput{Device: dev, IDs: ids})
	if l.isDead() {
		err = errDead
	}
	if err != nil {
		return dispatch.Replies{}, err
	}
	for _, r := range got.Replies {
		w.give(t, c, dev, len(ids) > 0, r)
	}
	own := w.idsOf(c, dev)
	for _, s := range got.Requests {
		w.checkState(t, slices.Contains(own, s.ID), s)
	}
	return got, nil
}

// mishap makes a poll with accidents. A client that is told that something may be missing asks again, by id, when all is
// well.
func (w *world) mishap(t rapid.TB, i int, c dispatch.Caller, dev device.ID, ids []device.RequestID, p *plan) {
	pierced := false
	p.pierce = func(string) {
		if !pierced { // once is enough
			pierced = true
			_, _ = w.pollNow(t, 1-i, c, dev, nil) // what it gives is in the ledger
		}
	}
	w.lives[i].setPlan(p)
	got, err := w.poll(t, i, c, dev, ids)
	w.lives[i].setPlan(nil)
	again := err != nil
	for _, s := range got.Requests {
		final := slices.ContainsFunc(got.Replies, func(r dispatch.Reply) bool { return r.Request == s.ID && r.Final })
		switch s.State {
		case device.StateAnswered, device.StateProgress, device.StateUnverified:
			again = again || !final
		}
	}
	if again {
		time.Sleep(well)
		w.mustRead(t, i, c, dev)
	}
}

// everybodyReads ends a test: all is well, and each client reads all of its own.
func (w *world) everybodyReads(t rapid.TB) {
	w.thaw()
	if w.shared != nil {
		w.shared.setLimit(0)
	}
	time.Sleep(well)
	for _, c := range worldClients {
		for _, dev := range []device.ID{cam, cam2} {
			w.mustRead(t, 1, c, dev)
		}
	}
}

// TestLedger_ACrashAtEveryStep lets each accident come at each step of a poll, over each cache (I2, I3, I6, I8, I9).
func TestLedger_ACrashAtEveryStep(t *testing.T) {
	before := map[string]func(w *world, t *testing.T){
		"straight away":            func(*world, *testing.T) {},
		"after another's poll":     func(w *world, t *testing.T) { w.mustRead(t, 1, bob, cam) }, // alice's are in the cache
		"the cache has no room":    func(w *world, _ *testing.T) { w.full(1) },
		"after a poll of her own":  func(w *world, t *testing.T) { w.mustRead(t, 1, alice, cam) },
		"after the other one died": func(w *world, t *testing.T) { w.mishap(t, 1, bob, cam, nil, &plan{what: diesAfter, at: 2}) },
	}
	for _, kind := range []string{durableCache, fleeting, inMemory} {
		t.Run(kind, func(t *testing.T) {
			seen := map[string]bool{}
			for _, what := range accidents {
				for name, first := range before {
					for asked := range 3 {
						for at := 0; ; at++ {
							p := &plan{what: what, at: at}
							inWorld(t, kind, func(w *world) { w.everyStep(t, first, asked, p) })
							if t.Failed() {
								t.Fatalf("%s, asked for %d requests by id: %s step %d (%s)", name, asked, what, at, p.hit)
							}
							if p.hit == "" {
								break // the poll has no such step
							}
							seen[string(what)+" "+p.hit] = true
						}
					}
				}
				for _, op := range []string{"take", "drain", "put", "acknowledge", "requests"} {
					if !seen[string(what)+" "+op] {
						t.Errorf("nothing %s %q", what, op)
					}
				}
			}
		})
	}
}

// everyStep is a poll with an accident, among two clients' replies, and what comes after it until the end of all ages.
// Of the requests that may be asked for by id, the first is answered, in two parts, and the second is not.
func (w *world) everyStep(t *testing.T, first func(*world, *testing.T), asked int, p *plan) {
	one, two := w.send(t, alice, cam), w.send(t, bob, cam)
	w.send(t, alice, cam)
	w.arrive(one, false)
	w.arrive(two, true)
	w.arrive(one, true)
	first(w, t)
	w.mishap(t, 0, alice, cam, w.idsOf(alice, cam)[:asked], p)
	w.nothingIsLost(t)
	if w.kind == fleeting {
		w.touch()
		w.shared.flush()
	}
	w.everybodyReads(t)
	time.Sleep(dispatch.DefaultReplyGrace + time.Second)
	w.everybodyReads(t)
	time.Sleep(retention)
	w.everybodyReads(t)
	if n := w.broker.unread(); n > 0 {
		t.Errorf("%d replies are in the queue for ever", n)
	}
}

func (w *world) full(limit int) {
	if w.shared != nil {
		w.touch()
		w.shared.setLimit(limit)
	}
}

// TestLedger_ReadElsewhere: what one process gave and whose grace is over is not given again out of another one's cache,
// neither at once nor after the queue was read.
func TestLedger_ReadElsewhere(t *testing.T) {
	inWorld(t, inMemory, func(w *world) {
		r := w.send(t, alice, cam)
		w.arrive(r, false)
		_, _ = w.poll(t, 1, bob, cam, nil) // brings it into the other cache
		w.mustRead(t, 0, alice, cam)
		time.Sleep(dispatch.DefaultReplyGrace + time.Second)
		for range 2 {
			if got, err := w.poll(t, 1, alice, cam, []device.RequestID{r.id}); err != nil || len(got.Replies) > 0 {
				t.Errorf("given again: %+v %v", got, err)
			}
		}
	})
}

// actions are what may happen in the world, for rapid to choose from.
func (w *world) actions(accidental bool) map[string]func(*rapid.T) {
	draw := func(t *rapid.T) (i int, c dispatch.Caller, dev device.ID) {
		return rapid.IntRange(0, 1).Draw(t, "process"), rapid.SampledFrom(worldClients).Draw(t, "client"),
			rapid.SampledFrom(worldDevices).Draw(t, "device")
	}
	reply := func(t *rapid.T) {
		open := slices.DeleteFunc(slices.Clone(w.requests), func(r *request) bool { return r.done })
		if len(open) == 0 {
			t.Skip("no open request")
		}
		w.arrive(rapid.SampledFrom(open).Draw(t, "request"), rapid.Bool().Draw(t, "final"))
	}
	mishap := func(t *rapid.T) {
		i, c, dev := draw(t)
		w.mishap(t, i, c, dev, w.someIDs(t, c, dev), &plan{
			what:    rapid.SampledFrom(accidents).Draw(t, "accident"),
			at:      rapid.IntRange(0, 9).Draw(t, "at"),
			lasting: rapid.Bool().Draw(t, "lasting"),
		})
	}
	actions := map[string]func(*rapid.T){
		"": func(t *rapid.T) { w.nothingIsLost(t) },
		"send": func(t *rapid.T) {
			if len(w.requests) == 15 {
				t.Skip("enough requests")
			}
			_, c, dev := draw(t)
			w.send(t, c, dev)
		},
		"reply":  reply,
		"reply2": reply,
		"read": func(t *rapid.T) {
			i, c, dev := draw(t)
			_, _ = w.poll(t, i, c, dev, nil)
		},
		"later": func(t *rapid.T) {
			time.Sleep(rapid.SampledFrom([]time.Duration{1, 10, 31, 31, 61, 121}).Draw(t, "seconds") * time.Second)
		},
	}
	if !accidental {
		return actions
	}
	actions["mishap"], actions["mishap2"], actions["mishap3"] = mishap, mishap, mishap
	actions["thaw"] = func(t *rapid.T) {
		w.thaw()
		for _, c := range worldClients { // replies may have been taken for nobody: those who wait ask again within the grace
			for _, dev := range []device.ID{cam, cam2} {
				time.Sleep(well)
				w.mustRead(t, 0, c, dev)
			}
		}
	}
	if w.shared != nil {
		actions["full"] = func(t *rapid.T) { w.full(rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "limit")) }
	}
	if w.kind == fleeting {
		actions["flush"] = func(*rapid.T) { w.touch(); w.shared.flush() }
	}
	return actions
}

// someIDs draws what a poll asks for: all there is, or some of the client's requests and at times a foreign one.
func (w *world) someIDs(t *rapid.T, c dispatch.Caller, dev device.ID) []device.RequestID {
	if !rapid.Bool().Draw(t, "by id") {
		return nil
	}
	ids := w.idsOf(c, dev)
	if n := len(ids); n > 1 {
		ids = ids[rapid.IntRange(0, n-1).Draw(t, "from"):]
	}
	if rapid.IntRange(0, 3).Draw(t, "with a foreign id") == 0 && len(w.requests) > 0 {
		ids = append(slices.Clone(ids), rapid.SampledFrom(w.requests).Draw(t, "any request").id)
	}
	return ids
}

// TestLedger_NothingIsLostNothingGoesAstray draws long stories (I2, I3, I6, I8, I9).
func TestLedger_NothingIsLostNothingGoesAstray(t *testing.T) {
	for _, kind := range []string{durableCache, fleeting, inMemory} {
		for name, accidental := range map[string]bool{"all is well": false, "accidents at every step": true} {
			t.Run(kind+", "+name, func(t *testing.T) {
				rapid.Check(t, func(rt *rapid.T) {
					inWorld(t, kind, func(w *world) {
						rt.Repeat(w.actions(accidental))
						w.everybodyReads(rt)
					})
				})
			})
		}
	}
}
