package mqtt

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	mochi "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/packets"

	"signaldevice/device"
)

// Limits of one connection.
const (
	maxUnacked      = 64      // events taken in whose PUBACK is still owed
	maxUnackedBytes = 1 << 20 // of those, but one always fits
	maxInflight     = 256     // commands written whose PUBACK has not come
	maxFilters      = 32
)

// ErrNotSubscribed tells that the session does not receive this topic.
var ErrNotSubscribed = errors.New("mqtt: the device is not subscribed")

// ErrBusy tells that too many commands wait for this device's PUBACK.
var ErrBusy = errors.New("mqtt: too many commands wait for the device's acknowledgement")

// ErrGone tells that the connection ended before the packet was written.
var ErrGone = errors.New("mqtt: the connection has ended")

// ErrLate tells that a packet's time was over before it was written.
var ErrLate = errors.New("mqtt: too late to write")

// Session is one connection of a device. It is safe for concurrent use.
type Session struct {
	server *Server
	client *mochi.Client
	conn   *conn
	device device.ID
	since  time.Time
	last   atomic.Int64 // Unix milliseconds of the last packet
	gone   chan struct{}
	once   sync.Once

	sending sync.Mutex // held while a command is written

	mu       sync.Mutex
	filters  map[string]byte // what follows the device's base in a granted filter, in full: filter → QoS
	nextID   uint16
	inflight map[uint16]func() // commands by packet id: called at the device's PUBACK

	ackMu    sync.Mutex
	room     *sync.Cond // more room for events, stalled, overflow, or gone
	unacked  []*owed    // in packet order
	bytes    int
	acking   bool
	stalled  bool // an event waits for room in the queue, so that waiting for its PUBACK has no end in sight
	overflow bool // an event was dropped or refused: no more are taken, the device has to connect anew to send them
}

// owed is an event whose PUBACK is still owed.
type owed struct {
	id    uint16
	qos   byte
	size  int
	done  bool
	error error
}

// Device is whose session it is.
func (s *Session) Device() device.ID { return s.device }

// Since is when the connection was made.
func (s *Session) Since() time.Time { return s.since }

// LastSeen is when the last packet came.
func (s *Session) LastSeen() time.Time { return time.UnixMilli(s.last.Load()) }

// Gone is closed when the connection has ended.
func (s *Session) Gone() <-chan struct{} { return s.gone }

func (s *Session) seen() { s.last.Store(s.server.cfg.Clock().UnixMilli()) }

func (s *Session) cut(cause error) {
	s.once.Do(func() { close(s.gone) })
	s.client.Stop(cause)
	s.ackMu.Lock()
	s.room.Broadcast()
	s.ackMu.Unlock()
}

// Send writes a command to the connection and returns once the bytes are handed to TCP. subtopic is what follows
// `commands/`, "" for the topic itself. With QoS 1 acked is called once, at the device's PUBACK, and never when the
// connection ends first; with QoS 0 it is never called. qos tells which it was. It uses packet ids of its own: the
// device's ids may clash with them without harm [MQTT-2.3.1-4].
//
// Nothing is written after until (I4): ErrLate. A write that is still under way then is cut off with its connection. The
// zero time means no limit. After any error the device never sees the whole packet.
func (s *Session) Send(subtopic string, payload []byte, until time.Time, acked func()) (qos byte, err error) {
	topic := commandsSuffix
	if subtopic != "" {
		topic += "/" + subtopic
	}
	if s.ended() {
		return 0, ErrGone
	}
	s.mu.Lock()
	base, qos, ok := s.match(topic)
	if !ok {
		s.mu.Unlock()
		return 0, ErrNotSubscribed
	}
	pk := packets.Packet{
		FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos},
		TopicName:   base + topic, Payload: payload,
	}
	if qos == 1 {
		if len(s.inflight) >= maxInflight {
			s.mu.Unlock()
			return 0, ErrBusy
		}
		for {
			s.nextID++
			if _, used := s.inflight[s.nextID]; !used && s.nextID != 0 {
				break
			}
		}
		pk.PacketID = s.nextID
		s.inflight[s.nextID] = acked
	}
	s.mu.Unlock()
	if err := s.write(pk, until); err != nil {
		s.forget(pk.PacketID)
		if errors.Is(err, ErrLate) {
			return 0, err
		}
		s.cut(err)
		return 0, ErrGone
	}
	return qos, nil
}

