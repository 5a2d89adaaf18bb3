package queue_test

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"signaldevice/broker/queue"
	"signaldevice/device"
)

func TestQueue_KeepsOrderAndTellsEverything(t *testing.T) {
	s := newShed(t, nil)
	a, b := s.request(cam, alice), s.request(cam, bob)
	s.wait(s.offer(reply(cam, a, 0, false, "one")))
	s.wait(s.offer(reply(cam, b, 0, true, "two")))
	s.wait(s.offer(reply(cam, a, 1, true, "three\x00\xff")))
	rs := s.all(cam)
	if got := bodies(rs); got != "[one two three\x00\xff]" {
		t.Fatalf("drained %q", got)
	}
	if r := rs[0]; r.ID != a || r.Claims.Mailbox != alice || r.Seq != 0 || r.Final || r.Late || r.Read || time.Since(r.Received) > patience {
		t.Errorf("first reply %+v", r)
	}
	if r := rs[2]; r.Seq != 1 || !r.Final {
		t.Errorf("third reply %+v", r)
	}
	if again := s.all(cam); bodies(again) != bodies(rs) {
		t.Error("a drain removed something")
	}
	for _, want := range []string{"one", "two", "three\x00\xff"} {
		if got := <-s.arrived; string(got.Body) != want {
			t.Errorf("told of %q, want %q", got.Body, want)
		}
	}
}

func TestDrain_ByClientByCursorByPage(t *testing.T) {
	s := newShed(t, nil)
	for i := range 6 {
		m := alice
		if i%2 == 1 {
			m = bob
		}
		s.put(cam, s.request(cam, m), strconv.Itoa(i))
	}
	s.put("cam-2", s.request("cam-2", alice), "other device")
	rs := s.all(cam)
	if got := bodies(s.drain(queue.Drain{Mailbox: bob})); got != "[1 3 5]" {
		t.Errorf("bob's: %s", got)
	}
	if got := bodies(s.drain(queue.Drain{After: rs[2].Position})); got != "[3 4 5]" {
		t.Errorf("after the third: %s", got)
	}
	page, err := s.queue.Drain(t.Context(), queue.Drain{Device: cam, Limit: 2, After: rs[1].Position})
	if err != nil || bodies(page.Replies) != "[2 3]" || !page.More {
		t.Errorf("a page: %s, more %v, %v", bodies(page.Replies), page.More, err)
	}
	page, err = s.queue.Drain(t.Context(), queue.Drain{Device: cam, Limit: 2, After: rs[3].Position})
	if err != nil || bodies(page.Replies) != "[4 5]" || page.More {
		t.Errorf("the last page: %s, more %v, %v", bodies(page.Replies), page.More, err)
	}
	for limit, want := range map[int]int{-1: 1, 0: 1, 1001: 6} {
		if page, err := s.queue.Drain(t.Context(), queue.Drain{Device: cam, Limit: limit}); err != nil || len(page.Replies) != want {
			t.Errorf("limit %d: %d replies, %v", limit, len(page.Replies), err)
		}
	}
}

// The server reads at most 1,024 subjects at once; a queue may be longer.
func TestDrain_MoreThanTheServerReadsAtOnce(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 2000 })
	id, n := device.RequestID(""), 1100
	var last <-chan error
	for i := range n {
		if i%63 == 0 {
			id = s.request(cam, alice)
		}
		last = s.offer(reply(cam, id, i%63, false, strconv.Itoa(i)))
	}
	s.wait(last)
	var seen []queue.Drained
	for after := []byte(nil); ; {
		page, err := s.queue.Drain(t.Context(), queue.Drain{Device: cam, Limit: 500, After: after})
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, page.Replies...)
		if !page.More {
			break
		}
		after = page.Replies[len(page.Replies)-1].Position
	}
	if len(seen) != n {
		t.Fatalf("%d replies, want %d", len(seen), n)
	}
	for i, r := range seen {
		if string(r.Body) != strconv.Itoa(i) {
			t.Fatalf("reply %d is %s", i, r.Body)
		}
	}
	s.acknowledge(cam, 0, seen...)
	if rest := s.all(cam); len(rest) != 0 {
		t.Errorf("%d are left", len(rest))
	}
}

func TestDrain_WaitsForTheFirstReply(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	got := make(chan []queue.Drained, 1)
	go func() { got <- s.drain(queue.Drain{Wait: 30 * time.Second}) }()
	s.put(cam, id, "woken")
	select {
	case rs := <-got:
		if bodies(rs) != "[woken]" {
			t.Errorf("drained %s", bodies(rs))
		}
	case <-time.After(patience):
		t.Fatal("not woken")
	}
	begin := time.Now()
	if rs := s.drain(queue.Drain{Device: "cam-2", Wait: 50 * time.Millisecond}); len(rs) != 0 || time.Since(begin) < 50*time.Millisecond {
		t.Errorf("%d replies after %v", len(rs), time.Since(begin))
	}
}

