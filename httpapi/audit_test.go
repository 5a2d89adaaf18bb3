package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"signaldevice/audit"
	"signaldevice/device"
)

func auditInto(w io.Writer) func(*Config) {
	return func(c *Config) {
		audited := audit.New(audit.Config{Service: c.Service, Log: audit.NewLog(w), Errors: c.Log})
		c.Service, c.Refused = audited, audited.Refused
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

// What the edge refuses by itself has one line: for who called and how often whatever was asked for, and for what broke
// a rule where something was to change. Nothing of a call that could be a secret is in it.
func TestAudit_RefusalsAtTheEdge(t *testing.T) {
	const send = "/v1/devices/cam-1/commands"
	bearer := func(token string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+token) }
	}
	from := func(r *http.Request) {
		r.Header.Del("Authorization")
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	}
	tests := map[string]struct {
		call *http.Request
		want audit.Entry // the zero one: no line
	}{
		"a change by nobody":          {call("POST", send, `{"command":"canary"}`, bearer("canary")), audit.Entry{Method: "POST", Route: "/v1/devices/{id}/commands", Device: "cam-1", Code: device.Unauthenticated}},
		"a read by nobody":            {call("GET", "/v1/me", "", withHeader("Authorization")), audit.Entry{Method: "GET", Route: "/v1/me", Code: device.Unauthenticated}},
		"a device that cannot be":     {call("GET", "/v1/devices/can.ary%20x", "", bearer("canary")), audit.Entry{Method: "GET", Route: "/v1/devices/{id}", Code: device.Unauthenticated}},
		"from a page of another site": {call("POST", send, `{"command":"canary"}`, from), audit.Entry{Method: "POST", Route: "none", Code: device.Forbidden}},
		"a body that is no JSON":      {call("POST", send, `{"canary`), audit.Entry{Client: "alice", Role: "operator", Method: "POST", Route: "/v1/devices/{id}/commands", Device: "cam-1", Code: device.Malformed}},
		"a body that breaks a rule":   {call("POST", "/v1/devices", `{"name":"","csr":"canary"}`), audit.Entry{Client: "alice", Role: "operator", Method: "POST", Route: "/v1/devices", Code: device.Invalid}},
		"a body that is too large":    {call("POST", "/v1/devices", `{"name":"`+strings.Repeat("canary", 20_000)+`"}`), audit.Entry{Client: "alice", Role: "operator", Method: "POST", Route: "/v1/devices", Code: device.PayloadTooLarge}},
		"an enrolment without a code": {call("POST", "/v1/enrol", `{"csr":"canary"}`, withHeader("Authorization")), audit.Entry{Method: "POST", Route: "/v1/enrol", Code: device.Invalid}},
		"a removal with a query":      {call("DELETE", "/v1/devices/cam-1?canary=1", ""), audit.Entry{Client: "alice", Role: "operator", Method: "DELETE", Route: "/v1/devices/{id}", Device: "cam-1", Code: device.Invalid}},
		"a read that breaks a rule":   {call("GET", "/v1/devices?limit=0", ""), audit.Entry{}},
		"a path that there is not":    {call("POST", "/canary", "{}"), audit.Entry{}},
		"a good read":                 {call("GET", "/v1/me", ""), audit.Entry{}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			h := newHarness(t, auditInto(&out))
			tt.call.RemoteAddr = "192.0.2.7:51034"
			rec := httptest.NewRecorder()
			h.api.ServeHTTP(rec, tt.call)
			if tt.want == (audit.Entry{}) {
				if out.Len() > 0 {
					t.Errorf("lines %s", out.String())
				}
				return
			}
			var got audit.Entry
			if err := json.Unmarshal(out.Bytes(), &got); err != nil {
				t.Fatalf("%s: %v", out.String(), err)
			}
			tt.want.Time, tt.want.Audit = got.Time, got.Audit
			tt.want.Event, tt.want.Result, tt.want.Address = audit.RefusedAtEdge, audit.Refused, "192.0.2.7:51034"
			tt.want.HTTPRequest = rec.Header().Get("X-Request-Id")
			if got != tt.want || got.Audit == "" || rec.Code < 400 {
				t.Errorf("%d, line %s", rec.Code, out.String())
			}
			if strings.Contains(strings.ToLower(out.String()), "canary") {
				t.Error("the line holds what could be a secret")
			}
		})
	}
}

// What the service is asked has its two lines and no third one, however it ends.
func TestAudit_RefusalsBehindTheEdgeAreNotToldTwice(t *testing.T) {
	var out bytes.Buffer
	h := newHarness(t, auditInto(&out))
	h.service.err = device.Errorf(device.DeviceOffline, "offline")
	h.do(call("POST", "/v1/devices/cam-1/commands", `{"command":"ping"}`))
	if n := strings.Count(out.String(), "\n"); n != 2 || strings.Contains(out.String(), `"event":"refused"`) {
		t.Errorf("lines %s", out.String())
	}
}

// Nobody fills the disk with refused calls: of many at once some get a line, the next one counts the others, and what one
// client does hides nobody else's.
func TestAudit_RefusalsAreBounded(t *testing.T) {
	var out bytes.Buffer
	a := newAdmin(t, false)
	h := newHarness(t, auditInto(&out), func(c *Config) { c.Metrics = a.metrics; c.Rate, c.Burst = 1, 1 })
	lines := func() (list []audit.Entry) {
		for line := range strings.Lines(out.String()) {
			var e audit.Entry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			list = append(list, e)
		}
		out.Reset()
		return list
	}
	nobody := func(n int) {
		for range n {
			h.do(call("GET", "/v1/me", "", withHeader("Authorization")))
		}
	}
	nobody(refusalBurst)
	if got := lines(); len(got) != refusalBurst || got[refusalBurst-1].Suppressed != 0 {
		t.Errorf("%d lines about what is within the limit", len(got))
	}
	nobody(1000)
	if got := lines(); len(got) != 0 {
		t.Errorf("%d lines beyond the limit", len(got))
	}
	a.shows("signal_device_audit_refusals_suppressed_total 1000")

	h.do(call("GET", "/v1/me", "")) // spends alice's one call
	h.do(call("GET", "/v1/me", ""))
	if got := lines(); len(got) != 1 || got[0].Client != "alice" || got[0].Code != device.RateLimited || got[0].Suppressed != 1000 {
		t.Errorf("lines about a client: %+v", got)
	}
	h.now = h.now.Add(time.Second / refusalRate)
	nobody(2)
	if got := lines(); len(got) != 1 || got[0].Suppressed != 0 {
		t.Errorf("lines a second later: %+v", got)
	}
}

// A refused call stays refused, and reading goes on, where no line can be written.
func TestAudit_RefusalsThatCannotBeWritten(t *testing.T) {
	h := newHarness(t, auditInto(brokenWriter{}))
	h.fails(call("GET", "/v1/me", "", withHeader("Authorization")), 401, device.Unauthenticated)
	if !strings.Contains(h.log.String(), "audit line of a refused call lost") {
		t.Errorf("the log tells nothing: %s", h.log)
	}
}
