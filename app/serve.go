package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"signaldevice/access"
	"signaldevice/audit"
	"signaldevice/brokerlink"
	"signaldevice/cache"
	"signaldevice/catalogue"
	"signaldevice/dispatch"
	"signaldevice/httpapi"
)

// BrokerAccess says where the broker is and how the API proves who it is.
type BrokerAccess struct {
	Addrs []string // HOST:PORT of its gRPC, one or more nodes
	CA    string   // file: PEM of the CA that signed its server certificate
	Cert  string   // file: PEM of a certificate with the role "service"
	Key   string   // file: PEM of its key
}

// APIOptions say how an API runs. Roles and Catalogue have a built-in default where they name no file.
type APIOptions struct {
	HTTP  string // address to listen on
	Admin string // address of the listener for metrics and health

	Tokens    string // file of token hashes; one that is missing holds none
	Roles     string // file of roles, or ""
	Catalogue string // file of commands, or ""

	Redis        string // URL of the cache; "": in memory
	CacheDurable bool   // someone vouches that this Redis loses nothing
	RedisCA      string // files, each or ""
	RedisCert    string
	RedisKey     string
	Replicas     int // of Redis, which must have a reply before it leaves its queue
	CacheTTL     time.Duration
	ReplyGrace   time.Duration // 0: a reply is read once
	Rate         float64       // calls a second of one client; 0: no limit
	Burst        int           // calls of one client at once
	Pprof        bool          // serve profiles on the admin listener
	DrainDelay   time.Duration // from the moment /readyz says that it stops until it does; 0: at once
	Audit        string        // file that changes are audited in; "-": standard error; "": none

	Log *slog.Logger

	loopbackOnly bool // answer only calls to a name of this machine
}

// Serve starts an API for a broker that runs elsewhere. A broker or cache that is down is no failure: the API starts
// degraded and takes them up when they come.
func Serve(ctx context.Context, o APIOptions, b BrokerAccess) (*App, error) {
	a := newApp(o.Log)
	api, err := a.startAPI(ctx, o, b)
	if err == nil {
		err = a.serveAdmin(ctx, o.Admin, api.service, o.Pprof, api.metrics)
	}
	if err == nil {
		err = a.openDoors(ctx, o, api)
	}
	return a.started(ctx, err)
}

// api is an API that works but listens nowhere yet.
type api struct {
	service dispatch.Service
	handler http.Handler
	metrics *prometheus.Registry
	drain   func() // ends calls that wait
}

// startAPI starts everything behind the HTTP listener.
func (a *App) startAPI(ctx context.Context, o APIOptions, b BrokerAccess) (*api, error) {
	metrics := prometheus.NewRegistry()
	files, err := a.openFiles(o, metrics)
	if err != nil {
		return nil, err
	}
	replies, err := a.openCache(ctx, o)
	if err != nil {
		return nil, err
	}
	link, err := brokerlink.Dial(brokerlink.Config{
		Addrs: b.Addrs, CAFile: b.CA, CertFile: b.Cert, KeyFile: b.Key, Silence: brokerlink.Silence,
	})
	if err != nil {
		return nil, err
	}
	a.onStop("broker link", func(context.Context) error { return link.Close() })

	measured, err := httpapi.NewMetrics(httpapi.MetricsConfig{
		Registry:     metrics,
		CacheRecords: replies.Records,
	})
	if err != nil {
		return nil, err
	}
	dispatcher := dispatch.New(dispatch.Config{
		ReplyGrace: o.ReplyGrace,
		Broker:     link,
		Cache:      replies,
		Catalogue:  files.commands,
		Observer:   measured,
		Log:        a.log,
	})
	var service dispatch.Service = dispatcher
	var refused func(context.Context, audit.Refusal)
	if audited, err := a.audited(o.Audit, dispatcher); err != nil {
		return nil, err
	} else if audited != nil {
		service, refused = audited, audited.Refused
	}
	edge, err := httpapi.New(httpapi.Config{
		Rate:         o.Rate,
		Burst:        o.Burst,
		Service:      service,
		Authenticate: files.authenticate,
		Refused:      refused,
		Commands:     files.commands.Commands,
		Metrics:      measured,
		Log:          a.log,
		Stopping:     a.stopping.Load,
	})
	if err != nil {
		return nil, err
	}
	a.drainDelay = o.DrainDelay
	a.background("dispatcher", func(ctx context.Context) error {
		dispatcher.Run(ctx)
		<-ctx.Done() // Close ends Run earlier, when calls drain
		return nil
	})
	return &api{
		service: service,
		handler: counted(metrics, edge),
		metrics: metrics,
		drain:   dispatcher.Close,
	}, nil
}

