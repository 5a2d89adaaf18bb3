package queue

import (
	"container/heap"
	"context"
	"slices"
	"time"

	"signaldevice/broker/requests"
	"signaldevice/device"
)

const (
	sweepEvery  = time.Second
	sweepBudget = 10 * time.Second // of removing what is due; the next sweep goes on
	closeBudget = 2 * time.Second
	marksAtOnce = 64
	ageEvery    = time.Minute
)

// readMarks brings the graces that were running back after a start. The caller holds the lock.
func (q *Queue) readMarks(ctx context.Context) error {
	for after := uint64(0); ; {
		ms, more, err := q.cfg.Engine.Last(ctx, markStream, []string{"m.>"}, after, 500)
		if err != nil {
			return err
		}
		for _, m := range ms {
			after = m.Seq
			if mark, ok := decodeMark(m); ok {
				q.apply(mark)
			} else {
				q.unreadable(markStream, m.Seq)
			}
		}
		if !more || len(ms) == 0 {
			return nil
		}
	}
}

// sweepLoop does what has come due. It decides nothing that a caller waits for.
func (q *Queue) sweepLoop(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	aged := q.cfg.Clock()
	for {
		q.note(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := q.cfg.Clock()
		q.removeBegun(ctx)
		q.removeDue(ctx, q.steady())
		if now.Sub(aged) >= ageEvery {
			aged = now
			q.forgetAged(ctx, now)
		}
	}
}

// note tells the records of replies that were stored while their records were not in memory or in the last moments of an
// earlier process, and of those that have aged out.
func (q *Queue) note(ctx context.Context) {
	q.mu.Lock()
	ls := q.unnoted
	q.unnoted = nil
	q.mu.Unlock()
	for i := range ls {
		if err := q.noteOne(ctx, &ls[i]); err != nil {
			q.mu.Lock()
			q.unnoted = slices.Concat(q.unnoted, ls[i+1:], ls[i:i+1]) // it must not hold up the others
			q.mu.Unlock()
			return // the next sweep goes on
		}
	}
}

func (q *Queue) noteOne(ctx context.Context, l *leaving) error {
	ctx, cancel := context.WithTimeout(ctx, recordBudget)
	defer cancel()
	return q.cfg.Records.Update(ctx, l.claims(), l.addTo)
}

// removeDue removes the replies whose grace is over, then their marks: a process that dies in between does both again.
func (q *Queue) removeDue(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, sweepBudget)
	defer cancel()
	for ms := q.popDue(now); len(ms) > 0; ms = q.popDue(now) {
		if q.finish(ctx, now, ms) == nil {
			continue
		}
		for _, m := range ms { // one by one: what fails with one of them must not hold up the others
			if err := q.finish(ctx, now, []mark{m}); err != nil {
				q.again(m, now, err)
			}
		}
	}
}

func (q *Queue) popDue(now time.Time) (ms []mark) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.due) > 0 && q.due[0].due <= requests.At(now) && len(ms) < marksAtOnce {
		ms = append(ms, heap.Pop(&q.due).(mark))
	}
	return ms
}

func (q *Queue) finish(ctx context.Context, now time.Time, ms []mark) error {
	var over []leaving
	seqs := make([]uint64, len(ms))
	for i, m := range ms {
		seqs[i] = m.seq
		found, err := q.resolve(ctx, m.dev, m.positions)
		if err != nil {
			return err
		}
		for _, l := range found {
			if l.due <= requests.At(now) { // else another mark came first, and decides
				over = append(over, l)
			}
		}
	}
	if err := q.remove(ctx, over, true); err != nil {
		return err
	}
	return q.cfg.Engine.Delete(ctx, markStream, seqs)
}

func (q *Queue) again(m mark, now time.Time, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.quiet.Allow() {
		q.cfg.Log.Warn("replies whose grace is over not removed, trying again", "device", m.dev, "error", err)
	}
	m.due = requests.At(now.Add(sweepEvery))
	heap.Push(&q.due, m)
}

// removeBegun removes what was acknowledged, all devices' together. What could not be removed stays for the next sweep.
func (q *Queue) removeBegun(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sweepBudget)
	defer cancel()
	q.mu.Lock()
	ls := q.begun
	q.mu.Unlock()
	var left []leaving
	if q.remove(ctx, ls, false) != nil {
		for one := range slices.Chunk(ls, 1) { // what fails with one of them must not hold up the others
			if err := q.remove(ctx, one, false); err != nil {
				left = append(left, one...)
				if q.quiet.Allow() {
					q.cfg.Log.Warn("acknowledged reply not removed, trying again", "device", one[0].dev, "error", err)
				}
			}
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.begun = slices.Concat(left, q.begun[len(ls):])
}

// forgetAged takes out of the index what the stream has dropped for its age. The stream alone knows: it counts from the
// moment of storing, which may be long after the arrival.
func (q *Queue) forgetAged(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, sweepBudget)
	defer cancel()
	oldest := requests.At(now.Add(-q.cfg.Retention))
	for _, dev := range q.deviceIDs() { // one at a time: the lock is wanted
		aged := q.aged(dev, oldest)
		if len(aged) == 0 {
			continue
		}
		err := q.cfg.Engine.Subjects(ctx, streamName, "q."+string(dev)+".>", func(subject string) {
			if _, id, e, ok := parseSubject(subject); ok {
				delete(aged, replyKey{id, e.seq})
			}
		})
		if err != nil {
			q.cfg.Log.Warn("aged replies not looked for, trying again", "error", err)
			return
		}
		q.forgetAll(dev, aged)
	}
}

// replyKey tells a reply from the others of its device.
type replyKey struct {
	id  device.UUID
	seq int
}

// aged returns what may have been dropped: whatever arrived before the moment.
func (q *Queue) aged(dev device.ID, oldest requests.Millis) map[replyKey]*entry {
	q.mu.Lock()
	defer q.mu.Unlock()
	found := map[replyKey]*entry{}
	for id, replies := range q.devices[dev].all() {
		for _, e := range replies {
			if e.at < oldest && !e.pending {
				found[replyKey{id, e.seq}] = e
			}
		}
	}
	return found
}

// forgetAll takes out of the index what is gone from the stream. Its records are told: perhaps nobody read it.
func (q *Queue) forgetAll(dev device.ID, gone map[replyKey]*entry) {
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.devices[dev]
	for key, e := range gone {
		if d.find(key.id, key.seq) != e {
			continue // removed meanwhile
		}
		if e.due == 0 {
			q.stats.Aged++
		}
		q.unnoted = append(q.unnoted, leaving{dev, key.id, *e})
		d.remove(key.id, key.seq)
	}
	q.tidy(dev)
	q.pokeRoom()
}
