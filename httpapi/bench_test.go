package httpapi

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// The whole handler without a network: authentication, limits, checks, answer, metrics, log line at a level that is off.
// What remains beside the edge itself is httptest's recorder.

func benchmarkCall(b *testing.B, method, path, body string, status int) {
	metrics, err := NewMetrics(MetricsConfig{Registry: prometheus.NewRegistry()})
	if err != nil {
		b.Fatal(err)
	}
	h := newHarness(b, withRate(1e12, 1e9), func(c *Config) {
		c.Metrics, c.Log = metrics, slog.New(slog.DiscardHandler)
	})
	b.ReportAllocs()
	for b.Loop() {
		r, _ := http.NewRequestWithContext(b.Context(), method, path, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer "+goodToken)
		r.Header.Set("Content-Type", "application/json")
		r.RemoteAddr = "192.0.2.1:1"
		rec := httptest.NewRecorder()
		h.api.ServeHTTP(rec, r)
		if rec.Code != status {
			b.Fatalf("%d %s", rec.Code, rec.Body)
		}
		h.service.calls = h.service.calls[:0]
	}
}

func BenchmarkGetDevice(b *testing.B) { benchmarkCall(b, "GET", "/v1/devices/cam-1", "", 200) }

func BenchmarkSendCommand(b *testing.B) {
	benchmarkCall(b, "POST", sendPath, `{"command":"set_volume","args":{"zone":"cabin","level":40}}`, 202)
}
