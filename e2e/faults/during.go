package faults

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"time"
)

// The names of the dependencies in /readyz.
const (
	theBroker = "broker"
	theCache  = "cache"
)

const putWithin = 5 * time.Second // until one reply is in the cache

// askDuring prepares what is asked in the middle of a fault, when every API misses something: that each is alive, says what
// it misses, and, where only the broker is away, gives a reply that was put into the cache before.
func (r *run) askDuring(ctx context.Context, f *Fault) (ask func()) {
	if len(f.missing) == 0 {
		return func() {}
	}
	var cached *exchange
	if slices.Equal(f.missing, []string{theBroker}) {
		if cached = r.putOne(ctx); cached == nil {
			r.violation(strange, "no reply could be put into the cache before %s", f.ID)
		}
	}
	return func() {
		for i := range r.apis {
			r.askHealth(ctx, i, f)
			if cached == nil {
				continue
			}
			if got, ok := r.http.poll(ctx, i, cached.who, cached.device, []string{cached.id}, 0); !ok || !got.final(cached.id) {
				r.violation(wrongAnswer, "API %d did not give a cached reply during %s", i, f.ID)
			}
		}
	}
}

// putOne makes an exchange whose reply its client does not read: another one's poll moves it into the cache. nil: that
// failed.
func (r *run) putOne(ctx context.Context) *exchange {
	x := r.load.probe(r.clients[1])
	x.attempt()
	x.accept(r.http.do(ctx, 0, x.who, x.request(opSend)))
	acked := r.await(ctx, putWithin, "a PUBACK", func() (acked bool) {
		r.journal.note(func(j *journal) { acked = !j.replies[slot{x.id, 0}].acked.IsZero() })
		return acked
	})
	if acked != nil {
		return nil
	}
	// Another client's poll without ids empties the whole queue, unless it finds something of its own in the cache.
	moved := r.await(ctx, putWithin, "a look into the queue", func() bool {
		got, ok := r.load.probe(r.clients[0]).readAny(ctx)
		return ok && len(got.Replies) == 0
	})
	if moved != nil {
		return nil
	}
	return x
}

// askHealth asks one API whether it is alive, and what it misses.
func (r *run) askHealth(ctx context.Context, i int, f *Fault) {
	alive := r.http.do(ctx, i, r.clients[0], request{op: opHealth, method: http.MethodGet, path: "/healthz"})
	if alive.status != http.StatusOK {
		r.violation(wrongAnswer, "API %d: /healthz answered %d %s during %s", i, alive.status, alive.err, f.ID)
	}
	var told struct {
		Degraded []struct {
			Dependency string `json:"dependency"`
		} `json:"degraded"`
	}
	ready := r.http.do(ctx, i, r.clients[0], request{op: opHealth, method: http.MethodGet, path: "/readyz"})
	if err := json.Unmarshal(ready.body, &told); ready.status != http.StatusOK || err != nil {
		r.violation(wrongAnswer, "API %d: /readyz answered %d %s during %s", i, ready.status, ready.err, f.ID)
		return
	}
	var missing []string
	for _, one := range told.Degraded {
		missing = append(missing, one.Dependency)
	}
	slices.Sort(missing)
	if !slices.Equal(missing, f.missing) {
		r.violation(wrongAnswer, "API %d: /readyz names %q during %s, want %q", i, missing, f.ID, f.missing)
	}
}
