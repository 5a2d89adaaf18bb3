package bench

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// maxInFlight bounds the exchanges under way. One beyond is not begun and counts as failed: the system is then far
// behind, and the driver must not take the machine's memory to show by how much.
const maxInFlight = 10_000

// The kinds of failure that the driver itself finds. A system adds its own, such as the codes of HTTP problems.
const (
	failedTimeout    = "timeout"
	failedNotBegun   = "not_begun" // too many exchanges under way
	failedConnection = "connection"
	failedNoReply    = "no_reply"
	failedAnswer     = "wrong_answer"
)

// trace is when each step of one exchange had happened. A step that the system does not tell has the zero time.
type trace struct {
	sent      time.Time // the system had taken the command
	delivered time.Time // the camera had it, and had written its PUBACK
	done      time.Time // the client had read the reply
}

// exchange sends the n-th command and returns when its reply was read. It returns within its context's time.
type exchange func(ctx context.Context, n int) (trace, error)

// sample is what became of one exchange. The durations count from the moment at which it was meant to start, not from
// the moment at which a busy driver began it: else a system that stops for a second would seem to have made one exchange
// slow, and not all that were due in that second (coordinated omission).
type sample struct {
	intended  time.Duration // since the start of the load
	lag       time.Duration // by which the driver began late
	sent      time.Duration // 0: not told
	delivered time.Duration // 0: not told
	done      time.Duration
	failure   string // "": it went well
}

// load is one run of exchanges against one system.
type load struct {
	schedule schedule
	exchange exchange
	timeout  time.Duration       // of one exchange
	nap      func(time.Duration) // waits for the rest of a millisecond or two

	// observe is told of each sample as it comes, one at a time; false ends the load early. It may be nil.
	observe func(sample) bool
}

// run makes the exchanges and returns what became of them, in the order in which they ended, when the last one has.
// When ctx ends, no more are begun and those under way are cut and left out.
func (l load) run(ctx context.Context) []sample {
	var (
		mu       sync.Mutex
		samples  []sample
		enough   atomic.Bool
		inFlight atomic.Int64
		running  sync.WaitGroup
	)
	record := func(s sample) {
		mu.Lock()
		defer mu.Unlock()
		samples = append(samples, s)
		if l.observe != nil && !l.observe(s) {
			enough.Store(true)
		}
	}
	start, n := time.Now(), 0
	for offset := range l.schedule {
		intended := start.Add(offset)
		if !l.sleepUntil(ctx, intended) || enough.Load() {
			break
		}
		s := sample{intended: offset, lag: time.Since(intended)}
		if inFlight.Add(1) > maxInFlight {
			inFlight.Add(-1)
			s.failure = failedNotBegun
			record(s)
			continue
		}
		number := n
		n++
		running.Go(func() {
			defer inFlight.Add(-1)
			l.one(ctx, number, intended, &s)
			if ctx.Err() == nil {
				record(s)
			}
		})
	}
	running.Wait()
	return samples
}

// one makes one exchange and notes its times.
func (l load) one(ctx context.Context, n int, intended time.Time, s *sample) {
	ctx, cancel := context.WithDeadline(ctx, intended.Add(l.timeout))
	defer cancel()
	t, err := l.exchange(ctx, n)
	if err != nil {
		s.failure = failureOf(err)
		return
	}
	since := func(t time.Time) time.Duration {
		if t.IsZero() {
			return 0
		}
		return t.Sub(intended)
	}
	s.sent, s.delivered, s.done = since(t.sent), since(t.delivered), since(t.done)
}

// timerSlack is how late the runtime's timers may be; the last stretch of a wait is a nap.
const timerSlack = 2 * time.Millisecond

// sleepUntil reports false when ctx ends first.
func (l load) sleepUntil(ctx context.Context, at time.Time) bool {
	if d := time.Until(at); d > timerSlack {
		t := time.NewTimer(d - timerSlack)
		defer t.Stop()
		select {
		case <-ctx.Done():
			return false
		case <-t.C:
		}
	}
	for d := time.Until(at); d > 0; d = time.Until(at) {
		l.nap(d)
	}
	return ctx.Err() == nil
}
