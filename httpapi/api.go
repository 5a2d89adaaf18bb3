// Package httpapi is the HTTP edge: it reads and checks calls, hands them to dispatch.Service, and writes the answers
// that openapi.yaml promises.
//
// It promises that a call that breaks a rule of the document changes nothing and gets one problem (RFC 9457) that names
// the fault; that nothing of a call is echoed into a problem or a log line unless it is known to be harmless; and that
// every call is bounded: its body, its time, and how often one client calls. It decides nothing about devices,
// permissions or replies, keeps no state but rate limits, and does not terminate TLS. How many calls wait and how many
// streams of events are open is the dispatcher's to bound; it also ends both before the process stops, and calls that
// waited answer with what there is.
//
// The document comes first: openapi.yaml is written by hand, and tests hold routes and answers against it.
//
// An API is safe for concurrent use.
package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"signaldevice/audit"
	"signaldevice/device"
	"signaldevice/dispatch"
)

// Config is what an API is made from. Service, Authenticate and Commands are needed; the rest has defaults.
type Config struct {
	Rate     float64  // calls a second of one client; 0: no limit, and none for enrolment either
	Burst    int      // calls of one client at once; default 100
	Timeouts Timeouts // of connections and bodies

	Service dispatch.Service
	// Authenticate tells who holds a bearer token. An error of the kind device.Unauthenticated means nobody, whatever
	// the reason; it should take as long for every wrong token.
	Authenticate func(ctx context.Context, token string) (Identity, error)
	// Commands returns the catalogue's commands of this moment, for the OpenAPI document.
	Commands func() []device.Command
	// Refused is told of calls that the edge refuses by itself, at a limited rate. nil: nobody is.
	Refused func(context.Context, audit.Refusal)
	Metrics *Metrics         // nil: nothing is measured
	Log     *slog.Logger     // default: slog.Default()
	Clock   func() time.Time // of the rate limits; default: time.Now
	// Stopping reports whether the process is about to stop: /readyz then says so, and each answer asks its caller to come
	// back on another connection. Nil: it never tells.
	Stopping func() bool
}

// Identity is who makes a call, as the credential tells, and the name of the role that gives its permissions.
type Identity struct {
	dispatch.Caller
	Role string
}

// API serves the HTTP interface. New makes one.
type API struct {
	cfg     Config
	log     *slog.Logger
	mux     *http.ServeMux
	origin  *http.CrossOriginProtection
	clients *rateLimiter // nil: no limit
	enrol   *rateLimiter // nil: no limit

	refusalLines *rateLimiter
	refusals     atomic.Int64 // since the last line about one

	spec *specification
}

// New returns an API, or an error that names what the configuration lacks.
func New(cfg Config) (*API, error) {
	if cfg.Service == nil || cfg.Authenticate == nil || cfg.Commands == nil {
		return nil, errors.New("httpapi: Service, Authenticate and Commands are needed")
	}
	if cfg.Rate < 0 || cfg.Burst < 0 {
		return nil, errors.New("httpapi: Rate and Burst may not be negative")
	}
	if cfg.Burst == 0 {
		cfg.Burst = defaultBurst
	}
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Stopping == nil {
		cfg.Stopping = never
	}
	cfg.Timeouts = cfg.Timeouts.withDefaults()
	a := &API{
		cfg:    cfg,
		log:    cfg.Log,
		origin: http.NewCrossOriginProtection(),
		spec:   &specification{commands: cfg.Commands},

		refusalLines: newRateLimiter(refusalRate, refusalBurst),
	}
	if cfg.Rate > 0 {
		a.clients = newRateLimiter(cfg.Rate, cfg.Burst)
		a.enrol = newRateLimiter(enrolRate, enrolBurst)
	}
	a.mux = newMux(a.routes(), a.fail)
	return a, nil
}

// handler answers one call. An error that it returns becomes the problem that the caller gets; it has written nothing
// then.
type handler func(w *answer, r *http.Request) error

// route is one operation of openapi.yaml.
type route struct {
	method, path string
	handle       handler
}

func (a *API) routes() []route {
	return append([]route{
		{"POST", "/v1/enrol", a.enrolDevice},
		{"POST", "/v1/devices", a.authenticated(a.registerDevice)},
		{"GET", "/v1/devices", a.authenticated(a.listDevices)},
		{"GET", "/v1/devices/{id}", a.authenticated(a.getDevice)},
		{"DELETE", "/v1/devices/{id}", a.authenticated(a.deleteDevice)},
		{"POST", "/v1/devices/{id}/certificates", a.authenticated(a.addCertificate)},
		{"DELETE", "/v1/devices/{id}/certificates/{fingerprint}", a.authenticated(a.revokeCertificate)},
		{"POST", "/v1/enrolment-codes", a.authenticated(a.createEnrolmentCode)},
		{"GET", "/v1/commands", a.authenticated(a.listCommands)},
		{"POST", "/v1/devices/{id}/commands", a.authenticated(a.sendCommand)},
		{"GET", "/v1/devices/{id}/replies", a.authenticated(a.readReplies)},
		{"GET", "/v1/requests", a.authenticated(a.listRequests)},
		{"GET", "/v1/requests/{id}", a.authenticated(a.getRequest)},
		{"DELETE", "/v1/requests/{id}", a.authenticated(a.cancelRequest)},
		{"GET", "/v1/events", a.authenticated(a.streamEvents)},
		{"GET", "/v1/me", a.authenticated(a.me)},
		{"GET", "/openapi.yaml", a.openAPIYAML},
		{"GET", "/openapi.json", a.openAPIJSON},
	}, healthRoutes(a.cfg.Service, a.cfg.Stopping)...)
}

