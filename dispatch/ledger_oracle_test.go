package dispatch_test

import (
	"slices"
	"sync"
	"time"

	"pgregory.net/rapid"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// fact is what the ledger knows of one reply that a device got a PUBACK for.
type fact struct {
	client  device.ClientID
	device  device.ID
	body    string
	final   bool
	arrived time.Time
	given   int
	first   time.Time // when it was given first
	touched bool      // there was an accident before it had certainly left for its client: it may be given twice
}

// ledger is the truth, of which neither broker nor cache nor service know.
type ledger struct {
	mu      sync.Mutex
	facts   map[device.ReplyKey]*fact
	keptFor time.Duration // no unread reply may be lost before that age
	// Each process has a cache of its own. It learns that another one gave a reply when the grace is over, and all other
	// replies to the request have gone the same way: the broker's records tell of requests as a whole.
	apart bool
}

// touch notes an accident: what was not given before now may be given twice. Where a process that cannot ask the broker
// has a cache of its own, so may anything.
func (l *ledger) touch() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.facts {
		if f.given == 0 || f.first.Equal(time.Now()) || l.apart {
			f.touched = true
		}
	}
}

// expired reports whether a reply may be gone for its age.
func (l *ledger) expired(f *fact) bool { return time.Since(f.arrived) >= l.keptFor }

// give checks one reply that a client was given.
func (l *ledger) give(t rapid.TB, c dispatch.Caller, dev device.ID, byID bool, r dispatch.Reply) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.facts[r.Key()]
	switch {
	case f == nil:
		t.Fatalf("a reply that no device sent: %v", r.Key())
	case f.client != c.Client || f.device != dev: // I3
		t.Fatalf("a reply of %s from %s was given to %s from %s", f.client, f.device, c.Client, dev)
	case f.body != string(r.Body):
		t.Fatalf("another body: %s, was %s", r.Body, f.body)
	case f.given > 0 && !f.touched && !byID && !l.apart:
		t.Fatalf("%s was given twice without being asked for by id", f.body)
	case f.given > 0 && !f.touched && time.Since(f.first) >= dispatch.DefaultReplyGrace && !(l.apart && l.several(r.Request)):
		t.Fatalf("%s was given again after its grace", f.body)
	}
	if f.given == 0 {
		f.first = time.Now()
	}
	f.given++
}

// several reports whether a request has more than one reply.
func (l *ledger) several(id device.RequestID) bool {
	n := 0
	for key := range l.facts {
		if key.Request == id {
			n++
		}
	}
	return n > 1
}

// checkState compares a state that was told with the truth. own: the request is of the client who asked.
func (l *ledger) checkState(t rapid.TB, own bool, s dispatch.RequestState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var arrived, given, excused int
	aged := false
	for key, f := range l.facts {
		if key.Request != s.ID {
			continue
		}
		arrived++
		if f.given > 0 {
			given++
		}
		aged = aged || l.expired(f)
		if f.given > 0 && f.touched || !f.final {
			excused++
		}
	}
	unknown := s.State == device.StateNotFound || s.State == device.StateUnverified
	switch {
	case own && s.State == device.StateNotFound, !own && !unknown:
		t.Fatalf("state %s, own request: %v", s.State, own)
	case s.State == device.StateNoReply && arrived > 0: // I8
		t.Fatalf("no_reply, and %d replies arrived", arrived)
	case s.State == device.StateGone && excused < arrived && !aged:
		t.Fatalf("gone, with %d of %d replies given", given, arrived)
	case s.State == device.StateAlreadyRead && given == 0:
		t.Fatalf("already_read, and none of %d replies was given", arrived)
	}
}

// unread calls fn for every reply that its client has a right to and was not given: neither too old, nor progress of a
// request whose end was given. The cache alone may have given that, and a progress reply elsewhere was not looked for.
func (l *ledger) unread(fn func(device.ReplyKey, *fact)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ended := map[device.RequestID]bool{}
	for key, f := range l.facts {
		ended[key.Request] = ended[key.Request] || f.final && f.given > 0
	}
	for key, f := range l.facts {
		if f.given == 0 && !ended[key.Request] && !l.expired(f) {
			fn(key, f)
		}
	}
}

// mustRead asks for every request of the client at the device: once all is well, whatever was not given has to come.
func (w *world) mustRead(t rapid.TB, i int, c dispatch.Caller, dev device.ID) {
	ids := w.idsOf(c, dev)
	if len(ids) == 0 {
		return
	}
	if _, err := w.poll(t, i, c, dev, ids); err != nil {
		t.Fatalf("a poll while all is well: %v", err)
	}
	w.unread(func(key device.ReplyKey, f *fact) {
		if slices.Contains(ids, key.Request) {
			t.Fatalf("%s was not given while all is well; in the queue: %v, in the cache: %v", f.body, w.broker.holds(key), w.cached(key))
		}
	})
}

// nothingIsLost checks that every reply that got a PUBACK was read, or is in the queue or in the cache, or is too old
// (I1, I2).
func (w *world) nothingIsLost(t rapid.TB) {
	w.unread(func(key device.ReplyKey, f *fact) {
		if !w.broker.holds(key) && !w.cached(key) {
			t.Fatalf("%s is lost", f.body)
		}
	})
}
