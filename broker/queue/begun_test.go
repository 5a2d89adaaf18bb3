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

// hasty records have the caller give up in the moment before its replies are removed.
type hasty struct {
	*requests.Store
	giveUp func()
}

func (h *hasty) Flush(ctx context.Context, ids []device.UUID) error {
	defer h.giveUp()
	return h.Store.Flush(ctx, ids)
}

// A caller that gives up while its replies are being removed leaves nothing behind that is neither there nor gone: what
// is gone counts for no quota.
func TestAcknowledge_CallerGivesUp(t *testing.T) {
	h := &hasty{giveUp: func() {}}
	s := newShed(t, func(c *queue.Config) {
		h.Store = c.Records.(*requests.Store)
		c.Records = h
	})
	for range 40 {
		s.put(cam, s.request(cam, alice), "x")
	}
	failed := 0
	for _, r := range s.all(cam) {
		ctx, cancel := context.WithCancel(t.Context())
		h.giveUp = cancel
		if err := s.queue.Acknowledge(ctx, cam, [][]byte{r.Position}, 0); err != nil {
			failed++
		}
	}
	h.giveUp = func() {}
	if failed == 0 {
		t.Fatal("every call was in time")
	}
	s.until("all are removed", func() bool { return s.streamSize("QUEUE") == 0 && s.queue.Stats().Waiting == 0 })
	if ids, _ := s.queue.Unread(cam, alice); len(ids) != 0 {
		t.Errorf("%d requests are unread", len(ids))
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
	if err := s.queue.Acknowledge(t.Context(), cam, [][]byte{rs[0].Position, rs[1].Position}, 0); err == nil {
		t.Error("told to be removed")
	}
	s.until("the good one is removed", func() bool { return bodies(s.all(cam)) == "[bad]" })
	g.hate(good)
	s.until("the bad one follows", func() bool { return s.streamSize("QUEUE") == 0 && s.queue.Stats().Waiting == 0 })
}
