package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"

	"signaldevice/device"
	"signaldevice/dispatch"
)

const (
	goodToken   = "sdt_good"
	otherToken  = "sdt_other"
	testDevice  = device.ID("cam-1")
	fingerprint = "3f786850e387550fdab836ed7e6dc881de23001b"
)

var (
	noon      = time.Date(2026, 11, 24, 12, 0, 0, 123456789, time.UTC)
	requestID = mintRequestID()
)

func mintRequestID() device.RequestID {
	ring, err := device.NewKeyRing(device.NewKey(1))
	if err != nil {
		panic(err)
	}
	return ring.Mint(noon, device.MailboxOf("alice"), testDevice, noon.Add(30*time.Second))
}

// fakeService answers every call with something good, unless err is set. It keeps what it was asked.
type fakeService struct {
	mu      sync.Mutex
	calls   []string
	caller  dispatch.Caller
	input   any
	outages []dispatch.Outage

	err      error
	sent     dispatch.SendResult
	began    time.Time // what Degraded was asked about last
	replies  dispatch.Replies
	repeated bool
	next     string
	onCall   func(ctx context.Context) // runs inside of each call that can wait
	events   chan dispatch.Event       // of every subscription; its closing ends them
	behind   bool                      // said of them
	closed   int                       // subscriptions that were closed
	end      func()                    // ends the last one
}

func (s *fakeService) note(name string, c dispatch.Caller, input any) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, name)
	s.caller, s.input = c, input
	return s.err
}

// called returns the calls since the last time.
func (s *fakeService) called() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

func goodRequest() device.Request {
	return device.Request{
		ID: requestID, Device: testDevice, Client: "alice", Command: "ping", State: device.StateDelivered,
		CreatedAt: noon, SentAt: noon, DeliverBy: noon.Add(10 * time.Second), ReplyBy: noon.Add(30 * time.Second),
		Replies: 1, Timeline: []device.Step{{State: device.StateSent, At: noon}, {State: device.StateNoReply, At: noon, Cause: "too late"}},
	}
}

func goodReply(result string) dispatch.Reply {
	return dispatch.Reply{
		Reply:  device.Reply{Request: requestID, Device: testDevice, Command: "ping", Final: true, ReceivedAt: noon},
		Answer: device.Answer{Status: device.StatusOK, Result: json.RawMessage(result)},
	}
}

func goodDevice() device.Device {
	return device.Device{
		ID: testDevice, RegistryID: "default", Name: "taxi-17", Labels: device.Labels{"fleet": "north"}, CreatedAt: noon,
		Certificates: []device.Certificate{{Fingerprint: fingerprint, PEM: "not for lists", NotAfter: noon}},
		Presence:     device.Presence{Online: true, Since: noon},
	}
}

func goodCommands() []device.Command {
	return []device.Command{
		{
			Name: "ping", Title: "Ping", Description: "Says pong.", Group: "Basics", Permission: "commands.ping",
			DeliverWithin: 10 * time.Second, ReplyWithin: 30 * time.Second, Reply: device.ReplyJSON,
		},
		{
			Name: "set_volume", Title: "Volume", Group: "Sound", Permission: "commands.set_volume", Danger: true, Hold: true,
			DeliverWithin: 1500 * time.Millisecond, ReplyWithin: time.Minute, Reply: device.ReplyText,
			Args: json.RawMessage(`{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object",` +
				`"properties":{"zone":{"$ref":"#/$defs/zone"},"level":{"type":"integer","maximum":100,"minimum":0}},` +
				`"required":["level"],"$defs":{"zone":{"enum":["cabin","driver"]}},"additionalProperties":false}`),
		},
	}
}

func (s *fakeService) Commands(c dispatch.Caller) []dispatch.CommandView {
	_ = s.note("Commands", c, nil)
	var views []dispatch.CommandView
	for _, cmd := range goodCommands() {
		views = append(views, dispatch.CommandView{Command: cmd, Allowed: c.May(cmd.Permission)})
	}
	return views
}

