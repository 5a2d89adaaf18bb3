package dispatch

import (
	"context"
	"maps"
	"slices"
	"time"

	"signaldevice/device"
)

// maxStraight is how many replies a poll without ids takes straight from the queue; the cache keeps to the same bound.
const maxStraight = 100

// poll is one reading of one client's replies from one device.
type poll struct {
	d *Dispatcher
	place
	asked []device.RequestID // as the caller named them; none: everything
	ids   []device.RequestID // the same without repeats and without what is no request id

	cacheTime, brokerTime allowance
	cacheErr, brokerErr   error // the outage that was met
	takeUnknown           bool  // replies may have been taken from the cache and lost on the way
	moved                 bool  // replies may have been moved from the queue into the cache
	partial               bool  // not the whole queue was read, or not all that the cache has

	found    map[device.ReplyKey]device.Reply
	ended    map[device.RequestID]bool // the final reply is among found
	begun    map[device.RequestID]int  // how many of its replies are
	read     map[device.RequestID]bool // the cache has a mark: a reply was read and its grace is over
	readOff  map[device.ReplyKey]bool  // the cache has them, but they were read elsewhere and their grace is over
	records  map[device.RequestID]device.Request
	straight [][]byte // positions to acknowledge as read
	took     bool     // something was taken from the cache
	fresh    bool     // something that was not read before is among found
	drained  bool     // the broker's queue was read
	source   Source
}

func (d *Dispatcher) newPoll(at place, asked []device.RequestID) *poll {
	p := &poll{
		d:          d,
		place:      at,
		asked:      asked,
		cacheTime:  allowance{left: cacheBudget},
		brokerTime: allowance{left: brokerBudget},
		found:      map[device.ReplyKey]device.Reply{},
		ended:      map[device.RequestID]bool{},
		begun:      map[device.RequestID]int{},
		read:       map[device.RequestID]bool{},
		readOff:    map[device.ReplyKey]bool{},
		records:    map[device.RequestID]device.Request{},
		source:     SourceCache,
	}
	// Ids of other clients go the whole way and find nothing, as unknown ones do: the time taken tells nothing (I3).
	seen := map[device.RequestID]bool{}
	for _, id := range asked {
		if _, err := id.Claims(); err == nil && !seen[id] {
			seen[id] = true
			p.ids = append(p.ids, id)
		}
	}
	return p
}

// collect makes one poll: cache, queue, cache again, and only then the requests' states. The poll is never nil.
func (d *Dispatcher) collect(ctx context.Context, at place, asked []device.RequestID) (*poll, Replies, error) {
	p := d.newPoll(at, asked)
	if len(asked) > 0 && len(p.ids) == 0 {
		return p, p.answer(), nil
	}
	p.take(ctx)
	p.forgetReadElsewhere(ctx)
	if p.complete() {
		return p.finish(ctx)
	}
	err := p.drain(ctx)
	if err == nil {
		err = p.inquire(ctx)
	}
	if err != nil && len(p.found) == 0 {
		return p, Replies{}, err
	}
	if p.behind() {
		p.lookAgain(ctx)
	}
	return p.finish(ctx)
}

// finish answers, and acknowledges what the answer hands out straight from the queue. Where there is no answer, nothing
// is acknowledged.
func (p *poll) finish(ctx context.Context) (*poll, Replies, error) {
	if ctx.Err() != nil {
		return p, Replies{}, left(ctx)
	}
	replies := p.answer()
	if err := p.failure(replies); err != nil {
		return p, Replies{}, err
	}
	p.d.acknowledge(ctx, p.device, p.straight, p.d.readGrace(), &p.brokerTime)
	return p, replies, nil
}