// audited puts the audit log around a service; nil where there is none.
func (a *App) audited(path string, service dispatch.Service) (*audit.Service, error) {
	var log *audit.Log
	switch path {
	case "":
		return nil, nil
	case "-":
		log = audit.NewLog(os.Stderr)
	default:
		var err error
		if log, err = audit.Open(path); err != nil {
			return nil, err
		}
		a.onStop("audit log", func(context.Context) error { return log.Close() })
		a.reloads = append(a.reloads, log.Reopen)
	}
	return audit.New(audit.Config{Service: service, Log: log, Errors: a.log}), nil
}

// openDoors begins to take calls.
func (a *App) openDoors(ctx context.Context, o APIOptions, api *api) error {
	handler := api.handler
	if o.loopbackOnly {
		handler = onlyLoopbackHosts(handler)
	}
	var err error
	a.ready.HTTP, err = a.serveHTTP(ctx, "http", o.HTTP, handler, api.drain)
	return err
}

// counted measures how many calls are under way, waiting ones included.
func counted(registry *prometheus.Registry, h http.Handler) http.Handler {
	inFlight := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "signal_device_http_requests_in_flight",
		Help: "HTTP calls that are under way, waiting ones and open streams included.",
	})
	registry.MustRegister(inFlight)
	return promhttp.InstrumentHandlerInFlight(inFlight, h)
}

// openCache opens Redis where there is one, and else makes a cache in memory.
func (a *App) openCache(ctx context.Context, o APIOptions) (dispatch.Cache, error) {
	if o.Redis == "" {
		return cache.NewMemory(cache.MemoryConfig{TTL: o.CacheTTL}), nil
	}
	redis, err := cache.OpenRedis(ctx, cache.RedisConfig{
		URL: o.Redis, CA: o.RedisCA, Cert: o.RedisCert, Key: o.RedisKey, TTL: o.CacheTTL, Vouched: o.CacheDurable, Replicas: o.Replicas, Log: a.log,
	})
	if err != nil {
		return nil, err
	}
	a.onStop("cache", func(context.Context) error { redis.Close(); return nil })
	return redis, nil
}

// files are the three files of an API, each always in its newest good version.
type files struct {
	commands *catalogue.Live
	tokens   *access.Tokens
	roles    *access.Authorizer
}

// authenticate tells who holds a token and what they may do now.
func (f files) authenticate(_ context.Context, token string) (httpapi.Identity, error) {
	who, err := f.tokens.Authenticate(token)
	if err != nil {
		return httpapi.Identity{}, err
	}
	return httpapi.Identity{Caller: f.roles.Caller(who), Role: who.Role}, nil
}

// openFiles reads the files, which must be good, and keeps up with them.
func (a *App) openFiles(o APIOptions, registry *prometheus.Registry) (files, error) {
	good := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "signal_device_config_last_reload_successful",
		Help: "1 while the newest version of the file is in use, 0 while a fault in it keeps the version before.",
	}, []string{"file"})
	registry.MustRegister(good)
	reloaded := func(file string) func(error) {
		good.WithLabelValues(file).Set(1)
		return func(err error) {
			good.WithLabelValues(file).Set(map[bool]float64{true: 1}[err == nil])
		}
	}
	var f files
	var errs [3]error
	f.commands, errs[0] = catalogue.OpenLive(catalogue.LiveConfig{Path: o.Catalogue, Reloaded: reloaded("catalogue"), Log: a.log})
	f.roles, errs[1] = access.OpenAuthorizer(access.AuthorizerConfig{Path: o.Roles, Reloaded: reloaded("roles"), Log: a.log})
	f.tokens, errs[2] = access.OpenTokens(access.TokensConfig{Path: o.Tokens, Reloaded: reloaded("tokens"), Log: a.log})
	if err := errors.Join(errs[:]...); err != nil {
		return files{}, fmt.Errorf("configuration: %w", err)
	}
	for name, file := range map[string]interface {
		Watch(context.Context)
		Reload() error
	}{"catalogue": f.commands, "roles": f.roles, "tokens": f.tokens} {
		a.background(name, func(ctx context.Context) error { file.Watch(ctx); return nil })
		a.reloads = append(a.reloads, file.Reload)
	}
	return f, nil
}
