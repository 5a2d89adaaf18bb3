package camera

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// Why a session ends on the camera's own wish.
var (
	errCut     = errors.New("the connection was cut by a fault")
	errRestart = errors.New("the camera restarts")
)

// session is the life of one connection. One goroutine receives; another sends what is in the outbox, one message at a
// time in order, and keeps the connection alive.
type session struct {
	cam    *Camera
	link   *link
	start  func(task)
	topics Topics
	end    context.CancelCauseFunc // the first cause is the session's
	acks   chan uint16             // packet ids of received PUBACKs
	ping   *time.Ticker
	lastID uint16
}

// run returns why the session ended, which is never nil. The connection is closed then.
func (s *session) run(ctx context.Context) error {
	s.acks = make(chan uint16, 16)
	s.ping = time.NewTicker(pingEvery)
	defer s.ping.Stop()
	s.lastID = subscribeID
	ctx, s.end = context.WithCancelCause(ctx)
	var sender sync.WaitGroup
	sender.Go(func() {
		s.end(s.send(ctx))
		s.hangUp(context.Cause(ctx)) // this wakes receive
	})
	s.end(s.receive(ctx))
	sender.Wait()
	return context.Cause(ctx)
}

func (s *session) hangUp(cause error) {
	if errors.Is(cause, errCut) {
		s.link.cut()
		return
	}
	s.link.close()
}

// receive subscribes and handles what the broker sends.
func (s *session) receive(ctx context.Context) error {
	if err := s.link.subscribe(s.topics.Commands); err != nil {
		return err
	}
	for {
		p, err := s.link.read()
		if err != nil {
			return err
		}
		switch p := p.(type) {
		case *packets.SubackPacket:
			if len(p.ReturnCodes) != 1 || p.ReturnCodes[0] > qosAtLeastOne { // 0x80 [MQTT-3.9.3-2]
				return fmt.Errorf("subscribe: %s was refused", s.topics.Commands)
			}
			s.cam.subscribed()
		case *packets.PublishPacket:
			if err := s.command(p); err != nil {
				return err
			}
		case *packets.PubackPacket:
			select {
			case s.acks <- p.MessageID:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case *packets.PingrespPacket: // reading it was enough
		default:
			return fmt.Errorf("the broker sent %T", p)
		}
	}
}

// command takes one message of the commands topic, acknowledges it and starts its task.
func (s *session) command(p *packets.PublishPacket) error {
	s.cam.cfg.OnCommand(p.Payload)
	t, taken := s.cam.accept(p.Payload)
	if !taken {
		return nil // no PUBACK: the broker still has it
	}
	if t != nil && t.fate.cutOnReceipt {
		s.end(errCut)
		s.link.cut() // before the start, so that no reply goes out on this connection
		s.start(*t)
		return errCut
	}
	if p.Qos == qosAtLeastOne {
		if err := s.link.acknowledge(p.MessageID); err != nil {
			return err
		}
	}
	if t != nil {
		s.start(*t)
	}
	return nil
}

// send publishes the outbox until the session ends.
func (s *session) send(ctx context.Context) error {
	for {
		m, ok := s.cam.outbox.first()
		var err error
		if ok {
			err = s.deliver(ctx, m)
		} else {
			err = s.idle(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// idle waits for a message and keeps the connection alive meanwhile.
func (s *session) idle(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-s.cam.outbox.wake:
			return nil
		case <-s.acks: // a PUBACK that nobody waits for
		case <-s.ping.C:
			if err := s.link.ping(); err != nil {
				return err
			}
		}
	}
}

// deliver does what the oldest message asks for. A reply is dropped once it is acknowledged, anything else before.
func (s *session) deliver(ctx context.Context, m message) error {
	if m.reply != nil {
		if err := s.publishReply(ctx, m.reply); err != nil {
			return err
		}
		s.cam.outbox.drop()
		return nil
	}
	s.cam.outbox.drop()
	switch {
	case m.cut:
		return errCut
	case m.restart:
		return errRestart
	default:
		s.cam.count.garbage.Add(1)
		return s.publish(ctx, m.raw)
	}
}

func (s *session) publishReply(ctx context.Context, r *reply) error {
	body, err := s.cam.encode(ctx, r)
	if err != nil {
		return err
	}
	copies := 1
	if s.cam.cfg.Faults.Duplicate {
		copies = 2
	}
	for range copies {
		s.cam.count.published.Add(1)
		if err := s.publish(ctx, body); err != nil {
			return err
		}
	}
	s.cam.count.acked.Add(1)
	s.cam.cfg.OnPuback(body)
	return nil
}

// publish sends one event and waits for its PUBACK. A broker that keeps quiet too long loses the connection, because
// MQTT 3.1.1 repeats a PUBLISH only on a new one (section 4.4).
func (s *session) publish(ctx context.Context, body []byte) error {
	id := s.nextID()
	if err := s.link.publish(id, s.topics.Events, body); err != nil {
		return err
	}
	overdue := time.NewTimer(s.cam.cfg.AckTimeout)
	defer overdue.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case acked := <-s.acks:
			if acked == id {
				return nil
			}
		case <-s.ping.C:
			if err := s.link.ping(); err != nil {
				return err
			}
		case <-overdue.C:
			return fmt.Errorf("publish: no PUBACK within %s", s.cam.cfg.AckTimeout)
		}
	}
}

// nextID returns a packet id other than 0 and the SUBSCRIBE's.
func (s *session) nextID() uint16 {
	s.lastID++
	if s.lastID <= subscribeID {
		s.lastID = subscribeID + 1
	}
	return s.lastID
}
