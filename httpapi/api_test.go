package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

func TestNew_NamesWhatIsMissing(t *testing.T) {
	good := Config{Service: &fakeService{}, Authenticate: testAuthenticate, Commands: goodCommands}
	for name, edit := range map[string]func(*Config){
		"no service":        func(c *Config) { c.Service = nil },
		"no authentication": func(c *Config) { c.Authenticate = nil },
		"no commands":       func(c *Config) { c.Commands = nil },
		"negative rate":     func(c *Config) { c.Rate = -1 },
		"negative burst":    func(c *Config) { c.Burst = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			edit(&c)
			if _, err := New(c); err == nil {
				t.Error("no error")
			}
		})
	}
	if _, err := New(good); err != nil {
		t.Errorf("as it should be: %v", err)
	}
}

func TestAPI_RefusesWhatIsNotRouted(t *testing.T) {
	h := newHarness(t)
	for name, path := range map[string]string{
		"the root":               "/",
		"an unknown path":        "/v1/nothing",
		"below a route":          "/v1/me/more",
		"an id in the middle":    "/v1/devices/cam-1/nothing",
		"a slash at the end":     "/v1/devices/",
		"two slashes":            "/v1//devices",
		"dots":                   "/v1/x/../devices",
		"dots, escaped":          "/v1/%2e%2e/nothing",
		"the admin's metrics":    "/metrics",
		"the admin's profiles":   "/debug/pprof/",
		"another version":        "/v2/devices",
		"something to be echoed": "/v1/<script>canary</script>",
	} {
		t.Run(name, func(t *testing.T) {
			r := call("GET", "/", "")
			r.URL.Path, r.URL.RawPath = path, ""
			h.t = t
			p := h.fails(r, 404, kindNotFound)
			if strings.Contains(p.Detail, "canary") {
				t.Error("the path is echoed")
			}
		})
	}
}

func TestAPI_RefusesOtherMethodsWithAllow(t *testing.T) {
	h := newHarness(t)
	for _, c := range []struct{ method, path, allow string }{
		{"PUT", "/v1/devices", "GET, POST"},
		{"OPTIONS", "/v1/devices", "GET, POST"},
		{"BREW", "/v1/devices", "GET, POST"},
		{"HEAD", "/v1/devices", "GET, POST"},
		{"PATCH", "/v1/devices/cam-1", "DELETE, GET"},
		{"HEAD", "/v1/devices/cam-1/replies", "GET"}, // it would take replies and show none
		{"POST", "/v1/devices/cam-1/replies", "GET"},
		{"GET", "/v1/enrol", "POST"},
		{"GET", "/v1/devices/cam-1/commands", "POST"},
		{"DELETE", "/healthz", "GET"},
	} {
		res := h.do(call(c.method, c.path, ""))
		if res.StatusCode != 405 || res.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %d, Allow %q; want 405, %q", c.method, c.path, res.StatusCode, res.Header.Get("Allow"), c.allow)
		}
		if code := res.problem(t).Code; code != "method_not_allowed" {
			t.Errorf("%s %s: code %s", c.method, c.path, code)
		}
	}
	if calls := h.service.called(); len(calls) > 0 {
		t.Errorf("the service was asked: %v", calls)
	}
}

// One answer for a token that is missing, malformed or unknown; it tells nothing (I10).
func TestAPI_AsksForAToken(t *testing.T) {
	h := newHarness(t)
	var first string
	for name, edit := range map[string]func(*http.Request){
		"no header":          withHeader("Authorization"),
		"an empty one":       withHeader("Authorization", ""),
		"no scheme":          withHeader("Authorization", goodToken),
		"another scheme":     withHeader("Authorization", "Basic "+goodToken),
		"no token":           withHeader("Authorization", "Bearer "),
		"an unknown token":   withHeader("Authorization", "Bearer canary"),
		"a longer token":     withHeader("Authorization", "Bearer "+goodToken+"x"),
		"two headers":        withHeader("Authorization", "Bearer "+goodToken, "Bearer "+goodToken),
		"the token in query": func(r *http.Request) { r.Header.Del("Authorization"); r.URL.RawQuery = "access_token=" + goodToken },
		"the token, quoted":  withHeader("Authorization", `Bearer "`+goodToken+`"`),
		"two tokens":         withHeader("Authorization", "Bearer "+goodToken+" "+goodToken),
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			res := h.do(call("GET", "/v1/me", "", edit))
			if res.StatusCode != 401 {
				t.Fatalf("%d\n%s", res.StatusCode, res.body)
			}
			if got := res.Header.Get("WWW-Authenticate"); got != `Bearer realm="signal-device"` {
				t.Errorf("WWW-Authenticate: %q", got)
			}
			body := strings.ReplaceAll(res.body, res.Header.Get("X-Request-Id"), "ID")
			if first == "" {
				first = body
			}
			if body != first {
				t.Errorf("this answer differs:\n%s\n%s", body, first)
			}
		})
	}
	h.t = t
	for _, scheme := range []string{"Bearer", "bearer", "BEARER"} { // RFC 9110, section 11.1
		if res := h.do(call("GET", "/v1/me", "", withHeader("Authorization", scheme+" "+goodToken))); res.StatusCode != 200 {
			t.Errorf("scheme %s: %d", scheme, res.StatusCode)
		}
	}
}