// take reads this client's replies from the cache and marks them read there: with ids, of the requests whose final reply
// was not found yet, so that what did not fit into one Take comes with the next.
func (p *poll) take(ctx context.Context) {
	ids := p.unfinished()
	if len(p.ids) > 0 && len(ids) == 0 {
		return
	}
	if !p.cacheTime.fits(1, takeNeeds) {
		err := device.Errorf(device.CacheUnavailable, "the cache is too slow")
		p.d.cache.failed(err)
		p.takeFailed(err)
		return
	}
	var taken Taken
	err := p.d.cache.tell(ctx, &p.cacheTime, func(ctx context.Context) (err error) {
		taken, err = p.d.cache.Take(ctx, Take{Mailbox: p.mailbox, Device: p.device, IDs: ids, Grace: p.d.grace})
		return err
	})
	if err != nil {
		p.takeFailed(err)
		return
	}
	p.partial = p.partial || taken.More
	p.took = p.took || len(taken.Replies) > 0
	p.fresh = p.fresh || len(taken.Replies) > taken.Again
	for _, r := range taken.Replies {
		p.add(r)
		if !p.d.cache.Durable() && len(r.Position) > 0 {
			p.straight = append(p.straight, r.Position) // it is still in the queue, and now it was read (I2)
		}
	}
	for _, id := range taken.Read {
		p.read[id] = true
	}
}

func (p *poll) takeFailed(err error) {
	if !unanswered(err) {
		p.d.log.Error("taking replies from the cache failed", "err", err)
		err = device.Wrap(device.OutcomeUnknown, err, "the cache failed")
	}
	p.cacheErr = err
	p.takeUnknown = !device.Is(err, device.CacheUnavailable)
}

// add keeps a reply for the answer. The first body of a reply stays. A reply of another client is kept back, whatever
// led to it (I3).
func (p *poll) add(r device.Reply) {
	if r.Mailbox != p.mailbox || r.Device != p.device {
		p.d.log.Error("kept back a reply of another client or device", "device", p.device)
		return
	}
	if p.drained {
		p.source = SourceBroker
	}
	if _, there := p.found[r.Key()]; there || p.readOff[r.Key()] {
		return
	}
	p.found[r.Key()] = r
	p.begun[r.Request]++
	if r.Final {
		p.ended[r.Request] = true
	}
}

// forgetReadElsewhere drops what the cache gave although its client has read it. A cache that is not durable may be one
// instance's own, or come back from an outage with what was meanwhile read from the queue.
func (p *poll) forgetReadElsewhere(ctx context.Context) {
	if len(p.found) == 0 || p.d.cache.Durable() {
		return
	}
	ids := slices.Collect(maps.Keys(p.begun))
	list, err := p.d.records(ctx, p.mailbox, ids, &p.brokerTime)
	if err != nil {
		return // the reply is here, and nobody can say that it was read
	}
	for i, rec := range list {
		if rec.Read {
			p.forget(ids[i])
		}
	}
	p.fresh = p.fresh && len(p.found) > 0
}

func (p *poll) forget(id device.RequestID) {
	for key := range p.found {
		if key.Request == id {
			delete(p.found, key)
			p.readOff[key] = true // the cache gives it again, for now it counts as read there
		}
	}
	delete(p.begun, id)
	delete(p.ended, id)
	p.read[id] = true
}

// complete reports whether the cache alone answers the poll.
func (p *poll) complete() bool {
	if len(p.ids) == 0 {
		return len(p.found) > 0
	}
	return len(p.unfinished()) == 0
}

// unfinished returns the requests asked for whose final reply was not found.
func (p *poll) unfinished() []device.RequestID {
	return slices.DeleteFunc(slices.Clone(p.ids), func(id device.RequestID) bool { return p.ended[id] })
}

// drain moves the device's queue into the cache and takes from there; where the cache cannot be used, or has no room, it
// reads this client's own replies straight from the queue and leaves those of others in it. It returns what the broker
// refused; outages are remembered.
func (p *poll) drain(ctx context.Context) error {
	err := p.move(ctx)
	if cacheFailed(err) {
		p.moveFailed(err)
		err = p.readStraight(ctx)
	}
	if p.cacheErr == nil {
		p.take(ctx) // also after an outage of the broker: part of the queue may have moved
	}
	return p.brokerFailed(err)
}

func (p *poll) moveFailed(err error) {
	switch device.KindOf(err) {
	case device.CacheUnavailable, device.OutcomeUnknown:
		p.cacheErr = err // of Put, which takes nothing
	}
}

func (p *poll) brokerFailed(err error) error {
	if err == nil || !unanswered(err) {
		return err
	}
	p.brokerErr = err
	return nil
}

