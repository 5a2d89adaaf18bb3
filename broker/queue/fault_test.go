package queue_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

// inject stores a message in one of the queue's streams behind its back.
func (s *shed) inject(subject string, header nats.Header, body string) {
	s.t.Helper()
	a := s.engine.NewAppender()
	defer a.Close()
	if _, err := a.Do(s.t.Context(), stream.Append{Subject: subject, Header: header, Data: []byte(body)}); err != nil {
		s.t.Fatal(err)
	}
}

// storeUnindexed stores a reply as an append does whose answer was lost.
func (s *shed) storeUnindexed(id device.RequestID, body string) {
	s.t.Helper()
	c, err := id.Claims()
	if err != nil {
		s.t.Fatal(err)
	}
	s.inject(fmt.Sprintf("q.%s.%s.%s.0.f%d-%d", cam, stream.Token(c.Mailbox[:]), stream.Token(c.UUID[:]), len(body), s.now().UnixMilli()),
		nats.Header{"Request-Id": {string(id)}}, body)
}

// streamSize counts the messages of a stream.
func (s *shed) streamSize(name string) uint64 {
	s.t.Helper()
	n, err := s.engine.Count(s.t.Context(), name)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// I2, I5: what is in the stream can be read and removed though the index does not know it.
func TestQueue_ReplyWhoseAppendWasNotAnswered(t *testing.T) {
	tests := map[string]func(t *testing.T, s *shed, id device.RequestID, r queue.Drained){
		"removed at once": func(_ *testing.T, s *shed, _ device.RequestID, r queue.Drained) {
			s.acknowledge(cam, 0, r)
			s.until("it is removed", func() bool { return s.streamSize("QUEUE") == 0 })
		},
		"removed after its grace": func(t *testing.T, s *shed, id device.RequestID, r queue.Drained) {
			s.acknowledge(cam, time.Minute, r)
			if len(s.all(cam)) != 0 || len(s.drain(queue.Drain{Requests: uuids(id)})) != 1 {
				t.Error("its grace does not hide it")
			}
			s.advance(61 * time.Second)
			s.until("it is removed", func() bool { return s.streamSize("QUEUE") == 0 })
			if rec := s.record(id); len(rec.Read) != 1 {
				t.Errorf("read: %v", rec.Read)
			}
		},
	}
	for name, remove := range tests {
		t.Run(name, func(t *testing.T) {
			s := newShed(t, nil)
			id := s.request(cam, alice)
			s.storeUnindexed(id, "stored")
			rs := s.all(cam)
			if bodies(rs) != "[stored]" {
				t.Fatalf("drained %s", bodies(rs))
			}
			remove(t, s, id, rs[0])
			if n := s.streamSize("QUEUE"); n != 0 {
				t.Errorf("%d are left", n)
			}
			if rec := s.record(id); rec.Answered == 0 || len(rec.Seqs) != 1 {
				t.Errorf("record %+v", rec)
			}
			s.wait(s.offer(reply(cam, id, 0, true, "published once more"))) // its device did not get a PUBACK
			if n := s.streamSize("QUEUE"); n != 0 {
				t.Errorf("it is there again")
			}
		})
	}
}

// One bad entry blocks nobody (peers' pain 10): not the drain, not the start.
func TestQueue_UnreadableEntries(t *testing.T) {
	s := newShed(t, nil)
	s.inject("q."+string(cam)+".not.ours", nil, "x")
	s.inject("q."+string(cam)+".a.b.0.f1-1", nil, "x")
	s.inject("m."+string(cam)+".x.soon", nil, "x")
	s.inject("m."+string(cam)+".x.123", nil, "x")
	id := s.request(cam, alice)
	s.put(cam, id, "good")
	for range 2 {
		if rs := s.all(cam); bodies(rs) != "[good]" {
			t.Fatalf("drained %s", bodies(rs))
		}
		s.reopen()
	}
	if n := s.queue.Stats().Unreadable; n != 4 { // two in the index, two among the marks
		t.Errorf("%d counted", n)
	}
	s.acknowledge(cam, time.Minute, s.all(cam)...)
	s.advance(61 * time.Second)
	s.until("the good one is removed", func() bool { return s.streamSize("QUEUE") == 2 })
}

// A stream that does not answer acknowledges nothing (I1), and once it answers everything gets in, in order.
func TestPut_StreamDoesNotAnswer(t *testing.T) {
	s := newShed(t, nil)
	info, err := s.engine.JetStream().Stream(t.Context(), "QUEUE")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.engine.JetStream().DeleteStream(t.Context(), "QUEUE"); err != nil {
		t.Fatal(err)
	}
	const n = 60
	ids := []device.RequestID{s.request(cam, alice), s.request("cam-2", alice)}
	gone := make(chan struct{}) // whether their connection lives or not: they may be stored, only trying again tells
	close(gone)
	var dones []<-chan error
	for i := range n {
		for d, dev := range []device.ID{cam, "cam-2"} {
			r := reply(dev, ids[d], i, i == n-1, strconv.Itoa(i))
			if i == 0 {
				r.Gone = gone
			}
			dones = append(dones, s.offer(r))
		}
	}
	s.until("they wait", func() bool { return s.queue.Stats().Parked == 2*n })
	for _, done := range dones {
		select {
		case err := <-done:
			t.Fatalf("told of a reply that is nowhere: %v", err)
		default:
		}
	}
	s.until("the stream is there again", func() bool {
		_, err := s.engine.Ensure(t.Context(), info.CachedInfo().Config)
		return err == nil
	})
	for _, done := range dones {
		s.wait(done)
	}
	for _, dev := range []device.ID{cam, "cam-2"} {
		rs := s.all(dev)
		if len(rs) != n {
			t.Fatalf("%d replies of %s", len(rs), dev)
		}
		for i, r := range rs {
			if string(r.Body) != strconv.Itoa(i) {
				t.Fatalf("reply %d of %s is %s", i, dev, r.Body)
			}
		}
	}
}

// refused tells whether a reply was refused at once.
func refused(done <-chan error) bool {
	select {
	case err := <-done:
		return err != nil
	default:
		return false
	}
}

// What has failed is bounded too, however many devices there are; all of it gets in once the stream answers, and so does
// what was refused when it is published again.
func TestPut_WhatFailsIsBounded(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxBytes, c.MaxReplies = 1<<30, 10_000 })
	info, err := s.engine.JetStream().Stream(t.Context(), "QUEUE")
	if err != nil {
		t.Fatal(err)
	}
	letGo := s.holdStream()
	if err := s.engine.JetStream().DeleteStream(t.Context(), "QUEUE"); err != nil {
		t.Fatal(err)
	}
	picture := strings.Repeat("x", device.MaxPayload)
	const limit = 64 << 20 / device.MaxPayload
	var dones []<-chan error
	for range limit {
		dones = append(dones, s.offer(reply(cam, s.request(cam, alice), 0, true, picture)))
	}
	letGo()
	s.until("they wait", func() bool { return s.queue.Stats().Parked == limit })
	others := map[device.ID]device.RequestID{"cam-2": "", "cam-3": "", "cam-4": "", "cam-5": ""}
	kept := 0
	for dev := range others {
		others[dev] = s.request(dev, alice)
		if !refused(s.offer(reply(dev, others[dev], 0, true, picture))) {
			kept++
		}
	}
	if kept > 1 { // one has room while one of the others is tried again
		t.Errorf("%d more replies are in memory", kept)
	}
	s.until("the stream is there again", func() bool {
		_, err := s.engine.Ensure(t.Context(), info.CachedInfo().Config)
		return err == nil
	})
	for _, done := range dones {
		s.wait(done)
	}
	for dev, id := range others {
		s.put(dev, id, picture)
	}
}

