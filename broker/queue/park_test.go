package queue_test

import (
	"testing"

	"signaldevice/broker/queue"
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
