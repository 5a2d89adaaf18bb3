package queue

import (
	"context"
	"time"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

const maxPage = 1000

// Drain says what to read.
type Drain struct {
	Device   device.ID
	Mailbox  device.Mailbox       // zero: everyone's
	Requests map[device.UUID]bool // replies in their grace are shown for these only
	After    []byte               // a position; nil: from the beginning
	Limit    int                  // 1 to 1,000; one that is outside is brought inside
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
	in.Limit = min(max(in.Limit, 1), maxPage)
	after := uint64(0)
	if len(in.After) > 0 {
		p, err := q.parsePosition(in.Device, in.After)
		if err != nil {
			return Page{}, err
		}
		after = p.stored
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
	defer q.mu.Unlock()
	d := q.device(dev)
	d.waiters[ch] = struct{}{}
	return ch, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(d.waiters, ch)
		q.tidy(dev)
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
	for id, replies := range d.replies {
		for _, e := range replies {
			switch {
			case e.due != 0 && !in.Requests[id], e.pending:
			case e.stored == 0:
				return 0
			default:
				first = min(first, e.stored)
			}
		}
	}
	return first - 1
}

// drained reads one message; nil when it is hidden or cannot be read.
func (q *Queue) drained(in Drain, m stream.Message) *Drained {
	dev, id, e, ok := parseSubject(m.Subject)
	request := device.RequestID(m.Header.Get(idHeader))
	claims, err := request.Claims()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !ok || err != nil || dev != in.Device {
		q.unreadable(streamName, m.Seq)
		return nil
	}
	if known := q.devices[dev].find(id, e.seq); known != nil {
		e.due = known.due
		if known.stored == 0 && !known.pending { // it is from before the start
			known.stored = m.Seq
		}
	}
	if e.due != 0 && !in.Requests[id] || e.over(requests.At(q.steady())) {
		return nil
	}
	return &Drained{
		Position: q.position(in.Device, position{m.Seq, id, e.seq}), ID: request, Claims: claims, Seq: e.seq, Final: e.final,
		Late: int64(e.at) > claims.ReplyBy.UnixMilli(), Received: e.at.Time(), Body: m.Data, Read: e.due != 0,
	}
}
