package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// How a stream of events is kept.
const (
	heartbeat        = 15 * time.Second // a comment, so that neither side nor a proxy between takes the stream for dead
	recheck          = 5 * time.Second  // how long a stream may outlive its token or the rights it began with
	lastMoment       = time.Second      // for the rest of a stream that has ended: the service may be stopping
	writeAtOnce      = 32 << 10         // bytes of events that are sent together
	reconnectSoonest = time.Second      // advised to clients: spread, so that they do not all come back at once
	reconnectLatest  = 3 * time.Second
)

type replyEvent struct {
	RequestID device.RequestID `json:"request_id"`
	DeviceID  device.ID        `json:"device_id"`
	Seq       int              `json:"seq"`
	Final     bool             `json:"final"`
}

type requestEvent struct {
	RequestID device.RequestID `json:"request_id"`
	DeviceID  device.ID        `json:"device_id"`
	State     device.State     `json:"state"`
}

type presenceEvent struct {
	DeviceID device.ID `json:"device_id"`
	Online   bool      `json:"online"`
	Since    string    `json:"since"`
}

// showEvent gives an event its outside form.
func showEvent(e dispatch.Event) (name string, data any) {
	switch {
	case e.Reply != nil:
		return "reply", replyEvent{e.Reply.Request, e.Reply.Device, e.Reply.Seq, e.Reply.Final}
	case e.Request != nil:
		return "request", requestEvent{e.Request.Request, e.Request.Device, e.Request.State}
	case e.Presence != nil:
		return "presence", presenceEvent{e.Presence.Device, e.Presence.Online, stamp(e.Presence.Since)}
	default:
		return "resync", struct{}{}
	}
}

// streamEvents answers with server-sent events until the client leaves or does not keep up, its token or rights end, or
// the service stops.
func (a *API) streamEvents(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	sub, err := a.cfg.Service.Subscribe(who.Caller, r.Header.Get("Last-Event-ID"))
	if err != nil {
		return err
	}
	a.cfg.Metrics.streamBegan()
	defer a.cfg.Metrics.streamEnded()
	s := a.newEventStream(w)
	var hurry sync.WaitGroup
	hurry.Go(func() {
		<-sub.Ended
		s.hurry() // a write that is under way, too
	})
	defer hurry.Wait() // else it might hurry the next call on this connection
	defer sub.Close()
	beats, checks := time.NewTicker(heartbeat), time.NewTicker(recheck)
	defer beats.Stop()
	defer checks.Stop()
	for s.flush() {
		select {
		case e, open := <-sub.Events:
			if !open {
				if sub.Behind() {
					a.cfg.Metrics.streamDropped("behind")
				}
				return nil
			}
			s.add(e)
			for len(sub.Events) > 0 && s.buffer.Len() < writeAtOnce {
				s.add(<-sub.Events)
			}
		case <-beats.C:
			s.buffer.WriteString(":\n\n")
		case <-checks.C:
			if !a.isStill(r, who) {
				return nil
			}
		case <-r.Context().Done():
			return nil
		}
	}
	return nil
}

// isStill reports whether the credential of a call is still good, and for the same events.
func (a *API) isStill(r *http.Request, who Identity) bool {
	now, err := a.identify(r)
	return err == nil && now.Client == who.Client && now.Role == who.Role && maps.Equal(now.Labels, who.Labels)
}

// eventStream writes server-sent events (HTML Living Standard, section 9.2).
type eventStream struct {
	w       http.ResponseWriter
	conn    *http.ResponseController
	metrics *Metrics
	buffer  bytes.Buffer

	mu      sync.Mutex
	timeout time.Duration // of each write
}

// newEventStream sends the header.
func (a *API) newEventStream(w *answer) *eventStream {
	s := &eventStream{w: w, conn: http.NewResponseController(w), timeout: a.cfg.Timeouts.Write, metrics: a.cfg.Metrics}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep events back
	w.WriteHeader(http.StatusOK)
	w.answered = time.Now()
	retry := reconnectSoonest + rand.N(reconnectLatest-reconnectSoonest)
	fmt.Fprintf(&s.buffer, "retry: %d\n\n", retry.Milliseconds())
	return s
}

func (s *eventStream) add(e dispatch.Event) {
	name, data := showEvent(e)
	b, err := marshal(data)
	if err != nil {
		return // cannot be: an event holds text and numbers
	}
	fmt.Fprintf(&s.buffer, "id: %s\nevent: %s\ndata: %s\n\n", e.ID, name, b)
}

// flush sends what there is. It reports false when that cannot be, because the client has gone or does not read.
func (s *eventStream) flush() bool {
	if s.buffer.Len() == 0 {
		return true
	}
	s.extend()
	_, err := s.buffer.WriteTo(s.w)
	if err == nil {
		err = s.conn.Flush()
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		s.metrics.streamDropped("blocked")
	}
	return err == nil
}

// extend gives the next write its time.
func (s *eventStream) extend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.conn.SetWriteDeadline(time.Now().Add(s.timeout)) // a recorder has none
}

// hurry gives what is still to be written a last moment, however slow its reader is.
func (s *eventStream) hurry() {
	s.mu.Lock()
	s.timeout = min(s.timeout, lastMoment)
	s.mu.Unlock()
	s.extend()
}
