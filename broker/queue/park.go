package queue

import (
	"cmp"
	"context"
	"slices"
	"time"

	"signaldevice/broker/stream"
	"signaldevice/device"
)

// Replies that wait for room, unacknowledged, in memory. Those that went to the stream and came back wait too, whatever
// their number, or their device's replies would lose their order. While those that failed are too many nothing new goes to
// the stream, which takes nothing as it seems: what it has ahead of it is the most that can still join them.
const (
	maxParked      = 64       // of one device
	maxParkedBytes = 64 << 20 // of all devices
	maxFailedBytes = 32 << 20 // of those whose append failed
	retryEvery     = time.Second
)

// park lets a reply wait in its place. The caller holds the lock, and calls then after letting it go.
func (q *Queue) park(d *deviceQueue, r *Reply) (then func()) {
	switch {
	case q.closed:
		return func() { r.Done(stream.ErrClosed) }
	case !r.failed && !r.parked && (len(d.parked) >= maxParked || q.parkedBytes+len(r.Body) > maxParkedBytes):
		return func() { r.Done(device.Errorf(device.BrokerUnavailable, "the device's queue is full")) }
	}
	// One that failed came before those that wait already.
	i, _ := slices.BinarySearchFunc(d.parked, r, func(a, b *Reply) int { return cmp.Compare(a.order, b.order) })
	d.parked = slices.Insert(d.parked, i, r)
	q.countParked(r, 1)
	if r.parked {
		return func() {}
	}
	r.parked = true
	q.stats.Parked++
	return func() {
		if r.Parked != nil {
			r.Parked()
		}
	}
}

// unpark takes the first n out. The caller holds the lock.
func (q *Queue) unpark(d *deviceQueue, n int) []*Reply {
	out := slices.Clone(d.parked[:n])
	d.parked = slices.Delete(d.parked, 0, n)
	for _, r := range out {
		q.countParked(r, -1)
	}
	return out
}

func (q *Queue) countParked(r *Reply, n int) {
	q.parked += n
	q.parkedBytes += n * len(r.Body)
	if r.failed {
		q.failedBytes += n * len(r.Body)
	}
}

// letGo takes out the replies whose connection has ended. The caller holds the lock.
func (q *Queue) letGo(d *deviceQueue) (gone []*Reply) {
	d.parked = slices.DeleteFunc(d.parked, func(r *Reply) bool {
		select {
		case <-r.Gone: // a nil channel never is
			gone = append(gone, r)
			q.countParked(r, -1)
			return true
		default:
			return false
		}
	})
	return gone
}

// pokeRoom has what waits looked at soon.
func (q *Queue) pokeRoom() {
	select {
	case q.room <- struct{}{}:
	default:
	}
}

// retryLoop lets in what waits, when there may be room and every second.
func (q *Queue) retryLoop(ctx context.Context) {
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.room:
		case <-tick.C:
		}
		for _, dev := range q.parkedDevices() {
			q.retry(ctx, dev)
		}
	}
}

func (q *Queue) parkedDevices() (devs []device.ID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.parked == 0 {
		return nil
	}
	for dev, d := range q.devices {
		if len(d.parked) > 0 {
			devs = append(devs, dev)
		}
	}
	return devs
}

// retry lets in what waits for room, in order, until one has to wait on.
func (q *Queue) retry(ctx context.Context, dev device.ID) {
	for r := q.first(dev); r != nil && ctx.Err() == nil; {
		record, known, err := q.record(ctx, r)
		if err != nil {
			return
		}
		q.mu.Lock()
		d := q.device(dev)
		next, then := (*Reply)(nil), func() {}
		if len(d.parked) > 0 && d.parked[0] == r && q.mayRetry(d, r) {
			q.unpark(d, 1)
			then = q.admit(d, r, record, known)
		}
		if len(d.parked) > 0 && d.parked[0] != r { // r went in, or others went out
			next = d.parked[0]
		}
		q.tidy(dev)
		q.mu.Unlock()
		then()
		r = next
	}
}

// mayRetry: while appends of the device are under way one that failed must wait, because some of those may be about to
// fail too, and came before it.
func (q *Queue) mayRetry(d *deviceQueue, r *Reply) bool { return !r.failed || d.inFlight == 0 }

// first returns the reply that has waited longest, nil for none, and lets those go whose connection has ended.
func (q *Queue) first(dev device.ID) (r *Reply) {
	q.mu.Lock()
	var gone []*Reply
	if d := q.devices[dev]; d != nil {
		gone = q.letGo(d)
		if len(d.parked) > 0 {
			r = d.parked[0]
		}
		q.tidy(dev)
	}
	q.mu.Unlock()
	for _, r := range gone {
		r.Done(device.Errorf(device.BrokerUnavailable, "the connection has ended"))
	}
	return r
}
