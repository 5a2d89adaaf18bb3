package queue

import (
	"context"
	"time"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

// Drain says what to read.
type Drain struct {
	Device   device.ID
	Mailbox  device.Mailbox       // zero: everyone's
	Requests map[device.UUID]bool // replies in their grace are shown for these only
	After    []byte               // a position; nil: from the beginning
	Limit    int                  // 1 to 1,000
	Wait     time.Duration        // for the first reply
}

// Page is what one Drain read.
type Page struct {
	Replies []Drained
	More    bool // there are more after the last position
}

// Drained is one reply of the queue.
type Drained struct {
	Position []byte
	ID       device.RequestID
	Claims   device.Claims
	Seq      int
	Final    bool
	Late     bool
	Received time.Time
	Body     []byte
	Read     bool // it was read before and waits for its grace
}

// Drain reads replies in the order of arrival and removes nothing. With Wait it returns as soon as there is one to
// show. It reads at most about 8 MB; More tells that there is more.
func (q *Queue) Drain(ctx context.Context, in Drain) (Page, error) {
	after := uint64(0)
	if len(in.After) > 0 {
		p, err := q.parsePosition(in.Device, in.After)
		if err != nil {
			return Page{}, err
		}
		after = p.seq
	}
	arrived, done := q.listen(in.Device) // before the first read, or a reply could come in between
	defer done()
	var timeout <-chan time.Time
	if in.Wait > 0 {
		timer := time.NewTimer(in.Wait)
		defer timer.Stop()
		timeout = timer.C
	}
	for {
		page, err := q.read(ctx, in, after)
		if err != nil || len(page.Replies) > 0 || timeout == nil {
			return page, err
		}
		select {
		case <-arrived:
		case <-timeout:
			return Page{}, nil
		case <-ctx.Done():
			return Page{}, ctx.Err()
		}
	}
}

// listen returns a channel that is poked when a reply of the device arrives.
func (q *Queue) listen(dev device.ID) (arrived <-chan struct{}, done func()) {
	ch := make(chan struct{}, 1)
	q.mu.Lock()
	q.device(dev).waiters[ch] = struct{}{}
	q.mu.Unlock()
	return ch, func() {
		q.mu.Lock()
		delete(q.devices[dev].waiters, ch)
		q.tidy(dev)
		q.mu.Unlock()
	}
}

// read fills a page, past what is hidden.
func (q *Queue) read(ctx context.Context, in Drain, after uint64) (Page, error) {
	filter := "q." + string(in.Device) + "."
	if in.Mailbox != (device.Mailbox{}) {
		filter += stream.Token(in.Mailbox[:]) + "."
	}
	after = max(after, q.skip(in))
	var page Page
	for {
		ms, more, err := q.cfg.Engine.Last(ctx, streamName, []string{filter + ">"}, after, in.Limit-len(page.Replies))
		if err != nil {
			return Page{}, err
		}
		for _, m := range ms {
			after = m.Seq
			if r := q.drained(in, m); r != nil {
				page.Replies = append(page.Replies, *r)
			}
		}
		if page.More = more; !more || len(page.Replies) > 0 || len(ms) == 0 {
			return page, nil
		}
	}
}

// skip returns a sequence up to which the queue holds nothing to show, so that many replies in their grace do not slow
// every drain down. It is a saving only: where the index does not know every sequence, reading starts at the beginning.
func (q *Queue) skip(in Drain) uint64 {
	if q.cfg.Engine.Replicas() > 1 {
		return 0 // other nodes append too
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.devices[in.Device]
	if d == nil {
		return 0
	}
	first := d.last + 1 // what is pending comes after
	for key, e := range d.entries {
		switch {
		case e.due != 0 && !in.Requests[key.uuid], e.pending:
		case e.seq == 0:
			return 0
		default:
			first = min(first, e.seq)
		}
	}
	return first - 1
}

// drained reads one message; nil when it is hidden. A message that cannot be read is passed over, so that it does not keep
// the replies behind it from their readers; it goes when it is old.
func (q *Queue) drained(in Drain, m stream.Message) *Drained {
	dev, key, e, ok := parseSubject(m.Subject)
	id := device.RequestID(m.Header.Get(idHeader))
	claims, err := id.Claims()
	if !ok || err != nil || dev != in.Device {
		q.cfg.Log.Error("entry of the output queue is not readable, passed over", "device", in.Device, "sequence", m.Seq)
		return nil
	}
	q.mu.Lock()
	var due requests.Millis
	if d := q.devices[in.Device]; d != nil && d.entries[key] != nil {
		due = d.entries[key].due
	}
	q.mu.Unlock()
	if due != 0 && (!in.Requests[key.uuid] || int64(due) <= q.cfg.Clock().UnixMilli()) {
		return nil
	}
	return &Drained{
		Position: q.position(in.Device, m.Seq, key), ID: id, Claims: claims, Seq: key.seq, Final: e.final,
		Late: int64(e.at) > claims.ReplyBy.UnixMilli(), Received: e.at.Time(), Body: m.Data, Read: due != 0,
	}
}
