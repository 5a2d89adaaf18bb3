// Package delivery brings commands to devices: at once to one that is connected, later to one that is not where the
// command may wait, and never after the command's deadline (I4).
//
// A command reaches its device at least once, always with the same request id. Its record is durable before anything
// leaves (I5), and it counts as delivered only after the device's own PUBACK. A Delivery is safe for concurrent use.
package delivery

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/broker/mqtt"
	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

// Sessions finds the connection that receives a device's commands; nil when there is none.
type Sessions interface {
	Session(id device.ID) *mqtt.Session
}

// Devices knows the labels of each registered device.
type Devices interface {
	Labels(id device.ID) (labels device.Labels, ok bool)
}

// Config wires a Delivery.
type Config struct {
	MaxStore int64 // bytes on disk for held commands; default 1 GiB
	Engine   *stream.Engine
	Records  *requests.Store
	Queue    *queue.Queue
	Ring     *device.KeyRing
	Sessions Sessions
	Devices  Devices
	Clock    func() time.Time
	Log      *slog.Logger
}

// Delivery sends commands.
type Delivery struct {
	cfg  Config
	held *held
	keys keyLocks

	mu        sync.Mutex
	delivered map[device.UUID]*puback // those that somebody waits for
}

// puback is a device's acknowledgement that is waited for.
type puback struct {
	came    chan struct{} // closed then
	waiting int
}

// Command is one command to send.
type Command struct {
	Device            device.ID
	Mailbox           device.Mailbox
	Client            device.ClientID
	Name              string
	Payload           device.Payload
	DeliverWithin     time.Duration
	ReplyWithin       time.Duration
	Hold              bool
	Key               string        // idempotency key; "" none
	Labels            device.Labels // the device must have them
	WaitDelivered     time.Duration
	CachedUnread      []device.RequestID
	CachedUnreadBytes int64
}

// Open creates or finds the stream of held commands. Close waits for its goroutines.
func Open(ctx context.Context, cfg Config) (*Delivery, error) {
	d := &Delivery{cfg: cfg, delivered: map[device.UUID]*puback{}, keys: keyLocks{held: map[string]*keyLock{}}}
	_, err := cfg.Engine.Ensure(ctx, jetstream.StreamConfig{
		Name: heldStream, Subjects: []string{"c.>"}, Storage: jetstream.FileStorage,
		MaxAge: maxHold, MaxBytes: cmp.Or(cfg.MaxStore, 1<<30), Discard: jetstream.DiscardNew, AllowMsgTTL: true, AllowAtomicPublish: true,
	})
	if err != nil {
		return nil, fmt.Errorf("delivery: %w", err)
	}
	d.held = newHeld(d)
	return d, nil
}

// Close stops the delivery of held commands; they stay stored.
func (d *Delivery) Close() { d.held.close() }

// Send records the command durably and delivers or holds it. It waits up to WaitDelivered for the device's PUBACK.
// repeated tells that the idempotency key stood for an earlier request, which is returned as it is now.
//
// Errors: DeviceNotFound; DeviceOffline, at once; TooManyUnread; PayloadTooLarge; IdempotencyReused; BrokerUnavailable,
// nothing was recorded, or the command could not be held and its record says so; OutcomeUnknown, the record may have been
// written, and nothing has been sent.
func (d *Delivery) Send(ctx context.Context, c Command) (rec requests.Record, repeated bool, err error) {
	labels, ok := d.cfg.Devices.Labels(c.Device)
	if !ok || !labels.Match(c.Labels) {
		return requests.Record{}, false, device.Errorf(device.DeviceNotFound, "there is no such device")
	}
	now := d.cfg.Clock()
	replyBy := now.Add(c.ReplyWithin)
	rec = requests.Record{
		ID: d.cfg.Ring.Mint(now, c.Mailbox, c.Device, replyBy), Device: c.Device, Client: c.Client, Command: c.Name,
		Hash: hash(c), Key: c.Key, Hold: c.Hold,
		Created: requests.At(now), DeliverBy: requests.At(now.Add(c.DeliverWithin)), ReplyBy: requests.At(replyBy),
	}
	if size := len(render(rec, c.Payload, now)); size > device.MaxPayload {
		return requests.Record{}, false, device.Errorf(device.PayloadTooLarge,
			"the command's message has %d bytes, %d are allowed", size, device.MaxPayload)
	}
	if c.Key == "" {
		if err := d.admit(c); err != nil {
			return requests.Record{}, false, err
		}
		return d.first(ctx, c, rec)
	}
	return d.sendOnce(ctx, c, rec)
}

