package queue

import (
	"context"
	"maps"
	"slices"

	"signaldevice/broker/requests"
	"signaldevice/device"
)

// deviceQueue is the index of one device's queue.
type deviceQueue struct {
	replies  map[device.UUID][]*entry // by request
	count    int                      // unread
	bytes    int64                    // unread
	inFlight int                      // appends under way
	parked   []*Reply                 // wait for room, by arrival
	waiters  map[chan struct{}]struct{}
	last     uint64 // the highest stream sequence that an append of this process had
}

// entry is one reply of the index.
type entry struct {
	seq     int // of the reply
	mailbox device.Mailbox
	final   bool
	size    int
	at      requests.Millis // its arrival
	stored  uint64          // stream sequence; 0: not known, from before this start or pending
	due     requests.Millis // when its grace ends; 0: unread
	mark    uint64          // stream sequence of the mark that says so
	pending bool            // its append is under way
	begun   bool            // it was acknowledged and is as good as gone: the sweeper removes it
	done    []func(error)   // of the reply and of its duplicates that came meanwhile
}

// over reports whether the entry's grace has ended.
func (e *entry) over(now requests.Millis) bool { return e.due != 0 && e.due <= now }

// readIndex makes the index from the subjects, and the graces from their marks.
func (q *Queue) readIndex(ctx context.Context) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	err := q.cfg.Engine.Subjects(ctx, streamName, "q.>", func(subject string) {
		dev, id, e, ok := parseSubject(subject)
		if !ok {
			q.unreadable(streamName, 0)
			return
		}
		q.device(dev).add(id, e)
	})
	if err != nil {
		return err
	}
	q.unnoted = q.newest()
	return q.readMarks(ctx)
}

// newest lists the replies that came in the last seconds before the start. A process that died then may have stored them
// without noting them in their records. The caller holds the lock.
func (q *Queue) newest() (replies []leaving) {
	const unnoted = requests.Millis(10_000) // far longer than a note takes to be written
	last := requests.Millis(0)
	for _, d := range q.devices {
		for _, group := range d.replies {
			for _, e := range group {
				last = max(last, e.at)
			}
		}
	}
	for dev, d := range q.devices {
		for id, group := range d.replies {
			for _, e := range group {
				if e.at >= last-unnoted {
					replies = append(replies, leaving{dev, id, *e})
				}
			}
		}
	}
	return replies
}

// unreadable counts an entry that is passed over. The caller holds the lock.
func (q *Queue) unreadable(name string, seq uint64) {
	q.stats.Unreadable++
	if q.quiet.Allow() {
		q.cfg.Log.Error("entry not readable, passed over", "stream", name, "sequence", seq)
	}
}

// device returns the index of a device, made when absent. The caller holds the lock.
func (q *Queue) device(id device.ID) *deviceQueue {
	d := q.devices[id]
	if d == nil {
		d = &deviceQueue{replies: map[device.UUID][]*entry{}, waiters: map[chan struct{}]struct{}{}}
		q.devices[id] = d
	}
	return d
}

// tidy forgets a device with nothing left. The caller holds the lock.
func (q *Queue) tidy(id device.ID) {
	if d := q.devices[id]; d != nil && len(d.replies)+len(d.parked)+len(d.waiters)+d.inFlight == 0 {
		delete(q.devices, id)
	}
}

// all returns the replies by request; it may be called on nil.
func (d *deviceQueue) all() map[device.UUID][]*entry {
	if d == nil {
		return nil
	}
	return d.replies
}

// find returns the entry of a reply, or nil; it may be called on nil.
func (d *deviceQueue) find(id device.UUID, seq int) *entry {
	for _, e := range d.all()[id] {
		if e.seq == seq {
			return e
		}
	}
	return nil
}

// add takes an unread entry in, once, and returns the one that is there.
func (d *deviceQueue) add(id device.UUID, e *entry) *entry {
	if known := d.find(id, e.seq); known != nil {
		return known
	}
	d.replies[id] = append(d.replies[id], e)
	d.count++
	d.bytes += int64(e.size)
	return e
}

func (d *deviceQueue) remove(id device.UUID, seq int) {
	e := d.find(id, seq)
	if e == nil {
		return
	}
	d.read(e, mark{due: 1})
	if group := slices.DeleteFunc(slices.Clone(d.replies[id]), func(o *entry) bool { return o == e }); len(group) > 0 {
		d.replies[id] = group
	} else {
		delete(d.replies, id)
	}
}

// read takes the entry out of the quota. Of several marks the first in their stream counts, as it will after a restart.
func (d *deviceQueue) read(e *entry, m mark) {
	if e.due == 0 {
		d.count--
		d.bytes -= int64(e.size)
	}
	if e.due == 0 || m.seq < e.mark {
		e.due, e.mark = m.due, m.seq
	}
}

func (d *deviceQueue) wake() {
	for ch := range d.waiters {
		select {
		case ch <- struct{}{}:
		default: // woken already
		}
	}
}

// deviceIDs lists the devices that have something here.
func (q *Queue) deviceIDs() []device.ID {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.devices))
}