// The first body of a seq wins, wherever the first one is by then.
func TestPut_Duplicates(t *testing.T) {
	tests := map[string]func(s *shed, id device.RequestID){
		"while the first waits":              func(*shed, device.RequestID) {},
		"after a restart":                    func(s *shed, _ device.RequestID) { s.reopen() },
		"after the first was removed":        func(s *shed, _ device.RequestID) { s.acknowledge(cam, 0, s.all(cam)...) },
		"after it was removed and a restart": func(s *shed, _ device.RequestID) { s.acknowledge(cam, 0, s.all(cam)...); s.reopen() },
		"after the first was read":           func(s *shed, _ device.RequestID) { s.acknowledge(cam, time.Minute, s.all(cam)...) },
	}
	for name, between := range tests {
		t.Run(name, func(t *testing.T) {
			s := newShed(t, nil)
			s.t = t
			id := s.request(cam, alice)
			s.wait(s.offer(reply(cam, id, 3, false, "first")))
			between(s, id)
			before := bodies(s.all(cam))
			s.wait(s.offer(reply(cam, id, 3, false, "second"))) // acknowledged: the device may forget it
			if after := bodies(s.all(cam)); after != before {
				t.Errorf("the queue went from %s to %s", before, after)
			}
			if n := s.queue.Stats().Duplicates; n != 1 {
				t.Errorf("%d duplicates counted", n)
			}
			s.wait(s.offer(reply(cam, id, 4, true, "next")))
			if after := s.drain(queue.Drain{}); len(after) == 0 || string(after[len(after)-1].Body) != "next" {
				t.Errorf("the next reply is not there: %s", bodies(after))
			}
		})
	}
}

func TestPut_DuplicatesAtTheSameTime(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() { s.wait(s.offer(reply(cam, id, 0, true, strconv.Itoa(i)))) })
	}
	wg.Wait()
	if rs := s.all(cam); len(rs) != 1 {
		t.Errorf("%d replies", len(rs))
	}
}

func TestPut_AfterTheFinalReplyNothingIsTaken(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	s.wait(s.offer(reply(cam, id, 0, true, "final")))
	s.wait(s.offer(reply(cam, id, 1, true, "more")))
	s.wait(s.offer(reply(cam, id, 2, false, "and more")))
	if got := bodies(s.all(cam)); got != "[final]" {
		t.Errorf("drained %s", got)
	}
}

func TestPut_LimitsOfOneRequest(t *testing.T) {
	t.Run("64 replies, the last place for the final one", func(t *testing.T) {
		s := newShed(t, nil)
		id := s.request(cam, alice)
		for seq := range 70 {
			s.wait(s.offer(reply(cam, id, seq, false, "p")))
		}
		s.wait(s.offer(reply(cam, id, 70, true, "f")))
		rs := s.all(cam)
		if len(rs) != device.MaxRepliesPerRequest || !rs[63].Final || rs[62].Seq != 62 {
			t.Errorf("%d replies, the last one %+v", len(rs), rs[len(rs)-1])
		}
		if n := s.queue.Stats().OverLimit; n != 7 {
			t.Errorf("%d counted over the limit, want 7", n)
		}
	})
	t.Run("1 MB of bodies", func(t *testing.T) {
		s := newShed(t, nil)
		id := s.request(cam, alice)
		quarter := strings.Repeat("x", device.MaxReplyBytes/4)
		for seq := range 4 {
			s.wait(s.offer(reply(cam, id, seq, false, quarter)))
		}
		s.wait(s.offer(reply(cam, id, 4, true, "x")))
		if rs := s.all(cam); len(rs) != 4 {
			t.Errorf("%d replies, want 4", len(rs))
		}
	})
}

func TestPut_QuotaParksAndFrees(t *testing.T) {
	tests := map[string]struct {
		edit   func(*queue.Config)
		fits   []string
		parked string
	}{
		"by count": {func(c *queue.Config) { c.MaxReplies = 2 }, []string{"a", "b"}, "c"},
		"by bytes": {func(c *queue.Config) { c.MaxBytes = 10 }, []string{"12345", "12345"}, "6"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newShed(t, tt.edit)
			for _, body := range tt.fits {
				s.put(cam, s.request(cam, alice), body)
			}
			parked := make(chan struct{}, 2)
			r := reply(cam, s.request(cam, alice), 0, true, tt.parked)
			r.Parked = func() { parked <- struct{}{} }
			done := s.offer(r)
			<-parked
			second := s.offer(reply(cam, s.request(cam, bob), 0, true, "behind"))
			s.put("cam-2", s.request("cam-2", alice), "other") // another device does not notice
			select {
			case err := <-done:
				t.Fatalf("acknowledged over the quota: %v", err)
			default:
			}
			if rs := s.all(cam); len(rs) != len(tt.fits) {
				t.Fatalf("%d replies are shown", len(rs))
			}
			s.acknowledge(cam, 0, s.all(cam)...)
			s.wait(done)
			s.wait(second)
			if got := bodies(s.all(cam)); got != "["+tt.parked+" behind]" {
				t.Errorf("drained %s", got)
			}
		})
	}
}