// Room for what waits is bounded too, for one device and for all together.
func TestPut_WhatWaitsIsBounded(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 1 })
	s.put(cam, s.request(cam, alice), "first")
	id := s.request(cam, alice)
	for i := range 64 {
		if refused(s.offer(reply(cam, id, i, false, "x"))) {
			t.Fatalf("reply %d does not wait", i)
		}
	}
	if !refused(s.offer(reply(cam, id, 64, false, "x"))) {
		t.Error("a 65th reply waits")
	}
	picture := strings.Repeat("x", device.MaxPayload)
	waiting := 0
	for d := range 6 {
		dev := device.ID(fmt.Sprint("big-", d))
		s.put(dev, s.request(dev, alice), "first")
		id := s.request(dev, alice)
		for i := range 64 {
			if refused(s.offer(reply(dev, id, i, false, picture))) {
				break
			}
			waiting++
		}
	}
	if limit := 64 << 20 / device.MaxPayload; waiting != limit-1 { // the small ones of the first device count too
		t.Errorf("%d pictures wait, want %d", waiting, limit-1)
	}
	s.close()
	s.open()
	if n := s.streamSize("QUEUE"); n != 7 {
		t.Errorf("%d are stored", n)
	}
}

func TestQueue_CloseAnswersEverything(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 1 })
	s.put(cam, s.request(cam, alice), "first")
	parked := s.offer(reply(cam, s.request(cam, alice), 0, true, "waits"))
	late := reply(cam, s.request(cam, alice), 0, true, "late")
	s.queue.Close()
	for name, done := range map[string]<-chan error{"waiting": parked, "after the end": s.offer(late)} {
		select {
		case err := <-done:
			if !errors.Is(err, stream.ErrClosed) {
				t.Errorf("%s: %v", name, err)
			}
		default:
			t.Errorf("%s: never answered", name)
		}
	}
	s.records.Close()
	s.engine.Close()
	s.open()
}

