package camera

import (
	"context"
	"math/rand/v2"
	"time"
)

const (
	firstWait = 200 * time.Millisecond
	longWait  = 10 * time.Second
	steady    = time.Second // a session that lived so long was a good one
)

// backoff says how long to wait before the next attempt: twice as long each time, up to longWait, each shortened by up
// to half at random so that cameras do not come back in step. The zero growth starts at firstWait.
type backoff struct {
	rng  *rand.Rand
	next time.Duration
}

func (b *backoff) delay() time.Duration {
	d := max(b.next, firstWait)
	b.next = min(2*d, longWait)
	return d - time.Duration(b.rng.Int64N(int64(d/2)))
}

func (b *backoff) reset() { b.next = 0 }

// sleep waits for d; it reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
