package dispatch

import (
	"context"
	"time"

	"signaldevice/device"
)

// deliveredWait is how long Send waits for the device's PUBACK, and deliveredMargin what must be left of brokerBudget after
// it, so that the broker's answer arrives.
const (
	deliveredWait   = time.Second
	deliveredMargin = brokerBudget - deliveredWait
)

// maxIdempotencyKey is the longest key in bytes.
const maxIdempotencyKey = 255

// Commands returns every command of the catalogue, with what the caller may send.
func (d *Dispatcher) Commands(c Caller) []CommandView { return viewsOf(d.catalogue.Commands(), c) }

// CommandsOf returns the commands that a device has, with what the caller may send. Errors: DeviceNotFound,
// BrokerUnavailable.
func (d *Dispatcher) CommandsOf(ctx context.Context, c Caller, id device.ID) ([]CommandView, error) {
	dev, err := d.Device(ctx, c, id)
	if err != nil {
		return nil, err
	}
	return viewsOf(d.catalogue.CommandsOf(dev.Labels), c), nil
}

func viewsOf(commands []device.Command, c Caller) []CommandView {
	views := make([]CommandView, 0, len(commands))
	for _, cmd := range commands {
		views = append(views, CommandView{Command: cmd, Allowed: c.may(cmd.Permission)})
	}
	return views
}

// Send validates a command, and the caller's permission to send it, and gives it to the broker. With Wait it returns
// the replies if the final one comes in time; if not, it has read nothing, and the replies stay readable. A repeated
// idempotency key gives the request as it stands now.
//
// An unknown command is told from a forbidden one: every client may read the catalogue's names. A device outside the
// caller's labels is one that does not exist. A command that the device's model does not have is unknown.
//
// Errors: Invalid, UnknownCommand, Forbidden, InvalidArguments, RateLimited, BrokerUnavailable, OutcomeUnknown, and what
// the broker refuses: DeviceNotFound, DeviceOffline, IdempotencyReused, TooManyUnread, PayloadTooLarge.
func (d *Dispatcher) Send(ctx context.Context, c Caller, in SendInput) (SendResult, error) {
	brokerTime := &allowance{left: brokerBudget}
	s, err := d.prepare(ctx, c, in, brokerTime)
	if err != nil {
		d.observer.Sent(s.Command.Name, string(device.KindOf(err)))
		return SendResult{}, err
	}
	result, repeated, err := d.send(ctx, s, in.Wait, brokerTime)
	switch {
	case err != nil:
		d.observer.Sent(s.Command.Name, string(device.KindOf(err)))
	case repeated:
		d.observer.Sent(s.Command.Name, "repeated")
	default:
		d.observer.Sent(s.Command.Name, string(result.Request.State))
	}
	return result, err
}

func (d *Dispatcher) send(ctx context.Context, s Send, wait time.Duration, brokerTime *allowance) (result SendResult, repeated bool, err error) {
	if wait == 0 {
		s.WaitDelivered = max(0, min(deliveredWait, brokerTime.left-deliveredMargin))
		result.Request, repeated, err = d.deliver(ctx, s, brokerTime)
		return result, repeated, err
	}
	until := time.Now().Add(wait)
	w, err := d.waiters.join(place{s.Mailbox, s.Device}, nil)
	if err != nil {
		return SendResult{}, false, err
	}
	defer d.waiters.leave(w)
	req, repeated, err := d.deliver(ctx, s, brokerTime) // the reply is waited for, and its PUBACK is no news
	if err != nil {
		return SendResult{}, false, err
	}
	return d.awaitFinal(ctx, w, req, until), repeated, nil
}

// prepare checks what can be checked without the broker; the broker is asked for the device's labels where devices differ
// in the command. Command is set in what it returns as soon as the command is known.
func (d *Dispatcher) prepare(ctx context.Context, c Caller, in SendInput, brokerTime *allowance) (s Send, err error) {
	s = Send{
		Device:         in.Device,
		Mailbox:        device.MailboxOf(c.Client),
		Client:         c.Client,
		IdempotencyKey: in.IdempotencyKey,
		Labels:         c.Labels,
	}
	if err := knownShape(in.Device); err != nil {
		return s, err
	}
	if err := validWait(in.Wait); err != nil {
		return s, err
	}
	if len(in.IdempotencyKey) > maxIdempotencyKey {
		return s, invalid("Idempotency-Key", "may have at most %d bytes", maxIdempotencyKey)
	}
	if s.Command, err = d.catalogue.Command(in.Command); err != nil {
		return s, err
	}
	if err := c.need(s.Command.Permission); err != nil {
		return s, err
	}
	s.Payload, err = d.catalogue.Prepare(in.Command, in.Args, func() (device.Labels, error) {
		dev, err := d.device(ctx, c, in.Device, brokerTime)
		return dev.Labels, err
	})
	return s, err
}

