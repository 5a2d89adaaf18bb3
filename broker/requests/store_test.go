package requests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"signaldevice/broker/stream"
	"signaldevice/device"
)

const patience = 5 * time.Second

func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("it did not come true that %s", what)
		}
	}
}

func openIn(t testing.TB, dir string, edit func(*Config)) *Store {
	t.Helper()
	e, err := stream.Open(t.Context(), stream.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Engine: e}
	if edit != nil {
		edit(&cfg)
	}
	s, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *Store) closeAll() {
	s.Close()
	s.cfg.Engine.Close()
}

func newRecord(t testing.TB, at time.Time) (Record, device.Claims) {
	t.Helper()
	return newRecordOf(t, at, "alice", "cam-1")
}

func newRecordOf(t testing.TB, at time.Time, client device.ClientID, dev device.ID) (Record, device.Claims) {
	t.Helper()
	ring, err := device.NewKeyRing(device.Key{ID: 1, Secret: make([]byte, 32)})
	if err != nil {
		t.Fatal(err)
	}
	r := Record{
		ID: ring.Mint(at, device.MailboxOf(client), dev, at.Add(30*time.Second)), Device: dev, Client: client, Command: "ping",
		Created: At(at), DeliverBy: At(at.Add(10 * time.Second)), ReplyBy: At(at.Add(30 * time.Second)),
	}
	c, err := r.ID.Claims()
	if err != nil {
		t.Fatal(err)
	}
	return r, c
}

func create(t *testing.T, s *Store, r Record) {
	t.Helper()
	if err := s.Create(t.Context(), r); err != nil {
		t.Fatal(err)
	}
}

// Two versions of one record may meet in any order, and more than once: the result is the same.
func TestRecord_MergeInAnyOrder(t *testing.T) {
	moment := rapid.Custom(func(t *rapid.T) Millis { return Millis(rapid.IntRange(0, 4).Draw(t, "moment")) })
	version := rapid.Custom(func(t *rapid.T) Record {
		r := Record{ReplyBy: 2}
		for _, fact := range []*Millis{&r.Held, &r.Claimed, &r.Released, &r.Sent, &r.Delivered, &r.Failed, &r.Cancelled, &r.Dropped} {
			*fact = moment.Draw(t, "fact")
		}
		if r.Failed != 0 {
			r.Cause = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "cause")
		}
		for _, seq := range rapid.SliceOfN(rapid.IntRange(0, 5), 0, 4).Draw(t, "seqs") {
			r.AddReply(seq, 1, rapid.Bool().Draw(t, "final"), moment.Draw(t, "came")+1)
		}
		for _, seq := range r.Seqs {
			if rapid.Bool().Draw(t, "read") {
				r.AddRead(seq)
			}
		}
		return r
	})
	merged := func(versions ...Record) Record {
		r := versions[0].clone()
		for _, v := range versions[1:] {
			v = v.clone()
			r.merge(&v)
		}
		return r
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := version.Draw(t, "a"), version.Draw(t, "b"), version.Draw(t, "c")
		want := merged(a, b, c)
		for name, got := range map[string]Record{
			"another order": merged(c, b, a), "in pairs": merged(a, merged(b, c)), "again": merged(want, a, c, want),
		} {
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%s: %+v, want %+v", name, got, want)
			}
		}
		if want.Late != (want.Answered > want.ReplyBy) {
			t.Fatalf("late is %v", want.Late)
		}
	})
}

func TestRecord_FactsAreAddedOnce(t *testing.T) {
	r := Record{ReplyBy: 10}
	if !r.AddReply(3, 5, false, 7) || r.AddReply(3, 9, true, 8) || !r.AddReply(1, 5, true, 11) {
		t.Error("a reply is new once")
	}
	if !r.AddRead(1) || r.AddRead(1) {
		t.Error("a reading is new once")
	}
	want := Record{ReplyBy: 10, Progress: 7, Answered: 11, Late: true, Seqs: []int{1, 3}, Bytes: 10, Read: []int{1}}
	if !reflect.DeepEqual(r, want) || !r.HasReply(3) || r.HasReply(2) {
		t.Errorf("record %+v", r)
	}
	if r.Request(time.UnixMilli(20)).Read {
		t.Error("read, though one reply is not")
	}
	r.AddRead(3)
	if !r.Request(time.UnixMilli(20)).Read {
		t.Error("not read, though both replies are")
	}
}

