package camera

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"
)

const defaultStarting = 16

// FleetConfig describes cameras that run in one process.
type FleetConfig struct {
	Cameras  []Config
	Starting int // cameras that enrol or connect at the same time, also when all come back at once; 0: 16
}

// Fleet runs many cameras in one process. They overhear each other's request ids, which Faults.Garbage then abuses.
type Fleet struct {
	cameras []*Camera
	ready   chan struct{}
	once    sync.Once
}

// NewFleet returns a fleet that Run starts. It names the first camera whose configuration is refused.
func NewFleet(cfg FleetConfig) (*Fleet, error) {
	if len(cfg.Cameras) == 0 {
		return nil, errors.New("camera: a fleet needs cameras")
	}
	starting := cfg.Starting
	if starting <= 0 {
		starting = defaultStarting
	}
	connecting, drawing, heard := make(gate, starting), make(gate, runtime.GOMAXPROCS(0)), &rumours{}
	f := &Fleet{ready: make(chan struct{})}
	for i, one := range cfg.Cameras {
		one.connecting, one.drawing, one.rumours = connecting, drawing, heard
		c, err := New(one)
		if err != nil {
			return nil, fmt.Errorf("camera %d: %w", i, err)
		}
		f.cameras = append(f.cameras, c)
	}
	return f, nil
}

// Cameras returns the cameras in the order of their configurations. The slice is the fleet's own.
func (f *Fleet) Cameras() []*Camera { return f.cameras }

// Ready returns a channel that is closed once every camera has been ready.
func (f *Fleet) Ready() <-chan struct{} { return f.ready }

// Stats returns the sum over all cameras.
func (f *Fleet) Stats() Stats {
	var sum Stats
	for _, c := range f.cameras {
		sum = sum.plus(c.Stats())
	}
	return sum
}

// Run runs all cameras until ctx ends, and returns nil then. The first camera that fails for good stops the others, and
// its error is returned.
func (f *Fleet) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, c := range f.cameras {
		group.Go(func() error { return c.Run(ctx) })
	}
	group.Go(func() error {
		f.awaitReady(ctx)
		return nil
	})
	return group.Wait()
}

func (f *Fleet) awaitReady(ctx context.Context) {
	for _, c := range f.cameras {
		select {
		case <-c.Ready():
		case <-ctx.Done():
			return
		}
	}
	f.once.Do(func() { close(f.ready) })
}

// gate admits as many at a time as it has places. A nil gate admits everybody.
type gate chan struct{}

// enter waits for a place; it reports false when ctx ends first.
func (g gate) enter(ctx context.Context) bool {
	if g == nil {
		return ctx.Err() == nil
	}
	select {
	case g <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (g gate) leave() {
	if g != nil {
		<-g
	}
}
