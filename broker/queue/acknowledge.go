package queue

import (
	"container/heap"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nuid"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

// Acknowledge removes single replies: now or, with after, once that long has passed since the first Acknowledge of each.
// Repeating it is safe. One position of another device or of another life of the queue refuses the whole call, and nothing
// is removed.
//
// With after it returns when the moment is durable. Without, it returns at once: no drain shows those replies any more, no
// quota counts them, and they leave the disk within about a second, many together. A broker that dies before shows them
// again; whoever moved them into a cache finds duplicates. RateLimited: 100,000 wait to leave the disk already.
func (q *Queue) Acknowledge(ctx context.Context, dev device.ID, positions [][]byte, after time.Duration) error {
	parsed := make([]position, len(positions))
	for i, b := range positions {
		var err error
		if parsed[i], err = q.parsePosition(dev, b); err != nil {
			return err
		}
	}
	found, err := q.resolve(ctx, dev, parsed)
	switch {
	case err != nil:
	case after > 0:
		err = q.markRead(ctx, dev, found, after)
	default:
		err = q.begin(dev, found)
	}
	if err != nil {
		return fmt.Errorf("queue: acknowledge: %w", err)
	}
	return nil
}

// leaving is a copy of what is known of a reply, on its way out.
type leaving struct {
	dev device.ID
	id  device.UUID
	entry
}

// addTo adds the reply to its request's record.
func (l *leaving) addTo(rec *requests.Record) bool { return rec.AddReply(l.seq, l.size, l.final, l.at) }

func (l *leaving) claims() device.Claims { return device.Claims{UUID: l.id, Mailbox: l.mailbox} }

// resolve finds the replies that are still there. One that the index does not know may be in the stream all the same: its
// append was not answered.
func (q *Queue) resolve(ctx context.Context, dev device.ID, ps []position) (found []leaving, err error) {
	var unknown []position
	q.mu.Lock()
	for _, p := range ps {
		if e := q.devices[dev].find(p.id, p.reply); e != nil && (e.stored == 0 || e.stored == p.stored) {
			l := leaving{dev, p.id, *e}
			l.stored, l.pending, l.done = p.stored, false, nil // it was drained, so it is there
			found = append(found, l)
		} else {
			unknown = append(unknown, p)
		}
	}
	q.mu.Unlock()
	for chunk := range slices.Chunk(unknown, 500) {
		more, err := q.lookUp(ctx, dev, chunk)
		if err != nil {
			return nil, err
		}
		found = append(found, more...)
	}
	return found, nil
}

// lookUp reads replies by their positions from the stream, and leaves out those that are not there.
func (q *Queue) lookUp(ctx context.Context, dev device.ID, ps []position) (found []leaving, err error) {
	wanted := map[position]bool{}
	filters := make([]string, len(ps))
	for i, p := range ps {
		wanted[p], filters[i] = true, filterOf(dev, p)
	}
	for after := uint64(0); ; {
		ms, more, err := q.cfg.Engine.Last(ctx, streamName, filters, after, len(filters))
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			after = m.Seq
			if _, id, e, ok := parseSubject(m.Subject); ok && wanted[position{m.Seq, id, e.seq}] {
				e.stored = m.Seq
				found = append(found, leaving{dev, id, *e})
			}
		}
		if !more || len(ms) == 0 {
			return found, nil
		}
	}
}

// remove takes replies out of the stream. The records know of them first, so that a request whose reply has left the
// queue never looks unanswered (I5, I8). read tells that they were read through the queue.
func (q *Queue) remove(ctx context.Context, ls []leaving, read bool) error {
	if len(ls) == 0 {
		return nil
	}
	seqs, ids := make([]uint64, len(ls)), make([]device.UUID, len(ls))
	for i := range ls {
		l := &ls[i]
		seqs[i], ids[i] = l.stored, l.id
		err := q.cfg.Records.Update(ctx, l.claims(), func(rec *requests.Record) bool {
			changed := l.addTo(rec)
			return read && rec.AddRead(l.seq) || changed
		})
		if err != nil {
			return err
		}
	}
	if err := q.cfg.Records.Flush(ctx, ids); err != nil {
		return err
	}
	if err := q.cfg.Engine.Delete(ctx, streamName, seqs); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range ls {
		if d := q.devices[l.dev]; d != nil {
			d.remove(l.id, l.seq)
			q.tidy(l.dev)
		}
	}
	q.pokeRoom()
	return nil
}

// begin hides replies that leave the queue; the sweeper removes them.
func (q *Queue) begin(dev device.ID, ls []leaving) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.begun) >= maxBegun {
		return &device.Error{Kind: device.RateLimited, Message: "too many acknowledged replies wait to leave the disk", RetryAfter: sweepEvery}
	}
	for _, l := range ls {
		d := q.device(dev)
		e := d.add(l.id, &l.entry)
		if e.begun && e.stored == l.stored {
			continue // acknowledged before
		}
		e.stored, e.begun = l.stored, true
		d.read(e, mark{due: 1})
		q.begun = append(q.begun, l)
	}
	q.pokeRoom()
	return nil
}

// mark is the durable memory of a first read: these replies of one device go when due.
type mark struct {
	dev       device.ID
	due       requests.Millis
	positions []position
	seq       uint64 // of the mark in its stream
}

// markRead starts the grace of those that are unread.
func (q *Queue) markRead(ctx context.Context, dev device.ID, ls []leaving, after time.Duration) error {
	m := mark{dev: dev, due: requests.At(q.steady().Add(after))}
	q.mu.Lock()
	for _, l := range ls {
		d := q.device(dev)
		if d.add(l.id, &l.entry).due == 0 {
			m.positions = append(m.positions, position{l.stored, l.id, l.seq})
		}
	}
	q.mu.Unlock()
	if len(m.positions) == 0 {
		return nil
	}
	marked := make(chan error, 1)
	err := q.marks.TryAppend(&stream.Append{
		Subject: "m." + string(dev) + "." + nuid.Next() + "." + strconv.FormatInt(int64(m.due), 10),
		Data:    m.encode(),
		Done: func(seq uint64, err error) { // whether the caller waits or not: the mark counts once it is durable
			if err == nil {
				m.seq = seq
				q.mu.Lock()
				q.apply(m)
				q.pokeRoom()
				q.mu.Unlock()
			}
			marked <- err
		},
	})
	if err != nil {
		return err
	}
	select {
	case err := <-marked:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// apply puts a mark into the index. The caller holds the lock.
func (q *Queue) apply(m mark) {
	d := q.devices[m.dev]
	for _, p := range m.positions {
		if e := d.find(p.id, p.reply); e != nil {
			d.read(e, m)
		}
	}
	heap.Push(&q.due, m)
}

func (m *mark) encode() []byte {
	b := make([]byte, 0, replyLen*len(m.positions))
	for _, p := range m.positions {
		b = p.append(b)
	}
	return b
}

func decodeMark(m stream.Message) (out mark, ok bool) {
	parts := strings.Split(m.Subject, ".")
	if len(parts) != 4 || len(m.Data)%replyLen != 0 {
		return mark{}, false
	}
	due, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil {
		return mark{}, false
	}
	out = mark{dev: device.ID(parts[1]), due: requests.Millis(due), seq: m.Seq}
	for b := range slices.Chunk(m.Data, replyLen) {
		out.positions = append(out.positions, readPosition(b))
	}
	return out, true
}

// dueHeap orders marks by the end of their grace.
type dueHeap []mark

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due < h[j].due }
func (h dueHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)        { *h = append(*h, x.(mark)) }
func (h *dueHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
