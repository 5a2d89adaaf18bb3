package queue_test

import (
	"testing"
	"time"

	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/device"
)

// I2: a reply that waited long for room stays in the stream for longer than its age says. It stays shown too, whatever
// comes after it, and keeps its place in the quota.
func TestDrain_ShowsWhatWaitedLong(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 2; c.Retention = time.Hour })
	s.put(cam, s.request(cam, alice), "first")
	s.put(cam, s.request(cam, alice), "second")
	waiting := s.offer(reply(cam, s.request(cam, alice), 0, true, "waited"))
	s.advance(50 * time.Minute)
	s.acknowledge(cam, 0, s.all(cam)...)
	s.wait(waiting)
	s.advance(11 * time.Minute) // since it came, more than the retention
	s.ageIndex()
	s.put(cam, s.request(cam, alice), "next")
	over := s.offer(reply(cam, s.request(cam, alice), 0, true, "over the quota"))
	if got := bodies(s.all(cam)); got != "[waited next]" {
		t.Errorf("drained %s", got)
	}
	s.acknowledge(cam, 0, s.all(cam)...)
	s.wait(over)
}

// ageIndex returns once the index has been compared with the stream.
func (s *shed) ageIndex() {
	s.t.Helper()
	for range 2 { // the second comparison begins when the first is through
		before := s.queue.Stats().Aged
		s.put("cam-aged", s.request("cam-aged", alice), "x")
		if err := s.engine.PurgeSubject(s.t.Context(), "QUEUE", "q.cam-aged.>"); err != nil {
			s.t.Fatal(err)
		}
		s.advance(2 * time.Hour)
		s.until("the index has been compared", func() bool { return s.queue.Stats().Aged > before })
	}
}

// I5: of a reply that nobody read before it aged out, its request's record knows.
func TestQueue_RecordKnowsOfWhatAgedOut(t *testing.T) {
	s := newShed(t, func(c *queue.Config) {
		c.Retention = 2 * time.Second
		c.Records = &deaf{Store: c.Records.(*requests.Store)}
	})
	id := s.request(cam, alice)
	s.put(cam, id, "x")
	s.until("it has aged out", func() bool {
		s.advance(time.Minute) // the index is looked through once a minute
		return s.queue.Stats().Aged == 1
	})
	s.until("the record knows", func() bool { return s.record(id).Answered != 0 })
}

// deaf records lose the note that comes with an arriving reply.
type deaf struct{ *requests.Store }

func (*deaf) UpdateCached(device.UUID, func(*requests.Record) bool) bool { return true }