// write hands a command to TCP, one at a time.
func (s *Session) write(pk packets.Packet, until time.Time) error {
	s.sending.Lock()
	defer s.sending.Unlock()
	if !until.IsZero() {
		if !time.Now().Before(until) {
			return ErrLate
		}
		s.conn.until.Store(&until)
		defer s.conn.until.Store(nil)
	}
	return s.client.WritePacket(pk)
}

func (s *Session) forget(id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.inflight, id)
}

// acknowledged is the device's PUBACK of a command.
func (s *Session) acknowledged(id uint16) {
	s.mu.Lock()
	acked := s.inflight[id]
	delete(s.inflight, id)
	s.mu.Unlock()
	if acked != nil {
		acked()
	}
}

// match finds a granted filter that takes the topic, and the base in the form that the device subscribed with. The
// caller holds the lock.
func (s *Session) match(topic string) (base string, qos byte, ok bool) {
	for filter, granted := range s.filters {
		rest, _ := own(s.device, filter)
		if matches(rest, topic) && (!ok || granted > qos) {
			base, qos, ok = filter[:len(filter)-len(rest)], granted, true
		}
	}
	return base, qos, ok
}

func (s *Session) receives(topic string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, _, ok := s.match(topic)
	return ok
}

func (s *Session) subscribe(filter string, qos byte) {
	s.mu.Lock()
	_, known := s.filters[filter]
	full := !known && len(s.filters) >= maxFilters
	if !full {
		s.filters[filter] = qos
	}
	s.mu.Unlock()
	if full {
		s.cut(errors.New("too many subscriptions"))
	}
}

func (s *Session) unsubscribe(filter string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.filters, filter)
}

// event hands an event on and owes its PUBACK. While events are being stored, a full window makes the device wait by
// TCP's own means. While they cannot be stored it must not: the acknowledgements of commands come through the same
// connection. Then the event is dropped, unacknowledged, and the device keeps it. So is every later one, even if it would
// fit: a final reply that is stored before an earlier one of its request turns that one away when it comes again (I1).
func (s *Session) event(e Event, qos byte, id uint16) {
	o := &owed{id: id, qos: qos, size: len(e.Payload)}
	s.ackMu.Lock()
	for s.full(o) && !s.stalled && !s.overflow && !s.ended() {
		s.room.Wait()
	}
	if s.ended() || s.overflow || s.full(o) {
		s.overflow = true
		s.ackMu.Unlock()
		return
	}
	s.unacked = append(s.unacked, o)
	s.bytes += o.size
	s.ackMu.Unlock()
	e.Done = func(err error) { s.settle(o, err) }
	s.server.cfg.Handler.Event(e)
}

func (s *Session) full(o *owed) bool {
	return len(s.unacked) >= maxUnacked || len(s.unacked) > 0 && s.bytes+o.size > maxUnackedBytes
}

func (s *Session) ended() bool {
	select {
	case <-s.gone:
		return true
	default:
		return false
	}
}

// stall notes that an event waits for room in the queue.
func (s *Session) stall() {
	s.ackMu.Lock()
	defer s.ackMu.Unlock()
	s.stalled = true
	s.room.Broadcast()
}

// settle is an event's Done. Acknowledgements are written by a goroutine that lives only while there are some.
func (s *Session) settle(o *owed, err error) {
	s.ackMu.Lock()
	defer s.ackMu.Unlock()
	o.done, o.error = true, err
	if err != nil && o.qos > 0 { // the connection is cut once those before it are acknowledged
		s.overflow = true
		s.room.Broadcast()
	}
	if !s.acking {
		s.acking = true
		go s.writeAcks()
	}
}

// writeAcks writes the PUBACKs that are due, in the order of the events [MQTT-4.6.0-2].
func (s *Session) writeAcks() {
	for {
		s.ackMu.Lock()
		if len(s.unacked) == 0 || !s.unacked[0].done {
			s.acking = false
			anew := len(s.unacked) == 0 && s.overflow
			s.ackMu.Unlock()
			if anew {
				s.cut(errors.New("events were dropped while the queue was full: connect anew to send them again"))
			}
			return
		}
		o := s.unacked[0]
		s.unacked = s.unacked[1:]
		s.bytes -= o.size
		if len(s.unacked) == 0 {
			s.unacked, s.stalled = nil, false
		}
		s.room.Broadcast()
		s.ackMu.Unlock()
		if o.error != nil && o.qos > 0 {
			s.cut(o.error)
			return // acking stays true: nothing more is acknowledged on this connection
		}
		if o.qos == 0 {
			continue
		}
		if err := s.client.WritePacket(packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: o.id}); err != nil {
			s.cut(err)
			return
		}
	}
}
