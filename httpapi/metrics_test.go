package httpapi

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"signaldevice/dispatch"
)

type adminHarness struct {
	t       *testing.T
	handler http.Handler
	metrics *Metrics
	service *fakeService
	records func(context.Context) (int64, error)
}

func newAdmin(t *testing.T, profiles bool) *adminHarness {
	t.Helper()
	a := &adminHarness{t: t, service: &fakeService{}}
	a.records = func(context.Context) (int64, error) { return 7, nil }
	registry := prometheus.NewRegistry()
	m, err := NewMetrics(MetricsConfig{
		Registry:     registry,
		CacheRecords: func(ctx context.Context) (int64, error) { return a.records(ctx) },
	})
	if err != nil {
		t.Fatal(err)
	}
	a.metrics = m
	a.handler = Admin(AdminConfig{Service: a.service, Metrics: registry, Pprof: profiles})
	return a
}

func (a *adminHarness) get(path string) (int, string) {
	rec := httptest.NewRecorder()
	a.handler.ServeHTTP(rec, httptest.NewRequest("GET", path, nil))
	return rec.Code, rec.Body.String()
}

// shows checks that the metrics have these lines.
func (a *adminHarness) shows(lines ...string) {
	a.t.Helper()
	status, body := a.get("/metrics")
	if status != 200 {
		a.t.Fatalf("%d %s", status, body)
	}
	for _, line := range lines {
		if !strings.Contains(body, line+"\n") {
			a.t.Errorf("the metrics lack %s:\n%s", line, body)
		}
	}
}

func TestMetrics_CountWhatTheDispatcherTells(t *testing.T) {
	a := newAdmin(t, false)
	a.metrics.Sent("ping", "delivered")
	a.metrics.Sent("ping", "delivered")
	a.metrics.Sent("", "unknown_command")
	a.metrics.Drained(dispatch.Own, 3)
	a.metrics.Drained(dispatch.Foreign, 2)
	a.metrics.DependencyUp("broker", true)
	a.metrics.DependencyUp("cache", true)
	a.metrics.DependencyUp("cache", false)
	a.metrics.OutcomeUnknown("cache")
	a.shows(
		`signal_device_requests_total{command="ping",outcome="delivered"} 2`,
		`signal_device_requests_total{command="unknown",outcome="unknown_command"} 1`,
		`signal_device_drained_replies_total{whose="own"} 3`,
		`signal_device_drained_replies_total{whose="foreign"} 2`,
		`signal_device_dependency_up{dependency="broker"} 1`,
		`signal_device_dependency_up{dependency="cache"} 0`,
		`signal_device_outcome_unknown_total{dependency="cache"} 1`,
		`signal_device_cache_records 7`,
	)
}

// Unknown is not zero.
func TestMetrics_ShowNoRecordsWhereTheCacheDoesNotAnswer(t *testing.T) {
	a := newAdmin(t, false)
	a.records = func(ctx context.Context) (int64, error) {
		if _, bounded := ctx.Deadline(); !bounded {
			t.Error("the cache may take for ever")
		}
		return 0, errors.New("no cache")
	}
	if status, body := a.get("/metrics"); status != 200 || strings.Contains(body, "cache_records") {
		t.Errorf("%d %s", status, body)
	}
}

// Ids, unknown paths and made-up methods never become labels.
func TestMetrics_MeasureCallsByRoute(t *testing.T) {
	a := newAdmin(t, false)
	h := newHarness(t, func(c *Config) { c.Metrics = a.metrics })
	h.do(call("GET", "/v1/devices/canary1", ""))
	h.do(call("GET", "/v1/devices/canary2", ""))
	h.do(call("GET", "/v1/devices/can%20ary", ""))
	h.do(call("GET", "/canary", ""))
	h.do(call("CANARY", "/v1/devices", ""))
	h.do(call("GET", "/v1/me", "", withHeader("Authorization")))
	const count = "signal_device_http_request_duration_seconds_count"
	a.shows(
		count+`{code="200",method="GET",route="/v1/devices/{id}"} 3`,
		count+`{code="404",method="GET",route="none"} 1`,
		count+`{code="405",method="other",route="/v1/devices"} 1`,
		count+`{code="401",method="GET",route="/v1/me"} 1`,
	)
	if _, body := a.get("/metrics"); strings.Contains(strings.ToLower(body), "canary") {
		t.Error("a name from a call became a label")
	}
}

func TestMetrics_RefuseANameThatIsTaken(t *testing.T) {
	registry := prometheus.NewRegistry()
	if _, err := NewMetrics(MetricsConfig{Registry: registry}); err != nil {
		t.Fatal(err)
	}
	if _, err := NewMetrics(MetricsConfig{Registry: registry}); err == nil {
		t.Error("no error")
	}
}

func TestAdmin(t *testing.T) {
	a := newAdmin(t, false)
	a.service.outages = []dispatch.Outage{{Dependency: "cache", Since: noon}}
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/healthz":      {200, `{"status":"ok"}`},
		"/readyz":       {200, `{"status":"degraded","degraded":[{"dependency":"cache","since":"2026-11-24T12:00:00.123Z"}]}`},
		"/v1/me":        {404, `"code":"not_found"`},
		"/debug/pprof/": {404, `"code":"not_found"`},
	} {
		if status, body := a.get(path); status != want.status || !strings.Contains(body, want.body) {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	withProfiles := newAdmin(t, true)
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/goroutine?debug=1"} {
		if status, _ := withProfiles.get(path); status != 200 {
			t.Errorf("%s: %d", path, status)
		}
	}
}
