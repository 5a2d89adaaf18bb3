// Package app wires the parts into programs and gives them a life cycle: the API, the broker, both in one process, and
// a demonstration with simulated cameras.
//
// It promises that a started program listens everywhere it was told to; that a start which fails leaves nothing behind;
// that Stop ends every goroutine and listener in reverse order of the start, within the deadline of its context; and
// that broker and API in one process speak to each other by the same gRPC with the same certificates as two processes
// do. It decides nothing about devices or replies, reads no flags, and never ends the process.
//
// An App is safe for concurrent use, but Stop must be called once and last.
package app

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"sync/atomic"
	"time"
)

// StopWithin is how long a program may take to stop (design: "How a script starts it" gives it 10 s, the rest is for the
// process around it).
const StopWithin = 8 * time.Second

// App is a started program. Serve, Broker, Standalone and Demo make one.
type App struct {
	*lifecycle
	ready   Ready
	reloads []func() error

	drainDelay time.Duration
	stopping   atomic.Bool
}

func newApp(log *slog.Logger) *App {
	return &App{lifecycle: newLifecycle(cmp.Or(log, slog.New(slog.DiscardHandler)))}
}

// Ready tells where the program listens and which credentials it made.
func (a *App) Ready() Ready { return a.ready }

// Failed receives the first part that ended by itself. The program should then be stopped.
func (a *App) Failed() <-chan error { return a.failed }

// Reload reads the configuration files again now, as a SIGHUP asks for. A bad file is an error, and its version before
// stays.
func (a *App) Reload() error {
	var errs []error
	for _, reload := range a.reloads {
		errs = append(errs, reload())
	}
	return errors.Join(errs...)
}

// Drain tells health checks that the program is about to stop, and returns after the drain delay, or when ctx ends.
// Until then all calls are taken as ever: a load balancer needs the time to notice. Call it before Stop, or not at all.
func (a *App) Drain(ctx context.Context) {
	a.stopping.Store(true)
	delay := time.NewTimer(a.drainDelay)
	defer delay.Stop()
	select {
	case <-delay.C:
	case <-ctx.Done():
	}
}

// Stop ends the program: calls in flight are answered, waiting ones at once, and new ones refused. What is still running
// when ctx ends is cut.
func (a *App) Stop(ctx context.Context) error { return a.stop(ctx) }

// started returns the App where its start went well, and else takes back what was started.
func (a *App) started(ctx context.Context, err error) (*App, error) {
	if err == nil {
		return a, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), StopWithin)
	defer cancel()
	return nil, errors.Join(err, a.stop(ctx))
}

// listen binds an address that stays bound until the program has stopped.
func (a *App) listen(ctx context.Context, name, addr string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	a.onStop(name+" listener", func(context.Context) error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	})
	return l, nil
}
