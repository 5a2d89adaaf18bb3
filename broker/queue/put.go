package queue

import (
	"context"
	"errors"
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
	r.received = q.cfg.Clock()
	record, known, err := q.record(context.Background(), r)
	q.mu.Lock()
	q.arrivals++
	r.order = q.arrivals
	d := q.device(r.Device)
	var then func()
	if err != nil || len(d.parked) > 0 { // behind those that wait: replies keep their order
		then = q.park(d, r)
	} else {
		then = q.admit(d, r, record, known)
	}
	q.tidy(r.Device)
	q.mu.Unlock()
	then()
}

func (q *Queue) record(ctx context.Context, r *Reply) (record requests.Record, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, recordBudget)
	defer cancel()
	return q.cfg.Records.Get(ctx, r.Claims)
}

// admit decides about one reply. The caller holds the lock, and calls then after letting it go.
func (q *Queue) admit(d *deviceQueue, r *Reply, record requests.Record, known bool) (then func()) {
	if e := d.find(r.Claims.UUID, r.Seq); e != nil {
		q.stats.Duplicates++
		if e.pending { // the duplicate is durable when the first one is
			e.done = append(e.done, r.Done)
			return func() {}
		}
		return func() { r.Done(nil) }
	}
	if now, ok := q.cfg.Records.Cached(r.Claims.UUID); ok { // it may know of a reply that has just left the index
		record, known = now, true
	}
	switch q.verdict(d, r, record, known) {
	case dropDuplicate:
		q.stats.Duplicates++
		return func() { r.Done(nil) }
	case dropOverLimit:
		q.stats.OverLimit++
		q.cfg.Records.UpdateCached(r.Claims.UUID, func(rec *requests.Record) bool {
			first := rec.Dropped == 0
			if first {
				rec.Dropped = requests.At(r.received)
			}
			return first
		})
		return func() { r.Done(nil) }
	case wait:
		return q.park(d, r)
	default:
		return q.append(d, r)
	}
}

type verdict int

const (
	store verdict = iota
	dropDuplicate
	dropOverLimit
	wait
)

// verdict applies the limits of the request, which drop, and of the device, which make wait. Room for one more reply is
// always left for the final one, so that a talkative device can still end its answer.
func (q *Queue) verdict(d *deviceQueue, r *Reply, record requests.Record, known bool) verdict {
	count, bytes, final := d.had(r.Claims.UUID, record, known)
	size := int64(len(r.Body))
	switch {
	case final || known && record.HasReply(r.Seq):
		return dropDuplicate
	case count >= device.MaxRepliesPerRequest,
		!r.Final && count >= device.MaxRepliesPerRequest-1,
		bytes+size > device.MaxReplyBytes:
		return dropOverLimit
	case d.count >= q.cfg.MaxReplies, d.count > 0 && d.bytes+size > q.cfg.MaxBytes:
		return wait
	}
	return store
}

// had sums up what a request has had, from its record and from replies that the record does not know of yet.
func (d *deviceQueue) had(id device.UUID, record requests.Record, known bool) (count int, bytes int64, final bool) {
	if known {
		count, bytes, final = len(record.Seqs), record.Bytes, record.Answered != 0
	}
	for _, e := range d.replies[id] {
		if !known || !record.HasReply(e.seq) {
			count++
			bytes += int64(e.size)
			final = final || e.final
		}
	}
	return count, bytes, final
}

// append hands the reply to the stream. The caller holds the lock, so that replies reach the stream in the order in which
// they were admitted, and calls then after letting it go.
func (q *Queue) append(d *deviceQueue, r *Reply) (then func()) {
	if !r.failed && q.failedBytes > maxFailedBytes {
		return q.park(d, r)
	}
	e := &entry{
		seq: r.Seq, mailbox: r.Claims.Mailbox, final: r.Final, size: len(r.Body), at: requests.At(r.received),
		pending: true, done: []func(error){r.Done},
	}
	err := q.appender.TryAppend(&stream.Append{
		Subject: subjectOf(r), Data: r.Body, Key: string(r.Device),
		Header: nats.Header{
			// A repeated append stores nothing.
			"Nats-Msg-Id": {string(r.Device) + "/" + stream.Token(r.Claims.UUID[:]) + "/" + strconv.Itoa(r.Seq)},
			idHeader:      {string(r.ID)},
		},
		Done: func(seq uint64, err error) { q.appended(r, e, seq, err) },
	})
	switch {
	case errors.Is(err, stream.ErrFull):
		return q.park(d, r)
	case err != nil:
		return func() { r.Done(err) }
	}
	d.add(r.Claims.UUID, e)
	d.inFlight++
	return func() {}
}

// appended is called when the append has ended.
func (q *Queue) appended(r *Reply, e *entry, seq uint64, err error) {
	q.mu.Lock()
	d := q.device(r.Device)
	d.inFlight--
	var then func()
	if err == nil {
		then = q.stored(d, r, e, seq)
	} else {
		then = q.failed(d, r, e, err)
	}
	if len(d.parked) > 0 {
		q.pokeRoom()
	}
	q.tidy(r.Device)
	q.mu.Unlock()
	then()
}

func (q *Queue) stored(d *deviceQueue, r *Reply, e *entry, seq uint64) (then func()) {
	q.stats.Stored++
	e.stored, d.last = seq, max(d.last, seq)
	note := leaving{r.Device, r.Claims.UUID, *e}
	if !q.cfg.Records.UpdateCached(r.Claims.UUID, note.addTo) {
		q.unnoted = append(q.unnoted, note)
	}
	d.wake()
	done := e.done
	e.pending, e.done = false, nil
	return func() {
		for _, f := range done {
			f(nil)
		}
		if q.cfg.Arrived != nil {
			q.cfg.Arrived(*r)
		}
	}
}

func (q *Queue) failed(d *deviceQueue, r *Reply, e *entry, err error) (then func()) {
	if q.quiet.Allow() {
		q.cfg.Log.Warn("reply not stored, it waits", "device", r.Device, "error", err)
	}
	d.remove(r.Claims.UUID, r.Seq)
	duplicates := e.done[1:]
	if !stream.NotStored(err) || len(duplicates) > 0 {
		// Whether its connection lives or not: only storing it once more tells whether it is there, and what the living
		// connection of a duplicate has sent since must not come before it.
		r.Gone = nil
	}
	r.failed = true
	parked := q.park(d, r)
	return func() {
		parked()
		for _, duplicate := range duplicates { // the device publishes it again after its connection has ended
			duplicate(err)
		}
	}
}