func (s *fakeService) CommandsOf(_ context.Context, c dispatch.Caller, id device.ID) ([]dispatch.CommandView, error) {
	err := s.note("CommandsOf", c, id)
	return []dispatch.CommandView{{Command: goodCommands()[0], Allowed: true}}, err
}

func (s *fakeService) Send(ctx context.Context, c dispatch.Caller, in dispatch.SendInput) (dispatch.SendResult, error) {
	err := s.note("Send", c, in)
	if s.onCall != nil {
		s.onCall(ctx)
	}
	return s.sent, err
}

func (s *fakeService) Replies(ctx context.Context, c dispatch.Caller, in dispatch.RepliesInput) (dispatch.Replies, error) {
	err := s.note("Replies", c, in)
	if s.onCall != nil {
		s.onCall(ctx)
	}
	return s.replies, err
}

func (s *fakeService) Request(_ context.Context, c dispatch.Caller, id device.RequestID) (device.Request, error) {
	return goodRequest(), s.note("Request", c, id)
}

func (s *fakeService) Requests(_ context.Context, c dispatch.Caller, f dispatch.RequestFilter) ([]device.Request, string, error) {
	return []device.Request{goodRequest()}, s.next, s.note("Requests", c, f)
}

func (s *fakeService) Cancel(_ context.Context, c dispatch.Caller, id device.RequestID) (device.Request, error) {
	r := goodRequest()
	r.State, r.SentAt = device.StateCancelled, time.Time{}
	return r, s.note("Cancel", c, id)
}

func (s *fakeService) Subscribe(c dispatch.Caller, after string) (*dispatch.Subscription, error) {
	if err := s.note("Subscribe", c, after); err != nil {
		return nil, err
	}
	ctx, end := context.WithCancel(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end = end
	return &dispatch.Subscription{
		Events: s.events,
		Ended:  ctx.Done(),
		Behind: func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.behind },
		Close:  func() { s.mu.Lock(); defer s.mu.Unlock(); s.closed++; end() },
	}, nil
}

func (s *fakeService) registration(cert string) dispatch.Registration {
	return dispatch.Registration{
		Device: goodDevice(), Certificate: cert, CA: "the CA", MQTT: "ssl://broker:8883", Repeated: s.repeated,
	}
}

func (s *fakeService) Register(_ context.Context, c dispatch.Caller, d dispatch.NewDevice) (dispatch.Registration, error) {
	return s.registration(d.Credential.CSR), s.note("Register", c, d)
}

func (s *fakeService) Enrol(_ context.Context, e dispatch.Enrolment) (dispatch.Registration, error) {
	return s.registration("signed"), s.note("Enrol", dispatch.Caller{}, e)
}

func (s *fakeService) CreateEnrolmentCode(_ context.Context, c dispatch.Caller, n dispatch.NewCode) (dispatch.Code, error) {
	return dispatch.Code{Code: "one-time", ExpiresAt: noon}, s.note("CreateEnrolmentCode", c, n)
}

func (s *fakeService) Device(_ context.Context, c dispatch.Caller, id device.ID) (device.Device, error) {
	return goodDevice(), s.note("Device", c, id)
}

func (s *fakeService) Devices(_ context.Context, c dispatch.Caller, f dispatch.DeviceFilter) ([]device.Device, string, error) {
	return []device.Device{goodDevice()}, s.next, s.note("Devices", c, f)
}

func (s *fakeService) DeleteDevice(_ context.Context, c dispatch.Caller, id device.ID) error {
	return s.note("DeleteDevice", c, id)
}

func (s *fakeService) AddCertificate(_ context.Context, c dispatch.Caller, _ device.ID, cred dispatch.Credential) (device.Certificate, error) {
	return device.Certificate{Fingerprint: fingerprint, PEM: "signed", NotAfter: noon}, s.note("AddCertificate", c, cred)
}

