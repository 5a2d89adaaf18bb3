package faults

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// reread asks by request id, at both APIs, for replies that their clients have read: some at once, whether their grace is
// over or not, and then those which no fault has disturbed, when it is certainly over. What may come, and what may not, is
// in their histories. The load has ended at the given time.
func (r *run) reread(ctx context.Context, loaded time.Time) error {
	if err := r.askFor(ctx, r.journal.readOnes(func(slot) bool { return true })); err != nil {
		return err
	}
	gone := map[slot]bool{}
	r.journal.note(func(j *journal) {
		broken := j.broken()
		for s, readings := range j.read {
			from, first := j.accepted[s.request].at, readings[0].at
			if first.Before(loaded) && !touched(broken, span{from, first.Add(ackTail)}) {
				gone[s] = true
			}
		}
	})
	r.out.line("asking again for replies whose grace is over, as soon as it is")
	hold(ctx, time.Until(loaded.Add(readGrace+2*clockSlack)))
	again := r.journal.readOnes(func(s slot) bool { return gone[s] })
	for _, ids := range again {
		r.journal.afterGrace += len(ids)
	}
	return r.askFor(ctx, again)
}

func (r *run) askFor(ctx context.Context, again map[place][]string) error {
	byName := r.clientsByName()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(drainWorkers)
	n := 0
	for at, ids := range again {
		n++
		api := n % apiCount
		group.Go(func() error {
			if _, ok := r.http.poll(ctx, api, byName[at.client], at.device, ids, 0); !ok {
				return fmt.Errorf("%s could not ask again at %s", at.client, at.device)
			}
			return nil
		})
	}
	return group.Wait()
}

// readOnes returns requests whose first reply was read and fits, by client and device: as many as one poll may ask for,
// whichever they are.
func (j *journal) readOnes(fits func(slot) bool) map[place][]string {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids := map[place][]string{}
	for id, a := range j.accepted {
		at, first := place{a.client, a.device}, slot{id, 0}
		if len(j.read[first]) > 0 && len(ids[at]) < maxPollIDs && fits(first) {
			ids[at] = append(ids[at], id)
		}
	}
	return ids
}
