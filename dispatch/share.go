package dispatch

import (
	"context"
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

// do returns once a move of the device's queue that began after this call has ended, with what came of it. It runs the
// move itself, or waits for another call that does; ctx bounds waiting for that one.
func (m *moves) do(ctx context.Context, dev device.ID, run func() (cacheCost time.Duration, err error)) (time.Duration, error) {
	mine, ahead, lead := m.enter(dev)
	if !lead {
		return mine.wait(ctx)
	}
	defer m.leave(dev, mine)
	if ahead != nil {
		<-ahead.done // bounded by the allowances of the call that runs it
		if cacheFailed(ahead.err) {
			mine.err = ahead.err // it would meet the same, and its time would be lost
			return 0, mine.err
		}
	}
	mine.err = errNotMoved // what those who share are told if run panics
	mine.cost, mine.err = run()
	return mine.cost, mine.err
}

func (s *sharedMove) wait(ctx context.Context) (time.Duration, error) {
	select {
	case <-s.done:
		return s.cost, s.err
	case <-ctx.Done():
		return 0, device.Wrap(device.BrokerUnavailable, ctx.Err(), "the broker did not answer in time")
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

// leave ends a move and lets the next one run.
func (m *moves) leave(dev device.ID, mine *sharedMove) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if next := m.next[dev]; next != nil {
		m.running[dev] = next
		delete(m.next, dev)
	} else {
		delete(m.running, dev)
	}
	close(mine.done)
}