func TestForget_LetsGoOfWhatWaits(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 1 })
	s.put(cam, s.request(cam, alice), "first")
	done := s.offer(reply(cam, s.request(cam, alice), 0, true, "waits"))
	if err := s.queue.Forget(t.Context(), cam); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !device.Is(err, device.DeviceNotFound) {
		t.Errorf("error %v", err)
	}
	if n := s.streamSize("QUEUE"); n != 0 {
		t.Errorf("%d are left", n)
	}
	if err := s.queue.Forget(t.Context(), cam); err != nil {
		t.Errorf("repeated: %v", err)
	}
}

// A reply larger than the whole quota fits into an empty queue: else it would block its device for ever.
func TestPut_OneReplyAlwaysFits(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxBytes = 10 })
	s.put(cam, s.request(cam, alice), "more than ten bytes")
	done := s.offer(reply(cam, s.request(cam, alice), 0, true, "x"))
	s.acknowledge(cam, 0, s.all(cam)...)
	s.wait(done)
}

func TestPut_DuplicateOfAReplyThatWaits(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 1 })
	s.put(cam, s.request(cam, alice), "first")
	id := s.request(cam, alice)
	one, two := s.offer(reply(cam, id, 0, true, "one")), s.offer(reply(cam, id, 0, true, "two"))
	s.acknowledge(cam, 0, s.all(cam)...)
	s.wait(one)
	s.wait(two)
	if got := bodies(s.all(cam)); got != "[one]" {
		t.Errorf("drained %s", got)
	}
}

// The truth of a request whose last replies were dropped is told (I5).
func TestPut_DroppedReplyIsInTheRecord(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	quarter := strings.Repeat("x", device.MaxReplyBytes/4)
	for seq := range 4 {
		s.wait(s.offer(reply(cam, id, seq, false, quarter)))
	}
	if rec := s.record(id); rec.Dropped != 0 {
		t.Error("dropped within the limit")
	}
	s.wait(s.offer(reply(cam, id, 4, true, "x")))
	rec := s.record(id)
	if state, cause := rec.State(s.now().Add(time.Hour)); state != device.StateNoReply || !strings.Contains(cause, "dropped") {
		t.Errorf("%s: %s", state, cause)
	}
}

func TestPut_SixtyFourReplies(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	for seq := range 63 {
		s.wait(s.offer(reply(cam, id, seq, false, "p")))
	}
	if n := s.queue.Stats().OverLimit; n != 0 {
		t.Errorf("%d of the first 63 dropped", n)
	}
	s.acknowledge(cam, 0, s.all(cam)...) // they count wherever they are by now
	s.wait(s.offer(reply(cam, id, 63, false, "p")))
	s.wait(s.offer(reply(cam, id, 64, true, "f")))
	s.wait(s.offer(reply(cam, id, 65, true, "g")))
	if got := bodies(s.all(cam)); got != "[f]" {
		t.Errorf("drained %s", got)
	}
	if st := s.queue.Stats(); st.OverLimit != 1 || st.Duplicates != 1 {
		t.Errorf("counted %+v", st)
	}
}

