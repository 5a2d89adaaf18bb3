package httpapi

import (
	"cmp"
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"signaldevice/dispatch"
)

// MetricsConfig is what Metrics are made from.
type MetricsConfig struct {
	Registry prometheus.Registerer
	// CacheRecords counts the replies in the cache. It is called once a scrape. nil: not measured.
	CacheRecords func(context.Context) (int64, error)
}

// Metrics are the service's own measurements. It is the Observer of a dispatch.Dispatcher, and safe for concurrent use.
type Metrics struct {
	requests  *prometheus.CounterVec
	drained   *prometheus.CounterVec
	up        *prometheus.GaugeVec
	unknown   *prometheus.CounterVec
	durations *prometheus.HistogramVec
	streams   prometheus.Gauge
	dropped   *prometheus.CounterVec
	unaudited prometheus.Counter
}

var _ dispatch.Observer = (*Metrics)(nil)

// NewMetrics registers the metrics, or returns an error where one of these names is taken.
func NewMetrics(cfg MetricsConfig) (*Metrics, error) {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_device_requests_total",
			Help: "Commands that clients asked to send, by what became of the call.",
		}, []string{"command", "outcome"}),
		drained: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_device_drained_replies_total",
			Help: "Replies read from output queues: the asking client's own, another client's, or known ones.",
		}, []string{"whose"}),
		up: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "signal_device_dependency_up",
			Help: "1 while the dependency answers, else 0.",
		}, []string{"dependency"}),
		unknown: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_device_outcome_unknown_total",
			Help: "Calls to a dependency that were cut after they were sent, and may have changed something there.",
		}, []string{"dependency"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "signal_device_http_request_duration_seconds",
			Help:    "Time from a call's header to its answer, of a stream to its beginning; calls that wait included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 5, 10, 30, 60},
		}, []string{"route", "method", "code"}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "signal_device_event_streams",
			Help: "Streams of server-sent events that are open.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "signal_device_event_streams_dropped_total",
			Help: "Streams ended because their reader fell behind, or took nothing for as long as a write may take.",
		}, []string{"reason"}),
		unaudited: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "signal_device_audit_refusals_suppressed_total",
			Help: "Calls refused at the edge that got no line in the audit log, because too many were.",
		}),
	}
	for _, dependency := range []string{"broker", "cache"} {
		m.unknown.WithLabelValues(dependency) // zero, and not absent, until there is one
	}
	collectors := []prometheus.Collector{m.requests, m.drained, m.up, m.unknown, m.durations, m.streams, m.dropped, m.unaudited}
	if cfg.CacheRecords != nil {
		collectors = append(collectors, cacheRecords{cfg.CacheRecords})
	}
	for _, c := range collectors {
		if err := cfg.Registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Sent counts one call to send a command. A name that the catalogue does not know comes as "", and never as a label.
func (m *Metrics) Sent(command, outcome string) {
	m.requests.WithLabelValues(cmp.Or(command, "unknown"), outcome).Inc()
}

// Drained counts n replies that were read from an output queue.
func (m *Metrics) Drained(whose dispatch.Whose, n int) {
	m.drained.WithLabelValues(string(whose)).Add(float64(n))
}

// DependencyUp records whether a dependency, "broker" or "cache", answers.
func (m *Metrics) DependencyUp(name string, up bool) {
	value := 0.0
	if up {
		value = 1
	}
	m.up.WithLabelValues(name).Set(value)
}

// OutcomeUnknown counts a call to a dependency, "broker" or "cache", of which nobody knows whether it had its effect.
func (m *Metrics) OutcomeUnknown(dependency string) { m.unknown.WithLabelValues(dependency).Inc() }

// answered measures one HTTP call by its route, which holds no ids. A nil Metrics measures nothing.
func (m *Metrics) answered(route, method string, status int, took time.Duration) {
	if m == nil {
		return
	}
	m.durations.WithLabelValues(route, knownMethod(method), strconv.Itoa(status)).Observe(took.Seconds())
}

func (m *Metrics) streamBegan() {
	if m != nil {
		m.streams.Inc()
	}
}

func (m *Metrics) streamEnded() {
	if m != nil {
		m.streams.Dec()
	}
}

func (m *Metrics) refusalSuppressed() {
	if m != nil {
		m.unaudited.Inc()
	}
}

// streamDropped counts a stream that was ended for its reader's fault: "behind" or "blocked".
func (m *Metrics) streamDropped(reason string) {
	if m != nil {
		m.dropped.WithLabelValues(reason).Inc()
	}
}

// knownMethod keeps made-up methods out of the labels.
func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodOptions:
		return method
	default:
		return "other"
	}
}

// cacheRecords counts the records of the cache at each scrape. It shows nothing where the cache does not answer, which
// is not the same as zero.
type cacheRecords struct {
	count func(context.Context) (int64, error)
}

// cacheBudget is the time for all cache work of one call (I7).
const cacheBudget = 250 * time.Millisecond

func (c cacheRecords) desc() *prometheus.Desc {
	return prometheus.NewDesc("signal_device_cache_records", "Replies in the cache.", nil, nil)
}

func (c cacheRecords) Describe(ch chan<- *prometheus.Desc) { ch <- c.desc() }

func (c cacheRecords) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), cacheBudget)
	defer cancel()
	n, err := c.count(ctx)
	if err != nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.desc(), prometheus.GaugeValue, float64(n))
}