func (d *Dispatcher) deliver(ctx context.Context, s Send, brokerTime *allowance) (req device.Request, repeated bool, err error) {
	s.CachedUnread, s.CachedUnreadBytes = d.unread(ctx, s.Mailbox, s.Device)
	err = d.broker.tell(ctx, brokerTime, func(ctx context.Context) (err error) {
		req, repeated, err = d.broker.Send(ctx, s)
		return err
	})
	if device.Is(err, device.OutcomeUnknown) {
		err = sendUnknown(err, s.IdempotencyKey != "")
	}
	return req, repeated, err
}

func sendUnknown(cause error, withKey bool) error {
	message := "the command may have been accepted; look for it in GET /v1/requests before sending it again"
	if withKey {
		message = "the command may have been accepted; it is safe to send it again with the same Idempotency-Key"
	}
	return &device.Error{Kind: device.OutcomeUnknown, Message: message, RetryAfter: time.Second, Err: cause}
}

// unread tells what of the client's unread replies the broker cannot count because only the cache holds them. If the
// cache does not tell, the broker counts its own.
func (d *Dispatcher) unread(ctx context.Context, m device.Mailbox, dev device.ID) (ids []device.RequestID, size int64) {
	if !d.cache.Durable() {
		return nil, 0 // all of it is in the queue too
	}
	err := d.cache.ask(ctx, &allowance{left: cacheBudget}, func(ctx context.Context) (err error) {
		ids, size, err = d.cache.Unread(ctx, m, dev)
		return err
	})
	if err != nil {
		return nil, 0
	}
	return ids[:min(len(ids), device.MaxUnreadRequests+1)], size // that many are too many already
}

// awaitFinal waits for the final reply of a request that was just sent. It looks before it takes: as long as the final
// reply is not known to be in, nothing is read, so that nothing read is missing from a result without replies.
func (d *Dispatcher) awaitFinal(ctx context.Context, w *waiter, req device.Request, until time.Time) SendResult {
	for more := true; ; {
		isIn := d.waiters.sawFinal(w, req.ID) || req.State == device.StateAnswered
		if isIn {
			replies, state := d.collectFinal(ctx, w.place, req.ID)
			if len(replies) > 0 {
				req.State = state
				return SendResult{Request: req, Replies: replies}
			}
			if settled(state) {
				return SendResult{Request: req}
			}
		}
		if !more || settled(req.State) || req.State == device.StateNoReply {
			return SendResult{Request: req}
		}
		more = d.await(ctx, w, until, isIn)
		if !d.waiters.sawFinal(w, req.ID) {
			req = d.refreshed(ctx, w.mailbox, req)
		}
	}
}

// refreshed returns the request as the broker knows it now, or as it was known before.
func (d *Dispatcher) refreshed(ctx context.Context, m device.Mailbox, req device.Request) device.Request {
	list, err := d.records(ctx, m, []device.RequestID{req.ID}, &allowance{left: brokerBudget})
	if err != nil || list[0].State == device.StateNotFound {
		return req
	}
	return list[0]
}

// collectFinal takes the replies of a request whose final reply is known to be in. It brings everything into one place
// first, and takes nothing where that fails: a progress reply taken without the final one might be lost to its reader.
func (d *Dispatcher) collectFinal(ctx context.Context, at place, id device.RequestID) ([]Reply, device.State) {
	p := d.newPoll(at, []device.RequestID{id})
	err := p.move(ctx)
	if cacheFailed(err) {
		p.moveFailed(err)
		err = p.readStraight(ctx)
	}
	if err != nil {
		return nil, device.StateUnverified
	}
	if !p.ended[id] && p.cacheErr == nil {
		p.take(ctx)
	}
	if !p.ended[id] && !p.took {
		if err := p.inquire(ctx); err != nil {
			return nil, device.StateUnverified
		}
		return nil, p.state(id) // what was read straight stays in the queue
	}
	_, replies, err := p.finish(ctx)
	if err != nil {
		return nil, device.StateUnverified
	}
	return replies.Replies, p.state(id)
}
