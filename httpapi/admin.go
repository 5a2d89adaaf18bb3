package httpapi

import (
	"net/http"
	"net/http/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"signaldevice/dispatch"
)

// AdminConfig is what the admin handler is made from. Service and Metrics are needed.
type AdminConfig struct {
	Service dispatch.Service
	Metrics prometheus.Gatherer
	Pprof   bool // serve profiles under /debug/pprof/
	// Stopping reports whether the process is about to stop. Nil: it never tells.
	Stopping func() bool
}

// Admin returns the handler of the admin listener: /metrics, /healthz, /readyz and, where asked for, profiles. It asks
// for no credential, so that listener belongs on an address that only operators reach.
func Admin(cfg AdminConfig) http.Handler {
	if cfg.Stopping == nil {
		cfg.Stopping = never
	}
	mux := newMux(healthRoutes(cfg.Service, cfg.Stopping), func(w *answer, _ *http.Request, err error) { writeProblem(w, err) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(cfg.Metrics, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4,
		ErrorHandling:       promhttp.ContinueOnError, // one broken collector must not hide the others
	}))
	if cfg.Pprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mux.ServeHTTP(newAnswer(rw, cfg.Service.Degraded), r)
	})
}
