package dispatch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"signaldevice/cache"
	"signaldevice/device"
	"signaldevice/dispatch"
)

// fact is what the ledger knows of one reply that a device got a PUBACK for.
type fact struct {
	client device.ClientID
	device device.ID
	body   string
	final  bool
	given  int
	first  time.Time // when it was given first
}

// world is a broker, a cache and two instances of the service, with a ledger that is none of theirs.
type world struct {
	now       time.Time
	broker    *fakeBroker
	cache     *fakeCache // nil where the cache is a real one
	caching   *faults
	cfg       dispatch.Config
	instances [2]*dispatch.Dispatcher
	requests  []*request
	ledger    map[device.ReplyKey]*fact
	faulty    bool // some call met a fault; from then on a reply may be given twice
}

type request struct {
	id     device.RequestID
	client dispatch.Caller
	device device.ID
	sent   time.Time
	next   int // seq
	done   bool
}

// The caches that the ledger is kept over.
const (
	durableCache = "durable cache"
	fleeting     = "cache that is not durable"
	inMemory     = "the cache in memory itself"
)

func newWorld(kind string) *world {
	w := &world{now: time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC), ledger: map[device.ReplyKey]*fact{}}
	clock := func() time.Time { return w.now }
	w.broker = newFakeBroker(clock, cam, cam2)
	w.cfg = dispatch.Config{
		ReplyGrace: dispatch.DefaultReplyGrace, Broker: w.broker, Catalogue: fakeCatalogue{}, Clock: clock,
	}
	if kind == inMemory {
		faulty := &faultyCache{Cache: cache.NewMemory(cache.MemoryConfig{Clock: clock})}
		w.cfg.Cache, w.caching = faulty, &faulty.faults
	} else {
		w.cache = newFakeCache(clock, kind == durableCache)
		w.cfg.Cache, w.caching = w.cache, &w.cache.faults
	}
	for i := range w.instances {
		w.instances[i] = dispatch.New(w.cfg)
	}
	return w
}

var worldClients = []dispatch.Caller{alice, bob, caller("carol")}

func (w *world) send(t *rapid.T) {
	if len(w.requests) == 15 {
		t.Skip("enough requests")
	}
	r := &request{
		client: rapid.SampledFrom(worldClients).Draw(t, "client"),
		device: rapid.SampledFrom([]device.ID{cam, cam, cam2}).Draw(t, "device"),
		sent:   w.now,
	}
	out, err := w.instances[0].Send(context.Background(), r.client, dispatch.SendInput{Device: r.device, Command: "ping"})
	if err != nil {
		t.Fatalf("send: %v", err)
	}
	r.id = out.Request.ID
	w.requests = append(w.requests, r)
}

func (w *world) reply(t *rapid.T) {
	open := slices.DeleteFunc(slices.Clone(w.requests), func(r *request) bool { return r.done })
	if len(open) == 0 {
		t.Skip("no open request")
	}
	w.arrive(rapid.SampledFrom(open).Draw(t, "request"), rapid.Bool().Draw(t, "final"))
}

func (w *world) arrive(r *request, final bool) {
	body := fmt.Sprintf("%q", "reply "+strconv.Itoa(len(w.ledger)))
	if w.broker.arrive(r.id, r.next, final, body) {
		w.ledger[device.ReplyKey{Request: r.id, Seq: r.next}] = &fact{client: r.client.Client, device: r.device, body: body, final: final}
	}
	r.next, r.done = r.next+1, final
}

// poll reads as some client, with some fault at some call; a client that was told that something may be missing asks
// again, by id.
func (w *world) poll(t *rapid.T) {
	c := rapid.SampledFrom(worldClients).Draw(t, "client")
	dev := rapid.SampledFrom([]device.ID{cam, cam, cam2}).Draw(t, "device")
	var ids []device.RequestID
	if rapid.Bool().Draw(t, "by id") {
		ids = w.idsOf(c, dev)
		if n := len(ids); n > 1 {
			ids = ids[rapid.IntRange(0, n-1).Draw(t, "from"):]
		}
		if rapid.IntRange(0, 3).Draw(t, "with a foreign id") == 0 && len(w.requests) > 0 {
			ids = append(ids, rapid.SampledFrom(w.requests).Draw(t, "any request").id)
		}
	}
	i := rapid.IntRange(0, 1).Draw(t, "instance")
	w.plan(t)
	again := w.read(t, i, c, dev, ids)
	w.broker.set(nil)
	w.caching.set(nil)
	if again && len(w.idsOf(c, dev)) > 0 {
		w.mustRead(t, i, c, dev)
	}
}

