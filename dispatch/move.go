package dispatch

import (
	"context"
	"errors"
	"slices"
	"time"

	"signaldevice/device"
)

// Bounds of emptying one queue.
const (
	pageSize = 100     // replies read at once
	maxPages = 64      // of one queue in one call; a queue holds 1,000 unread replies unless told otherwise
	putBytes = 1 << 20 // what one Put is given, but for a single larger reply
)

// errNotMoved: the cache would have to work longer than a call may, or has no room. The rest is still in the queue.
var errNotMoved = errors.New("dispatch: move: the queue was not moved into the cache as a whole")

// cacheFailed tells whether moving a queue failed on the cache's side. Reading the queue never has an unknown outcome.
func cacheFailed(err error) bool { return cacheOut(err) || errors.Is(err, errNotMoved) }

// cacheOut tells whether another call would have failed as well.
func cacheOut(err error) bool {
	switch device.KindOf(err) {
	case device.CacheFull, device.CacheUnavailable, device.OutcomeUnknown:
		return true
	}
	return false
}

// readGrace is the grace for acknowledging what a client has read. Without a grace the broker is still told that it was
// a read: a reply acknowledged with no grace at all has only moved into the cache.
func (d *Dispatcher) readGrace() time.Duration { return max(d.grace, time.Millisecond) }

// move reads the queue page by page into the cache, and acknowledges what a durable cache holds (I2). What a cache that
// is not durable holds stays in the queue until its client has read it. It returns the replies that the queue shows
// although they were read before; those are not put into the cache, which would make them unread again.
//
// When it fails, what was confirmed is in the cache and the rest in the queue, some perhaps in both.
func (d *Dispatcher) move(ctx context.Context, q Drain, reader device.Mailbox, cacheTime, brokerTime *allowance) (readBefore []device.Reply, err error) {
	q.Limit = pageSize
	for range maxPages {
		page, err := d.drainPage(ctx, q, brokerTime)
		if err != nil {
			return readBefore, err
		}
		var unread []device.Reply
		for _, r := range page.Replies {
			if r.Read {
				readBefore = append(readBefore, r.Reply)
			} else {
				unread = append(unread, r.Reply)
			}
		}
		if err := d.moveReplies(ctx, q.Device, unread, reader, cacheTime, brokerTime); err != nil {
			return readBefore, err
		}
		if !page.More || len(page.Replies) == 0 {
			return readBefore, nil
		}
		q.After = page.Replies[len(page.Replies)-1].Position
	}
	return readBefore, errNotMoved
}

func (d *Dispatcher) drainPage(ctx context.Context, q Drain, brokerTime *allowance) (page DrainPage, err error) {
	err = d.broker.ask(ctx, brokerTime, func(ctx context.Context) (err error) {
		page, err = d.broker.Drain(ctx, q)
		return err
	})
	return page, err
}

// moveReplies puts replies into the cache, a bounded part at a time, and acknowledges each part at once.
func (d *Dispatcher) moveReplies(ctx context.Context, dev device.ID, replies []device.Reply, reader device.Mailbox, cacheTime, brokerTime *allowance) error {
	for len(replies) > 0 {
		if !cacheTime.fits(2, putNeeds) {
			return errNotMoved
		}
		n := partLen(replies)
		part := replies[:n]
		durable := d.cache.Durable()
		results, err := d.put(ctx, part, cacheTime)
		if err != nil {
			return err
		}
		durable = durable && d.cache.Durable() // the put may have led to a server that is not
		d.acknowledge(ctx, dev, d.sortOut(part, results, durable, reader), 0, brokerTime)
		replies = replies[n:]
	}
	return nil
}

// partLen returns how many of the replies fit into one Put: at least one.
func partLen(replies []device.Reply) int {
	size := 0
	for i, r := range replies {
		size += len(r.Body)
		if i > 0 && size > putBytes {
			return i
		}
	}
	return len(replies)
}

func (d *Dispatcher) put(ctx context.Context, replies []device.Reply, cacheTime *allowance) (results []PutResult, err error) {
	err = d.cache.tell(ctx, cacheTime, func(ctx context.Context) (err error) {
		results, err = d.cache.Put(ctx, replies)
		return err
	})
	switch {
	case device.Is(err, device.CacheFull):
		d.cache.room.refused()
	case err == nil && len(results) != len(replies):
		err = errors.New("dispatch: put: the cache did not tell of every reply")
	case err == nil && slices.ContainsFunc(results, func(r PutResult) bool { return r == Stored || r == Unsafe }):
		d.cache.room.stored()
	}
	if err != nil && !cacheFailed(err) {
		if !unanswered(err) { // the replies are safe in the queue, but somebody should know why they stay there
			d.log.Error("putting replies into the cache failed", "err", err)
		}
		err = device.Wrap(device.OutcomeUnknown, err, "the cache failed")
	}
	return results, err
}

// sortOut tells what may leave the queue: what a durable cache holds, and what its client has read (I2).
func (d *Dispatcher) sortOut(replies []device.Reply, results []PutResult, durable bool, reader device.Mailbox) (positions [][]byte) {
	var own, foreign, duplicate int
	for i, r := range replies {
		switch results[i] {
		case Stored, Unsafe:
			if r.Mailbox == reader {
				own++
			} else {
				foreign++
				d.waiters.notify(place{r.Mailbox, r.Device}, r.Request, r.Final)
			}
		case Duplicate:
			duplicate++
		case Read:
			duplicate++
			positions = append(positions, r.Position)
			continue
		default:
			continue // nothing is known of it
		}
		if durable && results[i] != Unsafe {
			positions = append(positions, r.Position)
		}
	}
	d.countDrained(own, foreign, duplicate)
	return positions
}

func (d *Dispatcher) countDrained(own, foreign, duplicate int) {
	if own > 0 {
		d.observer.Drained(Own, own)
	}
	if foreign > 0 {
		d.observer.Drained(Foreign, foreign)
	}
	if duplicate > 0 {
		d.observer.Drained(DuplicateCopy, duplicate)
	}
}

// acknowledge lets replies leave the queue. It reports no error: what stays in the queue is drained again and found to
// be a duplicate, which costs time but no reply.
func (d *Dispatcher) acknowledge(ctx context.Context, dev device.ID, positions [][]byte, after time.Duration, brokerTime *allowance) {
	if len(positions) == 0 {
		return
	}
	err := d.broker.tell(ctx, brokerTime, func(ctx context.Context) error {
		return d.broker.Acknowledge(ctx, dev, positions, after)
	})
	if err != nil && !unanswered(err) && ctx.Err() == nil {
		d.log.Warn("the broker refused an acknowledgement", "device", dev, "replies", len(positions), "err", err)
	}
}