// move moves the device's whole queue into the cache, together with the other calls that want the same.
func (p *poll) move(ctx context.Context) error {
	if err := p.unusable(); err != nil {
		return err
	}
	p.moved = true
	waiting, cancel := context.WithTimeout(ctx, p.brokerTime.left)
	defer cancel()
	start, led := time.Now(), false
	cost, err := p.d.moves.do(waiting, p.device, func() (time.Duration, error) {
		led = true
		p.brokerTime.pay(time.Since(start)) // for the move ahead
		cacheTime := p.cacheTime
		// Others share this move: it goes on when its own caller leaves.
		_, err := p.d.move(context.WithoutCancel(ctx), Drain{Device: p.device}, p.mailbox, &cacheTime, &p.brokerTime)
		return p.cacheTime.left - cacheTime.left, err
	})
	if !led {
		p.brokerTime.pay(time.Since(start))
	}
	p.cacheTime.pay(cost)
	if err != nil && waiting.Err() != nil && ctx.Err() == nil {
		p.d.broker.missed()
	}
	p.drained = p.drained || err == nil
	return err
}

// unusable returns why nothing can be put into the cache now.
func (p *poll) unusable() error {
	if p.cacheErr != nil {
		return p.cacheErr
	}
	if p.d.cache.room.turnsAway() {
		return errNotMoved
	}
	return nil
}

// readStraight reads this client's replies from the queue without the cache. They stay in the queue until finish.
func (p *poll) readStraight(ctx context.Context) error {
	q := Drain{Device: p.device, Mailbox: p.mailbox, Requests: p.ids, Limit: pageSize}
	own := 0
	defer func() { p.d.countDrained(own, 0, 0) }()
	for range maxPages {
		page, err := p.d.drainPage(ctx, q, &p.brokerTime)
		if err != nil {
			return err
		}
		p.drained = true
		for _, r := range page.Replies {
			if !p.wants(r) {
				continue
			}
			if len(p.ids) == 0 && own >= maxStraight {
				return nil // the rest is for the next poll
			}
			p.add(r.Reply)
			if !r.Read {
				own++
				p.fresh = true
				p.straight = append(p.straight, r.Position)
			}
		}
		if !page.More || len(page.Replies) == 0 {
			return nil
		}
		q.After = page.Replies[len(page.Replies)-1].Position
	}
	p.partial = true
	return nil
}

// wants reports whether the poll asks for a reply that the queue shows. Without ids, only what was never read.
func (p *poll) wants(r DrainedReply) bool {
	if len(p.ids) == 0 {
		return !r.Read
	}
	return slices.Contains(p.ids, r.Request)
}

// inquire asks the broker what became of the requests whose final reply was not found.
func (p *poll) inquire(ctx context.Context) error {
	ids := p.unfinished()
	if len(ids) == 0 || p.brokerErr != nil {
		return nil
	}
	list, err := p.d.records(ctx, p.mailbox, ids, &p.brokerTime)
	if err != nil {
		return p.brokerFailed(err)
	}
	for i, id := range ids {
		p.records[id] = list[i]
	}
	return nil
}

// behind reports whether the broker knows of replies that were not found: they arrived a moment ago, another instance
// was moving them, or they were read straight from the queue and are in their grace there.
func (p *poll) behind() bool {
	return slices.ContainsFunc(p.unfinished(), func(id device.RequestID) bool {
		rec, known := p.records[id]
		if !known || rec.Device != p.device || p.begun[id] >= rec.Replies {
			return false
		}
		return rec.Queued || !rec.Read && !p.read[id]
	})
}

// lookAgain reads the queue and the cache once more. What is shown in the queue as read before is given again.
func (p *poll) lookAgain(ctx context.Context) {
	if p.unusable() != nil {
		p.noteOutage(p.readStraight(ctx))
	} else {
		q := Drain{Device: p.device, Mailbox: p.mailbox, Requests: p.ids}
		readBefore, err := p.d.move(ctx, q, p.mailbox, &p.cacheTime, &p.brokerTime)
		for _, r := range readBefore {
			p.add(r)
		}
		if cacheFailed(err) {
			p.moveFailed(err)
			err = p.readStraight(ctx)
		}
		p.noteOutage(err)
	}
	if p.cacheErr == nil {
		p.take(ctx)
	}
}

// noteOutage remembers any failure of the broker as an outage: it answered before, and what is found is given.
func (p *poll) noteOutage(err error) {
	if err != nil {
		p.brokerErr = err
	}
}