func (s *fakeService) RevokeCertificate(_ context.Context, c dispatch.Caller, _ device.ID, fingerprint string) error {
	return s.note("RevokeCertificate", c, fingerprint)
}

func (s *fakeService) Degraded(began time.Time) []dispatch.Outage {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began = began
	return s.outages
}

// harness is an API over a fake service, with a clock that stands still and a log that is kept.
type harness struct {
	t       testing.TB
	api     *API
	service *fakeService
	log     *bytes.Buffer
	now     time.Time
}

func newHarness(t testing.TB, edit ...func(*Config)) *harness {
	t.Helper()
	h := &harness{t: t, log: &bytes.Buffer{}, now: noon}
	h.service = &fakeService{
		events:  make(chan dispatch.Event, 100),
		sent:    dispatch.SendResult{Request: goodRequest()},
		replies: dispatch.Replies{Source: dispatch.SourceBroker},
	}
	cfg := Config{
		Service:      h.service,
		Authenticate: testAuthenticate,
		Commands:     goodCommands,
		Log:          slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Clock:        func() time.Time { return h.now },
	}
	for _, e := range edit {
		e(&cfg)
	}
	api, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.api = api
	return h
}

func testAuthenticate(_ context.Context, token string) (Identity, error) {
	may := func(p string) bool { return p == device.PermRegister || p == "commands.ping" }
	switch token {
	case goodToken:
		return Identity{Role: "operator", Caller: dispatch.Caller{Client: "alice", Labels: device.Labels{"fleet": "north"}, May: may}}, nil
	case otherToken:
		return Identity{Role: "viewer", Caller: dispatch.Caller{Client: "bob"}}, nil
	case "sdt_trouble":
		return Identity{}, io.ErrNoProgress
	default:
		return Identity{}, device.Errorf(device.Unauthenticated, "expired on Monday")
	}
}

// call makes a request as alice; edit may change what it likes.
func call(method, target, body string, edit ...func(*http.Request)) *http.Request {
	var r *http.Request
	if body == "" {
		r = httptest.NewRequest(method, target, nil)
	} else {
		r = httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
	}
	r.Header.Set("Authorization", "Bearer "+goodToken)
	for _, e := range edit {
		e(r)
	}
	return r
}

// withHeader sets a header, or takes it away where there is no value.
func withHeader(name string, values ...string) func(*http.Request) {
	return func(r *http.Request) {
		r.Header.Del(name)
		for _, v := range values {
			r.Header.Add(name, v)
		}
	}
}

type result struct {
	*http.Response
	body string
}

