package queue

import (
	"container/heap"
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nuid"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

// Acknowledge removes single replies: now or, with after, once that long has passed since the first Acknowledge of each.
// It returns when that is durable. Repeating it is safe. One position of another device or of another life of the queue
// refuses the whole call, and nothing is removed.
func (q *Queue) Acknowledge(ctx context.Context, dev device.ID, positions [][]byte, after time.Duration) error {
	parsed := make([]position, len(positions))
	for i, b := range positions {
		var err error
		if parsed[i], err = q.parsePosition(dev, b); err != nil {
			return err
		}
	}
	if after > 0 {
		return q.markRead(ctx, dev, parsed, after)
	}
	return q.removeNow(ctx, dev, parsed, false)
}

// removeNow takes replies out of the stream. The records know of them first, so that a request whose reply has left the
// queue never looks unanswered (I5, I8). read counts them as read through the queue.
func (q *Queue) removeNow(ctx context.Context, dev device.ID, ps []position, read bool) error {
	seqs := make([]uint64, 0, len(ps))
	ids := make([]device.UUID, 0, len(ps))
	for _, p := range ps {
		q.mu.Lock()
		var e *entry
		if d := q.devices[dev]; d != nil {
			e = d.entries[p.key]
		}
		q.mu.Unlock()
		if e == nil {
			continue // removed before
		}
		claims := device.Claims{UUID: p.key.uuid, Mailbox: e.mailbox}
		if err := q.cfg.Records.Update(ctx, claims, func(rec *requests.Record) bool {
			changed := rec.AddReply(p.key.seq, e.size, e.final, e.at)
			return read && rec.AddRead(p.key.seq) || changed
		}); err != nil {
			return fmt.Errorf("queue: acknowledge: %w", err)
		}
		seqs, ids = append(seqs, p.seq), append(ids, p.key.uuid)
	}
	if len(seqs) == 0 {
		return nil
	}
	if err := q.cfg.Records.Flush(ctx, ids); err != nil {
		return fmt.Errorf("queue: acknowledge: %w", err)
	}
	if err := q.cfg.Engine.Delete(ctx, streamName, seqs); err != nil {
		return fmt.Errorf("queue: acknowledge: %w", err)
	}
	q.mu.Lock()
	if d := q.devices[dev]; d != nil {
		for _, p := range ps {
			d.remove(p.key)
		}
	}
	q.mu.Unlock()
	q.retry(ctx, dev)
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
func (q *Queue) markRead(ctx context.Context, dev device.ID, ps []position, after time.Duration) error {
	m := mark{dev: dev, due: requests.At(q.cfg.Clock().Add(after))}
	q.mu.Lock()
	if d := q.devices[dev]; d != nil {
		for _, p := range ps {
			if e := d.entries[p.key]; e != nil && e.due == 0 {
				m.positions = append(m.positions, p)
			}
		}
	}
	q.mu.Unlock()
	if len(m.positions) == 0 {
		return nil
	}
	seq, err := q.marks.Do(ctx, stream.Append{
		Subject: "m." + string(dev) + "." + nuid.Next() + "." + strconv.FormatInt(int64(m.due), 10),
		Data:    m.encode(),
	})
	if err != nil {
		return fmt.Errorf("queue: acknowledge: %w", err)
	}
	m.seq = seq
	q.apply(m)
	q.retry(ctx, dev)
	return nil
}

// apply puts a mark into the index.
func (q *Queue) apply(m mark) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if d := q.devices[m.dev]; d != nil {
		for _, p := range m.positions {
			if e := d.entries[p.key]; e != nil {
				d.read(e, m.due)
			}
		}
	}
	heap.Push(&q.due, m)
}

func (m *mark) encode() []byte {
	var b []byte
	for _, p := range m.positions {
		b = binary.BigEndian.AppendUint64(b, p.seq)
		b = append(b, p.key.uuid[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(p.key.seq))
	}
	return b
}

func decodeMark(m stream.Message) (mark, error) {
	parts := splitSubject(m.Subject)
	if len(parts) != 4 || len(m.Data)%28 != 0 {
		return mark{}, fmt.Errorf("queue: mark %d is not readable", m.Seq)
	}
	due, err := strconv.ParseInt(parts[3], 10, 64)
	if err != nil {
		return mark{}, fmt.Errorf("queue: mark %d is not readable", m.Seq)
	}
	out := mark{dev: device.ID(parts[1]), due: requests.Millis(due), seq: m.Seq}
	for b := m.Data; len(b) > 0; b = b[28:] {
		out.positions = append(out.positions, position{
			binary.BigEndian.Uint64(b), replyKey{device.UUID(b[8:24]), int(binary.BigEndian.Uint32(b[24:]))},
		})
	}
	return out, nil
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