// sendOnce sends under an idempotency key. Callers with one key take turns.
func (d *Delivery) sendOnce(ctx context.Context, c Command, rec requests.Record) (requests.Record, bool, error) {
	unlock, err := d.keys.lock(ctx, string(c.Mailbox[:])+c.Key)
	if err != nil {
		return requests.Record{}, false, device.Wrap(device.OutcomeUnknown, err, "the same key is being sent by another call: repeat with the same key")
	}
	defer unlock()
	earlier, ok, err := d.cfg.Records.Reserved(ctx, c.Mailbox, c.Key)
	if err != nil {
		return requests.Record{}, false, device.Wrap(device.BrokerUnavailable, err, "the idempotency key could not be looked up")
	}
	if ok {
		return d.repeat(ctx, c, rec, earlier)
	}
	if err := d.admit(c); err != nil { // a refused call does not use its key up
		return requests.Record{}, false, err
	}
	mine := requests.Reservation{ID: rec.ID, Hash: rec.Hash, Created: rec.Created, DeliverBy: rec.DeliverBy, ReplyBy: rec.ReplyBy}
	winner, err := d.cfg.Records.Reserve(ctx, c.Mailbox, c.Key, mine)
	switch {
	case err != nil:
		return requests.Record{}, false, device.Wrap(device.OutcomeUnknown, err, "it is not known whether the request was recorded: repeat with the same key")
	case winner.ID != rec.ID:
		return d.repeat(ctx, c, rec, winner)
	}
	return d.first(ctx, c, rec)
}

// repeat answers a key that stands for an earlier request. Where its record says that nothing was written yet, and there
// is time, the earlier call has died on the way, and this one drives the request on.
func (d *Delivery) repeat(ctx context.Context, c Command, rec requests.Record, earlier requests.Reservation) (requests.Record, bool, error) {
	if !bytes.Equal(earlier.Hash, rec.Hash) {
		return requests.Record{}, false, device.Errorf(device.IdempotencyReused, "this Idempotency-Key was used for another command")
	}
	claims, err := earlier.ID.Claims()
	if err != nil {
		return requests.Record{}, false, fmt.Errorf("delivery: reservation: %w", err)
	}
	found, ok, err := d.cfg.Records.Get(ctx, claims)
	if err != nil {
		return requests.Record{}, false, device.Wrap(device.BrokerUnavailable, err, "the request's record could not be read")
	}
	now := requests.At(d.cfg.Clock())
	if !ok {
		rec.ID, rec.Created, rec.DeliverBy, rec.ReplyBy = earlier.ID, earlier.Created, earlier.DeliverBy, earlier.ReplyBy
		if now > rec.DeliverBy { // I4: there was no record, so nothing has been sent, and nothing will be
			rec.Failed, rec.Cause = now, tooLate
			return rec, true, d.record(ctx, rec)
		}
		rec, _, err = d.first(ctx, c, rec)
		return rec, true, err
	}
	untouched := found.Sent == 0 && found.Held == 0 && found.Claimed == 0 && found.Failed == 0 && found.Cancelled == 0 && len(found.Seqs) == 0
	if untouched && now <= found.DeliverBy {
		found, err = d.deliver(ctx, c, found)
		return found, true, err
	}
	return found, true, nil
}

// admit refuses what cannot be sent, before anything is recorded.
func (d *Delivery) admit(c Command) error {
	if !c.Hold && d.cfg.Sessions.Session(c.Device) == nil {
		return offline()
	}
	unread, bytes := d.cfg.Queue.Unread(c.Device, c.Mailbox)
	for _, id := range c.CachedUnread {
		if claims, err := id.Claims(); err == nil {
			unread[claims.UUID] = true
		}
	}
	if len(unread) >= device.MaxUnreadRequests || bytes+c.CachedUnreadBytes >= device.MaxUnreadBytes {
		return device.Errorf(device.TooManyUnread, "read the replies of this device first: %d requests have unread ones", len(unread))
	}
	return nil
}

func offline() error {
	return device.Errorf(device.DeviceOffline, "the device is not connected")
}

func late() error {
	return device.Errorf(device.DeviceOffline, "the command could not be delivered before its deadline")
}

