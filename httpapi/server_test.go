package httpapi

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"signaldevice/dispatch"
)

// quick are time-outs that a test can sit out.
var quick = Timeouts{Header: 100 * time.Millisecond, Body: 100 * time.Millisecond, Write: 200 * time.Millisecond, Idle: 100 * time.Millisecond}

// patient are time-outs that never decide a test.
var patient = Timeouts{Header: time.Minute, Body: time.Minute, Write: time.Minute, Idle: time.Minute}

// serve runs an API on a real listener until the test ends.
func serve(t *testing.T, timeouts Timeouts, maxConns int) (*harness, string) {
	t.Helper()
	h := newHarness(t, func(c *Config) { c.Timeouts, c.Log = timeouts, slog.New(slog.DiscardHandler) })
	return h, listen(t, ServerConfig{Handler: h.api, Timeouts: timeouts, MaxConns: maxConns, Log: slog.New(slog.DiscardHandler)})
}

func listen(t *testing.T, cfg ServerConfig) string {
	t.Helper()
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer(cfg)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(ln) }()
	t.Cleanup(func() {
		_ = srv.Close()
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// client is a raw connection. Everything on it is over within ten seconds.
type client struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func dial(t *testing.T, address string) *client {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &client{conn, t, bufio.NewReader(conn)}
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) status() int {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	_ = res.Body.Close()
	return res.StatusCode
}

// closed checks that the server has closed, or does so before the deadline of the connection.
func (c *client) closed() {
	c.t.Helper()
	var timeout net.Error
	if _, err := io.Copy(io.Discard, c.r); errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Error("the server left the connection open")
	}
}

const (
	head     = " HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer " + goodToken + "\r\n"
	jsonHead = head + "Content-Type: application/json\r\n"
)

func works(t *testing.T, address string) {
	t.Helper()
	c := dial(t, address)
	c.send("GET /v1/me" + head + "\r\n")
	if got := c.status(); got != 200 {
		t.Errorf("a good client: %d", got)
	}
}

func TestServer_CutsWhoIsSlow(t *testing.T) {
	for name, send := range map[string]string{
		"says nothing":       "",
		"half a header":      "GET /v1/me" + head,
		"nothing after that": "GET /v1/me" + head + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, address := serve(t, quick, 0)
			c := dial(t, address)
			c.send(send)
			c.closed()
			works(t, address)
		})
	}
}

func TestServer_CutsASlowBody(t *testing.T) {
	for name, send := range map[string]string{
		"of known length":            "POST " + sendPath + jsonHead + "Content-Length: 100\r\n\r\n{",
		"in chunks":                  "POST " + sendPath + jsonHead + "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
		"before it is known to whom": "POST /v1/enrol HTTP/1.1\r\nHost: api\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			h, address := serve(t, quick, 0)
			c := dial(t, address)
			c.send(send)
			if got := c.status(); got != 408 {
				t.Errorf("%d, want 408", got)
			}
			c.closed()
			if calls := h.service.called(); len(calls) > 0 {
				t.Errorf("the service was asked: %v", calls)
			}
			works(t, address)
		})
	}
}

// A body that a call does not read cannot hold its connection either.
func TestServer_CutsASlowBodyThatNobodyReads(t *testing.T) {
	_, address := serve(t, quick, 0)
	c := dial(t, address)
	c.send("GET /v1/me" + head + "Content-Length: 100\r\n\r\n{")
	if got := c.status(); got != 200 {
		t.Errorf("%d", got)
	}
	c.closed()
}

// The deadline of a body does not end a call that waits after it.
func TestServer_LetsACallWaitLongerThanItsTimeouts(t *testing.T) {
	h, address := serve(t, quick, 0)
	h.service.onCall = func(ctx context.Context) {
		select {
		case <-ctx.Done():
			t.Error("the call was cut")
		case <-time.After(400 * time.Millisecond): // more than each of the time-outs
		}
	}
	c := dial(t, address)
	c.send("GET /v1/devices/cam-1/replies?wait=1" + head + "\r\n")
	if got := c.status(); got != 200 {
		t.Errorf("poll: %d", got)
	}
	body := `{"command":"ping"}`
	c = dial(t, address)
	c.send(fmt.Sprintf("POST %s%sPrefer: wait=1\r\nContent-Length: %d\r\n\r\n%s", sendPath, jsonHead, len(body), body))
	if got := c.status(); got != 202 {
		t.Errorf("send: %d", got)
	}
}

func TestServer_TellsAWaitingCallThatItsClientLeft(t *testing.T) {
	h, address := serve(t, patient, 0)
	waiting, left := make(chan struct{}), make(chan struct{})
	h.service.onCall = func(ctx context.Context) {
		close(waiting)
		<-ctx.Done()
		close(left)
	}
	c := dial(t, address)
	body := `{"command":"ping"}`
	c.send(fmt.Sprintf("POST %s%sPrefer: wait=60\r\nContent-Length: %d\r\n\r\n%s", sendPath, jsonHead, len(body), body))
	<-waiting
	_ = c.Close()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Error("nobody told it")
	}
}

func TestServer_CutsWhoDoesNotRead(t *testing.T) {
	timeouts := patient
	timeouts.Write = 2 * time.Second // enough to make the answer
	h, address := serve(t, timeouts, 0)
	big := goodReply(`"` + strings.Repeat("x", 16<<20) + `"`) // more than the buffers of a connection hold
	h.service.replies.Replies = append(h.service.replies.Replies, big)
	c := dial(t, address)
	c.send("GET /v1/devices/cam-1/replies" + head + "\r\n")
	if _, err := c.r.Peek(1); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { // the rest is left unread; writing fails once the server has cut the connection
		_, err := c.Write([]byte("\r\n"))
		return err != nil
	})
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not come to pass")
		}
	}
}

