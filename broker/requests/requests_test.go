package requests_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	alice = device.MailboxOf("alice")
	bob   = device.MailboxOf("bob")
	begin = time.UnixMilli(1_795_000_000_000)
)

func ring(t testing.TB) *device.KeyRing {
	t.Helper()
	r, err := device.NewKeyRing(device.Key{ID: 1, Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newRecord(t testing.TB, m device.Mailbox, dev device.ID, at time.Time) requests.Record {
	return requests.Record{
		ID: ring(t).Mint(at, m, dev, at.Add(30*time.Second)), Device: dev, Client: "someone", Command: "ping",
		Created: requests.At(at), DeliverBy: requests.At(at.Add(10 * time.Second)), ReplyBy: requests.At(at.Add(30 * time.Second)),
	}
}

func claims(t testing.TB, id device.RequestID) device.Claims {
	t.Helper()
	c, err := id.Claims()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func open(t testing.TB, e *stream.Engine) *requests.Store {
	t.Helper()
	s, err := requests.Open(t.Context(), requests.Config{Engine: e, Clock: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func engine(t testing.TB, dir string) *stream.Engine {
	t.Helper()
	e, err := stream.Open(t.Context(), stream.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func newStore(t testing.TB) *requests.Store {
	e := engine(t, t.TempDir())
	s := open(t, e)
	t.Cleanup(func() { s.Close(); e.Close() })
	return s
}

func get(t testing.TB, s *requests.Store, id device.RequestID) requests.Record {
	t.Helper()
	r, ok, err := s.Get(t.Context(), claims(t, id))
	if err != nil || !ok {
		t.Fatalf("record: %v, %v", ok, err)
	}
	return r
}

func TestRecord_State(t *testing.T) {
	at := func(seconds float64) requests.Millis {
		return requests.At(begin.Add(time.Duration(seconds * float64(time.Second))))
	}
	const ms = 0.001
	hold := func(r *requests.Record) { r.Hold, r.Held = true, at(0) }
	tests := map[string]struct {
		facts func(*requests.Record)
		after float64 // seconds
		want  device.State
	}{
		"being written":                               {func(*requests.Record) {}, 1, device.StateSent},
		"being written, past its deadline":            {func(*requests.Record) {}, 11, device.StateSent},
		"never noted as written, when a reply is due": {func(*requests.Record) {}, 30, device.StateSent},
		"never noted as written, after that":          {func(*requests.Record) {}, 30 + ms, device.StateNoReply},
		"to be held, not stored yet":                  {func(r *requests.Record) { r.Hold = true }, 1, device.StateHeld},
		"held, at the deadline":                       {hold, 10, device.StateHeld},
		"held, after the deadline":                    {hold, 10 + ms, device.StateExpired},
		"held for longer than a reply may take":       {func(r *requests.Record) { hold(r); r.DeliverBy = at(100) }, 31, device.StateHeld},
		"held, then written when a reply was due":     {func(r *requests.Record) { hold(r); r.DeliverBy, r.Sent = at(100), at(60) }, 61, device.StateNoReply},
		"held, then written":                          {func(r *requests.Record) { hold(r); r.Sent = at(5) }, 11, device.StateSent},
		"held, then delivered":                        {func(r *requests.Record) { hold(r); r.Sent, r.Delivered = at(5), at(6) }, 30, device.StateDelivered},
		"held, about to be written":                   {func(r *requests.Record) { hold(r); r.Claimed = at(5) }, 11, device.StateSent},
		"held, perhaps written":                       {func(r *requests.Record) { hold(r); r.Claimed = at(5) }, 30 + ms, device.StateNoReply},
		"held, perhaps written, past a reply's time":  {func(r *requests.Record) { hold(r); r.DeliverBy, r.Claimed = at(100), at(60) }, 61, device.StateNoReply},
		"held, not written after all":                 {func(r *requests.Record) { hold(r); r.Claimed, r.Released = at(5), at(5) }, 10, device.StateHeld},
		"held, not written before the deadline":       {func(r *requests.Record) { hold(r); r.Claimed, r.Released = at(5), at(5) }, 10 + ms, device.StateExpired},
		"held, not written, then about to be":         {func(r *requests.Record) { hold(r); r.Claimed, r.Released = at(6), at(5) }, 10, device.StateSent},
		"cancelled":                                   {func(r *requests.Record) { hold(r); r.Cancelled = at(1) }, 99, device.StateCancelled},
		"given up":                                    {func(r *requests.Record) { r.Failed, r.Cause = at(0), "gone" }, 1, device.StateExpired},
		"given up, but the device acknowledged":       {func(r *requests.Record) { r.Failed, r.Cause, r.Delivered = at(0), "gone", at(1) }, 2, device.StateDelivered},
		"given up, but the device reported":           {func(r *requests.Record) { r.Failed, r.Cause, r.Progress = at(0), "gone", at(1) }, 2, device.StateProgress},
		"sent":                                        {func(r *requests.Record) { r.Sent = at(0) }, 1, device.StateSent},
		"sent, after the deadline of delivery":        {func(r *requests.Record) { r.Sent = at(0) }, 11, device.StateSent},
		"sent, when the reply is due":                 {func(r *requests.Record) { r.Sent = at(0) }, 30, device.StateSent},
		"sent, after the reply was due":               {func(r *requests.Record) { r.Sent = at(0) }, 30 + ms, device.StateNoReply},
		"delivered":                                   {func(r *requests.Record) { r.Sent, r.Delivered = at(0), at(1) }, 30, device.StateDelivered},
		"acknowledged before it was noted as sent":    {func(r *requests.Record) { r.Delivered = at(1) }, 11, device.StateDelivered},
		"delivered, after the reply was due":          {func(r *requests.Record) { r.Sent, r.Delivered = at(0), at(1) }, 30 + ms, device.StateNoReply},
		"progress":                                    {func(r *requests.Record) { r.Sent, r.Progress = at(0), at(2) }, 30, device.StateProgress},
		"progress, its sending never noted":           {func(r *requests.Record) { hold(r); r.Progress = at(2) }, 11, device.StateProgress},
		"progress only, after the reply was due":      {func(r *requests.Record) { r.Sent, r.Progress = at(0), at(2) }, 30 + ms, device.StateNoReply},
		"a reply over the limits was dropped":         {func(r *requests.Record) { r.Sent, r.Progress, r.Dropped = at(0), at(2), at(3) }, 30 + ms, device.StateNoReply},
		"answered":                                    {func(r *requests.Record) { r.Sent, r.Answered = at(0), at(2) }, 99, device.StateAnswered},
		"answered late":                               {func(r *requests.Record) { r.Sent, r.Answered, r.Late = at(0), at(40), true }, 99, device.StateAnswered},
		"answered though given up":                    {func(r *requests.Record) { r.Failed, r.Answered = at(0), at(2) }, 3, device.StateAnswered},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRecord(t, alice, "cam-1", begin)
			tt.facts(&r)
			now := begin.Add(time.Duration(tt.after * float64(time.Second)))
			state, cause := r.State(now)
			if state != tt.want {
				t.Fatalf("state %s, want %s", state, tt.want)
			}
			if told := state == device.StateNoReply || state == device.StateExpired; told != (cause != "") {
				t.Errorf("cause %q", cause)
			}
			// The time line ends in the state.
			steps := r.Request(now).Timeline
			if len(steps) > 0 && steps[len(steps)-1].State != state {
				t.Errorf("the time line ends in %s", steps[len(steps)-1].State)
			}
			if !slices.IsSortedFunc(steps, func(a, b device.Step) int { return a.At.Compare(b.At) }) {
				t.Errorf("time line out of order: %v", steps)
			}
		})
	}
}

func TestRecord_Timeline(t *testing.T) {
	at := func(seconds int) requests.Millis { return requests.At(begin.Add(time.Duration(seconds) * time.Second)) }
	tests := map[string]struct {
		facts func(*requests.Record)
		want  string
	}{
		"answered in time": {func(r *requests.Record) { r.Sent, r.Delivered, r.Progress, r.Answered = at(0), at(1), at(2), at(3) }, "sent@0 delivered@1 progress@2 answered@3 "},
		"answered late":    {func(r *requests.Record) { r.Sent, r.Delivered, r.Answered, r.Late = at(0), at(1), at(40), true }, "sent@0 delivered@1 no_reply@30 answered@40 "},
		"held, written when a reply was due, answered": {func(r *requests.Record) {
			r.Hold, r.Held, r.Sent, r.Answered, r.Late = true, at(0), at(50), at(52), true
		}, "held@0 sent@50 no_reply@50 answered@52 "},
		"no reply":                 {func(r *requests.Record) { r.Sent = at(0) }, "sent@0 no_reply@30 "},
		"held and expired":         {func(r *requests.Record) { r.Hold, r.Held = true, at(0) }, "held@0 expired@10 "},
		"held and cancelled":       {func(r *requests.Record) { r.Hold, r.Held, r.Cancelled = true, at(0), at(4) }, "held@0 cancelled@4 "},
		"held and perhaps written": {func(r *requests.Record) { r.Hold, r.Held, r.Claimed = true, at(0), at(5) }, "held@0 sent@5 no_reply@30 "},
		"held and not written":     {func(r *requests.Record) { r.Hold, r.Held, r.Claimed, r.Released = true, at(0), at(5), at(5) }, "held@0 expired@10 "},
		"given up":                 {func(r *requests.Record) { r.Failed, r.Cause = at(1), "gone" }, "expired@1 "},
		"interrupted":              {func(*requests.Record) {}, "no_reply@30 "},
		"an acknowledgement alone": {func(r *requests.Record) { r.Delivered = at(1) }, "delivered@1 no_reply@30 "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRecord(t, alice, "cam-1", begin)
			tt.facts(&r)
			got := ""
			for _, s := range r.Request(begin.Add(time.Minute)).Timeline {
				got += fmt.Sprintf("%s@%d ", s.State, int(s.At.Sub(begin).Seconds()))
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestStore_FactsSurviveARestart(t *testing.T) {
	dir := t.TempDir()
	e := engine(t, dir)
	s := open(t, e)
	now, later := newRecord(t, alice, "cam-1", begin), newRecord(t, alice, "cam-1", begin.Add(time.Second))
	for _, r := range []requests.Record{now, later} {
		if err := s.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	sent := func(r *requests.Record) bool { r.Sent = 1; return true }
	if changed, err := s.UpdateNow(t.Context(), claims(t, now.ID), sent); !changed || err != nil {
		t.Fatal(changed, err)
	}
	if err := s.Update(t.Context(), claims(t, later.ID), sent); err != nil { // soon; a stop writes it
		t.Fatal(err)
	}
	s.Close()
	e.Close()
	e = engine(t, dir)
	s = open(t, e)
	defer func() { s.Close(); e.Close() }()
	for _, r := range []requests.Record{now, later} {
		if got := get(t, s, r.ID); got.Sent != 1 || got.Command != "ping" {
			t.Errorf("record %+v", got)
		}
	}
}

// What UpdateNow and Flush have answered is in the stream, not only in memory: another node reads it.
func TestStore_DurableMeansReadableByAnother(t *testing.T) {
	e := engine(t, t.TempDir())
	s := open(t, e)
	defer func() { s.Close(); e.Close() }()
	r := newRecord(t, alice, "cam-1", begin)
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		seq := i
		if err := s.Update(t.Context(), claims(t, r.ID), func(r *requests.Record) bool { return r.AddReply(seq, 1, false, 1) }); err != nil {
			t.Fatal(err)
		}
		if err := s.Flush(t.Context(), []device.UUID{claims(t, r.ID).UUID}); err != nil {
			t.Fatal(err)
		}
		other := open(t, e)
		if got := get(t, other, r.ID); len(got.Seqs) != i+1 {
			t.Errorf("another node sees %d of %d facts", len(got.Seqs), i+1)
		}
		other.Close()
	}
}

func TestStore_WhatIsNotThere(t *testing.T) {
	s := newStore(t)
	r := newRecord(t, alice, "cam-1", begin)
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	unknown := newRecord(t, alice, "cam-1", begin)
	foreign := claims(t, r.ID)
	foreign.Mailbox = bob
	for name, c := range map[string]device.Claims{"never recorded": claims(t, unknown.ID), "of another client": foreign} {
		if _, ok, err := s.Get(t.Context(), c); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
		if changed, err := s.UpdateNow(t.Context(), c, func(*requests.Record) bool { return true }); changed || err != nil {
			t.Errorf("%s: updated %v, %v", name, changed, err)
		}
	}
	anyone := claims(t, r.ID)
	anyone.Mailbox = device.Mailbox{}
	if _, ok, err := s.Get(t.Context(), anyone); !ok || err != nil {
		t.Errorf("of anyone: %v, %v", ok, err)
	}
}

// Two nodes may write one record: whatever both learned stays.
func TestStore_TwoWritersAreMerged(t *testing.T) {
	e := engine(t, t.TempDir())
	a, b := open(t, e), open(t, e)
	defer func() { a.Close(); b.Close(); e.Close() }()
	r := newRecord(t, alice, "cam-1", begin)
	if err := a.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	get(t, b, r.ID)
	const each = 30
	var wg sync.WaitGroup
	for n, s := range []*requests.Store{a, b} {
		wg.Go(func() {
			for i := range each {
				if _, err := s.UpdateNow(t.Context(), claims(t, r.ID), func(r *requests.Record) bool {
					return r.AddReply(n*each+i, 1, false, 1)
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	fresh := open(t, e)
	defer fresh.Close()
	got := get(t, fresh, r.ID)
	if len(got.Seqs) != 2*each {
		t.Errorf("%d facts of %d are left", len(got.Seqs), 2*each)
	}
}

// Of cancelling and sending, one wins.
func TestStore_UpdateNowDecides(t *testing.T) {
	s := newStore(t)
	for range 50 {
		r := newRecord(t, alice, "cam-1", begin)
		if err := s.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		wins := make(chan bool, 2)
		var wg sync.WaitGroup
		for _, fact := range []func(*requests.Record) *requests.Millis{
			func(r *requests.Record) *requests.Millis { return &r.Sent },
			func(r *requests.Record) *requests.Millis { return &r.Cancelled },
		} {
			wg.Go(func() {
				won, err := s.UpdateNow(t.Context(), claims(t, r.ID), func(r *requests.Record) bool {
					if r.Sent != 0 || r.Cancelled != 0 {
						return false
					}
					*fact(r) = 1
					return true
				})
				if err != nil {
					t.Error(err)
				}
				wins <- won
			})
		}
		wg.Wait()
		if first, second := <-wins, <-wins; first == second {
			t.Fatal("both won, or none")
		}
	}
}

func TestStore_List(t *testing.T) {
	s := newStore(t)
	var ids []device.RequestID
	for i := range 7 {
		m, dev := alice, device.ID("cam-1")
		if i%3 == 2 {
			m = bob
		}
		if i%2 == 1 {
			dev = "cam-2"
		}
		r := newRecord(t, m, dev, begin.Add(time.Duration(i)*time.Second))
		if err := s.Create(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	tests := map[string]struct {
		m    device.Mailbox
		dev  device.ID
		want []int
	}{
		"everyone's":            {device.Mailbox{}, "", []int{6, 5, 4, 3, 2, 1, 0}},
		"one client's":          {alice, "", []int{6, 4, 3, 1, 0}},
		"at one device":         {device.Mailbox{}, "cam-2", []int{5, 3, 1}},
		"both":                  {alice, "cam-1", []int{6, 4, 0}},
		"a client without any":  {device.MailboxOf("carol"), "", nil},
		"a device without any":  {alice, "cam-3", nil},
		"a device like another": {alice, "cam", nil},
	}
	for name, tt := range tests {
		for _, limit := range []int{1, 2, 100} {
			t.Run(fmt.Sprint(name, ", by ", limit), func(t *testing.T) {
				var got []device.RequestID
				cursor := ""
				for range 10 {
					page, next, err := s.List(t.Context(), requests.Filter{Mailbox: tt.m, Device: tt.dev}, limit, cursor)
					if err != nil || len(page) > limit {
						t.Fatalf("%d records, %v", len(page), err)
					}
					for _, r := range page {
						got = append(got, r.ID)
					}
					if cursor = next; next == "" {
						break
					}
				}
				var want []device.RequestID
				for _, i := range tt.want {
					want = append(want, ids[i])
				}
				if !slices.Equal(got, want) {
					t.Errorf("got %d records in the wrong order or number, want %d", len(got), len(want))
				}
			})
		}
	}
}

func TestStore_ListShowsWhatIsNotWrittenYet(t *testing.T) {
	s := newStore(t)
	r := newRecord(t, alice, "cam-1", begin)
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := s.Update(t.Context(), claims(t, r.ID), func(r *requests.Record) bool { r.Delivered = 7; return true }); err != nil {
		t.Fatal(err)
	}
	page, _, err := s.List(t.Context(), requests.Filter{Mailbox: alice}, 10, "")
	if err != nil || len(page) != 1 || page[0].Delivered != 7 {
		t.Errorf("%+v, %v", page, err)
	}
}

func TestStore_OfManyReservationsOneWins(t *testing.T) {
	s := newStore(t)
	results := make([]device.RequestID, 20)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() {
			mine := newRecord(t, alice, "cam-1", begin).ID
			got, err := s.Reserve(t.Context(), alice, "key", requests.Reservation{ID: mine})
			if err != nil {
				t.Error(err)
			}
			results[i] = got.ID
		})
	}
	wg.Wait()
	for _, id := range results {
		if id != results[0] {
			t.Fatal("two requests for one key")
		}
	}
	if got, ok, err := s.Reserved(t.Context(), alice, "key"); err != nil || !ok || got.ID != results[0] {
		t.Errorf("%v, %v, %v", got.ID, ok, err)
	}
	for name, look := range map[string]func() (requests.Reservation, bool, error){
		"another key":    func() (requests.Reservation, bool, error) { return s.Reserved(t.Context(), alice, "other") },
		"another client": func() (requests.Reservation, bool, error) { return s.Reserved(t.Context(), bob, "key") },
	} {
		if _, ok, err := look(); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
}

func TestStore_GivesUpWithItsCaller(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Create(ctx, newRecord(t, alice, "cam-1", begin)); err == nil {
		t.Error("a caller that left was told that the record is durable")
	}
}
