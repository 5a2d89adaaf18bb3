package dispatch

import (
	"context"
	"fmt"
	"time"

	"signaldevice/device"
)

// MaxIDs is how many requests one poll may ask for.
const MaxIDs = 100

// Replies returns the caller's replies from the device and marks them read. With Wait it returns as soon as there is a
// reply that is final or was not read before, or once no request asked for can have one any more.
//
// Reading one's own replies needs no permission. A request id of another client, of another device or of nobody is
// StateNotFound. Errors: Invalid; DeviceNotFound; RateLimited, too many calls of the client wait; BrokerUnavailable, the
// cache has nothing and the broker cannot be asked; Unavailable, neither can be asked; OutcomeUnknown, replies may have
// been taken and lost on the way: asking by request id within the grace gives them again.
func (d *Dispatcher) Replies(ctx context.Context, c Caller, in RepliesInput) (Replies, error) {
	until := time.Now().Add(in.Wait)
	if err := in.validate(); err != nil {
		return Replies{}, err
	}
	at := place{device.MailboxOf(c.Client), in.Device}
	var w *waiter
	if in.Wait > 0 {
		var err error
		if w, err = d.waiters.join(at, in.IDs); err != nil {
			return Replies{}, err
		}
		defer d.waiters.leave(w)
	}
	p, replies, err := d.collect(ctx, at, in.IDs)
	if err == nil && p.foundNothing() {
		err = d.touchable(ctx, c, in.Device, &p.brokerTime)
	}
	if err != nil || w == nil || p.worthReturning(nil) {
		return replies, err
	}
	return d.collectUntil(ctx, w, until, p, replies)
}

// collectUntil reads again whenever the waiter is woken. An outage meanwhile is waited out; only if it lasts to the end
// of the wait, it is the answer (I8).
func (d *Dispatcher) collectUntil(ctx context.Context, w *waiter, until time.Time, first *poll, replies Replies) (Replies, error) {
	var err error
	for more := true; more; {
		more = d.await(ctx, w, until, err != nil)
		if ctx.Err() != nil {
			return Replies{}, left(ctx)
		}
		var p *poll
		p, replies, err = d.collect(ctx, w.place, w.ids)
		switch {
		case err == nil && p.worthReturning(first):
			return replies, nil
		case err != nil && (!unanswered(err) || p.takeUnknown):
			return Replies{}, err
		}
	}
	return replies, err
}

func (in RepliesInput) validate() error {
	if err := knownShape(in.Device); err != nil {
		return err
	}
	if len(in.IDs) > MaxIDs {
		return invalid("request_id", "at most %d requests can be asked for at once", MaxIDs)
	}
	return validWait(in.Wait)
}

func validWait(wait time.Duration) error {
	if wait < 0 || wait > MaxWait {
		return invalid("wait", "must be between 0 and %d seconds", MaxWait/time.Second)
	}
	return nil
}

func invalid(location, format string, args ...any) error {
	message := fmt.Sprintf(format, args...)
	return &device.Error{
		Kind:    device.Invalid,
		Message: location + ": " + message,
		Faults:  []device.Fault{{Location: location, Message: message}},
	}
}

func left(ctx context.Context) error {
	return fmt.Errorf("dispatch: the caller left: %w", context.Cause(ctx))
}
