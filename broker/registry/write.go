package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"signaldevice/device"
)

const (
	writeHeader    = "Signal-Device-Write" // tells a node its own write
	publishTimeout = 2 * time.Second       // of one attempt
	writeTimeout   = 10 * time.Second      // of all attempts; a caller's deadline is usually nearer
	maxAttempts    = 100                   // each lost one means that another node's write got through
)

var (
	errConflict = errors.New("another write came first")
	errUnsure   = errors.New("the write was not answered")
)

// change is one message to write.
type change struct {
	subject string
	data    []byte
	ttl     time.Duration // rounded up to whole seconds; 0: for ever
}

// write makes one change to the registry, decided on everything that was written before it by any node. decide reads the
// table and returns the message, or nil where there is nothing to do; it is called again after a lost race, and once
// more before its refusal is believed. It must keep nothing of the table but snapshots.
//
// BrokerUnavailable: nothing was changed. OutcomeUnknown: it may have been.
func (r *Registry) write(ctx context.Context, decide func(*table) (*change, error)) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	select {
	case r.writing <- struct{}{}:
		defer func() { <-r.writing }()
	case <-ctx.Done():
		return errUnavailable(ctx.Err())
	}
	current := false // memory is as new as the stream's leader
	unsure := false  // an attempt went unanswered
	for range maxAttempts {
		r.mu.RLock()
		next, err := decide(r.table)
		last := r.table.last
		r.mu.RUnlock()
		switch {
		case err == nil && next != nil:
			err = r.publish(ctx, next, last)
		case !current:
			err = errConflict // memory may be behind: make sure first
		case unsure && err != nil:
			return errOutcomeUnknown(err) // perhaps it is our own write that stands in the way
		}
		switch {
		case errors.Is(err, errConflict):
			err = r.catchUp(ctx)
		case errors.Is(err, errUnsure):
			unsure = true
			if err = r.settle(ctx); err == nil && r.hasArrived() {
				return nil
			}
		default:
			return err
		}
		if err != nil {
			return errGaveUp(err, unsure)
		}
		current = true
	}
	return errGaveUp(fmt.Errorf("%d attempts: %w", maxAttempts, errConflict), unsure)
}

func errGaveUp(cause error, unsure bool) error {
	if unsure {
		return errOutcomeUnknown(cause)
	}
	return errUnavailable(cause)
}

// publish writes the change if the stream still ends at last, and returns when this node has applied it.
func (r *Registry) publish(ctx context.Context, c *change, last uint64) error {
	if err := ctx.Err(); err != nil {
		return errUnavailable(err)
	}
	msg := nats.NewMsg(c.subject)
	msg.Data = c.data
	msg.Header.Set(writeHeader, r.await())
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequence(last), jetstream.WithExpectStream(Stream)}
	if c.ttl > 0 {
		opts = append(opts, jetstream.WithMsgTTL((c.ttl + time.Second - 1).Truncate(time.Second)))
	}
	publishing, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	ack, err := r.js.PublishMsg(publishing, msg, opts...)
	switch {
	case err == nil:
		if err := r.waitFor(ctx, ack.Sequence); err != nil {
			return errOutcomeUnknown(err)
		}
		return nil
	case isConflict(err):
		return errConflict
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return errUnavailable(err)
	default:
		return fmt.Errorf("%w: %w", errUnsure, err)
	}
}

// await names the write that is about to begin.
func (r *Registry) await() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaited, r.arrived = nuid.Next(), false
	return r.awaited
}

func (r *Registry) hasArrived() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.arrived
}

func isConflict(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

func errOutcomeUnknown(cause error) error {
	return device.Wrap(device.OutcomeUnknown, cause, "the device registry did not answer in time: the change may have been made")
}
