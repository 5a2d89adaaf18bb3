// Package watch tells whoever listens that a device came or went, that a reply arrived, or where
// requests stand now.
//
// Hints are at most once. A listener that does not keep up is ended rather than waited for: it listens again, and looks.
// A Hub is safe for concurrent use.
package watch

import (
	"sync"
	"time"

	"signaldevice/device"
)

// backlog is how many hints may wait for one listener.
const backlog = 4096

// Event is one hint; exactly one of its fields is set.
type Event struct {
	Reply    *Reply
	Presence *Presence
	Requests []Request
}

// Reply tells that a reply is in its device's queue.
type Reply struct {
	Device  device.ID
	Mailbox device.Mailbox
	Request device.RequestID
	Seq     int
	Final   bool
}

// Presence tells that a device came or went.
type Presence struct {
	Device device.ID
	Labels device.Labels // nil: the device has none, or is no longer registered
	Online bool
	Since  time.Time
}

// Request tells where a request stands that stood elsewhere before.
type Request struct {
	Device  device.ID
	Mailbox device.Mailbox
	Request device.RequestID
	State   device.State
}

// Hub hands each event to all listeners. The zero value is ready for use.
type Hub struct {
	mu        sync.Mutex
	listeners map[*listener]struct{}
	closed    bool
}

type listener struct {
	wants func(Event) bool
	ch    chan Event
}

// Listen returns a channel of the events that are wanted. It is closed when the listener falls 4,096 events behind, and
// when the hub closes. stop ends it sooner.
func (h *Hub) Listen(wants func(Event) bool) (events <-chan Event, stop func()) {
	l := &listener{wants, make(chan Event, backlog)}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		close(l.ch)
		return l.ch, func() {}
	}
	if h.listeners == nil {
		h.listeners = map[*listener]struct{}{}
	}
	h.listeners[l] = struct{}{}
	return l.ch, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.drop(l)
	}
}

// drop ends a listener once. The caller holds the lock.
func (h *Hub) drop(l *listener) {
	if _, ok := h.listeners[l]; ok {
		delete(h.listeners, l)
		close(l.ch)
	}
}

// Publish hands an event to every listener that wants it. It never blocks.
func (h *Hub) Publish(e Event) { h.PublishSeen(func() Event { return e }) }

// PublishSeen publishes what look sees, and nothing else between the look and that: an event that is published later is
// about something later. look must be quick and must not call the hub.
func (h *Hub) PublishSeen(look func() Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.listeners) == 0 {
		return
	}
	e := look()
	for l := range h.listeners {
		if !l.wants(e) {
			continue
		}
		select {
		case l.ch <- e:
		default:
			h.drop(l)
		}
	}
}

// Close ends every listener.
func (h *Hub) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for l := range h.listeners {
		h.drop(l)
	}
}
