package dispatch

import (
	"crypto/rand"
	"strconv"
	"strings"
	"sync"
	"time"

	"signaldevice/device"
)

// Bounds of event streams.
const (
	maxStreamsPerClient = 100
	maxStreams          = 1000
	streamBacklog       = 1024            // events that may wait for one reader
	eventsKept          = 8192            // for readers who come back; about 0.3 KB each
	streamPause         = 5 * time.Second // advised to a reader for whom there is no room
)

// Event tells a client that something changed. It holds no bodies and takes nothing: whoever is told reads. An event
// without a hint says that anything may have changed.
type Event struct {
	ID string // names the event to Subscribe; opaque, at most 32 bytes
	Hint
}

// IsResync reports whether events may have been missed before this one.
func (e Event) IsResync() bool { return e.Hint == Hint{} }

// Subscription is an open stream of events for one reader.
type Subscription struct {
	// Events is closed when the reader falls 1,024 events behind, and when the Dispatcher closes.
	Events <-chan Event
	// Ended is closed together with Events, where nothing has to be read first to see it, and by Close.
	Ended <-chan struct{}
	// Behind reports whether the reader fell behind.
	Behind func() bool
	// Close ends the subscription. It must be called, and may be more than once.
	Close func()
}

// Subscribe opens a stream of what concerns the caller: replies to its own requests and where those stand, whoever asks
// (I3), and the presence of the devices that it may touch, by the labels that they have at that moment.
//
// after is the ID of the last event that the reader has seen. The stream goes on behind it where this Dispatcher still
// knows what came since; else, and where after is "", it begins with a resync. Whenever events may have been missed, a
// resync comes. After Close, the stream ends at once. Error: RateLimited, the client or all clients together have too
// many streams.
func (d *Dispatcher) Subscribe(c Caller, after string) (*Subscription, error) {
	return d.streams.subscribe(&stream{
		mailbox: device.MailboxOf(c.Client), labels: c.Labels,
		events: make(chan Event, streamBacklog), ended: make(chan struct{}),
	}, after)
}

// streams hands what happens to those whom it concerns. An event's number counts the events of this Dispatcher.
type streams struct {
	boot string // tells the IDs of this Dispatcher from others'

	mu     sync.Mutex
	open   map[device.Mailbox]map[*stream]struct{}
	total  int
	last   uint64 // number of the newest event
	since  uint64 // every event after this number is kept
	kept   []Hint // a ring, by number
	closed bool
}

// stream is one open subscription. Its fields are guarded by streams.mu but for the channels.
type stream struct {
	mailbox device.Mailbox
	labels  device.Labels // condition on devices
	events  chan Event
	ended   chan struct{}
	behind  bool
}

func newStreams() *streams {
	return &streams{
		boot: rand.Text()[:12],
		open: map[device.Mailbox]map[*stream]struct{}{},
		kept: make([]Hint, eventsKept),
	}
}

func (s *stream) wants(h Hint) bool {
	switch {
	case h.Reply != nil:
		return h.Reply.Mailbox == s.mailbox
	case h.Request != nil:
		return h.Request.Mailbox == s.mailbox
	case h.Presence != nil:
		return h.Presence.Labels.Match(s.labels)
	default:
		return true
	}
}

func (ss *streams) subscribe(s *stream, after string) (*Subscription, error) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if len(ss.open[s.mailbox]) >= maxStreamsPerClient {
		return nil, tooManyStreams("this client has too many event streams open")
	}
	if ss.total >= maxStreams {
		return nil, tooManyStreams("too many event streams are open")
	}
	for _, e := range ss.missed(s, after) {
		s.events <- e
	}
	if ss.open[s.mailbox] == nil {
		ss.open[s.mailbox] = map[*stream]struct{}{}
	}
	ss.open[s.mailbox][s] = struct{}{}
	ss.total++
	if ss.closed {
		ss.end(s)
	}
	return &Subscription{
		Events: s.events, Ended: s.ended,
		Behind: func() bool { return ss.fellBehind(s) }, Close: func() { ss.leave(s) },
	}, nil
}

func tooManyStreams(message string) error {
	return &device.Error{Kind: device.RateLimited, Message: message, RetryAfter: streamPause}
}

// missed returns the events after the one with this ID, or a resync. They fit into the stream.
func (ss *streams) missed(s *stream, after string) (events []Event) {
	number, ok := ss.parse(after)
	if !ok || number < ss.since || number > ss.last {
		return []Event{{ID: ss.id(ss.last)}}
	}
	for n := number + 1; n <= ss.last; n++ {
		h := ss.kept[n%eventsKept]
		if !s.wants(h) {
			continue
		}
		if len(events) == streamBacklog/2 { // room for what comes next
			return []Event{{ID: ss.id(ss.last)}}
		}
		events = append(events, Event{ss.id(n), h})
	}
	return events
}

func (ss *streams) id(number uint64) string { return ss.boot + "-" + strconv.FormatUint(number, 36) }

func (ss *streams) parse(id string) (number uint64, ok bool) {
	text, ok := strings.CutPrefix(id, ss.boot+"-")
	if !ok {
		return 0, false
	}
	number, err := strconv.ParseUint(text, 36, 64)
	return number, err == nil
}

// publish hands a hint to everyone it concerns. It never blocks: a reader who does not keep up is dropped.
func (ss *streams) publish(h Hint) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.add(h)
}

// resync tells everyone that events may have been missed. Nobody can go on from before it.
func (ss *streams) resync() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.add(Hint{})
	ss.since = ss.last
}

// add numbers and hands out an event. The caller holds the lock.
func (ss *streams) add(h Hint) {
	ss.last++
	ss.kept[ss.last%eventsKept] = h
	if ss.last-ss.since > eventsKept {
		ss.since = ss.last - eventsKept
	}
	switch {
	case h.Reply != nil:
		ss.hand(ss.open[h.Reply.Mailbox], h)
	case h.Request != nil:
		ss.hand(ss.open[h.Request.Mailbox], h)
	default:
		for _, of := range ss.open {
			ss.hand(of, h)
		}
	}
}

// hand gives an event to those of the streams that want it. The caller holds the lock.
func (ss *streams) hand(to map[*stream]struct{}, h Hint) {
	var e Event
	for s := range to {
		if !s.wants(h) {
			continue
		}
		if e.ID == "" {
			e = Event{ss.id(ss.last), h}
		}
		select {
		case s.events <- e:
		default:
			s.behind = true
			ss.end(s)
		}
	}
}

// end ends a stream that is open. The caller holds the lock.
func (ss *streams) end(s *stream) {
	delete(ss.open[s.mailbox], s)
	if len(ss.open[s.mailbox]) == 0 {
		delete(ss.open, s.mailbox)
	}
	ss.total--
	close(s.events)
	close(s.ended)
}

func (ss *streams) leave(s *stream) {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	if _, open := ss.open[s.mailbox][s]; open {
		ss.end(s)
	}
}

func (ss *streams) fellBehind(s *stream) bool {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	return s.behind
}

// close ends every stream, and those that begin later.
func (ss *streams) close() {
	ss.mu.Lock()
	defer ss.mu.Unlock()
	ss.closed = true
	for _, of := range ss.open {
		for s := range of {
			ss.end(s)
		}
	}
}