func TestDrain_TellsWhatIsLate(t *testing.T) {
	s := newShed(t, nil)
	early, late := s.request(cam, alice), s.request(cam, alice)
	s.put(cam, early, "early")
	s.advance(31 * time.Second)
	s.put(cam, late, "late")
	rs := s.all(cam)
	if rs[0].Late || !rs[1].Late || s.record(early).Late || !s.record(late).Late {
		t.Errorf("late: %v, %v", rs[0].Late, rs[1].Late)
	}
}

// Both sides of the end of a grace.
func TestAcknowledge_GraceEndsInTime(t *testing.T) {
	s := newShed(t, nil)
	s.mu.Lock()
	s.frozen = time.Now()
	s.mu.Unlock()
	id := s.request(cam, alice)
	s.put(cam, id, "x")
	s.acknowledge(cam, time.Minute, s.all(cam)...)
	shown := func(d time.Duration) int {
		s.mu.Lock()
		s.ahead = d
		s.mu.Unlock()
		return len(s.drain(queue.Drain{Requests: uuids(id)}))
	}
	for d, want := range map[time.Duration]int{0: 1, time.Minute - time.Millisecond: 1} {
		if got := shown(d); got != want {
			t.Errorf("after %v: %d shown", d, got)
		}
	}
	if got := shown(time.Minute); got != 0 {
		t.Errorf("after a minute: %d shown", got)
	}
	rec := s.record(id)
	if queued := s.queue.Complete(&rec); queued || len(rec.Read) != 1 { // whether it is removed already or not
		t.Errorf("queued %v, read %v", queued, rec.Read)
	}
}

// Of two readers at the same time the first one's grace counts, also after a restart.
func TestAcknowledge_TwoReadersAtOnce(t *testing.T) {
	s := newShed(t, nil)
	for range 20 {
		s.put(cam, s.request(cam, alice), "x")
	}
	rs := s.all(cam)
	var wg sync.WaitGroup
	for _, r := range rs {
		for _, after := range []time.Duration{time.Minute, time.Hour} {
			wg.Go(func() { s.acknowledge(cam, after, r) })
		}
	}
	wg.Wait()
	ids := map[device.UUID]bool{}
	for _, r := range rs {
		ids[r.Claims.UUID] = true
	}
	s.advance(2 * time.Minute)
	left := len(s.drain(queue.Drain{Requests: ids}))
	s.until("those of the shorter grace are removed, and no other", func() bool { return s.streamSize("QUEUE") == uint64(left) })
	s.reopen()
	if got := len(s.drain(queue.Drain{Requests: ids})); got != left {
		t.Errorf("%d left after a restart, %d before", got, left)
	}
	s.advance(time.Hour)
	s.until("all are removed, and their marks", func() bool { return s.streamSize("QUEUE") == 0 && s.streamSize("MARKS") == 0 })
}

// grudging records fail for one request.
type grudging struct {
	*requests.Store
	mu sync.Mutex
	of device.UUID
}

