package delivery

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"signaldevice/broker/mqtt"
	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	heldStream  = "HELD"
	maxHold     = 30 * 24 * time.Hour
	idHeader    = "Request-Id"
	formHeader  = "Form"
	textForm    = "text"
	storeBudget = 2 * time.Second
)

// held keeps commands for devices that are not connected, in a stream: `c.<device>.<uuid>`. Each device's are written
// one at a time, in the order of their requests, and leave the stream at the device's PUBACK or at their deadline. The
// deadline in the record decides; the stream's own expiry, in whole seconds, only cleans up.
type held struct {
	d        *Delivery
	appender *stream.Appender
	ctx      context.Context
	stop     context.CancelFunc
	running  sync.WaitGroup

	mu      sync.Mutex
	runners map[device.ID]*runner
	given   map[device.ID]given
}

// given is how far a connection without acknowledgements (QoS 0) was given its device's held commands, which stay stored
// for the next one.
type given struct {
	connection <-chan struct{} // its Gone
	seq        uint64
}

// runner writes one device's held commands; there is none while there is nothing to do.
type runner struct{ again bool }

func newHeld(d *Delivery) *held {
	h := &held{d: d, appender: d.cfg.Engine.NewAppender(), runners: map[device.ID]*runner{}, given: map[device.ID]given{}}
	h.ctx, h.stop = context.WithCancel(context.Background())
	return h
}

func (h *held) close() {
	h.stop()
	h.running.Wait()
	h.appender.Close()
}

func heldSubject(rec requests.Record) string {
	claims, _ := rec.ID.Claims() // a record's id was read before
	return "c." + string(rec.Device) + "." + stream.Token(claims.UUID[:])
}

// store keeps a command durably, then has it written if its device is there.
func (h *held) store(ctx context.Context, rec requests.Record, p device.Payload) error {
	claims, err := rec.ID.Claims()
	if err != nil {
		return err
	}
	header := nats.Header{idHeader: {string(rec.ID)}}
	body := []byte(p.JSON)
	if p.Text != nil {
		header[formHeader], body = []string{textForm}, p.Text
	}
	left := rec.DeliverBy.Time().Sub(h.d.cfg.Clock())
	header["Nats-TTL"] = []string{strconv.Itoa(max(1, int(left/time.Second)+1)) + "s"}
	header["Nats-Expected-Last-Subject-Sequence"] = []string{"0"} // driven on by a repeated call: stored once
	_, err = h.appender.Do(ctx, stream.Append{Subject: heldSubject(rec), Data: body, Header: header})
	if err != nil && !stream.IsConflict(err) {
		return fmt.Errorf("delivery: hold: %w", err)
	}
	at := requests.At(h.d.cfg.Clock())
	h.d.note(ctx, claims, func(r *requests.Record) bool { return set(&r.Held, at) })
	h.kick(rec.Device)
	return nil
}

// remove takes a cancelled command out. One that stays behind is passed over by the runner, and runs out.
func (h *held) remove(ctx context.Context, rec requests.Record) {
	if err := h.d.cfg.Engine.PurgeSubject(ctx, heldStream, heldSubject(rec)); err != nil {
		h.d.cfg.Log.Warn("cancelled command not removed, it will be passed over", "error", err)
	}
}

func (h *held) forget(ctx context.Context, dev device.ID) error {
	h.mu.Lock()
	delete(h.given, dev)
	h.mu.Unlock()
	return h.d.cfg.Engine.PurgeSubject(ctx, heldStream, "c."+string(dev)+".>")
}

// kick has the device's held commands looked at: when it has subscribed, and when a command was stored. Storing comes
// before kicking, and subscribing before reading, so that no command can fall between the two.
func (h *held) kick(dev device.ID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ctx.Err() != nil || h.d.cfg.Sessions.Session(dev) == nil {
		return
	}
	if r := h.runners[dev]; r != nil {
		r.again = true
		return
	}
	r := &runner{}
	h.runners[dev] = r
	h.running.Go(func() { h.run(dev, r) })
}

func (h *held) run(dev device.ID, r *runner) {
	for {
		err := h.writeAll(dev)
		if err != nil && h.ctx.Err() == nil {
			h.d.cfg.Log.Warn("held commands not written, trying again", "device", dev, "error", err)
			h.pause()
		}
		h.mu.Lock()
		if h.ctx.Err() != nil || err == nil && !r.again {
			delete(h.runners, dev)
			h.mu.Unlock()
			return
		}
		r.again = false
		h.mu.Unlock()
	}
}

func (h *held) pause() {
	select {
	case <-time.After(200 * time.Millisecond):
	case <-h.ctx.Done():
	}
}

// writeAll writes the device's held commands to its present connection, until there are no more or it is gone.
func (h *held) writeAll(dev device.ID) error {
	var session *mqtt.Session
	for after := uint64(0); ; {
		present := h.d.cfg.Sessions.Session(dev)
		if present == nil || ended(present) {
			return nil // the next subscription kicks again
		}
		if present != session { // what the one before did not acknowledge comes first again
			session, after = present, h.givenTo(dev, present)
		}
		m, ok, err := h.next(dev, after)
		if err != nil || !ok {
			return err
		}
		after = m.Seq
		unacknowledged, err := h.writeOne(session, m)
		switch {
		case errors.Is(err, mqtt.ErrGone), errors.Is(err, mqtt.ErrNotSubscribed):
			return nil // as above
		case err != nil:
			return err
		case unacknowledged:
			h.gave(dev, session, m.Seq)
		}
	}
}