func TestAPI_EveryRouteButAFewAsksForAToken(t *testing.T) {
	h := newHarness(t)
	open := map[string]bool{"/v1/enrol": true, "/healthz": true, "/readyz": true, "/openapi.yaml": true, "/openapi.json": true}
	for _, rt := range h.api.routes() {
		path := strings.NewReplacer("{id}", "cam-1", "{fingerprint}", fingerprint).Replace(rt.path)
		res := h.do(call(rt.method, path, "", withHeader("Authorization")))
		if (res.StatusCode == 401) == open[rt.path] {
			t.Errorf("%s %s without a token: %d", rt.method, rt.path, res.StatusCode)
		}
	}
}

func TestAPI_ATroubledAuthenticatorIsAnInternalError(t *testing.T) {
	h := newHarness(t)
	h.fails(call("GET", "/v1/me", "", withHeader("Authorization", "Bearer sdt_trouble")), 500, device.Internal)
}

// The client is the credential's, whatever a call says of itself (I3).
func TestAPI_TakesTheClientFromTheCredential(t *testing.T) {
	h := newHarness(t)
	h.do(call("GET", "/v1/devices/cam-1/replies", "", withHeader("X-Client-Id", "bob"), withHeader("From", "bob")))
	if got := h.service.caller.Client; got != "alice" {
		t.Errorf("client %q", got)
	}
	h.service.called()
	h.fails(call("GET", "/v1/devices/cam-1/replies?client=bob", ""), 422, device.Invalid)
	h.fails(call("POST", "/v1/devices/cam-1/commands", `{"command":"ping","client":"bob"}`), 400, device.Malformed)
}

func TestAPI_Me(t *testing.T) {
	h := newHarness(t)
	h.answers(call("GET", "/v1/me", ""), 200,
		`{"client":"alice","role":"operator","labels":{"fleet":"north"},"permissions":["devices.register"]}`)
	h.answers(call("GET", "/v1/me", "", withHeader("Authorization", "Bearer "+otherToken)), 200,
		`{"client":"bob","role":"viewer","labels":{},"permissions":[]}`)
}

// A page of another site cannot use what a browser adds on its own; a bearer token is not that.
func TestAPI_RefusesCallsOfOtherSites(t *testing.T) {
	h := newHarness(t)
	const body = `{"command":"ping"}`
	cross := []func(*http.Request){withHeader("Origin", "https://evil.example"), withHeader("Sec-Fetch-Site", "cross-site")}
	cookie := append(slices.Clone(cross), withHeader("Authorization"), withHeader("Cookie", "session=1"))
	h.fails(call("POST", "/v1/devices/cam-1/commands", body, cookie...), 403, device.Forbidden)

	if res := h.do(call("POST", "/v1/devices/cam-1/commands", body, cross...)); res.StatusCode != 202 {
		t.Errorf("with a bearer token: %d", res.StatusCode)
	}
	same := []func(*http.Request){withHeader("Authorization"), withHeader("Sec-Fetch-Site", "same-origin")}
	if res := h.do(call("POST", "/v1/devices/cam-1/commands", body, same...)); res.StatusCode != 401 {
		t.Errorf("of the same site, without a token: %d", res.StatusCode)
	}
}

func TestAPI_SaysThatItIsDegraded(t *testing.T) {
	h := newHarness(t)
	for name, tt := range map[string]struct {
		outages []dispatch.Outage
		want    string
	}{
		"all is well": {nil, ""},
		"no broker":   {[]dispatch.Outage{{Dependency: "broker", Since: noon}}, "broker"},
		"no cache":    {[]dispatch.Outage{{Dependency: "cache", Since: noon}}, "cache"},
		"neither":     {[]dispatch.Outage{{Dependency: "cache", Since: noon}, {Dependency: "broker", Since: noon}}, "broker, cache"},
	} {
		t.Run(name, func(t *testing.T) {
			h.t, h.service.outages = t, tt.outages
			for _, path := range []string{"/v1/me", "/v1/devices/cam-1/replies", "/v1/nothing", "/readyz"} {
				if got := h.do(call("GET", path, "")).Header.Get("Signal-Device-Degraded"); got != tt.want {
					t.Errorf("%s: %q, want %q", path, got, tt.want)
				}
			}
		})
	}
}

