package broker

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"signaldevice/broker/mqtt"
	"signaldevice/broker/queue"
	"signaldevice/device"
)

// events sorts what devices publish: replies go into the queue, everything else is counted and forgotten.
type events struct {
	ring      *device.KeyRing
	queue     *queue.Queue
	retention time.Duration
	clock     func() time.Time
	log       *slog.Logger
	quiet     *rate.Limiter // of log lines that a device can cause at will
	orphans   atomic.Uint64
	other     atomic.Uint64 // messages on topics that carry no replies
}

func newEvents(ring *device.KeyRing, q *queue.Queue, cfg Config) *events {
	return &events{
		ring: ring, queue: q, retention: cfg.Retention, clock: cfg.Clock, log: cfg.Log,
		quiet: rate.NewLimiter(rate.Every(time.Second), 10),
	}
}

// take is called from the device's connection.
func (s *events) take(e mqtt.Event) {
	subtopic, ok := device.Under(e.Topic, device.TopicsOf(e.Device).Events)
	if !ok {
		s.other.Add(1)
		e.Done(nil)
		return
	}
	r, ok := queue.Recognise(s.ring, e.Device, subtopic, e.Payload)
	if !ok || s.clock().Sub(r.Claims.ReplyBy) > s.retention {
		s.orphans.Add(1)
		if s.quiet.Allow() {
			s.log.Info("event without a request id of this device", "device", e.Device, "bytes", len(e.Payload))
		}
		e.Done(nil)
		return
	}
	r.Gone, r.Parked, r.Done = e.Gone, e.Parked, e.Done
	s.queue.Put(&r)
}

// publisher serves IoT Core's raw Publish: best effort, outside request records.
type publisher Broker

// PublishCommand writes to the device's connection, if it has one that subscribes to the topic. Invalid: the data holds a
// request id, which only Send may mint.
func (p *publisher) PublishCommand(_ context.Context, id device.ID, subtopic string, data []byte) error {
	if _, found := device.FindRequestID(data); found {
		return &device.Error{
			Kind: device.Invalid, Message: "commands with replies go through signaldevice.broker.v1.RequestService.Send",
			Faults: []device.Fault{{Location: "data", Message: "must not hold a request id"}},
		}
	}
	if session := p.mqtt.Session(id); session != nil {
		if _, err := session.Send(subtopic, data, time.Time{}, func() {}); err != nil {
			p.cfg.Log.Debug("raw command not delivered", "device", id, "error", err)
		}
	}
	return nil
}

// PublishEvent counts as an event of the device, and returns when it is durable.
func (p *publisher) PublishEvent(ctx context.Context, id device.ID, topic string, data []byte) error {
	done := make(chan error, 1)
	p.events.take(mqtt.Event{Device: id, Topic: topic, Payload: data, Gone: ctx.Done(), Done: func(err error) { done <- err }})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return device.Wrap(device.OutcomeUnknown, ctx.Err(), "the event was not stored in time, it may still be")
	}
}
