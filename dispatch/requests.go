package dispatch

import (
	"context"
	"errors"

	"signaldevice/device"
)

// maxPage is the most items that one page of a list may have.
const maxPage = 1000

// Request returns the state and time line of one request, without taking its replies. The caller needs to be its client
// or to have device.PermReadAll. Errors: RequestNotFound, also for another client's; BrokerUnavailable.
func (d *Dispatcher) Request(ctx context.Context, c Caller, id device.RequestID) (device.Request, error) {
	own := device.MailboxOf(c.Client)
	reader := own
	if c.may(device.PermReadAll) {
		reader = device.Mailbox{} // anyone's
	}
	claims, err := id.Claims()
	if err != nil {
		return device.Request{}, requestNotFound()
	}
	brokerTime := &allowance{left: brokerBudget}
	list, err := d.records(ctx, reader, []device.RequestID{id}, brokerTime)
	if err != nil {
		return device.Request{}, err
	}
	req := list[0]
	if req.State == device.StateNotFound {
		return device.Request{}, requestNotFound()
	}
	if claims.Mailbox != own {
		if err := d.touchable(ctx, c, req.Device, brokerTime); err != nil {
			return device.Request{}, concealed(err)
		}
	}
	return req, nil
}

func requestNotFound() error {
	return device.Errorf(device.RequestNotFound, "no such request of this client")
}

// concealed keeps from the caller that a request exists at a device that does not exist for it.
func concealed(err error) error {
	if device.Is(err, device.DeviceNotFound) {
		return requestNotFound()
	}
	return err
}

// Requests pages through the caller's requests, newest first; with device.PermReadAll through everyone's at the devices
// that the caller may touch, or through those of one client. A page may be short, or empty, and not be the last. Errors:
// Invalid; Forbidden where another client is named without device.PermReadAll; DeviceNotFound where a device is named
// that cannot be; BrokerUnavailable.
func (d *Dispatcher) Requests(ctx context.Context, c Caller, f RequestFilter) (items []device.Request, next string, err error) {
	if err := validLimit(&f.Limit); err != nil {
		return nil, "", err
	}
	if f.Device != "" {
		if err := knownShape(f.Device); err != nil {
			return nil, "", err
		}
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Until.After(f.Since) {
		return nil, "", invalid("until", "must be after since")
	}
	own := device.MailboxOf(c.Client)
	switch {
	case !c.may(device.PermReadAll):
		if f.Client != "" && f.Client != c.Client {
			return nil, "", device.Errorf(device.Forbidden, "the role of this client does not let it read the requests of others")
		}
		f.Mailbox = own
	case f.Client != "":
		f.Mailbox = device.MailboxOf(f.Client)
	}
	brokerTime := &allowance{left: brokerBudget}
	err = d.broker.ask(ctx, brokerTime, func(ctx context.Context) (err error) {
		items, next, err = d.broker.ListRequests(ctx, f)
		return err
	})
	if err != nil || f.Mailbox == own || len(c.Labels) == 0 {
		return items, next, err
	}
	items, err = d.onlyTouchable(ctx, c, items, brokerTime)
	return items, next, err
}

// onlyTouchable leaves out other clients' requests at devices that the caller may not touch.
func (d *Dispatcher) onlyTouchable(ctx context.Context, c Caller, items []device.Request, brokerTime *allowance) ([]device.Request, error) {
	known := map[device.ID]bool{}
	kept := make([]device.Request, 0, len(items))
	for _, req := range items {
		may, seen := known[req.Device]
		if !seen && req.Client != c.Client {
			err := d.touchable(ctx, c, req.Device, brokerTime)
			if err != nil && !device.Is(err, device.DeviceNotFound) {
				return nil, err
			}
			may = err == nil
			known[req.Device] = may
		}
		if may || req.Client == c.Client {
			kept = append(kept, req)
		}
	}
	return kept, nil
}

// Cancel takes a held command of the caller back. Errors: RequestNotFound, also for another client's; AlreadyDelivered;
// BrokerUnavailable; OutcomeUnknown, it is safe to repeat.
func (d *Dispatcher) Cancel(ctx context.Context, c Caller, id device.RequestID) (req device.Request, err error) {
	if _, err := id.Claims(); err != nil {
		return device.Request{}, requestNotFound()
	}
	err = d.change(ctx, &allowance{left: brokerBudget}, "the request may have been cancelled; it is safe to repeat this", func(ctx context.Context) (err error) {
		req, err = d.broker.Cancel(ctx, device.MailboxOf(c.Client), id)
		return err
	})
	return req, err
}

// records returns what the broker knows of each id, in that order.
func (d *Dispatcher) records(ctx context.Context, m device.Mailbox, ids []device.RequestID, brokerTime *allowance) (list []device.Request, err error) {
	err = d.broker.ask(ctx, brokerTime, func(ctx context.Context) (err error) {
		list, err = d.broker.Requests(ctx, m, ids)
		return err
	})
	if err == nil && len(list) != len(ids) {
		return nil, errors.New("dispatch: requests: the broker did not tell of every request")
	}
	return list, err
}

// change makes one call that changes something at the broker. If its outcome is unknown, advice tells the caller what to
// do.
func (d *Dispatcher) change(ctx context.Context, brokerTime *allowance, advice string, op func(context.Context) error) error {
	err := d.broker.tell(ctx, brokerTime, op)
	if device.Is(err, device.OutcomeUnknown) {
		return device.Wrap(device.OutcomeUnknown, err, advice)
	}
	return err
}

// validLimit sets a limit that is not given to 100.
func validLimit(limit *int) error {
	if *limit == 0 {
		*limit = 100
	}
	if *limit < 1 || *limit > maxPage {
		return invalid("limit", "must be between 1 and %d", maxPage)
	}
	return nil
}