// A claim stands until it is released, and a released one does not end a later one of the same moment.
func TestRecord_Claim(t *testing.T) {
	r := Record{Hold: true, DeliverBy: 10, ReplyBy: 20}
	step := func(what string, got bool, state device.State) {
		t.Helper()
		if s, _ := r.State(time.UnixMilli(5)); !got || s != state {
			t.Errorf("%s: %v, %s, want %s", what, got, s, state)
		}
	}
	step("a claim", r.Claim(3), device.StateSent)
	step("while it stands no other is made", !r.Claim(4), device.StateSent)
	step("released", r.Release(3), device.StateHeld)
	step("again", !r.Release(3), device.StateHeld)
	step("a claim of the same moment", r.Claim(3), device.StateSent)
	step("the first one released once more", !r.Release(3), device.StateSent)
	r.Sent = 5
	step("written", !r.Claim(6), device.StateSent)
}

// What does not fit into memory is read again, and nothing that waits to be written leaves memory.
func TestStore_MemoryIsBounded(t *testing.T) {
	s := openIn(t, t.TempDir(), nil)
	defer s.closeAll()
	s.mu.Lock()
	s.most = 10
	s.mu.Unlock()
	var all []device.Claims
	for i := range 50 {
		r, c := newRecord(t, time.UnixMilli(int64(1_795_000_000_000+i)))
		create(t, s, r)
		if err := s.Update(t.Context(), c, func(r *Record) bool { return r.AddReply(i, 1, false, 1) }); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	until(t, "memory is back at its bound", func() bool {
		r, _ := newRecord(t, time.Now())
		create(t, s, r) // lets old ones go
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.records) == 10 && s.recent.Len() == 10
	})
	for i, c := range all {
		if r, ok, err := s.Get(t.Context(), c); err != nil || !ok || !r.HasReply(i) {
			t.Errorf("record %d: %v, %v, %v", i, r.Seqs, ok, err)
		}
	}
	if err := s.Flush(t.Context(), []device.UUID{all[0].UUID}); err != nil { // durable already
		t.Error(err)
	}
}

// I5: nothing leaves for a device on the strength of a record that is only in memory.
func TestStore_GetTellsOfDurableRecordsOnly(t *testing.T) {
	s := openIn(t, t.TempDir(), nil)
	defer s.closeAll()
	if err := s.cfg.Engine.JetStream().DeleteStream(t.Context(), streamName); err != nil {
		t.Fatal(err)
	}
	r, c := newRecord(t, time.Now())
	if err := s.Create(t.Context(), r); err == nil {
		t.Fatal("created without its stream")
	}
	if _, ok, err := s.Get(t.Context(), c); ok || err == nil {
		t.Fatalf("told of a record that is not stored: %v, %v", ok, err)
	}
	until(t, "the stream is there again", func() bool {
		_, err := s.cfg.Engine.Ensure(t.Context(), jetstream.StreamConfig{
			Name: streamName, Subjects: []string{"r.>"}, MaxMsgsPerSubject: 1, AllowDirect: true, AllowAtomicPublish: true,
		})
		return err == nil
	})
	if _, ok, err := s.Get(t.Context(), c); !ok || err != nil {
		t.Errorf("it is written once that is possible: %v, %v", ok, err)
	}
	create(t, s, r) // once more, as a repeated call does
	if n, err := s.cfg.Engine.Count(t.Context(), streamName); n != 1 || err != nil {
		t.Errorf("%d records, %v", n, err)
	}
}

func TestStore_RefusesMoreWhenNothingIsWritten(t *testing.T) {
	s := openIn(t, t.TempDir(), nil)
	defer s.closeAll()
	r, _ := newRecord(t, time.Now())
	s.mu.Lock()
	for range maxUnwritten {
		s.dirty[&entry{}] = struct{}{} // nothing to write: the flush loop leaves them alone
	}
	s.mu.Unlock()
	if err := s.Create(t.Context(), r); !device.Is(err, device.BrokerUnavailable) {
		t.Errorf("error %v", err)
	}
	s.mu.Lock()
	clear(s.dirty)
	s.mu.Unlock()
	create(t, s, r)
}

