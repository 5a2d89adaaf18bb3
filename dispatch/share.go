package dispatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"signaldevice/device"
)

// moves lets the calls that find the same queue unread at the same time share one move of it.
//
// A call that comes while a move runs cannot use its result: its reply may have arrived behind the place that was read.
// It shares the next move with all who come meanwhile.
type moves struct {
	mu      sync.Mutex
	running map[device.ID]*sharedMove
	next    map[device.ID]*sharedMove
}

type sharedMove struct {
	done chan struct{}
	err  error
	cost time.Duration // of the cache's work
}

// errGaveUp: the time of the call that was to run the move was over before the move was. Those who share it may have time
// left.
var errGaveUp = errors.New("dispatch: move: gave up waiting")

// do returns once a move of the device's queue that began after this call has ended, with what came of it. It runs the
// move itself, or waits for another call that does; ctx bounds all waiting for others.
func (m *moves) do(ctx context.Context, dev device.ID, run func() (cacheCost time.Duration, err error)) (time.Duration, error) {
	for {
		mine, ahead, lead := m.enter(dev)
		if lead {
			return m.lead(ctx, dev, mine, ahead, run)
		}
		if err := mine.wait(ctx); err != nil {
			return 0, err
		}
		if !errors.Is(mine.err, errGaveUp) {
			return mine.cost, mine.err
		}
	}
}

func (m *moves) lead(ctx context.Context, dev device.ID, mine, ahead *sharedMove, run func() (time.Duration, error)) (time.Duration, error) {
	defer m.leave(dev, mine)
	if ahead != nil {
		if err := ahead.wait(ctx); err != nil {
			mine.err = errGaveUp
			return 0, err
		}
		if cacheOut(ahead.err) {
			mine.err = ahead.err // it would meet the same, and its time would be lost
			return 0, mine.err
		}
	}
	mine.err = errNotMoved // what those who share are told if run panics
	cost, err := run()
	if mine.cost, mine.err = cost, err; err != nil && !cacheFailed(err) && over(ctx) {
		mine.err = errGaveUp // in the middle
	}
	return cost, err
}

// over reports whether ctx has ended, or is about to: its timer may be late.
func over(ctx context.Context) bool {
	deadline, bounded := ctx.Deadline()
	return ctx.Err() != nil || bounded && !time.Now().Before(deadline)
}

func (s *sharedMove) wait(ctx context.Context) error {
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return device.Wrap(device.BrokerUnavailable, ctx.Err(), "the broker did not answer in time")
	}
}

// enter returns the move to share, whether the caller has to run it, and then the one that runs before it, if any.
func (m *moves) enter(dev device.ID) (mine, ahead *sharedMove, lead bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running == nil {
		m.running, m.next = map[device.ID]*sharedMove{}, map[device.ID]*sharedMove{}
	}
	if mine = m.next[dev]; mine != nil {
		return mine, nil, false
	}
	mine = &sharedMove{done: make(chan struct{})}
	if ahead = m.running[dev]; ahead == nil {
		m.running[dev] = mine
	} else {
		m.next[dev] = mine
	}
	return mine, ahead, true
}

// leave ends a move and lets the next one run. A move that was given up may still be the next one.
func (m *moves) leave(dev device.ID, mine *sharedMove) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next := m.next[dev]
	if next != nil {
		delete(m.next, dev)
	}
	switch {
	case next == mine:
	case next != nil:
		m.running[dev] = next
	default:
		delete(m.running, dev)
	}
	close(mine.done)
}
