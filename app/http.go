package app

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"signaldevice/dispatch"
	"signaldevice/httpapi"
)

// serveHTTP serves handler on addr and returns the address at which it is reached. drain is called first when the
// program stops, so that waiting calls end and the others have the whole deadline to themselves; it may be nil.
func (a *App) serveHTTP(ctx context.Context, name, addr string, handler http.Handler, drain func()) (string, error) {
	l, err := a.listen(ctx, name, addr)
	if err != nil {
		return "", err
	}
	server := httpapi.NewServer(httpapi.ServerConfig{Handler: handler, Log: a.log})
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.fail(name, err)
		}
	}()
	a.onStop(name, func(ctx context.Context) error {
		if drain != nil {
			drain()
		}
		mostly, cancel := mostOf(ctx)
		defer cancel()
		err := server.Shutdown(mostly)
		if err != nil {
			if mostly.Err() != nil && ctx.Err() == nil {
				a.log.Warn("calls that did not end were cut", "part", name)
				err = nil
			}
			err = errors.Join(err, server.Close())
		}
		<-served
		return err
	})
	return dialable(l.Addr()), nil
}

// mostOf leaves a quarter of the time to the steps below, whatever a peer does that stalls in the middle of a call. Of
// StopWithin it takes 6 s: Shutdown waits 5 s for a connection that has not sent anything yet.
func mostOf(ctx context.Context) (context.Context, context.CancelFunc) {
	end, ok := ctx.Deadline()
	if !ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, time.Until(end)*3/4)
}

// serveAdmin serves metrics and health, and profiles where asked for. service tells what is degraded; nil: nothing ever.
func (a *App) serveAdmin(ctx context.Context, addr string, service dispatch.Service, profiles bool, metrics ...prometheus.Gatherer) error {
	process := prometheus.NewRegistry()
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		collectors.NewBuildInfoCollector(),
	} {
		if err := process.Register(c); err != nil {
			return err
		}
	}
	if service == nil {
		service = neverDegraded{}
	}
	handler := httpapi.Admin(httpapi.AdminConfig{
		Service: service,
		Metrics: append(prometheus.Gatherers{process}, metrics...),
		Pprof:   profiles,

		Stopping: a.stopping.Load,
	})
	var err error
	a.ready.Admin, err = a.serveHTTP(ctx, "admin", addr, handler, nil)
	return err
}

// neverDegraded stands in for the API in a process that has none. Health asks nothing else of it.
type neverDegraded struct{ dispatch.Service }

// Degraded names nothing.
func (neverDegraded) Degraded(time.Time) []dispatch.Outage { return nil }