func (d *Delivery) first(ctx context.Context, c Command, rec requests.Record) (requests.Record, bool, error) {
	if err := d.record(ctx, rec); err != nil {
		return requests.Record{}, false, err
	}
	rec, err := d.deliver(ctx, c, rec)
	return rec, false, err
}

// record writes the record. Where that fails it may still be written later, and must then tell that nothing was sent; but
// with an idempotency key a repeated call drives the request on.
func (d *Delivery) record(ctx context.Context, rec requests.Record) error {
	claims, err := rec.ID.Claims()
	if err != nil {
		return err
	}
	err = d.cfg.Records.Create(ctx, rec)
	if err == nil || device.Is(err, device.BrokerUnavailable) {
		return err
	}
	err = device.Wrap(device.OutcomeUnknown, err, "it is not known whether the request was recorded; nothing has been sent")
	if rec.Key == "" {
		return d.fail(ctx, claims, "the request was not recorded in time, and nothing was sent", err)
	}
	return err
}

// deliver writes or holds a command whose record is durable, and returns the record as it then is.
func (d *Delivery) deliver(ctx context.Context, c Command, rec requests.Record) (requests.Record, error) {
	claims, err := rec.ID.Claims()
	if err != nil {
		return requests.Record{}, err
	}
	acked, forget := d.await(claims.UUID)
	defer forget()
	wait := c.WaitDelivered
	if rec.Hold {
		err := d.held.store(ctx, rec, c.Payload)
		switch {
		case err != nil && stream.NotStored(err) && rec.Key == "": // with a key a repeated call stores it
			return requests.Record{}, d.fail(ctx, claims, "the command could not be stored to wait for its device",
				device.Wrap(device.BrokerUnavailable, err, "the command could not be held; nothing has been sent"))
		case err != nil:
			return requests.Record{}, device.Wrap(device.OutcomeUnknown, err, "it is not known whether the command is held")
		}
		if d.cfg.Sessions.Session(rec.Device) == nil {
			wait = 0
		}
	} else {
		qos, err := d.write(ctx, claims, rec, c.Payload)
		if err != nil {
			return requests.Record{}, err
		}
		if qos == 0 {
			wait = 0 // such a subscriber acknowledges nothing
		}
	}
	if wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-acked:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	now, ok := d.cfg.Records.Cached(claims.UUID)
	if !ok {
		return rec, nil
	}
	return now, nil
}

const tooLate = "the deadline passed before the command was written"

// write sends a command that is not held to the device's present connection.
func (d *Delivery) write(ctx context.Context, claims device.Claims, rec requests.Record, p device.Payload) (qos byte, err error) {
	session := d.cfg.Sessions.Session(rec.Device)
	if session == nil {
		return 0, d.fail(ctx, claims, "the device went offline before the command was written", offline())
	}
	now := d.cfg.Clock()
	if requests.At(now) > rec.DeliverBy { // I4
		return 0, d.fail(ctx, claims, tooLate, late())
	}
	qos, err = session.Send("", render(rec, p, now), deadline(rec, now), func() { d.acknowledged(claims) })
	switch {
	case err == nil:
		d.note(ctx, claims, func(r *requests.Record) bool { return set(&r.Sent, requests.At(now)) })
		return qos, nil
	case errors.Is(err, mqtt.ErrLate):
		return 0, d.fail(ctx, claims, tooLate, late())
	case errors.Is(err, mqtt.ErrBusy):
		return 0, d.fail(ctx, claims, "too many commands waited for the device's acknowledgement",
			device.Errorf(device.RateLimited, "too many commands wait for this device's acknowledgement"))
	default:
		return 0, d.fail(ctx, claims, "the connection ended while the command was written", offline())
	}
}

// deadline is the record's deadline by the clock of the connection, which no test moves.
func deadline(rec requests.Record, now time.Time) time.Time {
	return time.Now().Add(rec.DeliverBy.Time().Sub(now))
}

// fail records that the command was given up, and returns the error for the caller. A note that is lost leaves a record
// which expires by itself.
func (d *Delivery) fail(ctx context.Context, claims device.Claims, cause string, err error) error {
	at := requests.At(d.cfg.Clock())
	d.note(ctx, claims, func(r *requests.Record) bool {
		if r.Failed != 0 {
			return false
		}
		r.Failed, r.Cause = at, cause
		return true
	})
	return err
}