func (g *grudging) hate(id device.RequestID) {
	c, err := id.Claims()
	if err != nil {
		panic(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.of = c.UUID
}

func (g *grudging) Update(ctx context.Context, c device.Claims, change func(*requests.Record) bool) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.UUID == g.of {
		return errors.New("not this one")
	}
	return g.Store.Update(ctx, c, change)
}

// A reply that cannot be removed holds up no other.
func TestSweep_OneBadItemHoldsUpNobody(t *testing.T) {
	var g *grudging
	s := newShed(t, func(c *queue.Config) {
		g = &grudging{Store: c.Records.(*requests.Store)}
		c.Records = g
	})
	for range 150 {
		s.put(cam, s.request(cam, alice), "x")
	}
	rs := s.all(cam)
	for _, r := range rs {
		s.acknowledge(cam, time.Minute, r)
	}
	g.hate(rs[3].ID)
	s.advance(61 * time.Second)
	s.until("all others are removed", func() bool { return s.streamSize("QUEUE") == 1 && s.streamSize("MARKS") == 1 })
	g.hate(rs[0].ID)
	s.until("the last one follows", func() bool { return s.streamSize("QUEUE") == 0 && s.streamSize("MARKS") == 0 })
}

// cold records are never in memory for the appender.
type cold struct{ *requests.Store }

func (*cold) UpdateCached(device.UUID, func(*requests.Record) bool) bool { return false }

func TestPut_RecordOutOfMemoryIsNotedLater(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.Records = &cold{c.Records.(*requests.Store)} })
	id := s.request(cam, alice)
	s.put(cam, id, "x")
	rec := s.record(id)
	if queued := s.queue.Complete(&rec); !queued || rec.Answered == 0 {
		t.Error("the queue does not tell")
	}
	s.until("the record knows", func() bool { return s.record(id).Answered != 0 })
}

func TestQueue_AgedRepliesAreCounted(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.Retention = 2 * time.Second })
	s.put(cam, s.request(cam, alice), "unread")
	s.put(cam, s.request(cam, alice), "read")
	s.acknowledge(cam, time.Hour, s.all(cam)[1])
	s.until("it is counted", func() bool {
		s.advance(time.Minute) // the index is looked through once a minute
		return s.queue.Stats().Aged == 1 && s.queue.Stats().Waiting == 0
	})
}

// A waiting drain is not woken by what it does not want, and ends with its caller.
func TestDrain_WaitsForItsOwn(t *testing.T) {
	s := newShed(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	got := make(chan string, 1)
	go func() {
		page, err := s.queue.Drain(ctx, queue.Drain{Device: cam, Mailbox: alice, Limit: 10, Wait: time.Minute})
		got <- fmt.Sprint(bodies(page.Replies), err)
	}()
	s.put(cam, s.request(cam, bob), "bob's")
	s.put(cam, s.request(cam, alice), "alice's")
	if g := <-got; g != "[alice's]<nil>" {
		t.Errorf("drained %s", g)
	}
	go func() {
		_, err := s.queue.Drain(ctx, queue.Drain{Device: "cam-9", Limit: 10, Wait: time.Minute})
		got <- fmt.Sprint(errors.Is(err, context.Canceled))
	}()
	cancel()
	if g := <-got; g != "true" {
		t.Errorf("ended with %s", g)
	}
}

// The stream's own limit, and a disk that is full, refuse: nothing is acknowledged, nothing is lost (I1).
func TestPut_StreamIsFull(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxStore = 300_000 })
	body := strings.Repeat("x", 100_000)
	s.put(cam, s.request(cam, alice), body)
	s.put(cam, s.request(cam, alice), body)
	gone := make(chan struct{})
	r := reply("cam-2", s.request("cam-2", alice), 0, true, body)
	r.Gone = gone
	dropped := s.offer(r)
	kept := s.offer(reply("cam-3", s.request("cam-3", alice), 0, true, body))
	s.until("both wait", func() bool { return s.queue.Stats().Parked == 2 })
	close(gone) // it is certainly not stored: its device publishes it again
	if err := <-dropped; err == nil {
		t.Error("acknowledged to nobody")
	}
	s.acknowledge(cam, 0, s.all(cam)...)
	s.wait(kept)
	if len(s.all("cam-2")) != 0 || len(s.all("cam-3")) != 1 {
		t.Error("the wrong one is stored")
	}
}

// unwritable records take facts, and cannot make them durable.
type unwritable struct{ *requests.Store }

func (unwritable) Flush(context.Context, []device.UUID) error { return errors.New("disk") }

// I5, I8: no reply leaves the queue before its request's record durably knows of it.
func TestAcknowledge_RecordIsDurableFirst(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.Records = unwritable{c.Records.(*requests.Store)} })
	s.put(cam, s.request(cam, alice), "x")
	s.acknowledge(cam, 0, s.all(cam)...)
	s.reopen() // the stop removes what it can
	if got := bodies(s.all(cam)); got != "[x]" {
		t.Errorf("left: %s", got)
	}
}