// What fails while a call waits is said in its answer, and what was over by then as well.
func TestAPI_AsksWhatIsDegradedWhenItAnswers(t *testing.T) {
	h := newHarness(t)
	var called time.Time
	h.service.onCall = func(context.Context) {
		called = time.Now()
		h.service.mu.Lock()
		defer h.service.mu.Unlock()
		h.service.outages = []dispatch.Outage{{Dependency: "broker", Since: noon}}
	}
	if got := h.do(call("GET", "/v1/devices/cam-1/replies?wait=1", "")).Header.Get("Signal-Device-Degraded"); got != "broker" {
		t.Errorf("Signal-Device-Degraded: %q", got)
	}
	if !h.service.began.Before(called) {
		t.Errorf("asked what was missing since %s; the call began before %s", h.service.began, called)
	}
}

func TestAPI_Health(t *testing.T) {
	h := newHarness(t)
	h.answers(call("GET", "/healthz", ""), 200, `{"status":"ok"}`)
	h.answers(call("GET", "/readyz", ""), 200, `{"status":"ok","degraded":[]}`)
	h.service.outages = []dispatch.Outage{{Dependency: "broker", Since: noon}}
	h.answers(call("GET", "/healthz", ""), 200, `{"status":"ok"}`)
	h.answers(call("GET", "/readyz", ""), 200,
		`{"status":"degraded","degraded":[{"dependency":"broker","since":"2026-11-24T12:00:00.123Z"}]}`)
	h.service.outages = []dispatch.Outage{{Dependency: "cache", Since: noon, Reason: "the cache is full"}}
	h.answers(call("GET", "/readyz", ""), 200,
		`{"status":"degraded","degraded":[{"dependency":"cache","since":"2026-11-24T12:00:00.123Z","reason":"the cache is full"}]}`)
}

// An instance that is about to stop says so, and takes calls all the same.
func TestAPI_Stopping(t *testing.T) {
	h := newHarness(t, func(c *Config) { c.Stopping = func() bool { return true } })
	if got := h.do(call("GET", "/readyz", "")); got.StatusCode != 503 || got.problem(t).Code != "stopping" {
		t.Errorf("/readyz answered %d %s", got.StatusCode, got.body)
	}
	h.answers(call("GET", "/healthz", ""), 200, `{"status":"ok"}`)
	if got := h.do(call("GET", "/v1/me", "")); got.StatusCode != 200 || got.Header.Get("Connection") != "close" {
		t.Errorf("answered %d with %v", got.StatusCode, got.Header)
	}
}

// Each kind of error that the service has becomes one status, and every operation may get it only if it says so.
func TestAPI_TranslatesEveryKindOfError(t *testing.T) {
	statuses := map[device.Kind]int{
		device.Internal: 500, device.Invalid: 422, device.Malformed: 400, device.Unauthenticated: 401,
		device.Forbidden: 403, device.DeviceNotFound: 404, device.DeviceExists: 409, device.DeviceOffline: 409,
		device.CertificateInUse: 409, device.CertificateUnknown: 404, device.InvalidCertificate: 422,
		device.InvalidCSR: 422, device.InvalidCode: 403, device.UnknownCommand: 422, device.InvalidArguments: 422,
		device.PayloadTooLarge: 413, device.IdempotencyReused: 409, device.RequestNotFound: 404,
		device.AlreadyDelivered: 409, device.TooManyUnread: 429, device.RateLimited: 429,
		device.BrokerUnavailable: 503, device.CacheUnavailable: 503, device.Unavailable: 503, device.CacheFull: 503,
		device.AuditUnavailable: 503, device.OutcomeUnknown: 503, kindNotFound: 404, kindMethodNotAllowed: 405, kindMediaType: 415, kindTimeout: 408, kindStopping: 503,
	}
	h := newHarness(t)
	for _, kind := range kinds(t) {
		t.Run(string(kind), func(t *testing.T) {
			h.t = t
			h.service.err = fmt.Errorf("dispatch: send: %w", &device.Error{
				Kind: kind, Message: "for the caller", Err: errors.New("for the log"),
				Faults: []device.Fault{{Location: "args.level", Message: "is too loud"}},
			})
			r := call("POST", "/v1/devices/cam-1/commands", `{"command":"ping"}`)
			rec := httptest.NewRecorder()
			h.api.ServeHTTP(rec, r)
			res := result{rec.Result(), rec.Body.String()}
			h.checkProblem(res)
			if res.StatusCode != statuses[kind] {
				t.Errorf("status %d, want %d", res.StatusCode, statuses[kind])
			}
			p := res.problem(t)
			if p.Code != string(kind) || strings.Contains(res.body, "for the log") {
				t.Errorf("problem %s", res.body)
			}
			if kind != device.Internal && (p.Detail != "for the caller" || len(p.Errors) != 1 || p.Errors[0] != fault{"args.level", "is too loud"}) {
				t.Errorf("problem %s", res.body)
			}
		})
	}
}

