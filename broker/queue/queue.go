// Package queue is the durable output queue of each device: replies wait in it until they are acknowledged.
//
// It promises that a reply whose Done was called with nil is on disk (I1), that a drain shows every such reply until it
// is removed, in the order of arrival, and that only Acknowledge, age and deletion of the device remove one (I2). A
// duplicate, told by request and seq, is dropped. Every method is safe for concurrent use.
//
// The replies are in a JetStream stream, each under a subject of its own that tells all about it but its body:
// `q.<device>.<mailbox>.<uuid>.<seq>.<final><size>-<arrival>`. Beside it the queue keeps a small index in memory for
// quotas, duplicates and states. The index is made from the subjects at start; reading always asks the stream.
package queue

import (
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	streamName = "QUEUE"
	markStream = "MARKS"
	sweepEvery = time.Second
	ageEvery   = time.Minute
	maxParked  = 64 // replies of one device that wait in memory for room, beside those that failed to be stored
	duplicates = 2 * time.Minute
	idHeader   = "Request-Id"
)

// Records is what the queue needs of the request records.
type Records interface {
	// Get returns the record of a request; ok is false when there is none.
	Get(ctx context.Context, c device.Claims) (r requests.Record, ok bool, err error)
	// Update adds facts that become durable soon.
	Update(ctx context.Context, c device.Claims, change func(*requests.Record) bool) error
	// Flush returns once every fact of these requests is durable.
	Flush(ctx context.Context, ids []device.UUID) error
}

// Config limits the queue. The zero value of a limit means its default.
type Config struct {
	MaxReplies int           // unread replies of one device; default 1,000
	MaxBytes   int64         // of those; default 16 MB
	Retention  time.Duration // default 24 h
	MaxStore   int64         // bytes on disk, all devices; default 8 GiB
	Engine     *stream.Engine
	Records    Records
	// Arrived is called after a reply has become durable. It must not block.
	Arrived func(Reply)
	Clock   func() time.Time
	Log     *slog.Logger
}

// Reply is an event that answers a request, on its way into the queue.
type Reply struct {
	Device device.ID
	ID     device.RequestID
	Claims device.Claims
	Seq    int
	Final  bool
	Body   []byte

	// Gone is closed when the device's connection has ended; a reply that waits for room is then let go, and the device
	// publishes it again. nil: never.
	Gone <-chan struct{}
	// Parked is called when the reply has to wait for room. nil: nobody cares. It must not block.
	Parked func()
	// Done is called once: with nil when the reply is durable, or is to be dropped as a duplicate or over the request's
	// limit, so that the device may forget it; with an error when it was not stored and will not be. It must not block.
	Done func(err error)

	received time.Time
	size     int // of the body
}

// Stats counts what happened since the start.
type Stats struct {
	Stored     uint64
	Duplicates uint64 // dropped: the same seq, or after the final reply
	OverLimit  uint64 // dropped: more than one request may have
	Parked     uint64 // had to wait for room
	Waiting    int    // in the queue now, unread
}

// Queue holds the output queues of all devices.
type Queue struct {
	cfg      Config
	life     uint64
	appender *stream.Appender
	marks    *stream.Appender
	stop     context.CancelFunc
	stopped  sync.WaitGroup

	mu      sync.Mutex
	devices map[device.ID]*deviceQueue
	due     dueHeap
	stats   Stats
}

// deviceQueue is the index of one device's queue.
type deviceQueue struct {
	entries map[replyKey]*entry
	count   int   // unread
	bytes   int64 // unread
	parked  []*Reply
	waiters map[chan struct{}]struct{}
	last    uint64 // the highest stream sequence that an append of this process had
}

type replyKey struct {
	uuid device.UUID
	seq  int
}

// entry is one reply of the index.
type entry struct {
	mailbox device.Mailbox
	final   bool
	size    int
	seq     uint64 // stream sequence; 0: not known, from before this start or pending
	at      requests.Millis
	due     requests.Millis // when its grace ends; 0: unread
	pending bool            // its append is under way
	done    []func(error)   // of the reply and of its duplicates that came meanwhile
}