// do serves a call, and checks what holds for every answer: its headers, and that the document knows it.
func (h *harness) do(r *http.Request) result {
	h.t.Helper()
	rec := httptest.NewRecorder()
	h.api.ServeHTTP(rec, r)
	res := result{rec.Result(), rec.Body.String()}
	for name, want := range map[string]string{
		"X-Content-Type-Options":      "nosniff",
		"Cache-Control":               "no-store",
		"Content-Security-Policy":     "default-src 'none'; frame-ancestors 'none'",
		"Access-Control-Allow-Origin": "",
	} {
		if got := res.Header.Get(name); got != want {
			h.t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if len(res.Header.Get("X-Request-Id")) != 26 {
		h.t.Errorf("X-Request-Id: %q", res.Header.Get("X-Request-Id"))
	}
	if res.StatusCode >= 400 {
		h.checkProblem(res)
	}
	if documented(r) {
		checkAgainstDocument(h.t, r, res)
	}
	return res
}

func (h *harness) checkProblem(res result) {
	h.t.Helper()
	p := res.problem(h.t)
	if ct := res.Header.Get("Content-Type"); ct != "application/problem+json" {
		h.t.Errorf("Content-Type of a problem: %q", ct)
	}
	if p.Status != res.StatusCode || p.RequestID != res.Header.Get("X-Request-Id") || p.Title == "" || p.Detail == "" {
		h.t.Errorf("problem is not complete: %+v", p)
	}
	if p.Type != "urn:signal-device:problem:"+p.Code {
		h.t.Errorf("type %q and code %q", p.Type, p.Code)
	}
	repeat := res.StatusCode == 429 || res.StatusCode == 503
	if (res.Header.Get("Retry-After") != "") != repeat {
		h.t.Errorf("%d with Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
}

func (r result) problem(t testing.TB) problem {
	t.Helper()
	var p problem
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("%d is no problem document: %v\n%s", r.StatusCode, err, r.body)
	}
	return p
}

// fails checks that a call is refused with this status and code, and that the service was not asked.
func (h *harness) fails(r *http.Request, status int, code device.Kind) problem {
	h.t.Helper()
	res := h.do(r)
	if res.StatusCode != status {
		h.t.Fatalf("%s %s: %d, want %d\n%s", r.Method, r.URL, res.StatusCode, status, res.body)
	}
	p := res.problem(h.t)
	if p.Code != string(code) {
		h.t.Errorf("code %q, want %q", p.Code, code)
	}
	if calls := h.service.called(); len(calls) > 0 {
		h.t.Errorf("the service was asked: %v", calls)
	}
	return p
}

// works checks that the next good call works (I10).
func (h *harness) works() {
	h.t.Helper()
	if res := h.do(call("POST", "/v1/devices/cam-1/commands", `{"command":"ping"}`)); res.StatusCode != 202 {
		h.t.Errorf("the next good call: %d\n%s", res.StatusCode, res.body)
	}
	h.service.called()
}

// answers checks status and body of a good call.
func (h *harness) answers(r *http.Request, status int, body string) result {
	h.t.Helper()
	res := h.do(r)
	if res.StatusCode != status {
		h.t.Fatalf("%s %s: %d, want %d\n%s", r.Method, r.URL, res.StatusCode, status, res.body)
	}
	if res.body != body {
		h.t.Errorf("body\n%s\nwant\n%s", res.body, body)
	}
	return res
}

// documented reports whether the document has this operation. The router's own 404 and 405 are not in it.
func documented(r *http.Request) bool {
	return slices.ContainsFunc(operations(), func(op operation) bool {
		return op.method == r.Method && matches(op.path, r.URL.EscapedPath())
	})
}

func matches(pattern, path string) bool {
	want, got := strings.Split(pattern, "/"), strings.Split(path, "/")
	if len(want) != len(got) {
		return false
	}
	for i := range want {
		if want[i] != got[i] && (!strings.HasPrefix(want[i], "{") || got[i] == "") {
			return false
		}
	}
	return true
}

// documentValidator is made once, because that takes longer than most tests.
var documentValidator = sync.OnceValues(func() (validator.Validator, error) {
	_, asJSON, err := OpenAPI(goodCommands())
	if err != nil {
		return nil, err
	}
	doc, err := libopenapi.NewDocument(asJSON)
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc, config.WithFormatAssertions())
	if len(errs) > 0 {
		return nil, errs[0]
	}
	return v, nil
})

func checkAgainstDocument(t testing.TB, r *http.Request, res result) {
	t.Helper()
	v, err := documentValidator()
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode == http.StatusNoContent {
		return // its validator asks for a content type
	}
	plain := httptest.NewRequest(r.Method, r.URL.EscapedPath(), nil)
	response := &http.Response{StatusCode: res.StatusCode, Header: res.Header, Body: io.NopCloser(strings.NewReader(res.body))}
	if ok, errs := v.ValidateHttpResponse(plain, response); !ok {
		for _, e := range errs {
			t.Errorf("%s %s %d is not as documented: %s", r.Method, r.URL.Path, res.StatusCode, e)
			for _, s := range e.SchemaValidationErrors {
				t.Errorf("  %s: %s", s.FieldPath, s.Reason)
			}
		}
	}
}
