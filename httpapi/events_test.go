package httpapi

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"signaldevice/device"
	"signaldevice/dispatch"
)

var (
	aReply    = dispatch.Hint{Reply: &dispatch.ReplyHint{Device: testDevice, Mailbox: device.MailboxOf("alice"), Request: requestID, Seq: 2, Final: true}}
	aState    = dispatch.Hint{Request: &dispatch.RequestHint{Device: testDevice, Mailbox: device.MailboxOf("alice"), Request: requestID, State: device.StateNoReply}}
	aPresence = dispatch.Hint{Presence: &dispatch.PresenceHint{Device: testDevice, Labels: device.Labels{"fleet": "north"}, Online: true, Since: noon}}
)

// measured returns what makes an API measure, and whether its metrics show a line.
func measured(t *testing.T) (with func(*Config), shows func(line string) bool) {
	t.Helper()
	registry := prometheus.NewRegistry()
	m, err := NewMetrics(MetricsConfig{Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	handler := Admin(AdminConfig{Service: &fakeService{}, Metrics: registry})
	return func(c *Config) { c.Metrics = m }, func(line string) bool {
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
		return strings.Contains(rec.Body.String(), line+"\n")
	}
}

// blocks returns what a stream holds behind its first block, which says when to come back.
func blocks(t *testing.T, body string) string {
	t.Helper()
	first, rest, _ := strings.Cut(body, "\n\n")
	if !strings.HasPrefix(first, "retry: ") || len(first) != len("retry: 1000") {
		t.Errorf("the stream begins with %q, want a retry of one to three seconds", first)
	}
	return rest
}

func TestEvents_HowTheyLook(t *testing.T) {
	h := newHarness(t)
	for i, hint := range []dispatch.Hint{{}, aReply, aState, aPresence} {
		h.service.events <- dispatch.Event{ID: "boot-" + string(rune('0'+i)), Hint: hint}
	}
	close(h.service.events)
	res := h.do(call("GET", "/v1/events", "", withHeader("Last-Event-ID", "from-before")))
	want := "id: boot-0\nevent: resync\ndata: {}\n\n" +
		"id: boot-1\nevent: reply\ndata: {\"request_id\":\"" + string(requestID) + "\",\"device_id\":\"cam-1\",\"seq\":2,\"final\":true}\n\n" +
		"id: boot-2\nevent: request\ndata: {\"request_id\":\"" + string(requestID) + "\",\"device_id\":\"cam-1\",\"state\":\"no_reply\"}\n\n" +
		"id: boot-3\nevent: presence\ndata: {\"device_id\":\"cam-1\",\"online\":true,\"since\":\"2026-11-24T12:00:00.123Z\"}\n\n"
	if got := blocks(t, res.body); res.StatusCode != 200 || got != want {
		t.Errorf("%d\n%s\nwant\n%s", res.StatusCode, got, want)
	}
	if res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("X-Accel-Buffering") != "no" || res.Header.Get("Content-Length") != "" {
		t.Errorf("headers %v", res.Header)
	}
	h.asked("from-before")
	if h.service.caller.Client != "alice" || h.service.caller.Labels["fleet"] != "north" || h.service.closed != 1 {
		t.Errorf("subscribed as %+v, closed %d times", h.service.caller, h.service.closed)
	}
}

// The document describes the data of each event.
func TestEvents_FitTheDocument(t *testing.T) {
	_, compiler := documentSchemas(t)
	for name, hint := range map[string]dispatch.Hint{"ReplyEvent": aReply, "RequestEvent": aState, "PresenceEvent": aPresence} {
		_, data := showEvent(dispatch.Event{Hint: hint})
		b, err := marshal(data)
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		schema, err := compiler.Compile("doc.json#/components/schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := schema.Validate(value); err != nil {
			t.Errorf("%s: %s: %v", name, b, err)
		}
	}
}

func TestEvents_AreRefused(t *testing.T) {
	h := newHarness(t)
	h.fails(call("GET", "/v1/events", "", withHeader("Authorization")), 401, device.Unauthenticated)
	h.fails(call("GET", "/v1/events?device=cam-1", ""), 422, device.Invalid)
	h.fails(call("HEAD", "/v1/events", ""), 405, kindMethodNotAllowed)
	h.service.err = device.Errorf(device.RateLimited, "this client has too many event streams open")
	if res := h.do(call("GET", "/v1/events", "")); res.StatusCode != 429 {
		t.Errorf("%d, want 429", res.StatusCode)
	}
	h.service.err = nil
	h.works()
}

// openStream serves a stream of events in the background. Its body may be read once it has ended.
func (h *harness) openStream() (rec *httptest.ResponseRecorder, ended chan struct{}) {
	rec, ended = httptest.NewRecorder(), make(chan struct{})
	ctx, leave := context.WithCancel(context.Background())
	h.t.Cleanup(leave)
	go func() {
		defer close(ended)
		h.api.ServeHTTP(rec, call("GET", "/v1/events", "").WithContext(ctx))
	}()
	return rec, ended
}

func isOver(ended chan struct{}) bool {
	synctest.Wait()
	select {
	case <-ended:
		return true
	default:
		return false
	}
}

func TestEvents_AStreamWithoutEventsStaysAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		with, shows := measured(t)
		h := newHarness(t, with)
		rec, ended := h.openStream()
		time.Sleep(46 * time.Second)
		if isOver(ended) {
			t.Fatal("it has ended")
		}
		if !shows("signal_device_event_streams 1") {
			t.Error("the metrics do not show one stream")
		}
		close(h.service.events)
		<-ended
		if got := blocks(t, rec.Body.String()); got != ":\n\n:\n\n:\n\n" {
			t.Errorf("in 46 s came %q, want three comments", got)
		}
		if !shows("signal_device_event_streams 0") {
			t.Error("the metrics still show a stream")
		}
		// How long it was open says nothing of how fast the service answers.
		if !shows(`signal_device_http_request_duration_seconds_bucket{code="200",method="GET",route="/v1/events",le="0.5"} 1`) {
			t.Error("the life of the stream was measured as the time of an answer")
		}
	})
}

