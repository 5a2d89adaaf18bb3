package httpapi

import (
	"crypto/rand"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"signaldevice/audit"
	"signaldevice/device"
	"signaldevice/dispatch"
)

// answer is the response to one call, with what the log line of the call needs. One goroutine uses it.
type answer struct {
	http.ResponseWriter
	degraded func(began time.Time) []dispatch.Outage
	began    time.Time

	id     string          // of the HTTP call; nothing to do with a command's request id
	client device.ClientID // set once the caller is known
	role   string          // the same
	status int             // 0: nothing written yet
	err    error           // what the problem was made of

	refused bool // the edge turned the caller away
	audited bool // the audit log has a line about the call

	answered time.Time // when a stream began; zero: the answer ends with the call
}

func newAnswer(rw http.ResponseWriter, degraded func(began time.Time) []dispatch.Outage) *answer {
	w := &answer{ResponseWriter: rw, degraded: degraded, began: time.Now(), id: rand.Text()}
	h := w.Header()
	h.Set("X-Request-Id", w.id)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	return w
}

// origin tells where the call came from. role is "" for a caller without one.
func (w *answer) origin(r *http.Request, role string) audit.Origin {
	return audit.Origin{Role: role, Address: r.RemoteAddr, HTTPRequest: w.id, Audited: &w.audited}
}

// WriteHeader sends the header. Only then does it ask what was degraded since the call began: it may have waited for a
// minute, and an outage that it met may be over.
func (w *answer) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	if outages := w.degraded(w.began); len(outages) > 0 {
		w.Header().Set("Signal-Device-Degraded", strings.Join(dependencies(outages), ", "))
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write sends a part of the body.
func (w *answer) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach the connection.
func (w *answer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// patience gives the answer of a call that may wait for so long its usual time to leave after that.
func (a *API) patience(w *answer, wait time.Duration) {
	if wait > 0 {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait + a.cfg.Timeouts.Write)) // a recorder has none
	}
}

// json answers with a body. A device's result is passed on even where it breaks a rule of JSON that does not hinder its
// reader, because a reply that was taken must reach its client.
func (w *answer) json(status int, body any) error {
	b, err := marshal(body)
	if err != nil {
		return err
	}
	w.bytes(status, "application/json", b)
	return nil
}

// problem answers with what went wrong.
func (w *answer) problem(p problem) {
	b, err := marshal(p)
	if err != nil {
		b = nil // cannot be: a problem holds text and numbers
	}
	w.bytes(p.Status, "application/problem+json", b)
}

func marshal(v any) ([]byte, error) {
	return json.Marshal(v, jsontext.AllowDuplicateNames(true), jsontext.AllowInvalidUTF8(true))
}

// bytes answers with a ready body. That the client may have gone is no fault of the call.
func (w *answer) bytes(status int, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func dependencies(outages []dispatch.Outage) []string {
	names := make([]string, len(outages))
	for i, o := range outages {
		names[i] = o.Dependency
	}
	slices.Sort(names)
	return names
}

// page is the body of every list.
type page[T any] struct {
	Items      []T     `json:"items"`
	NextCursor *string `json:"next_cursor"`
}

// pageOf shows the items of a list. next is "" on the last page.
func pageOf[T, V any](items []T, next string, show func(T) V) page[V] {
	p := page[V]{Items: make([]V, len(items)), NextCursor: textOrNull(next)}
	for i, item := range items {
		p.Items[i] = show(item)
	}
	return p
}

// stamp shows a time: RFC 3339, UTC, milliseconds.
func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// stampOrNull is nil for the zero time.
func stampOrNull(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return new(stamp(t))
}

func textOrNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
