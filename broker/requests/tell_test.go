package requests

import (
	"maps"
	"slices"
	"testing"
	"time"

	"signaldevice/device"
)

// clock is moved by its test.
type clock struct{ now time.Time }

func (c *clock) read() time.Time { return c.now }

// told takes one turn and returns where the requests stand that it tells of.
func told(t *testing.T, s *Store, c *clock) (states []device.State) {
	t.Helper()
	for _, r := range s.changes(t.Context()) {
		state, _ := r.State(c.now)
		states = append(states, state)
	}
	return states
}

// openTelling opens a store whose turns the test takes.
func openTelling(t *testing.T, dir string, c *clock) *Store {
	s := openIn(t, dir, func(cfg *Config) { cfg.Clock = c.read })
	s.mu.Lock()
	s.untold = map[*entry]struct{}{}
	s.mu.Unlock()
	return s
}

func TestTell_WhereARequestStands(t *testing.T) {
	type step struct {
		after  time.Duration
		change func(r *Record, at Millis)
		want   []device.State
	}
	nothing := func(*Record, Millis) {}
	fact := func(field func(*Record) *Millis) func(*Record, Millis) {
		return func(r *Record, at Millis) { *field(r) = at }
	}
	sent, delivered := fact(func(r *Record) *Millis { return &r.Sent }), fact(func(r *Record) *Millis { return &r.Delivered })
	cancelled, failed := fact(func(r *Record) *Millis { return &r.Cancelled }), fact(func(r *Record) *Millis { return &r.Failed })
	progress := func(r *Record, at Millis) { r.AddReply(0, 1, false, at) }
	answered := func(r *Record, at Millis) { r.AddReply(1, 1, true, at) }
	both := func(r *Record, at Millis) { delivered(r, at); answered(r, at) }
	tests := map[string]struct {
		hold  bool
		steps []step
	}{
		"answered before its turn": {false, []step{{0, both, nil}, {time.Hour, nothing, nil}}},
		"each step in its turn, the answer left to its reply": {false, []step{
			{0, sent, []device.State{"sent"}}, {0, delivered, []device.State{"delivered"}}, {0, progress, []device.State{"progress"}},
			{0, answered, nil}, {time.Hour, nothing, nil},
		}},
		"nothing that changes where it stands": {false, []step{{0, sent, []device.State{"sent"}}, {0, sent, nil}}},
		"silent, then late": {false, []step{
			{0, delivered, []device.State{"delivered"}}, {30 * time.Second, nothing, nil}, {2 * time.Millisecond, nothing, []device.State{"no_reply"}},
			{time.Hour, nothing, nil}, {0, progress, nil}, {0, answered, nil},
		}},
		"held to its end": {true, []step{
			{0, nothing, []device.State{"held"}}, {10*time.Second + time.Millisecond, nothing, []device.State{"expired"}}, {time.Hour, nothing, nil},
		}},
		"held, delivered, silent": {true, []step{
			{0, nothing, []device.State{"held"}}, {5 * time.Second, delivered, []device.State{"delivered"}},
			{6 * time.Second, nothing, nil}, {time.Minute, nothing, []device.State{"no_reply"}},
		}},
		"cancelled": {true, []step{{0, nothing, []device.State{"held"}}, {0, cancelled, []device.State{"cancelled"}}, {time.Hour, nothing, nil}}},
		"given up":  {false, []step{{0, failed, []device.State{"expired"}}, {time.Hour, nothing, nil}}},
	}
	for _, name := range slices.Sorted(maps.Keys(tests)) {
		t.Run(name, func(t *testing.T) {
			c := &clock{time.Now()}
			s := openTelling(t, t.TempDir(), c)
			defer s.closeAll()
			r, claims := newRecord(t, c.now)
			r.Hold = tests[name].hold
			create(t, s, r)
			for i, step := range tests[name].steps {
				c.now = c.now.Add(step.after)
				err := s.Update(t.Context(), claims, func(r *Record) bool { step.change(r, At(c.now)); return true })
				if err != nil {
					t.Fatal(err)
				}
				if got := told(t, s, c); !slices.Equal(got, step.want) {
					t.Errorf("step %d tells %v, want %v", i, got, step.want)
				}
			}
			if open := len(s.open.byID); open != 0 && name != "nothing that changes where it stands" {
				t.Errorf("%d requests still count as open", open)
			}
		})
	}
}