// A reply that was read and only waits for its grace does not count.
func TestPut_ReadRepliesLeaveTheQuota(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 1 })
	s.put(cam, s.request(cam, alice), "a")
	done := s.offer(reply(cam, s.request(cam, alice), 0, true, "b"))
	s.acknowledge(cam, time.Hour, s.all(cam)...)
	s.wait(done)
	if got := bodies(s.all(cam)); got != "[b]" {
		t.Errorf("drained %s", got)
	}
}

func TestPut_ParkedRepliesOfAGoneConnectionAreLetGo(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 1 })
	s.put(cam, s.request(cam, alice), "a")
	gone := make(chan struct{})
	r := reply(cam, s.request(cam, alice), 0, true, "b")
	r.Gone = gone
	done := s.offer(r)
	close(gone)
	s.acknowledge(cam, 0, s.all(cam)...)
	select {
	case err := <-done:
		if err == nil {
			t.Error("acknowledged to nobody")
		}
	case <-time.After(patience):
		t.Fatal("never let go")
	}
	if rs := s.all(cam); len(rs) != 0 {
		t.Errorf("stored without its device")
	}
}

func TestAcknowledge_GraceHidesThenRemoves(t *testing.T) {
	s := newShed(t, nil)
	id, other := s.request(cam, alice), s.request(cam, alice)
	s.put(cam, id, "read")
	s.put(cam, other, "unread")
	first := s.all(cam)[0]
	s.acknowledge(cam, time.Minute, first)
	if got := bodies(s.all(cam)); got != "[unread]" {
		t.Errorf("without ids: %s", got)
	}
	rs := s.drain(queue.Drain{Requests: uuids(id)})
	if bodies(rs) != "[read unread]" || !rs[0].Read || rs[1].Read {
		t.Errorf("with its id: %s", bodies(rs))
	}
	if got := bodies(s.drain(queue.Drain{Requests: uuids(other)})); got != "[unread]" {
		t.Errorf("with another id: %s", got)
	}
	s.advance(40 * time.Second)
	s.acknowledge(cam, time.Minute, first) // does not extend it
	s.reopen()                             // and it survives a restart
	if got := bodies(s.all(cam)); got != "[unread]" {
		t.Errorf("after a restart: %s", got)
	}
	if rec := s.record(id); len(rec.Read) != 0 {
		t.Error("counted as read before the grace is over")
	}
	s.advance(21 * time.Second)
	if got := bodies(s.drain(queue.Drain{Requests: uuids(id)})); got != "[unread]" {
		t.Errorf("after the grace: %s", got)
	}
	s.until("the record says that it was read", func() bool { return len(s.record(id).Read) == 1 })
	s.until("it is out of the index", func() bool { return s.queue.Stats().Waiting == 1 })
}

func TestAcknowledge_RecordKnowsOfWhatLeft(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	s.wait(s.offer(reply(cam, id, 0, false, "p")))
	s.wait(s.offer(reply(cam, id, 1, true, "f")))
	s.acknowledge(cam, 0, s.all(cam)...)
	s.reopen()
	rec := s.record(id)
	if len(rec.Seqs) != 2 || rec.Answered == 0 || rec.Progress == 0 || rec.Late {
		t.Errorf("record %+v", rec)
	}
	if state, _ := rec.State(s.now()); state != device.StateAnswered {
		t.Errorf("state %s", state)
	}
}

func TestAcknowledge_Refused(t *testing.T) {
	s := newShed(t, nil)
	s.put(cam, s.request(cam, alice), "mine")
	s.put("cam-2", s.request("cam-2", alice), "theirs")
	mine, theirs := s.all(cam)[0].Position, s.all("cam-2")[0].Position
	bent := func(i int) []byte {
		b := append([]byte(nil), mine...)
		b[i]++
		return b
	}
	tests := map[string][]byte{
		"of another device":            theirs,
		"of another life of the queue": bent(0),
		"empty":                        {},
		"one byte short":               mine[:len(mine)-1],
		"one byte more":                append(append([]byte(nil), mine...), 0),
	}
	for name, position := range tests {
		t.Run(name, func(t *testing.T) {
			for _, after := range []time.Duration{0, time.Minute} {
				err := s.queue.Acknowledge(t.Context(), cam, [][]byte{mine, position}, after)
				if !device.Is(err, device.Invalid) {
					t.Errorf("error %v", err)
				}
			}
			if got := bodies(s.all(cam)) + bodies(s.all("cam-2")); got != "[mine][theirs]" {
				t.Errorf("left: %s", got)
			}
		})
	}
	if _, err := s.queue.Drain(t.Context(), queue.Drain{Device: cam, Limit: 1, After: theirs}); !device.Is(err, device.Invalid) {
		t.Errorf("a cursor of another device: %v", err)
	}
	s.acknowledge(cam, 0, s.all(cam)...)
	if err := s.queue.Acknowledge(t.Context(), cam, [][]byte{mine}, 0); err != nil {
		t.Errorf("repeated: %v", err)
	}
	if err := s.queue.Acknowledge(t.Context(), cam, [][]byte{mine}, time.Minute); err != nil {
		t.Errorf("repeated with a grace: %v", err)
	}
}

