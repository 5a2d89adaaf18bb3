package queue_test

import (
	"strconv"
	"testing"

	"signaldevice/broker/queue"
	"signaldevice/device"
)

// A reply may be empty: its request id stands in the subtopic. It waits for room as every other does.
func TestPut_EmptyReplyThatWaits(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 1 })
	s.put(cam, s.request(cam, alice), "first")
	done := s.offer(reply(cam, s.request(cam, alice), 0, true, ""))
	s.acknowledge(cam, 0, s.all(cam)...)
	s.wait(done)
	if rs := s.all(cam); len(rs) != 1 || len(rs[0].Body) != 0 {
		t.Errorf("drained %q", bodies(rs))
	}
}

// While the stream is too slow for what arrives, replies beyond what it has ahead of it wait as those over a quota do.
func TestPut_StreamIsBehind(t *testing.T) {
	const ahead, more = 8192, 20
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 2 * ahead })
	open := s.holdStream()
	var id device.RequestID
	var dones []<-chan error
	for i := range ahead + more {
		if i%63 == 0 {
			id = s.request("cam-2", alice)
		}
		dones = append(dones, s.offer(reply("cam-2", id, i%63, false, strconv.Itoa(i))))
	}
	if n := s.queue.Stats().Parked; n != more {
		t.Errorf("%d wait, want %d", n, more)
	}
	open()
	for _, done := range dones {
		s.wait(done)
	}
	all := s.pages("cam-2")
	for i, r := range all {
		if string(r.Body) != strconv.Itoa(i) {
			t.Fatalf("reply %d is %s", i, r.Body)
		}
	}
	if len(all) != ahead+more {
		t.Errorf("%d replies", len(all))
	}
}