// A record that was dropped does not come back with the next fact.
func TestStore_DroppedRecordsStayDropped(t *testing.T) {
	s := openIn(t, t.TempDir(), nil)
	defer s.closeAll()
	r, c := newRecord(t, time.Now())
	create(t, s, r)
	if err := s.cfg.Engine.PurgeSubject(t.Context(), streamName, "r.>"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.UpdateNow(t.Context(), c, func(r *Record) bool { r.Sent = 1; return true }); err == nil {
		t.Error("a fact of a dropped record was told to be durable")
	}
	if _, ok, err := s.Get(t.Context(), c); ok || err != nil {
		t.Errorf("it is there: %v, %v", ok, err)
	}
	if n, err := s.cfg.Engine.Count(t.Context(), streamName); n != 0 || err != nil {
		t.Errorf("%d records, %v", n, err)
	}
}

// I9: a call that finds its fact in memory does not answer before the fact is on disk: the call that added it may have
// failed to get it there.
func TestStore_RepeatedUpdateNowIsDurableToo(t *testing.T) {
	given := func(t *testing.T) (*Store, device.Claims) {
		s := openIn(t, t.TempDir(), nil)
		t.Cleanup(s.closeAll)
		r, c := newRecord(t, time.Now())
		create(t, s, r)
		return s, c
	}
	stored := func(t *testing.T, s *Store, c device.Claims) (Record, stream.Message) {
		t.Helper()
		m, ok, err := s.cfg.Engine.Newest(t.Context(), streamName, subjectOf(c, "*"))
		if !ok || err != nil {
			t.Fatal(ok, err)
		}
		r, _, ok := s.parse(m)
		if !ok {
			t.Fatal("not readable")
		}
		return r, m
	}
	cancel := func(r *Record) (changed bool) {
		changed = r.Cancelled == 0
		r.Cancelled = 1
		return changed
	}

	t.Run("the write stalls", func(t *testing.T) {
		s, c := given(t)
		stalled, goOn := make(chan uint64), make(chan struct{})
		if err := s.appender.TryAppend(&stream.Append{
			Subject: "r.busy", Done: func(seq uint64, _ error) { stalled <- seq; <-goOn },
		}); err != nil {
			t.Fatal(err)
		}
		before := <-stalled
		impatient, giveUp := context.WithCancel(t.Context())
		giveUp()
		for call := range 3 {
			if changed, err := s.UpdateNow(impatient, c, cancel); changed != (call == 0) || !errors.Is(err, context.Canceled) {
				t.Errorf("call %d: %v, %v", call, changed, err)
			}
		}
		close(goOn)
		for range 3 {
			if changed, err := s.UpdateNow(t.Context(), c, cancel); changed || err != nil {
				t.Fatal(changed, err)
			}
			if r, m := stored(t, s, c); r.Cancelled != 1 || m.Seq != before+1 {
				t.Fatalf("cancelled %d, written %d times", r.Cancelled, m.Seq-before)
			}
		}
	})
	t.Run("the write fails", func(t *testing.T) {
		s, c := given(t)
		js := s.cfg.Engine.JetStream()
		info, err := js.Stream(t.Context(), streamName)
		if err != nil {
			t.Fatal(err)
		}
		good := info.CachedInfo().Config
		bad := good
		bad.MaxMsgSize = 1
		if _, err := js.UpdateStream(t.Context(), bad); err != nil {
			t.Fatal(err)
		}
		for call := range 3 {
			if changed, err := s.UpdateNow(t.Context(), c, cancel); changed != (call == 0) || err == nil {
				t.Errorf("call %d: %v, %v", call, changed, err)
			}
		}
		if r, _ := stored(t, s, c); r.Cancelled != 0 {
			t.Fatal("the write did not fail")
		}
		if _, err := js.UpdateStream(t.Context(), good); err != nil {
			t.Fatal(err)
		}
		until(t, "the repeated call succeeds", func() bool { // one more write may have been refused before
			_, err := s.UpdateNow(t.Context(), c, cancel)
			return err == nil
		})
		if r, _ := stored(t, s, c); r.Cancelled != 1 {
			t.Error("the fact is not stored")
		}
	})
}

// One record that cannot be read stands in nobody's way.
func TestStore_UnreadableRecordIsPassedOver(t *testing.T) {
	s := openIn(t, t.TempDir(), nil)
	defer s.closeAll()
	good, goodClaims := newRecord(t, time.Now())
	bad, badClaims := newRecord(t, time.Now())
	create(t, s, good)
	a := s.cfg.Engine.NewAppender()
	defer a.Close()
	if _, err := a.Do(t.Context(), stream.Append{Subject: subjectOf(badClaims, bad.Device), Data: []byte("{")}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.Get(t.Context(), badClaims); ok || err != nil {
		t.Errorf("the bad one: %v, %v", ok, err)
	}
	if _, ok, err := s.Get(t.Context(), goodClaims); !ok || err != nil {
		t.Errorf("the good one: %v, %v", ok, err)
	}
	if page, _, err := s.List(t.Context(), Filter{}, 10, ""); len(page) != 1 || err != nil {
		t.Errorf("listed %d, %v", len(page), err)
	}
}

// I9: what a key stands for in a broken store may not be durable: it is not known.
func TestStore_ReservationInABrokenStore(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, nil)
	defer s.closeAll()
	r, _ := newRecord(t, time.Now())
	m := device.MailboxOf("alice")
	if _, err := s.Reserve(t.Context(), m, "key", Reservation{ID: r.ID}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "jetstream", "$G", "streams", "LOST"), 0o700); err != nil { // a stream that cannot be read
		t.Fatal(err)
	}
	if _, ok, err := s.Reserved(t.Context(), m, "key"); ok || err == nil {
		t.Errorf("reserved: %v, %v", ok, err)
	}
	if _, err := s.Reserve(t.Context(), m, "key", Reservation{ID: r.ID}); err == nil {
		t.Error("reserved once more")
	}
	if _, ok, err := s.Reserved(t.Context(), m, "other"); ok || err != nil {
		t.Errorf("another key: %v, %v", ok, err)
	}
}

