package faults

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// reread asks by request id, at both APIs, for replies that their clients have read: some within the grace, most of them
// long after it. What may come then, and what may not, is in their histories.
func (r *run) reread(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(drainWorkers)
	n := 0
	for at, ids := range r.journal.readOnes() {
		who := client{name: at.client}
		for _, c := range r.clients {
			if c.name == at.client {
				who = c
			}
		}
		n++
		api := n % apiCount
		group.Go(func() error {
			if _, ok := r.http.poll(ctx, api, who, at.device, ids, 0); !ok {
				return fmt.Errorf("%s could not ask again at %s", who.name, at.device)
			}
			return nil
		})
	}
	return group.Wait()
}

// readOnes returns requests of which something was read, by client and device: as many as one poll may ask for, whichever
// they are.
func (j *journal) readOnes() map[place][]string {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids := map[place][]string{}
	for id, a := range j.accepted {
		at := place{a.client, a.device}
		if len(j.read[slot{id, 0}]) > 0 && len(ids[at]) < maxPollIDs {
			ids[at] = append(ids[at], id)
		}
	}
	return ids
}