func TestServer_BoundsHeaders(t *testing.T) {
	_, address := serve(t, patient, 0)
	request := func(size int) string {
		start, end := "GET /v1/me"+head+"X-Pad: ", "\r\n\r\n"
		return start + strings.Repeat("x", size-len(start)-len(end)) + end
	}
	c := dial(t, address)
	c.send(request(16 << 10))
	if got := c.status(); got != 200 {
		t.Errorf("at the limit: %d", got)
	}
	c = dial(t, address)
	c.send(request(16<<10 + 1))
	if got := c.status(); got != 431 {
		t.Errorf("over the limit: %d", got)
	}
	c.closed()
	works(t, address)
}

func TestServer_CutsAnEndlessBody(t *testing.T) {
	h, address := serve(t, patient, 0)
	c := dial(t, address)
	c.send("POST " + sendPath + jsonHead + "Transfer-Encoding: chunked\r\n\r\n")
	var sent atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		chunk := fmt.Sprintf("%x\r\n%s\r\n", 1<<16, strings.Repeat(" ", 1<<16))
		for {
			n, err := io.WriteString(c, chunk)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}()
	if got := c.status(); got != 413 {
		t.Errorf("%d, want 413", got)
	}
	c.closed()
	_ = c.Close()
	<-done
	if calls := h.service.called(); len(calls) > 0 {
		t.Errorf("the service was asked: %v", calls)
	}
	works(t, address)
}

func TestServer_RefusesALargeBodyBeforeItIsSent(t *testing.T) {
	_, address := serve(t, patient, 0)
	c := dial(t, address)
	c.send("POST " + sendPath + jsonHead + "Expect: 100-continue\r\nContent-Length: 1000000\r\n\r\n")
	if got := c.status(); got != 413 { // 100 would ask for the body
		t.Errorf("%d, want 413", got)
	}
	c.closed()
}

// A client that writes its whole body before it reads must still get the answer that the body is too large.
func TestServer_RefusesALargeBodyToAClientThatWritesFirst(t *testing.T) {
	_, address := serve(t, patient, 0)
	for range 10 {
		c := dial(t, address)
		c.send("POST " + sendPath + jsonHead + "Content-Length: 3000000\r\n\r\n")
		for range 30 {
			c.send(strings.Repeat("x", 100_000))
		}
		if got := c.status(); got != 413 {
			t.Fatalf("%d, want 413", got)
		}
	}
}

func TestServer_AnswersWhatIsNoPath(t *testing.T) {
	_, address := serve(t, patient, 0)
	for request, want := range map[string]int{
		"OPTIONS *":                      404,
		"GET /v1/devices/%zz":            400, // net/http's own
		"GET http://elsewhere/v1/me":     200, // the absolute form that proxies use
		"GET /v1/me?x=%0d%0aSet-Cookie:": 422,
	} {
		c := dial(t, address)
		c.send(request + head + "\r\n")
		if got := c.status(); got != want {
			t.Errorf("%s: %d, want %d", request, got, want)
		}
	}
}

// However many idle connections there are, a good client is served.
func TestServer_BoundsConnections(t *testing.T) {
	_, address := serve(t, patient, 10)
	first := dial(t, address)
	first.send("GET /v1/me" + head + "\r\n")
	if got := first.status(); got != 200 {
		t.Fatalf("%d", got)
	}
	idle := make([]*client, 50)
	for i := range idle {
		idle[i] = dial(t, address)
		works(t, address)
	}
	first.closed()
	for _, c := range idle[:40] { // at least these had to make room
		c.closed()
	}
}

func TestServer_RefusesNewConnectionsWhenAllAreBusy(t *testing.T) {
	h, address := serve(t, patient, 3)
	release := make(chan struct{})
	entered := make(chan struct{})
	h.service.onCall = func(context.Context) {
		entered <- struct{}{}
		<-release
	}
	busy := make([]*client, 3)
	for i := range busy {
		busy[i] = dial(t, address)
		busy[i].send("GET /v1/devices/cam-1/replies?wait=60" + head + "\r\n")
		<-entered
	}
	dial(t, address).closed()
	close(release)
	for _, c := range busy {
		if got := c.status(); got != 200 {
			t.Errorf("a busy one: %d", got)
		}
	}
	works(t, address)
}

func TestServer_ShutdownLetsWaitingCallsEnd(t *testing.T) {
	closing := make(chan struct{})
	h := newHarness(t, func(c *Config) { c.Log = slog.New(slog.DiscardHandler) })
	entered := make(chan struct{})
	h.service.onCall = func(context.Context) {
		close(entered)
		<-closing // as the dispatcher does when it closes
	}
	srv := NewServer(ServerConfig{Handler: h.api, Log: slog.New(slog.DiscardHandler)})
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	c := dial(t, ln.Addr().String())
	c.send("GET /v1/devices/cam-1/replies?wait=60" + head + "\r\n")
	<-entered
	close(closing)
	if err := srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if got := c.status(); got != 200 {
		t.Errorf("%d", got)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("serve: %v", err)
	}
}

func TestConnections_TrackNothingThatIsGone(t *testing.T) {
	conns := newConnections(2)
	a, b := net.Pipe()
	defer func() { _ = b.Close() }()
	for _, state := range []http.ConnState{http.StateNew, http.StateActive, http.StateIdle, http.StateActive, http.StateClosed, http.StateIdle, http.StateActive} {
		conns.changed(a, state)
	}
	if len(conns.known) != 0 || conns.idle.Len() != 0 {
		t.Errorf("%d known, %d idle", len(conns.known), conns.idle.Len())
	}
	_ = a.Close()
}

var _ dispatch.Service = (*fakeService)(nil)