func ended(s *mqtt.Session) bool {
	select {
	case <-s.Gone():
		return true
	default:
		return false
	}
}

func (h *held) givenTo(dev device.ID, s *mqtt.Session) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if g := h.given[dev]; g.connection == s.Gone() {
		return g.seq
	}
	delete(h.given, dev)
	return 0
}

func (h *held) gave(dev device.ID, s *mqtt.Session, seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.given[dev] = given{s.Gone(), seq}
}

func (h *held) next(dev device.ID, after uint64) (stream.Message, bool, error) {
	ctx, cancel := context.WithTimeout(h.ctx, storeBudget)
	defer cancel()
	return h.d.cfg.Engine.Next(ctx, heldStream, "c."+string(dev)+".>", after)
}

// writeOne writes one held command and waits for its PUBACK, its deadline, or the end of the connection. unacknowledged: it
// was written with QoS 0. An error means that it is not known what to do with it yet.
func (h *held) writeOne(session *mqtt.Session, m stream.Message) (unacknowledged bool, err error) {
	id := device.RequestID(m.Header.Get(idHeader))
	claims, err := id.Claims()
	if err != nil {
		h.d.cfg.Log.Error("held command is not readable, removed", "sequence", m.Seq)
		return false, h.delete(m.Seq)
	}
	rec, mine, claimed, err := h.claim(claims)
	if err != nil {
		return false, err
	}
	if !claimed {
		return false, h.delete(m.Seq)
	}
	acked, forget := h.d.await(claims.UUID)
	defer forget()
	now := h.d.cfg.Clock()
	payload := device.Payload{JSON: m.Data}
	if m.Header.Get(formHeader) == textForm {
		payload = device.Payload{Text: m.Data}
	}
	qos, err := session.Send("", render(rec, payload, now), deadline(rec, now), func() { h.d.acknowledged(claims) })
	if err != nil {
		if mine {
			h.release(claims, rec.Claimed)
		}
		if errors.Is(err, mqtt.ErrLate) {
			err = h.delete(m.Seq)
		}
		return false, err
	}
	h.note(claims, func(r *requests.Record) bool { return set(&r.Sent, requests.At(now)) })
	if qos == 0 {
		return true, nil
	}
	expired := time.NewTimer(rec.DeliverBy.Time().Sub(now))
	defer expired.Stop()
	select {
	case <-acked:
		if err := h.delivered(claims); err != nil {
			return false, err
		}
		return false, h.delete(m.Seq)
	case <-expired.C:
		return false, h.delete(m.Seq)
	case <-session.Gone(): // the next connection gets it again
		return false, nil
	case <-h.ctx.Done():
		return false, nil
	}
}

// delivered makes the fact durable that the device has acknowledged a command, however long that takes: without it the
// record would tell, once the command is deleted, that it never was.
func (h *held) delivered(claims device.Claims) error {
	at := requests.At(h.d.cfg.Clock())
	for {
		ctx, cancel := context.WithTimeout(h.ctx, storeBudget)
		_, err := h.d.cfg.Records.UpdateNow(ctx, claims, func(r *requests.Record) bool { return set(&r.Delivered, at) })
		cancel()
		if err == nil || h.ctx.Err() != nil {
			return err
		}
		h.d.cfg.Log.Warn("acknowledgement of a held command not noted, trying again", "error", err)
		h.pause()
	}
}

// claim decides between writing and cancelling: whichever is durable first. claimed is false when the command is not to
// be written: cancelled, too late (I4), or at the device already, which has acknowledged or answered it. mine tells that
// no earlier claim stands, so that this one is to be released where nothing is written.
func (h *held) claim(claims device.Claims) (rec requests.Record, mine, claimed bool, err error) {
	ctx, cancel := context.WithTimeout(h.ctx, storeBudget)
	defer cancel()
	now := requests.At(h.d.cfg.Clock())
	seen := false
	_, err = h.d.cfg.Records.UpdateNow(ctx, claims, func(r *requests.Record) bool {
		seen = true
		claimed = r.Cancelled == 0 && !r.Reached() && r.Failed == 0 && now <= r.DeliverBy
		mine = claimed && r.Claim(now)
		rec = *r
		return mine
	})
	if err != nil && mine {
		h.release(claims, rec.Claimed)
	}
	return rec, mine, seen && claimed, err
}

// release takes a claim back by which nothing was written. Where that is not noted it is not known what was.
func (h *held) release(claims device.Claims, claim requests.Millis) {
	h.note(claims, func(r *requests.Record) bool { return r.Release(claim) })
}

// note adds a fact also while h is being closed.
func (h *held) note(claims device.Claims, change func(*requests.Record) bool) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), storeBudget)
	defer cancel()
	h.d.note(ctx, claims, change)
}

func (h *held) delete(seq uint64) error {
	ctx, cancel := context.WithTimeout(h.ctx, storeBudget)
	defer cancel()
	return h.d.cfg.Engine.Delete(ctx, heldStream, []uint64{seq})
}