// plan lets one call to a port fail in one way, or that one and every later one.
func (w *world) plan(t *rapid.T) {
	if !rapid.Bool().Draw(t, "fault") {
		return
	}
	at := rapid.IntRange(0, 7).Draw(t, "at call")
	lasting := rapid.Bool().Draw(t, "lasting")
	kind := rapid.SampledFrom([]string{"before", "after", "die", "die on"}).Draw(t, "kind")
	n := 0
	next := func(down device.Kind) func(string) fault {
		return func(string) fault {
			n++
			if n-1 != at && !(lasting && n-1 > at) {
				return fault{}
			}
			w.faulty = true
			switch kind {
			case "before":
				return outage(down)
			case "after":
				return cutOff
			case "die":
				return fault{die: true}
			default:
				return fault{dieOn: true}
			}
		}
	}
	w.broker.set(next(device.BrokerUnavailable))
	w.caching.set(next(device.CacheUnavailable))
}

func (w *world) idsOf(c dispatch.Caller, dev device.ID) (ids []device.RequestID) {
	for _, r := range w.requests {
		if r.client.Client == c.Client && r.device == dev {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// read makes one poll and checks what came of it. It reports whether the client has to ask again.
func (w *world) read(t rapid.TB, i int, c dispatch.Caller, dev device.ID, ids []device.RequestID) (again bool) {
	got, err := w.pollOrDie(i, c, dev, ids)
	if err != nil {
		return true
	}
	final := map[device.RequestID]bool{}
	for _, r := range got.Replies {
		w.give(t, c, dev, len(ids) > 0, r)
		final[r.Request] = final[r.Request] || r.Final
	}
	for _, s := range got.Requests {
		w.checkState(t, c, dev, s)
		switch s.State {
		case device.StateAnswered, device.StateProgress, device.StateUnverified:
			again = again || !final[s.ID]
		}
	}
	return again
}

// pollOrDie makes a poll; where the process dies in it, another one takes its place and the client gets no answer.
func (w *world) pollOrDie(i int, c dispatch.Caller, dev device.ID, ids []device.RequestID) (got dispatch.Replies, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			if _, died := cause.(death); !died {
				panic(cause)
			}
			w.instances[i] = dispatch.New(w.cfg)
			err = fmt.Errorf("the process died: %v", cause)
		}
	}()
	return w.instances[i].Replies(context.Background(), c, dispatch.RepliesInput{Device: dev, IDs: ids})
}

func (w *world) give(t rapid.TB, c dispatch.Caller, dev device.ID, byID bool, r dispatch.Reply) {
	f := w.ledger[r.Key()]
	switch {
	case f == nil:
		t.Fatalf("a reply that no device sent: %v", r.Key())
	case f.client != c.Client || f.device != dev: // I3
		t.Fatalf("a reply of %s from %s was given to %s from %s", f.client, f.device, c.Client, dev)
	case f.body != string(r.Body):
		t.Fatalf("another body: %s, was %s", r.Body, f.body)
	case f.given > 0 && !w.faulty && !byID:
		t.Fatalf("%s was given twice without being asked for by id", f.body)
	case f.given > 0 && !w.faulty && w.now.Sub(f.first) >= dispatch.DefaultReplyGrace:
		t.Fatalf("%s was given again after its grace", f.body)
	}
	if f.given == 0 {
		f.first = w.now
	}
	f.given++
}

// checkState compares a state with the ledger.
func (w *world) checkState(t rapid.TB, c dispatch.Caller, dev device.ID, s dispatch.RequestState) {
	var arrived, given int
	finalGiven := false
	for key, f := range w.ledger {
		if key.Request == s.ID {
			arrived++
			if f.given > 0 {
				given++
				finalGiven = finalGiven || f.final
			}
		}
	}
	own := slices.Contains(w.idsOf(c, dev), s.ID)
	unknown := s.State == device.StateNotFound || s.State == device.StateUnverified
	switch {
	case own && s.State == device.StateNotFound, !own && !unknown:
		t.Fatalf("state %s, own request: %v", s.State, own)
	case s.State == device.StateNoReply && arrived > 0: // I8
		t.Fatalf("no_reply, and %d replies arrived", arrived)
	case s.State == device.StateGone && !(w.faulty && finalGiven): // nothing ages out here
		t.Fatalf("gone, with %d of %d replies given", given, arrived)
	case s.State == device.StateAlreadyRead && given == 0:
		t.Fatalf("already_read, and none of %d replies was given", arrived)
	}
}

// mustRead asks for every request of the client at the device: once all is well, whatever was not given has to come.
func (w *world) mustRead(t rapid.TB, i int, c dispatch.Caller, dev device.ID) {
	ids := w.idsOf(c, dev)
	if _, err := w.pollAndCheck(t, i, c, dev, ids); err != nil {
		t.Fatalf("a poll while all is well: %v", err)
	}
	for key, f := range w.ledger {
		if f.given == 0 && slices.Contains(ids, key.Request) && !w.superseded(key) {
			t.Fatalf("%s was not given while all is well; in the queue: %v, in the cache: %v",
				f.body, w.broker.holds(key), w.cached(key))
		}
	}
}

func (w *world) pollAndCheck(t rapid.TB, i int, c dispatch.Caller, dev device.ID, ids []device.RequestID) (dispatch.Replies, error) {
	got, err := w.pollOrDie(i, c, dev, ids)
	if err != nil {
		return got, err
	}
	for _, r := range got.Replies {
		w.give(t, c, dev, true, r)
	}
	for _, s := range got.Requests {
		w.checkState(t, c, dev, s)
	}
	return got, nil
}

// superseded reports whether the reply is progress of a request whose final reply was given. The cache alone may have
// given it, and a progress reply elsewhere was not looked for.
func (w *world) superseded(key device.ReplyKey) bool {
	for other, f := range w.ledger {
		if other.Request == key.Request && f.final && f.given > 0 {
			return true
		}
	}
	return false
}

// cached reports whether the cache holds the reply. Of the one in memory nothing is expected: what it has is in the queue
// too until its client has read it.
func (w *world) cached(key device.ReplyKey) bool { return w.cache != nil && w.cache.holds(key) }

// nothingIsLost checks the ledger: every reply that got a PUBACK was read, or is in the queue or in the cache.
func (w *world) nothingIsLost(t *rapid.T) {
	for key, f := range w.ledger {
		if f.given == 0 && !w.broker.holds(key) && !w.cached(key) && !w.superseded(key) {
			t.Fatalf("%s is lost", f.body)
		}
	}
}

func TestLedger_NothingIsLostNothingGoesAstray(t *testing.T) { // I2, I3, I6, I8, I9
	for _, kind := range []string{durableCache, fleeting, inMemory} {
		for name, faults := range map[string]bool{"all is well": false, "faults at every step": true} {
			t.Run(kind+", "+name, rapid.MakeCheck(func(t *rapid.T) {
				w := newWorld(kind)
				actions := map[string]func(*rapid.T){
					"":       w.nothingIsLost,
					"send":   w.send,
					"reply":  w.reply,
					"reply2": w.reply,
					"read": func(t *rapid.T) {
						c := rapid.SampledFrom(worldClients).Draw(t, "client")
						w.read(t, rapid.IntRange(0, 1).Draw(t, "instance"), c, cam, nil)
					},
					"later": func(t *rapid.T) {
						w.now = w.now.Add(time.Duration(rapid.SampledFrom([]int{1, 10, 31}).Draw(t, "seconds")) * time.Second)
					},
				}
				if faults {
					actions["poll"], actions["poll2"] = w.poll, w.poll
					if w.cache != nil {
						actions["full"] = func(t *rapid.T) {
							w.faulty = true
							w.cache.setLimit(rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "limit"))
						}
					}
					if kind == fleeting {
						actions["flush"] = func(*rapid.T) { w.faulty = true; w.cache.flush() }
					}
				}
				t.Repeat(actions)
				if w.cache != nil {
					w.cache.setLimit(0)
				}
				w.now = w.now.Add(2 * time.Second)
				for _, c := range worldClients {
					for _, dev := range []device.ID{cam, cam2} {
						if len(w.idsOf(c, dev)) > 0 {
							w.mustRead(t, 1, c, dev)
						}
					}
				}
			}))
		}
	}
}