func never() bool { return false }

// newMux routes the operations, and answers what is none of them with a problem: 405 with Allow for another method,
// 404 for another path. HEAD counts as another method, because a GET of replies takes them.
func newMux(routes []route, fail func(*answer, *http.Request, error)) *http.ServeMux {
	mux := http.NewServeMux()
	handle := func(pattern string, h handler) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			a := w.(*answer)
			if err := h(a, r); err != nil {
				fail(a, r, err)
			}
		})
	}
	allowed := map[string][]string{}
	for _, rt := range routes {
		allowed[rt.path] = append(allowed[rt.path], rt.method)
		handle(rt.method+" "+rt.path, rt.handle)
	}
	for p, methods := range allowed {
		slices.Sort(methods)
		allow := strings.Join(methods, ", ")
		refuse := func(w *answer, _ *http.Request) error {
			w.Header().Set("Allow", allow)
			return device.Errorf(kindMethodNotAllowed, "this path takes another method: see the header Allow")
		}
		handle(p, refuse)
		if slices.Contains(methods, http.MethodGet) {
			handle("HEAD "+p, refuse)
		}
	}
	handle("/", notFound)
	return mux
}

func notFound(*answer, *http.Request) error {
	return device.Errorf(kindNotFound, "there is nothing at this path")
}

// ServeHTTP answers one call.
func (a *API) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := newAnswer(rw, a.cfg.Service.Degraded)
	defer func() { a.finish(w, r, recover()) }()
	if a.cfg.Stopping() {
		w.Header().Set("Connection", "close") // an idle connection that is closed later may just have got a call
	}

	a.boundBody(w, r)
	if !canonical(r.URL.EscapedPath()) {
		a.fail(w, r, device.Errorf(kindNotFound, "the path is not in its plain form"))
		return
	}
	if err := a.checkOrigin(r); err != nil {
		a.fail(w, r, w.refuse(err))
		return
	}
	a.mux.ServeHTTP(w, r)
}

// canonical reports whether the mux would take the path as it stands, and not answer with a redirection.
func canonical(p string) bool {
	return p == "/" || strings.HasPrefix(p, "/") && path.Clean(p) == p
}

// checkOrigin refuses what a page of another site makes a browser send with the credentials that browsers add on their
// own. A bearer token is never one of these, so a call that brings one passes from anywhere.
func (a *API) checkOrigin(r *http.Request) error {
	if r.Header.Get("Authorization") != "" {
		return nil
	}
	if err := a.origin.Check(r); err != nil {
		return device.Wrap(device.Forbidden, err, "a page of another site may not make this call")
	}
	return nil
}

// finish ends a call: it turns a panic into a problem, measures, and writes the one log line of the call.
func (a *API) finish(w *answer, r *http.Request, panicked any) {
	took := time.Since(w.began)
	if err, ok := panicked.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(panicked)
	}
	if panicked != nil {
		a.fail(w, r, panicError(panicked))
	}
	route := routeOf(r)
	if !w.answered.IsZero() {
		took = w.answered.Sub(w.began)
	}
	a.cfg.Metrics.answered(route, r.Method, w.status, took)
	a.auditRefusal(w, r, route)

	level := slog.LevelDebug
	switch {
	case w.status == http.StatusInternalServerError || panicked != nil:
		level = slog.LevelError
	case w.status > http.StatusInternalServerError:
		level = slog.LevelInfo
	}
	if !a.log.Enabled(r.Context(), level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("http_request", w.id),
		slog.String("method", r.Method),
		slog.String("route", route),
		slog.Int("status", w.status),
		slog.Duration("took", took),
		slog.String("client", string(w.client)),
	}
	if w.err != nil {
		attrs = append(attrs, slog.String("code", string(device.KindOf(w.err))))
	}
	if level > slog.LevelDebug {
		attrs = append(attrs, slog.Any("error", w.err))
	}
	a.log.LogAttrs(r.Context(), level, "http call", attrs...)
}

// routeOf returns the pattern that a call matched, without its method; never a path, which may hold anything.
func routeOf(r *http.Request) string {
	pattern := r.Pattern
	if _, p, ok := strings.Cut(pattern, " "); ok {
		pattern = p
	}
	if pattern == "" || pattern == "/" {
		return "none"
	}
	return pattern
}