// Over the limit the oldest finished records go; one whose device may still answer stays, however old.
func TestStore_FinishedRecordsGoFirst(t *testing.T) {
	dir := t.TempDir()
	s := openIn(t, dir, nil)
	var open, finished []device.Claims
	for i := range 30 {
		r, c := newRecord(t, time.Now())
		if i%3 == 0 {
			open = append(open, c)
		} else {
			r.Answered = At(time.Now())
			finished = append(finished, c)
		}
		create(t, s, r)
	}
	s.closeAll()
	s = openIn(t, dir, func(c *Config) { c.MaxRecords = 25 })
	defer s.closeAll()
	until(t, "the number is at the limit", func() bool {
		n, err := s.cfg.Engine.Count(t.Context(), streamName)
		return err == nil && n <= 25
	})
	there := func(c device.Claims) bool {
		_, ok, err := s.Get(t.Context(), c)
		if err != nil {
			t.Error(err)
		}
		return ok
	}
	for i, c := range open {
		if !there(c) {
			t.Errorf("open record %d was dropped", i)
		}
	}
	left := 0
	for _, c := range finished {
		if there(c) {
			left++
		}
	}
	if left != 15 || there(finished[0]) || !there(finished[19]) {
		t.Errorf("%d finished ones are left", left)
	}
}

// Everyone's requests are listed in order whatever their number: many are gone through in spans of time.
func TestStore_ListSpanBySpan(t *testing.T) {
	now := time.Now()
	s := openIn(t, t.TempDir(), func(c *Config) { c.Clock = func() time.Time { return now }; c.Log = slog.New(slog.DiscardHandler) })
	defer s.closeAll()
	s.list.atOnce = 5
	var want []device.RequestID
	for _, age := range []time.Duration{-2 * time.Hour, 0, time.Minute, 59 * time.Minute, time.Hour, 90 * time.Minute, 50 * time.Hour, 29 * 24 * time.Hour, 80 * 24 * time.Hour} {
		r, _ := newRecord(t, now.Add(-age))
		create(t, s, r)
		want = append(want, r.ID)
	}
	for _, limit := range []int{4, 100} {
		var got []device.RequestID
		for cursor, more := "", true; more; more = cursor != "" {
			page, next, err := s.List(t.Context(), Filter{}, limit, cursor)
			if err != nil || len(page) > limit {
				t.Fatalf("%d records, %v", len(page), err)
			}
			for _, r := range page {
				got = append(got, r.ID)
			}
			cursor = next
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("by %d: %d records in the wrong order or number", limit, len(got))
		}
	}
	for _, forged := range []string{"no cursor of ours", stream.Token(make([]byte, 16)), stream.Token(bytes.Repeat([]byte{0xff}, 16))} {
		if _, _, err := s.List(t.Context(), Filter{}, 10, forged); err != nil {
			t.Errorf("%q: %v", forged, err)
		}
	}
}

// After Close a late caller gets an error, and nothing hangs.
func TestStore_AfterClose(t *testing.T) {
	s := openIn(t, t.TempDir(), nil)
	r, c := newRecord(t, time.Now())
	create(t, s, r)
	s.Close()
	defer s.cfg.Engine.Close()
	if _, err := s.UpdateNow(t.Context(), c, func(r *Record) bool { r.Sent = 1; return true }); err == nil {
		t.Error("durable after the end")
	}
	if err := s.Flush(t.Context(), []device.UUID{c.UUID}); err == nil {
		t.Error("flushed after the end")
	}
}
