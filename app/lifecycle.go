package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"
)

// lifecycle remembers how to stop what has been started: a list of named steps, run last in, first out, all under one
// deadline. A start that fails half-way uses the same list. It is not safe for concurrent use; parts that run in the
// background report through failed.
type lifecycle struct {
	log    *slog.Logger
	steps  []stopStep
	failed chan error // the first part that ended by itself
}

type stopStep struct {
	name string
	stop func(context.Context) error
}

func newLifecycle(log *slog.Logger) *lifecycle {
	return &lifecycle{log: log, failed: make(chan error, 1)}
}

// lastChance is what a step still gets when the deadline has passed, to let go.
const lastChance = 100 * time.Millisecond

// onStop adds a step. A step that gets a context which has ended still runs, and must then let go at once.
func (l *lifecycle) onStop(name string, stop func(context.Context) error) {
	l.steps = append(l.steps, stopStep{name, stop})
}

// background runs a part until its stop step cancels it. A part that ends before is a failure of the whole program.
func (l *lifecycle) background(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := run(ctx); ctx.Err() == nil {
			l.fail(name, err)
		}
	}()
	l.onStop(name, func(stopCtx context.Context) error {
		cancel()
		select {
		case <-done:
			return nil
		case <-stopCtx.Done():
			return stopCtx.Err()
		}
	})
}

// fail keeps the first failure; what fails after it is a consequence.
func (l *lifecycle) fail(name string, err error) {
	if err == nil {
		err = errors.New("it ended without an error")
	}
	select {
	case l.failed <- fmt.Errorf("%s: %w", name, err):
	default:
	}
}

// stop runs every step, whatever the ones before it answered, and returns all their errors. A step that does not end is
// left behind: the process has to.
func (l *lifecycle) stop(ctx context.Context) error {
	var errs []error
	for _, step := range slices.Backward(l.steps) {
		began := time.Now()
		err := step.run(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", step.name, err))
		}
		l.log.Debug("stopped", "part", step.name, "took", time.Since(began))
	}
	l.steps = nil
	return errors.Join(errs...)
}

func (s stopStep) run(ctx context.Context) error {
	answer := make(chan error, 1)
	go func() { answer <- s.stop(ctx) }()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-answer:
		return err
	case <-time.After(lastChance):
		return fmt.Errorf("it did not end: %w", ctx.Err())
	}
}
