package requests

import (
	"cmp"
	"container/heap"
	"context"
	"time"

	"signaldevice/device"
)

// What telling costs is bounded, and small for each request: one that is answered before its turn is never told of.
const (
	tellEvery   = 50 * time.Millisecond
	tellAgain   = Millis(1000) // after a record could not be read
	maxDue      = 1000         // deadlines looked at in one turn
	maxOpen     = 100_000      // open requests whose deadlines are known; about 0.2 KB each
	openAtStart = 10           // pages of the newest records that are searched for open requests at the start
	openPage    = 1000
)

// Tell begins to tell fn of requests that stand elsewhere than before, several at once and within about 50 ms, by their
// records. Where a request stood between two turns is passed over, and so is that it was answered: its reply says that.
// Deadlines that pass are told too, for up to 100,000 open requests; after a restart, for those among the newest 10,000.
// fn must not block. Call Tell once; Close ends it.
func (s *Store) Tell(fn func([]Record)) {
	s.mu.Lock()
	s.untold = map[*entry]struct{}{}
	s.mu.Unlock()
	s.running.Go(func() {
		if err := s.findOpen(s.ctx); err != nil && s.ctx.Err() == nil {
			s.cfg.Log.Warn("open requests not all found, the end of some will not be told", "error", err)
		}
	})
	s.running.Go(func() { s.tellLoop(s.ctx, fn) })
}

func (s *Store) tellLoop(ctx context.Context, fn func([]Record)) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if changed := s.changes(ctx); len(changed) > 0 {
			fn(changed)
		}
	}
}

// changes returns the records of the requests that stand elsewhere than when they were last told of.
func (s *Store) changes(ctx context.Context) (changed []Record) {
	now := s.cfg.Clock()
	look := func(e *entry) {
		if s.stands(e, now) {
			changed = append(changed, e.record.clone())
		}
	}
	s.mu.Lock()
	for e := range s.untold {
		if e.revision != 0 { // else it may never have been: nothing is told before the record is durable
			delete(s.untold, e)
			look(e)
		}
	}
	due := s.open.due(At(now))
	s.mu.Unlock()
	for _, c := range due {
		ok, err := s.with(ctx, c, look)
		if err == nil && !ok {
			s.mu.Lock()
			s.open.forget(c.UUID)
			s.mu.Unlock()
		}
	}
	return changed
}

// stands brings what is known of an open request up to date, and reports whether there is something to tell. The caller
// holds the lock.
func (s *Store) stands(e *entry, now time.Time) (news bool) {
	state, _ := e.record.State(now)
	told := cmp.Or(e.told, s.open.told(e.uuid))
	e.told = state
	if e.record.Open(now) {
		s.open.track(device.Claims{UUID: e.uuid, Mailbox: e.mailbox}, state, e.record.deadline())
	} else {
		s.open.forget(e.uuid)
	}
	return state != told && state != device.StateAnswered
}

// deadline is when time alone changes where an open request stands.
func (r *Record) deadline() Millis {
	if r.Hold && r.sent() == 0 && !r.Reached() {
		return r.DeliverBy
	}
	return r.ReplyBy
}

// changed has a request told of in the next turn. The caller holds the lock.
func (s *Store) changed(e *entry) {
	if s.untold != nil {
		s.untold[e] = struct{}{}
	}
}

// findOpen looks for the requests that an earlier process left open. They count as told of.
func (s *Store) findOpen(ctx context.Context) error {
	cursor := ""
	for range openAtStart {
		records, next, err := s.List(ctx, Filter{}, openPage, cursor)
		if err != nil {
			return err
		}
		now := s.cfg.Clock()
		s.mu.Lock()
		for _, r := range records {
			c, err := r.ID.Claims()
			if err == nil && r.Open(now) && s.open.told(c.UUID) == "" {
				state, _ := r.State(now)
				s.open.track(c, state, r.deadline())
			}
		}
		s.mu.Unlock()
		if next == "" {
			return nil
		}
		cursor = next
	}
	return nil
}

// openRequests are the requests that are open, by when they may end. The zero value is ready for use.
type openRequests struct {
	byID map[device.UUID]*openRequest
	next deadlines
}

type openRequest struct {
	claims device.Claims
	told   device.State
	due    Millis
	place  int // in the heap
}

// told returns the state that was last told of; "" where the request is not known to be open.
func (o *openRequests) told(id device.UUID) device.State {
	if r := o.byID[id]; r != nil {
		return r.told
	}
	return ""
}

func (o *openRequests) track(c device.Claims, told device.State, due Millis) {
	r := o.byID[c.UUID]
	switch {
	case r != nil:
		r.told, r.due = told, due
		heap.Fix(&o.next, r.place)
	case len(o.byID) < maxOpen:
		if o.byID == nil {
			o.byID = map[device.UUID]*openRequest{}
		}
		r = &openRequest{claims: c, told: told, due: due}
		o.byID[c.UUID] = r
		heap.Push(&o.next, r)
	}
}

func (o *openRequests) forget(id device.UUID) {
	if r := o.byID[id]; r != nil {
		heap.Remove(&o.next, r.place)
		delete(o.byID, id)
	}
}

// due returns requests whose deadline has passed. Each is due again soon, unless it is tracked anew or forgotten.
func (o *openRequests) due(now Millis) (list []device.Claims) {
	for len(o.next) > 0 && len(list) < maxDue && o.next[0].due < now {
		r := o.next[0]
		list = append(list, r.claims)
		r.due = now + tellAgain
		heap.Fix(&o.next, 0)
	}
	return list
}

// deadlines is a heap, the earliest first.
type deadlines []*openRequest

func (d deadlines) Len() int           { return len(d) }
func (d deadlines) Less(i, j int) bool { return d[i].due < d[j].due }
func (d deadlines) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].place, d[j].place = i, j
}

// Push is called by package heap.
func (d *deadlines) Push(x any) {
	r := x.(*openRequest)
	r.place = len(*d)
	*d = append(*d, r)
}

// Pop is called by package heap.
func (d *deadlines) Pop() any {
	old := *d
	r := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return r
}
