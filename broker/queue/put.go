package queue

import (
	"context"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

// recordBudget is how long an arriving reply may wait for its request record before it is parked.
const recordBudget = 500 * time.Millisecond

// Put takes a reply in. It returns at once but for reading a request record that is not in memory; r.Done tells what
// became of the reply.
func (q *Queue) Put(r *Reply) {
	r.received, r.size = q.cfg.Clock(), len(r.Body)
	ctx, cancel := context.WithTimeout(context.Background(), recordBudget)
	defer cancel()
	record, known, err := q.cfg.Records.Get(ctx, r.Claims)
	q.mu.Lock()
	d := q.device(r.Device)
	if err != nil || len(d.parked) > 0 { // behind those that wait: replies keep their order
		q.park(d, r)
		return
	}
	q.admit(d, r, record, known)
}

// admit decides about one reply. The caller holds the lock; admit lets it go.
func (q *Queue) admit(d *deviceQueue, r *Reply, record requests.Record, known bool) {
	key := replyKey{r.Claims.UUID, r.Seq}
	if e := d.entries[key]; e != nil {
		q.stats.Duplicates++
		if e.pending { // the duplicate is durable when the first one is
			e.done = append(e.done, r.Done)
			q.mu.Unlock()
			return
		}
		q.mu.Unlock()
		r.Done(nil)
		return
	}
	switch q.verdict(d, r, record, known) {
	case drop:
		q.mu.Unlock()
		r.Done(nil)
	case wait:
		q.park(d, r)
	case store:
		q.append(d, key, r)
	}
}

type verdict int

const (
	store verdict = iota
	drop
	wait
)

// verdict applies the limits of the request, which drop, and of the device, which make wait. Room for one more reply is
// always left for the final one, so that a talkative device can still end its answer.
func (q *Queue) verdict(d *deviceQueue, r *Reply, record requests.Record, known bool) verdict {
	count, bytes, final := q.replies(d, r.Claims.UUID, record, known)
	switch {
	case final || known && record.HasReply(r.Seq):
		q.stats.Duplicates++
		return drop
	case count >= device.MaxRepliesPerRequest,
		!r.Final && count >= device.MaxRepliesPerRequest-1,
		bytes+int64(len(r.Body)) > device.MaxReplyBytes:
		q.stats.OverLimit++
		return drop
	case d.count >= q.cfg.MaxReplies, d.bytes+int64(len(r.Body)) > q.cfg.MaxBytes:
		return wait
	}
	return store
}

// replies sums up what a request has had, from its record and from replies whose append is under way.
func (q *Queue) replies(d *deviceQueue, id device.UUID, record requests.Record, known bool) (count int, bytes int64, final bool) {
	if known {
		count, bytes, final = len(record.Seqs), record.Bytes, record.Answered != 0
	}
	for key, e := range d.entries {
		if key.uuid == id && (!known || !record.HasReply(key.seq)) {
			count++
			bytes += int64(e.size)
			final = final || e.final
		}
	}
	return count, bytes, final
}

// append writes the reply. The caller holds the lock; append lets it go.
func (q *Queue) append(d *deviceQueue, key replyKey, r *Reply) {
	e := &entry{
		mailbox: r.Claims.Mailbox, final: r.Final, size: len(r.Body), at: requests.At(r.received),
		pending: true, done: []func(error){r.Done},
	}
	d.add(key, e)
	q.mu.Unlock()
	m := &stream.Append{
		Subject: subjectOf(r), Data: r.Body, Key: string(r.Device),
		Header: nats.Header{
			"Nats-Msg-Id": {string(r.Device) + "/" + stream.Token(key.uuid[:]) + "/" + strconv.Itoa(key.seq)}, // a repeated append stores nothing
			idHeader:      {string(r.ID)},
		},
		Done: func(seq uint64, err error) { q.appended(key, r, e, seq, err) },
	}
	if err := q.appender.TryAppend(m); err != nil {
		q.appended(key, r, e, 0, err)
	}
}

// appended is called when the append has ended.
func (q *Queue) appended(key replyKey, r *Reply, e *entry, seq uint64, err error) {
	if err == nil {
		q.note(r) // before the reply can be seen as stored: what removes it relies on the record
	}
	q.mu.Lock()
	d := q.device(r.Device)
	done := e.done
	e.pending, e.done = false, nil
	if err != nil {
		d.remove(key)
		r.Gone = nil // it may be stored all the same: only storing it once more tells, whether its connection lives or not
		q.cfg.Log.Warn("reply not stored, it waits", "device", r.Device, "error", err)
		// In front: what waits came later, and of several that fail together the last one is told of first.
		d.parked = slices.Insert(d.parked, 0, r)
		q.stats.Parked++
		q.mu.Unlock()
		if r.Parked != nil {
			r.Parked()
		}
		for _, duplicate := range done[1:] { // the device publishes it again after its connection has ended
			duplicate(err)
		}
		return
	}
	q.stats.Stored++
	e.seq, d.last = seq, max(d.last, seq)
	d.wake()
	q.tidy(r.Device)
	q.mu.Unlock()
	for _, f := range done {
		f(nil)
	}
	if q.cfg.Arrived != nil {
		q.cfg.Arrived(*r)
	}
}

// note adds the reply to its request's record.
func (q *Queue) note(r *Reply) {
	ctx, cancel := context.WithTimeout(context.Background(), recordBudget)
	defer cancel()
	if err := q.cfg.Records.Update(ctx, r.Claims, func(rec *requests.Record) bool {
		return rec.AddReply(r.Seq, r.size, r.Final, requests.At(r.received))
	}); err != nil {
		q.cfg.Log.Warn("reply not noted in its request's record, its removal will", "error", err)
	}
}

// park lets a reply wait in memory until there is room, unacknowledged. The caller holds the lock; park lets it go.
func (q *Queue) park(d *deviceQueue, r *Reply) {
	if len(d.parked) >= maxParked {
		q.tidy(r.Device)
		q.mu.Unlock()
		r.Done(device.Errorf(device.BrokerUnavailable, "the device's queue is full"))
		return
	}
	d.parked = append(d.parked, r)
	q.stats.Parked++
	q.mu.Unlock()
	if r.Parked != nil {
		r.Parked()
	}
}

// retry lets in what waits for room, in order, until one has to wait on.
func (q *Queue) retry(ctx context.Context, dev device.ID) {
	for {
		q.mu.Lock()
		d := q.devices[dev]
		if d == nil || len(d.parked) == 0 {
			q.tidy(dev)
			q.mu.Unlock()
			return
		}
		r := d.parked[0]
		q.mu.Unlock()

		record, known, err := q.cfg.Records.Get(ctx, r.Claims)

		q.mu.Lock()
		if d = q.devices[dev]; d == nil || len(d.parked) == 0 || d.parked[0] != r {
			q.mu.Unlock()
			continue // another retry was faster
		}
		if gone(r) {
			d.parked = d.parked[1:]
			q.mu.Unlock()
			r.Done(device.Errorf(device.BrokerUnavailable, "the connection has ended"))
			continue
		}
		if err != nil || q.verdictOf(d, r, record, known) == wait {
			q.mu.Unlock()
			return
		}
		d.parked = d.parked[1:]
		q.admit(d, r, record, known)
	}
}

// verdictOf asks without counting.
func (q *Queue) verdictOf(d *deviceQueue, r *Reply, record requests.Record, known bool) verdict {
	before := q.stats
	v := q.verdict(d, r, record, known)
	q.stats = before
	return v
}

func gone(r *Reply) bool {
	select {
	case <-r.Gone: // a nil channel never is
		return true
	default:
		return false
	}
}
