package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"signaldevice/audit"
	"signaldevice/device"
)

func auditInto(w io.Writer) func(*Config) {
	return func(c *Config) {
		c.Service = audit.New(audit.Config{Service: c.Service, Log: audit.NewLog(w), Errors: c.Log})
	}
}

func TestAudit_KnowsWhereACallCameFrom(t *testing.T) {
	tests := map[string]struct{ path, body, client, role string }{
		"a client": {"/v1/devices/cam-1/commands", `{"command":"ping"}`, "alice", "operator"},
		"a camera": {"/v1/enrol", `{"code":"c","csr":"c"}`, "", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			h := newHarness(t, auditInto(&out))
			r := call("POST", tt.path, tt.body)
			r.RemoteAddr = "192.0.2.7:51034"
			r.Header.Set("X-Forwarded-For", "198.51.100.1") // anybody may write this
			res := h.do(r)
			for line := range strings.Lines(out.String()) {
				var e audit.Entry
				if err := json.Unmarshal([]byte(line), &e); err != nil {
					t.Fatal(err)
				}
				if e.Address != "192.0.2.7:51034" || e.HTTPRequest != res.Header.Get("X-Request-Id") || string(e.Client) != tt.client || e.Role != tt.role {
					t.Errorf("line %s", line)
				}
			}
			if n := strings.Count(out.String(), "\n"); n != 2 {
				t.Errorf("%d lines", n)
			}
		})
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestAudit_RefusesChangesAndStillReads(t *testing.T) {
	h := newHarness(t, auditInto(brokenWriter{}))
	h.fails(call("POST", "/v1/devices/cam-1/commands", `{"command":"ping"}`), 503, device.AuditUnavailable)
	h.fails(call("POST", "/v1/enrol", `{"code":"c","csr":"c"}`), 503, device.AuditUnavailable)
	h.fails(call("DELETE", "/v1/requests/"+string(requestID), ""), 503, device.AuditUnavailable)
	if res := h.do(call("GET", "/v1/devices/cam-1/replies", "")); res.StatusCode != 200 {
		t.Errorf("reading: %d", res.StatusCode)
	}
}
