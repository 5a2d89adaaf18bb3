package queue_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/device"
)

// What was acknowledged is as good as gone at once, for readers and for quotas, and leaves the disk a moment later.
func TestAcknowledge_GoneAtOnce(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 20 })
	var ids []device.RequestID
	for range 20 {
		ids = append(ids, s.request(cam, alice))
		s.put(cam, ids[len(ids)-1], "x")
	}
	waits := s.offer(reply(cam, s.request(cam, alice), 0, true, "has no room"))
	s.acknowledge(cam, 0, s.all(cam)...)
	s.wait(waits)
	if rs := s.drain(queue.Drain{Requests: uuids(ids...)}); bodies(rs) != "[has no room]" {
		t.Errorf("shown: %s", bodies(rs))
	}
	rec := s.record(ids[0])
	if queued := s.queue.Complete(&rec); queued || rec.Answered == 0 || len(rec.Read) != 0 {
		t.Errorf("queued: %v, record %+v", queued, rec)
	}
	if unread, _ := s.queue.Unread(cam, alice); len(unread) != 1 {
		t.Errorf("%d requests are unread", len(unread))
	}
	s.until("they are removed", func() bool { return s.streamSize("QUEUE") == 1 })
}

// A stop leaves nothing behind that was acknowledged.
func TestClose_RemovesTheAcknowledged(t *testing.T) {
	s := newShed(t, nil)
	s.put(cam, s.request(cam, alice), "x")
	s.acknowledge(cam, 0, s.all(cam)...)
	s.queue.Close()
	if n := s.streamSize("QUEUE"); n != 0 {
		t.Errorf("%d are left", n)
	}
}

func TestAcknowledge_CallerGivesUpBeforeTheMark(t *testing.T) {
	s := newShed(t, nil)
	id := s.request(cam, alice)
	s.put(cam, id, "x")
	ctx, cancel := context.WithCancel(t.Context())
	r := s.all(cam)[0]
	var marks sync.WaitGroup
	for range 20 { // one of them at least is not in time
		marks.Go(func() { _ = s.queue.Acknowledge(ctx, cam, [][]byte{r.Position}, time.Minute) })
	}
	cancel()
	marks.Wait()
	s.acknowledge(cam, time.Minute, r)
	if rs := s.all(cam); len(rs) != 0 || s.queue.Stats().Waiting != 0 {
		t.Errorf("shown: %s", bodies(rs))
	}
	s.advance(61 * time.Second)
	s.until("it is removed, and every mark", func() bool { return s.streamSize("QUEUE") == 0 && s.streamSize("MARKS") == 0 })
}

// A reply that cannot be removed holds up no other that was acknowledged with it.
func TestAcknowledge_OneBadReply(t *testing.T) {
	var g *grudging
	s := newShed(t, func(c *queue.Config) {
		g = &grudging{Store: c.Records.(*requests.Store)}
		c.Records = g
	})
	bad, good := s.request(cam, alice), s.request(cam, alice)
	s.put(cam, bad, "bad")
	s.put(cam, good, "good")
	rs := s.all(cam)
	g.hate(bad)
	s.acknowledge(cam, 0, rs...)
	s.until("the good one is removed", func() bool { return s.streamSize("QUEUE") == 1 })
	g.hate(good)
	s.until("the bad one follows", func() bool { return s.streamSize("QUEUE") == 0 })
}

// held records let nothing leave until they are released.
type held struct {
	*requests.Store
	sweeping chan struct{} // receives one for each call of Flush
	release  chan struct{}
}

func (h *held) Flush(ctx context.Context, ids []device.UUID) error {
	select {
	case h.sweeping <- struct{}{}:
	default:
	}
	<-h.release
	return h.Store.Flush(ctx, ids)
}

// What is acknowledged while others are being removed goes with the next sweep.
func TestAcknowledge_DuringASweep(t *testing.T) {
	h := &held{sweeping: make(chan struct{}, 1), release: make(chan struct{}, 1)}
	s := newShed(t, func(c *queue.Config) {
		h.Store = c.Records.(*requests.Store)
		c.Records = h
	})
	t.Cleanup(func() { close(h.release) })
	s.put(cam, s.request(cam, alice), "early")
	s.put(cam, s.request(cam, alice), "late")
	rs := s.all(cam)
	s.acknowledge(cam, 0, rs[0])
	<-h.sweeping
	s.acknowledge(cam, 0, rs...) // the first one once more
	h.release <- struct{}{}
	s.until("the early one is removed", func() bool { return s.streamSize("QUEUE") == 1 })
	h.release <- struct{}{}
	s.until("the late one follows", func() bool { return s.streamSize("QUEUE") == 0 })
}