// Open creates or finds the streams, reads the index, and starts the sweeper. Close stops it.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	if cfg.MaxReplies == 0 {
		cfg.MaxReplies = 1000
	}
	if cfg.MaxBytes == 0 {
		cfg.MaxBytes = 16 << 20
	}
	if cfg.Retention == 0 {
		cfg.Retention = 24 * time.Hour
	}
	if cfg.MaxStore == 0 {
		cfg.MaxStore = 8 << 30
	}
	q := &Queue{cfg: cfg, devices: map[device.ID]*deviceQueue{}}
	var err error
	q.life, err = cfg.Engine.Ensure(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"q.>"}, Storage: jetstream.FileStorage,
		MaxAge: cfg.Retention, MaxBytes: cfg.MaxStore, Discard: jetstream.DiscardNew,
		AllowDirect: true, AllowAtomicPublish: true, Duplicates: min(duplicates, cfg.Retention),
	})
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	_, err = cfg.Engine.Ensure(ctx, jetstream.StreamConfig{
		Name: markStream, Subjects: []string{"m.>"}, Storage: jetstream.FileStorage,
		MaxAge: cfg.Retention + time.Hour, MaxBytes: cfg.MaxStore / 8, Discard: jetstream.DiscardNew,
		AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	if err := q.readIndex(ctx); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q.appender, q.marks = cfg.Engine.NewAppender(), cfg.Engine.NewAppender()
	newest := q.newest()
	ctx, q.stop = context.WithCancel(context.Background())
	q.stopped.Go(func() {
		q.noteNewest(ctx, newest)
		q.sweepLoop(ctx)
	})
	return q, nil
}

// Close stops the sweeper and the writers. Replies that wait for room are refused.
func (q *Queue) Close() {
	q.stop()
	q.stopped.Wait()
	q.appender.Close()
	q.marks.Close()
	var refused []*Reply
	q.mu.Lock()
	for _, d := range q.devices {
		refused = append(refused, d.parked...)
		d.parked = nil
	}
	q.mu.Unlock()
	for _, r := range refused {
		r.Done(stream.ErrClosed)
	}
}

// Stats returns the counters.
func (q *Queue) Stats() Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := q.stats
	for _, d := range q.devices {
		s.Waiting += d.count
	}
	return s
}

// readIndex makes the index from the subjects, and the graces from their marks.
func (q *Queue) readIndex(ctx context.Context) error {
	var bad int
	err := q.cfg.Engine.Subjects(ctx, streamName, "q.>", func(subject string) {
		dev, key, e, ok := parseSubject(subject)
		if !ok {
			bad++
			return
		}
		q.device(dev).add(key, e)
	})
	if err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%d entries of stream %s have subjects of another version", bad, streamName)
	}
	return q.readMarks(ctx)
}

// device returns the index of a device, made when absent. The caller holds the lock.
func (q *Queue) device(id device.ID) *deviceQueue {
	d := q.devices[id]
	if d == nil {
		d = &deviceQueue{entries: map[replyKey]*entry{}, waiters: map[chan struct{}]struct{}{}}
		q.devices[id] = d
	}
	return d
}

// tidy forgets a device with nothing left. The caller holds the lock.
func (q *Queue) tidy(id device.ID) {
	if d := q.devices[id]; d != nil && len(d.entries) == 0 && len(d.parked) == 0 && len(d.waiters) == 0 {
		delete(q.devices, id)
	}
}

func (d *deviceQueue) add(key replyKey, e *entry) {
	d.entries[key] = e
	d.count++
	d.bytes += int64(e.size)
}

func (d *deviceQueue) remove(key replyKey) {
	if e := d.entries[key]; e != nil {
		d.read(e, 1)
		delete(d.entries, key)
	}
}

// read takes the entry out of the quota, once.
func (d *deviceQueue) read(e *entry, due requests.Millis) {
	if e.due == 0 {
		e.due = due
		d.count--
		d.bytes -= int64(e.size)
	}
}

func (d *deviceQueue) wake() {
	for ch := range d.waiters {
		select {
		case ch <- struct{}{}:
		default: // woken already
		}
	}
}

// Unread lists the client's requests at the device that have an unread reply here, and the bytes of those replies.
func (q *Queue) Unread(dev device.ID, m device.Mailbox) (ids map[device.UUID]bool, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids = map[device.UUID]bool{}
	if d := q.devices[dev]; d != nil {
		for key, e := range d.entries {
			if e.mailbox == m && e.due == 0 {
				ids[key.uuid] = true
				bytes += int64(e.size)
			}
		}
	}
	return ids, bytes
}