func TestUnread_CountsRequestsOfOneClientAtOneDevice(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	s.wait(s.offer(reply(cam, id, 0, false, "123")))
	s.wait(s.offer(reply(cam, id, 1, true, "45")))
	s.put(cam, s.request(cam, bob), "bob's")
	s.put("cam-2", s.request("cam-2", alice), "elsewhere")
	if ids, bytes := s.queue.Unread(cam, alice); len(ids) != 1 || bytes != 5 {
		t.Errorf("%d requests, %d bytes", len(ids), bytes)
	}
	s.acknowledge(cam, time.Minute, s.drain(queue.Drain{Mailbox: alice})...)
	if ids, bytes := s.queue.Unread(cam, alice); len(ids) != 0 || bytes != 0 {
		t.Errorf("after reading: %d requests, %d bytes", len(ids), bytes)
	}
}

func TestForget_RemovesOneDevicesReplies(t *testing.T) {
	s := newShed(t, nil)
	s.put(cam, s.request(cam, alice), "a")
	s.put("cam-10", s.request("cam-10", alice), "b")
	if err := s.queue.Forget(t.Context(), cam); err != nil {
		t.Fatal(err)
	}
	if got := bodies(s.all(cam)) + bodies(s.all("cam-10")); got != "[][b]" {
		t.Errorf("left: %s", got)
	}
	s.put(cam, s.request(cam, alice), "c")
	if got := bodies(s.all(cam)); got != "[c]" {
		t.Errorf("a new reply: %s", got)
	}
}

// I1, I2: whatever drainers do, a reply is stored elsewhere before it leaves, or it is still here.
func TestQueue_DrainersThatDieAnywhereLoseNothing(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 100_000 })
	const n = 600
	stored := map[string]int{}
	var mu sync.Mutex
	stop := make(chan struct{})
	var drainers, cameras sync.WaitGroup
	for worker := range 3 {
		drainers.Go(func() {
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				rs := s.all(cam)
				if (round+worker)%3 == 0 {
					continue // dies before it stores
				}
				mu.Lock()
				for _, r := range rs {
					stored[string(r.ID)+string(r.Body)]++
				}
				mu.Unlock()
				if (round+worker)%3 == 1 {
					continue // dies before it acknowledges
				}
				s.acknowledge(cam, 0, rs...)
			}
		})
	}
	for w := range 4 {
		cameras.Go(func() {
			for i := range n / 4 {
				s.put(cam, s.request(cam, alice), fmt.Sprint(w, "/", i))
			}
		})
	}
	cameras.Wait()
	s.until("the queue is empty", func() bool { return s.queue.Stats().Waiting == 0 })
	close(stop)
	drainers.Wait()
	if len(stored) != n {
		t.Errorf("%d replies were stored, want %d", len(stored), n)
	}
}

// A process that dies after a reply was stored and before its record knew of it leaves a request that looks unanswered;
// the next start puts that right, even if nobody ever reads the reply (I5).
func TestOpen_NotesWhatTheRecordsDoNotKnow(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	stranger := &forgetful{s.records}
	s.queue.Close()
	s.edit = func(c *queue.Config) { c.Records = stranger }
	s.reopenQueue()
	s.put(cam, id, "stored")
	if rec := s.record(id); rec.Answered != 0 {
		t.Fatal("the record knows")
	}
	s.edit = nil
	s.reopen()
	s.until("the record knows of the reply", func() bool { return s.record(id).Answered != 0 })
}

func TestQueue_AgedRepliesLeaveQuotaAndIndex(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.Retention = 2 * time.Second; c.MaxReplies = 1 })
	s.put(cam, s.request(cam, alice), "old")
	done := s.offer(reply(cam, s.request(cam, alice), 0, true, "new"))
	s.until("the old reply is gone from the stream", func() bool { return len(s.all(cam)) == 0 })
	s.advance(2 * time.Minute) // the index is swept once a minute
	s.wait(done)
}