// acknowledged is the device's PUBACK of a command. It is called from the connection's goroutine.
func (d *Delivery) acknowledged(claims device.Claims) {
	at := requests.At(d.cfg.Clock())
	ctx, cancel := context.WithTimeout(context.Background(), storeBudget) // the connection reads nothing meanwhile
	defer cancel()
	d.note(ctx, claims, func(r *requests.Record) bool { return set(&r.Delivered, at) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if p := d.delivered[claims.UUID]; p != nil {
		close(p.came)
		delete(d.delivered, claims.UUID)
	}
}

func (d *Delivery) note(ctx context.Context, claims device.Claims, change func(*requests.Record) bool) {
	if err := d.cfg.Records.Update(ctx, claims, change); err != nil {
		d.cfg.Log.Warn("request record not updated", "error", err)
	}
}

func set(m *requests.Millis, at requests.Millis) bool {
	if *m != 0 {
		return false
	}
	*m = at
	return true
}

// await registers interest in a device's PUBACK. Several may wait for one: the sender of a held command, and who writes it.
func (d *Delivery) await(id device.UUID) (acked <-chan struct{}, forget func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	p := d.delivered[id]
	if p == nil {
		p = &puback{came: make(chan struct{})}
		d.delivered[id] = p
	}
	p.waiting++
	return p.came, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if p.waiting--; p.waiting == 0 && d.delivered[id] == p {
			delete(d.delivered, id)
		}
	}
}

// Cancel takes a held command back, unless it was written to its device before.
func (d *Delivery) Cancel(ctx context.Context, m device.Mailbox, id device.RequestID) (requests.Record, error) {
	notFound := device.Errorf(device.RequestNotFound, "there is no such request")
	claims, err := id.Claims()
	if err != nil || claims.Mailbox != m {
		return requests.Record{}, notFound
	}
	rec, ok, err := d.cfg.Records.Get(ctx, claims)
	switch {
	case err != nil:
		return requests.Record{}, device.Wrap(device.BrokerUnavailable, err, "the request's record could not be read")
	case !ok || rec.ID != id:
		return requests.Record{}, notFound
	}
	now := d.cfg.Clock()
	cancelled := false
	_, err = d.cfg.Records.UpdateNow(ctx, claims, func(r *requests.Record) bool {
		if cancelled = r.Cancelled != 0; cancelled {
			return false
		}
		if state, _ := r.State(now); state != device.StateHeld {
			return false
		}
		r.Cancelled, cancelled = requests.At(now), true
		return true
	})
	switch {
	case err != nil:
		return requests.Record{}, device.Wrap(device.OutcomeUnknown, err, "it is not known whether the request is cancelled: repeat")
	case !cancelled:
		return requests.Record{}, device.Errorf(device.AlreadyDelivered, "the request is no longer held")
	}
	d.held.remove(ctx, rec)
	rec, _, err = d.cfg.Records.Get(ctx, claims)
	return rec, err
}

// Forget removes the held commands of a device that was deleted.
func (d *Delivery) Forget(ctx context.Context, dev device.ID) error { return d.held.forget(ctx, dev) }

// Subscribed tells that a device can receive commands now.
func (d *Delivery) Subscribed(dev device.ID) { d.held.kick(dev) }

// hash tells whether two calls ask for the same.
func hash(c Command) []byte {
	h := sha256.New()
	for _, part := range [][]byte{[]byte(c.Device), []byte(c.Name), c.Payload.JSON, c.Payload.Text} {
		fmt.Fprintf(h, "%d:", len(part))
		h.Write(part)
	}
	return h.Sum(nil)
}

// render makes the message for the device (design: "Wire format to the camera").
func render(rec requests.Record, p device.Payload, now time.Time) []byte {
	if p.Text != nil {
		return bytes.ReplaceAll(p.Text, []byte(device.Placeholder), []byte(rec.ID))
	}
	const rfc3339Millis = "2006-01-02T15:04:05.000Z07:00"
	expires := rec.DeliverBy.Time()
	command, _ := json.Marshal(rec.Command) // a string cannot fail
	var b bytes.Buffer
	fmt.Fprintf(&b, `{"request_id":"%s","command":%s,"args":%s,"sent_at":"%s","expires_at":"%s","expires_in":%d}`,
		rec.ID, command, p.JSON, now.UTC().Format(rfc3339Millis), expires.Format(rfc3339Millis),
		max(1, int(expires.Sub(now).Round(time.Second)/time.Second)))
	return b.Bytes()
}