// Complete adds to a copy of a request's record what the queue knows better: replies whose note is not written yet. It
// reports whether a reply is in the queue now, one in its grace included.
func (q *Queue) Complete(rec *requests.Record) (queued bool) {
	claims, err := rec.ID.Claims()
	if err != nil {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	d := q.devices[rec.Device]
	if d == nil {
		return false
	}
	for key, e := range d.entries {
		if key.uuid == claims.UUID && !e.pending {
			rec.AddReply(key.seq, e.size, e.final, e.at)
			queued = true
		}
	}
	return queued
}

// Forget removes everything of a device that was deleted.
func (q *Queue) Forget(ctx context.Context, dev device.ID) error {
	if err := q.cfg.Engine.PurgeSubject(ctx, streamName, "q."+string(dev)+".>"); err != nil {
		return fmt.Errorf("queue: forget: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if d := q.devices[dev]; d != nil {
		for key := range d.entries {
			d.remove(key)
		}
		q.tidy(dev)
	}
	return nil
}

// subjectOf is the reply's subject in the stream.
func subjectOf(r *Reply) string {
	final := "p"
	if r.Final {
		final = "f"
	}
	return "q." + string(r.Device) + "." + stream.Token(r.Claims.Mailbox[:]) + "." + stream.Token(r.Claims.UUID[:]) +
		"." + strconv.Itoa(r.Seq) + "." + final + strconv.Itoa(len(r.Body)) + "-" + strconv.FormatInt(r.received.UnixMilli(), 10)
}

func parseSubject(subject string) (dev device.ID, key replyKey, e *entry, ok bool) {
	parts := strings.Split(subject, ".")
	if len(parts) != 6 || len(parts[5]) < 4 {
		return "", replyKey{}, nil, false
	}
	mailbox, err1 := stream.ParseToken(parts[2])
	uuid, err2 := stream.ParseToken(parts[3])
	seq, err3 := strconv.Atoi(parts[4])
	sizeText, atText, found := strings.Cut(parts[5][1:], "-")
	size, err4 := strconv.Atoi(sizeText)
	at, err5 := strconv.ParseInt(atText, 10, 64)
	for _, err := range []error{err1, err2, err3, err4, err5} {
		if err != nil {
			return "", replyKey{}, nil, false
		}
	}
	if !found || len(mailbox) != 16 || len(uuid) != 16 {
		return "", replyKey{}, nil, false
	}
	e = &entry{mailbox: device.Mailbox(mailbox), final: parts[5][0] == 'f', size: size, at: requests.Millis(at)}
	return device.ID(parts[1]), replyKey{device.UUID(uuid), seq}, e, true
}

// A position names one reply in one life of the stream: life, device, stream sequence, request and seq.
const positionLen = 8 + 8 + 8 + 16 + 4

type position struct {
	seq uint64
	key replyKey
}

func (q *Queue) position(dev device.ID, seq uint64, key replyKey) []byte {
	b := make([]byte, 0, positionLen)
	b = binary.BigEndian.AppendUint64(b, q.life)
	b = binary.BigEndian.AppendUint64(b, deviceSum(dev))
	b = binary.BigEndian.AppendUint64(b, seq)
	b = append(b, key.uuid[:]...)
	return binary.BigEndian.AppendUint32(b, uint32(key.seq))
}

func (q *Queue) parsePosition(dev device.ID, b []byte) (position, error) {
	if len(b) != positionLen {
		return position{}, device.Errorf(device.Invalid, "a position is malformed")
	}
	if binary.BigEndian.Uint64(b) != q.life {
		return position{}, device.Errorf(device.Invalid, "a position is of a queue that no longer exists: drain again")
	}
	if binary.BigEndian.Uint64(b[8:]) != deviceSum(dev) {
		return position{}, device.Errorf(device.Invalid, "a position is of another device")
	}
	return position{binary.BigEndian.Uint64(b[16:]), replyKey{device.UUID(b[24:40]), int(binary.BigEndian.Uint32(b[40:]))}}, nil
}