// The same with calls at the same time, hints, waits and probes, under the race detector.
func TestLedger_ConcurrentClients(t *testing.T) {
	for name, durable := range map[string]bool{"durable cache": true, "cache that is not durable": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { concurrentClients(t, durable) })
		})
	}
}

func concurrentClients(t *testing.T, durable bool) {
	s := newSystem(durable, nil)
	s.start(t)
	other := &system{Dispatcher: dispatch.New(s.cfg), broker: s.broker, cache: s.cache, cfg: s.cfg}
	other.start(t)
	synctest.Wait()

	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	chance := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n) == 0
	}
	sometimes := func(down fault) func(string) fault {
		return func(op string) fault {
			switch {
			case op == "send" || op == "watch" || op == "ping":
			case chance(15):
				return down
			case chance(30):
				return cutOff
			case chance(200):
				return fault{hang: true}
			}
			return fault{}
		}
	}
	s.broker.set(sometimes(brokerDown))
	s.cache.set(sometimes(cacheDown))

	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			c := caller(strconv.Itoa(i))
			instance := []*system{s, other}[i%2]
			for n := range 15 {
				want := fmt.Sprintf("%d/%d", i, n)
				id := instance.send(t, c, cam)
				clients.Go(func() {
					time.Sleep(time.Duration(n) * 37 * time.Millisecond)
					s.broker.arrive(id, 0, true, want)
				})
				if got := readOne(instance, c, id); got != want {
					t.Errorf("client %d read %q, want %q", i, got, want)
				}
			}
		})
	}
	clients.Wait()
}

// readOne asks for one request until its reply is there, as a client would.
func readOne(s *system, c dispatch.Caller, id device.RequestID) string {
	for range 1000 {
		got, err := s.Replies(context.Background(), c, dispatch.RepliesInput{Device: cam, IDs: []device.RequestID{id}, Wait: 10 * time.Second})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		switch state := got.Requests[0].State; {
		case len(got.Replies) == 1:
			return string(got.Replies[0].Body)
		case len(got.Replies) > 1:
			return "several replies"
		case state == device.StateNoReply || state == device.StateGone || state == device.StateAlreadyRead || state == device.StateNotFound:
			return string(state)
		}
	}
	return "nothing"
}