func TestAPI_ShowsNothingOfAnUnknownError(t *testing.T) {
	for name, err := range map[string]error{
		"no kind":         errors.New("canary: the disk is on fire"),
		"an unheard kind": &device.Error{Kind: "canary", Message: "canary"},
		"internal": &device.Error{
			Kind: device.Internal, Message: "canary", Faults: []device.Fault{{Location: "canary", Message: "canary"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.service.err = err
			res := h.do(call("GET", "/v1/devices", ""))
			if p := res.problem(t); res.StatusCode != 500 || p.Code != "internal" || p.Detail != "internal error" {
				t.Errorf("%d %s", res.StatusCode, res.body)
			}
			if strings.Contains(res.body, "canary") {
				t.Errorf("the error is shown: %s", res.body)
			}
			if log := h.log.String(); !strings.Contains(log, "level=ERROR") || !strings.Contains(log, "canary") || !strings.Contains(log, res.Header.Get("X-Request-Id")) {
				t.Errorf("the log does not tell: %s", log)
			}
		})
	}
}

func TestAPI_RetryAfterIsWholeSecondsRoundedUp(t *testing.T) {
	h := newHarness(t)
	for after, want := range map[time.Duration]string{
		0:                       "1",
		time.Millisecond:        "1",
		time.Second:             "1",
		1001 * time.Millisecond: "2",
		time.Minute:             "60",
	} {
		h.service.err = &device.Error{Kind: device.BrokerUnavailable, RetryAfter: after}
		if got := h.do(call("GET", "/v1/devices", "")).Header.Get("Retry-After"); got != want {
			t.Errorf("%v: %q, want %q", after, got, want)
		}
	}
}

func TestAPI_SurvivesAPanic(t *testing.T) {
	h := newHarness(t)
	h.service.onCall = func(context.Context) { panic("canary") }
	res := h.do(call("GET", "/v1/devices/cam-1/replies", ""))
	if res.StatusCode != 500 || strings.Contains(res.body, "canary") {
		t.Errorf("%d %s", res.StatusCode, res.body)
	}
	if log := h.log.String(); !strings.Contains(log, "canary") || !strings.Contains(log, "api_test.go") {
		t.Errorf("the log does not tell where: %s", log)
	}
	h.service.onCall = nil
	h.works()
}

func TestAPI_LetsAnAbortThrough(t *testing.T) {
	h := newHarness(t)
	h.service.onCall = func(context.Context) { panic(http.ErrAbortHandler) }
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, http.ErrAbortHandler) {
			t.Error("the abort was swallowed")
		}
	}()
	h.api.ServeHTTP(httptest.NewRecorder(), call("GET", "/v1/devices/cam-1/replies", ""))
}

// A client that left is no fault of anybody.
func TestAPI_DoesNotBlameAClientThatLeft(t *testing.T) {
	h := newHarness(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.service.err = device.Wrap(device.BrokerUnavailable, context.Canceled, "")
	rec := httptest.NewRecorder()
	h.api.ServeHTTP(rec, call("GET", "/v1/devices", "").WithContext(ctx))
	if rec.Body.Len() > 0 {
		t.Errorf("answered: %s", rec.Body)
	}
	if log := h.log.String(); !strings.Contains(log, "status=499") || !strings.Contains(log, "level=DEBUG") {
		t.Errorf("log: %s", log)
	}
}

// Secrets, bodies and ids are never logged; what is logged cannot break a line.
func TestAPI_LogsNothingSecret(t *testing.T) {
	h := newHarness(t)
	h.do(call("POST", "/v1/devices/canary-device/commands", `{"command":"canary","args":{"x":"canary"}}`, withHeader("Idempotency-Key", "canary")))
	h.do(call("GET", "/v1/devices/x%0d%0acanary/replies?request_id=canary", ""))
	h.do(call("GET", "/v1/canary", "", withHeader("Authorization", "Bearer canary")))
	h.do(call("GET", "/v1/me", "", withHeader("Authorization", "Bearer canary")))
	h.do(call("POST", "/v1/enrol", `{"code":"canary","csr":"canary"}`))
	h.do(call("POST", "/v1/enrol", `{"canary":`))
	log := h.log.String()
	if strings.Contains(log, "canary") || strings.Contains(log, goodToken) {
		t.Errorf("the log holds what it must not:\n%s", log)
	}
	if lines := strings.Count(log, "\n"); lines != 6 {
		t.Errorf("%d lines for 6 calls:\n%s", lines, log)
	}
	for _, want := range []string{"route=/v1/devices/{id}/commands", "client=alice", "status=401", "method=POST", "code=malformed_json", "route=none"} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
}