// A deadline is told although the record has left memory, and after a restart. I5.
func TestTell_DeadlinesOutliveMemory(t *testing.T) {
	dir, c := t.TempDir(), &clock{time.Now()}
	s := openTelling(t, dir, c)
	s.mu.Lock()
	s.most = 1
	s.mu.Unlock()
	for range 3 {
		r, _ := newRecord(t, c.now)
		create(t, s, r)
	}
	if got := told(t, s, c); len(got) != 3 {
		t.Errorf("the first turn tells %v, want three", got)
	}
	until(t, "the three have left memory", func() bool {
		r, _ := newRecord(t, c.now)
		r.ReplyBy = At(c.now.Add(time.Hour))
		create(t, s, r)
		told(t, s, c)
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.records) == 1
	})
	r, claims := newRecord(t, c.now)
	create(t, s, r)
	if err := s.Update(t.Context(), claims, func(r *Record) bool { return r.AddReply(0, 1, true, At(c.now)) }); err != nil {
		t.Fatal(err)
	}
	c.now = c.now.Add(time.Minute)
	if got := told(t, s, c); !slices.Equal(got, []device.State{"no_reply", "no_reply", "no_reply"}) {
		t.Errorf("after the deadline it tells %v, want no_reply of the three", got)
	}
	r, _ = newRecord(t, c.now)
	create(t, s, r)
	s.closeAll()

	s = openTelling(t, dir, c)
	defer s.closeAll()
	if err := s.findOpen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := told(t, s, c); len(got) != 0 {
		t.Errorf("after the restart it tells %v, want nothing new", got)
	}
	c.now = c.now.Add(time.Minute)
	if got := told(t, s, c); !slices.Equal(got, []device.State{"no_reply"}) {
		t.Errorf("after the restart and the deadline it tells %v, want no_reply of the one", got)
	}
}

func TestTell_ADroppedRecordIsForgotten(t *testing.T) {
	c := &clock{time.Now()}
	s := openTelling(t, t.TempDir(), c)
	defer s.closeAll()
	_, claims := newRecord(t, c.now)
	s.mu.Lock()
	s.open.track(claims, device.StateSent, At(c.now))
	s.mu.Unlock()
	c.now = c.now.Add(time.Second)
	if got := told(t, s, c); len(got) != 0 || len(s.open.byID) != 0 {
		t.Errorf("it tells %v and knows %d open requests, want none", got, len(s.open.byID))
	}
}

func TestTell_IsBounded(t *testing.T) {
	var o openRequests
	for i := range maxOpen + 1 {
		o.track(device.Claims{UUID: device.UUID{byte(i), byte(i >> 8), byte(i >> 16)}}, device.StateSent, Millis(i))
	}
	if len(o.byID) != maxOpen || len(o.next) != maxOpen {
		t.Errorf("%d open requests are known, want %d", len(o.byID), maxOpen)
	}
	if due := o.due(maxOpen); len(due) != maxDue || due[0].UUID != (device.UUID{}) {
		t.Errorf("%d are due in one turn, the first %v; want %d, the earliest first", len(due), due[0].UUID, maxDue)
	}
	for id := range maps.Clone(o.byID) {
		o.forget(id)
	}
	if len(o.byID)+len(o.next) != 0 {
		t.Errorf("after all are forgotten, %d and %d are known", len(o.byID), len(o.next))
	}
}

// What one turn costs for each request that changed in it: told of, or answered before.
func BenchmarkTell(b *testing.B) {
	for name, answered := range map[string]bool{"told of": false, "answered before its turn": true} {
		b.Run(name, func(b *testing.B) {
			var s Store
			s.cfg.Clock, s.untold = time.Now, map[*entry]struct{}{}
			now := At(time.Now())
			entries := make([]*entry, 1000)
			for i := range entries {
				r := Record{Sent: now, ReplyBy: now + 1e6}
				if answered {
					r.Answered = now
				}
				entries[i] = &entry{uuid: device.UUID{byte(i), byte(i >> 8)}, revision: 1, record: r}
			}
			for b.Loop() {
				for _, e := range entries {
					e.told = ""
					s.changed(e)
				}
				s.open = openRequests{}
				s.changes(b.Context())
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(entries)), "ns/request")
		})
	}
}
