package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	retryAfter   = 250 * time.Millisecond
	checkTimeout = 2 * time.Second
	lagAllowed   = 500 * time.Millisecond // how long the follower may take to bring the leader's last message
	heartbeat    = time.Second

	// tombstoneTTL is how long a tombstone stays in the stream. A follower that was cut off for half of it may have
	// missed one, and starts over.
	tombstoneTTL = 7 * 24 * time.Hour
)

var errOutOfOrder = errors.New("a message is missing or out of order")

// run follows the stream until ctx ends, from the table's last sequence on after each failure.
func (r *Registry) run(ctx context.Context) {
	for ctx.Err() == nil {
		following, stop := context.WithCancel(ctx)
		r.mu.Lock()
		r.refollow = stop
		from, generation := r.table.last+1, r.table.generation
		r.mu.Unlock()
		err := r.follow(following, from, generation)
		cut := following.Err() != nil
		stop()
		if !cut {
			r.cfg.Logger.Debug("device registry lost its stream", "error", err) // keepChecking warns, once
			_ = pause(ctx, retryAfter)
		}
	}
}

// follow applies the messages from a sequence on until it fails. It is the library's ordered consumer in small; that one
// cannot be stopped while it repairs itself, which takes it up to 20 s without a leader.
func (r *Registry) follow(ctx context.Context, from, generation uint64) error {
	creating, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	consumer, err := r.js.CreateConsumer(creating, Stream, jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: 30 * time.Second,
	})
	if err != nil {
		return fmt.Errorf("create a consumer: %w", err)
	}
	messages, err := consumer.Messages(jetstream.PullExpiry(10*heartbeat), jetstream.PullHeartbeat(heartbeat),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return fmt.Errorf("consume: %w", err)
	}
	defer messages.Stop()
	for n := uint64(1); ; n++ {
		msg, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return fmt.Errorf("next message: %w", err)
		}
		meta, err := msg.Metadata()
		if err != nil {
			return fmt.Errorf("next message: %w", err)
		}
		if meta.Sequence.Consumer != n {
			return errOutOfOrder
		}
		if !r.apply(msg, meta.Sequence.Stream, generation) {
			return errOutOfOrder
		}
	}
}

// apply changes the table, tells the observers, and only then lets writers know. It reports false when the table has
// started over since this follower began.
func (r *Registry) apply(msg jetstream.Msg, seq, generation uint64) bool {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	if generation != r.table.generation {
		r.mu.Unlock()
		return false
	}
	change, err := r.table.apply(msg.Subject(), msg.Data(), seq)
	if id := msg.Headers().Get(writeHeader); id != "" && id == r.awaited {
		r.arrived = true
	}
	r.mu.Unlock()
	if err != nil {
		r.cfg.Logger.Error("device registry cannot read a record", "sequence", seq, "error", err)
	}
	r.tell(change)

	r.mu.Lock()
	defer r.mu.Unlock()
	r.announced = seq
	close(r.moved)
	r.moved = make(chan struct{})
	return true
}

// tell calls the observers. The caller holds telling.
func (r *Registry) tell(c *Change) {
	if c == nil {
		return
	}
	for _, fn := range r.observers {
		fn(*c)
	}
}

// waitFor waits until this node has applied everything up to a sequence.
func (r *Registry) waitFor(ctx context.Context, seq uint64) error {
	for {
		r.mu.RLock()
		reached, moved := r.announced >= seq, r.moved
		r.mu.RUnlock()
		if reached {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for sequence %d: %w", seq, ctx.Err())
		}
	}
}

// keepChecking compares the table with the leader all the time. So Ready knows without asking, and a follower that
// stands still is noticed.
func (r *Registry) keepChecking(ctx context.Context) {
	ticker := time.NewTicker(r.cfg.CheckEvery)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		checking, cancel := context.WithTimeout(ctx, checkTimeout)
		err := r.catchUp(checking)
		cancel()
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !failing:
			r.cfg.Logger.Warn("device registry cannot be compared with its leader", "error", err)
		case err == nil && failing:
			r.cfg.Logger.Info("device registry is up to date again")
		}
		failing = err != nil
	}
}

// CatchUp returns once this node has applied every write that was complete when it was called. BrokerUnavailable: the
// stream's leader did not answer, or ctx ended first.
func (r *Registry) CatchUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if err := r.catchUp(ctx); err != nil {
		return errUnavailable(err)
	}
	return nil
}

func (r *Registry) catchUp(ctx context.Context) error {
	asked := r.cfg.Clock()
	r.mu.RLock()
	before := r.table.last
	r.mu.RUnlock()
	stream, err := r.js.Stream(ctx, Stream) // answered by the leader
	if err != nil {
		return fmt.Errorf("ask for the last sequence: %w", err)
	}
	info := stream.CachedInfo()
	another := info.State.LastSeq < before || !info.Created.Equal(r.Created())
	generation := r.startOverIfCutOff(asked, another, info.Created)

	waiting, cancel := context.WithTimeout(ctx, lagAllowed)
	defer cancel()
	if r.waitFor(waiting, info.State.LastSeq) == nil {
		return r.confirm(asked, generation)
	}
	// Either the node that served this follower is gone, or the last message aged out before it came: then only a new
	// one can bring the sequence.
	r.startFollowingAgain()
	return r.settle(ctx)
}

// settle writes a barrier and waits for it: afterwards this node has applied every write that was ever begun before, or
// the write can no longer succeed, because its expected sequence has passed.
func (r *Registry) settle(ctx context.Context) error {
	r.mu.RLock()
	generation := r.table.generation
	r.mu.RUnlock()
	asked := r.cfg.Clock()
	publishing, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	ack, err := r.js.PublishMsg(publishing, nats.NewMsg(barrierSubject), jetstream.WithExpectStream(Stream))
	if err != nil {
		return fmt.Errorf("write a barrier: %w", err)
	}
	if err := r.waitFor(ctx, ack.Sequence); err != nil {
		return err
	}
	return r.confirm(asked, generation)
}

func (r *Registry) startFollowingAgain() {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.refollow()
}

// startOverIfCutOff has the stream read from its start where it is another one than the table was made from, or where
// this node may have missed a tombstone. It returns the table's generation.
func (r *Registry) startOverIfCutOff(now time.Time, another bool, created time.Time) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	missed := now.Round(0).Sub(r.freshAt.Round(0)) > tombstoneTTL/2 && !r.table.unswept
	if another || missed {
		r.cfg.Logger.Warn("device registry reads its stream from the start", "another_stream", another)
		r.created = created
		r.table.startOver()
		r.announced = 0
		r.refollow()
	}
	return r.table.generation
}

// confirm notes that the table has reached what the leader had at a time.
func (r *Registry) confirm(asked time.Time, generation uint64) error {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.mu.Lock()
	if generation != r.table.generation {
		r.mu.Unlock()
		return errors.New("the stream is being read from its start")
	}
	changes := r.table.sweep()
	r.freshAt = asked
	r.mu.Unlock()
	for _, c := range changes {
		r.tell(c)
	}
	return nil
}