func TestEvents_EndWithTheRightsThatTheyBeganWith(t *testing.T) {
	good, _ := testAuthenticate(t.Context(), goodToken)
	change := func(edit func(*Identity)) func() (Identity, error) {
		return func() (Identity, error) { now := good; edit(&now); return now, nil }
	}
	for name, tt := range map[string]struct {
		now  func() (Identity, error)
		ends bool
	}{
		"nothing has changed": {change(func(*Identity) {}), false},
		"equal labels":        {change(func(i *Identity) { i.Labels = device.Labels{"fleet": "north"} }), false},
		"revoked or expired":  {func() (Identity, error) { return Identity{}, device.Errorf(device.Unauthenticated, "no") }, true},
		"cannot be told":      {func() (Identity, error) { return Identity{}, io.ErrNoProgress }, true},
		"another client's":    {change(func(i *Identity) { i.Client = "bob" }), true},
		"another role":        {change(func(i *Identity) { i.Role = "viewer" }), true},
		"other devices":       {change(func(i *Identity) { i.Labels = device.Labels{"fleet": "south"} }), true},
		"any device":          {change(func(i *Identity) { i.Labels = nil }), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				h := newHarness(t, func(c *Config) {
					c.Authenticate = func(ctx context.Context, token string) (Identity, error) {
						if time.Since(began) < time.Minute {
							return testAuthenticate(ctx, token)
						}
						return tt.now()
					}
				})
				_, ended := h.openStream()
				time.Sleep(59 * time.Second)
				if isOver(ended) {
					t.Error("it has ended before anything changed")
				}
				time.Sleep(7 * time.Second)
				if over := isOver(ended); over != tt.ends {
					t.Errorf("ended: %t, want %t", over, tt.ends)
				}
			})
		})
	}
}

func TestEvents_EndWhenTheClientLeaves(t *testing.T) {
	h, address := serve(t, patient, 0)
	c := dial(t, address)
	c.send("GET /v1/events" + head + "\r\n")
	if _, err := c.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	waitFor(t, func() bool {
		h.service.mu.Lock()
		defer h.service.mu.Unlock()
		return h.service.closed == 1
	})
}

// A stream outlives the time that an answer may take, and its end is a proper one: F13.
func TestEvents_EndCleanly(t *testing.T) {
	h, address := serve(t, quick, 0)
	time.AfterFunc(5*quick.Write, func() {
		h.service.events <- dispatch.Event{ID: "last", Hint: aState}
		close(h.service.events)
	})
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+address+"/v1/events", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+goodToken)
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || !strings.HasPrefix(blocks(t, string(body)), "id: last\n") {
		t.Errorf("read %q, %v", body, err)
	}
}

// feed gives a stream more than the buffers of a connection hold, until the test ends.
func (h *harness) feed() {
	stop, fed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(fed)
		for {
			select {
			case h.service.events <- dispatch.Event{ID: strings.Repeat("x", 4096), Hint: aReply}:
			case <-stop:
				return
			}
		}
	}()
	h.t.Cleanup(func() { close(stop); <-fed })
}

// F18.
func TestEvents_DropWhoDoesNotRead(t *testing.T) {
	with, shows := measured(t)
	timeouts := patient
	timeouts.Write = 300 * time.Millisecond
	h := newHarness(t, with, func(c *Config) { c.Timeouts = timeouts })
	address := listen(t, ServerConfig{Handler: h.api, Timeouts: timeouts})
	c := dial(t, address)
	c.send("GET /v1/events" + head + "\r\n")
	if _, err := c.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	h.feed()
	waitFor(t, func() bool { return shows(`signal_device_event_streams_dropped_total{reason="blocked"} 1`) })
	waitFor(t, func() bool { return shows("signal_device_event_streams 0") })
	c.closed()
	works(t, address)
}

// Who does not read cannot hold up the end of a stream either, and with it the stop of the service: F13.
func TestEvents_EndInTimeAlthoughNobodyReads(t *testing.T) {
	with, shows := measured(t)
	h := newHarness(t, with, func(c *Config) { c.Timeouts = patient })
	address := listen(t, ServerConfig{Handler: h.api, Timeouts: patient})
	c := dial(t, address)
	c.send("GET /v1/events" + head + "\r\n")
	if _, err := c.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	h.feed()
	full := 0
	waitFor(t, func() bool { // for a while the stream has taken nothing: the buffers are full
		if full++; len(h.service.events) < cap(h.service.events) {
			full = 0
		}
		return full == 10
	})
	h.service.mu.Lock()
	end := h.service.end
	h.service.mu.Unlock()
	end()
	waitFor(t, func() bool { return shows("signal_device_event_streams 0") })
}

func TestEvents_CountWhoFellBehind(t *testing.T) {
	with, shows := measured(t)
	h := newHarness(t, with)
	h.service.behind = true
	close(h.service.events)
	h.do(call("GET", "/v1/events", ""))
	if !shows(`signal_device_event_streams_dropped_total{reason="behind"} 1`) {
		t.Error("the metrics do not show one that fell behind")
	}
}
