package queue

import (
	"container/heap"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"strings"
	"time"

	"signaldevice/broker/requests"
	"signaldevice/device"
)

func splitSubject(s string) []string { return strings.Split(s, ".") }

// deviceSum is 64 bits of the device's name, for positions.
func deviceSum(dev device.ID) uint64 {
	sum := sha256.Sum256([]byte(dev))
	return binary.BigEndian.Uint64(sum[:])
}

// readMarks brings the graces that were running back after a start.
func (q *Queue) readMarks(ctx context.Context) error {
	for after := uint64(0); ; {
		ms, more, err := q.cfg.Engine.Last(ctx, markStream, []string{"m.>"}, after, 500)
		if err != nil {
			return err
		}
		for _, m := range ms {
			after = m.Seq
			mark, err := decodeMark(m)
			if err != nil {
				return err
			}
			q.apply(mark)
		}
		if !more || len(ms) == 0 {
			return nil
		}
	}
}

// newest lists the replies that came in the last seconds before the start. A process that died then may have stored them
// without noting them in their records.
func (q *Queue) newest() (replies []Reply) {
	const unnoted = requests.Millis(10_000) // far longer than a note takes to be written
	last := requests.Millis(0)
	for _, d := range q.devices {
		for _, e := range d.entries {
			last = max(last, e.at)
		}
	}
	for dev, d := range q.devices {
		for key, e := range d.entries {
			if e.at >= last-unnoted {
				replies = append(replies, Reply{
					Device: dev, Claims: device.Claims{UUID: key.uuid, Mailbox: e.mailbox}, Seq: key.seq, Final: e.final,
					size: e.size, received: e.at.Time(),
				})
			}
		}
	}
	return replies
}

func (q *Queue) noteNewest(ctx context.Context, replies []Reply) {
	for i := range replies {
		if ctx.Err() != nil {
			return
		}
		q.note(&replies[i])
	}
}

// sweepLoop does what has come due. It decides nothing that a caller waits for.
func (q *Queue) sweepLoop(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	aged := q.cfg.Clock()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := q.cfg.Clock()
		q.removeDue(ctx, now)
		if now.Sub(aged) >= ageEvery {
			aged = now
			q.forgetAged(now)
		}
		for _, dev := range q.parkedDevices() {
			q.retry(ctx, dev)
		}
	}
}

// removeDue removes the replies whose grace is over, then their marks: a process that dies in between does both again.
func (q *Queue) removeDue(ctx context.Context, now time.Time) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		q.mu.Lock()
		if len(q.due) == 0 || int64(q.due[0].due) > now.UnixMilli() {
			q.mu.Unlock()
			return
		}
		m := heap.Pop(&q.due).(mark)
		q.mu.Unlock()
		err := q.removeNow(ctx, m.dev, m.positions, true)
		if err == nil {
			err = q.cfg.Engine.Delete(ctx, markStream, []uint64{m.seq})
		}
		if err != nil {
			q.cfg.Log.Warn("replies whose grace is over not removed, next sweep tries again", "error", err)
			q.mu.Lock()
			heap.Push(&q.due, m)
			q.mu.Unlock()
			return
		}
	}
}

// forgetAged takes out of the index what the stream has dropped for its age.
func (q *Queue) forgetAged(now time.Time) {
	oldest := requests.At(now.Add(-q.cfg.Retention))
	q.mu.Lock()
	defer q.mu.Unlock()
	for dev, d := range q.devices {
		for key, e := range d.entries {
			if e.at < oldest && !e.pending {
				d.remove(key)
			}
		}
		q.tidy(dev)
	}
}

func (q *Queue) parkedDevices() []device.ID {
	q.mu.Lock()
	defer q.mu.Unlock()
	var devs []device.ID
	for dev, d := range q.devices {
		if len(d.parked) > 0 {
			devs = append(devs, dev)
		}
	}
	return devs
}
