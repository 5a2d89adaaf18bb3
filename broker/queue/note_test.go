package queue_test

import (
	"testing"

	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/device"
)

// One record that takes no notes holds up those of no other request.
func TestQueue_OneRecordThatTakesNoNotes(t *testing.T) {
	var p *picky
	s := newShed(t, func(c *queue.Config) {
		p = &picky{grudging: grudging{Store: c.Records.(*requests.Store)}}
		c.Records = p
	})
	bad, good := s.request(cam, alice), s.request(cam, alice)
	p.hate(bad)
	s.put(cam, bad, "x")
	s.put(cam, good, "y")
	s.until("the other record knows", func() bool { return s.record(good).Answered != 0 })
	p.hate(good)
	s.until("the first one follows", func() bool { return s.record(bad).Answered != 0 })
}

// picky records are never in memory for the appender, and fail for one request.
type picky struct{ grudging }

func (*picky) UpdateCached(device.UUID, func(*requests.Record) bool) bool { return false }

// A reply outlives its record where records are many: it is removed as any other, at the first call.
func TestAcknowledge_ReplyWhoseRecordWasDropped(t *testing.T) {
	s := newShed(t, nil)
	s.put(cam, s.request(cam, alice), "x")
	rs := s.all(cam)
	if err := s.engine.PurgeSubject(t.Context(), "REQUESTS", "r.>"); err != nil {
		t.Fatal(err)
	}
	s.acknowledge(cam, 0, rs...)
	if left := s.all(cam); len(left) != 0 {
		t.Errorf("left: %s", bodies(left))
	}
}
