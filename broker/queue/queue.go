// Package queue is the durable output queue of each device: replies wait in it until they are acknowledged.
//
// It promises that a reply whose Done was called with nil is on disk (I1), that a drain shows every such reply until it
// is removed, in the order of arrival, and that only Acknowledge, age and deletion of the device remove one (I2). A
// duplicate, told by request and seq, is dropped. Every method is safe for concurrent use.
//
// The replies are in a JetStream stream, each under a subject of its own that tells all about it but its body (names.go).
// Beside it the queue keeps a small index in memory for quotas, duplicates and states (index.go). The index is made from
// the subjects at start; reading always asks the stream. An entry of the stream that cannot be read is passed over, and
// ages out: it must not stand in the way of others.
package queue

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/time/rate"

	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	streamName = "QUEUE"
	markStream = "MARKS"
	duplicates = 2 * time.Minute // how long the stream itself knows a repeated append
	maxBegun   = 100_000         // acknowledged replies that wait to be removed
	idHeader   = "Request-Id"
)

// Records is what the queue needs of the request records.
type Records interface {
	// Get returns the record of a request; ok is false when there is none.
	Get(ctx context.Context, c device.Claims) (r requests.Record, ok bool, err error)
	// Cached returns a record that is in memory, and never blocks.
	Cached(id device.UUID) (r requests.Record, ok bool)
	// Update adds facts that become durable soon.
	Update(ctx context.Context, c device.Claims, change func(*requests.Record) bool) error
	// UpdateCached is Update for a record in memory, and never blocks. ok is false when it is not there.
	UpdateCached(id device.UUID, change func(*requests.Record) bool) (ok bool)
	// Flush returns once every fact of these requests is durable.
	Flush(ctx context.Context, ids []device.UUID) error
}

// Config limits the queue. The zero value of a limit means its default.
type Config struct {
	MaxReplies int           // unread replies of one device; default 1,000
	MaxBytes   int64         // of those, but one always fits; default 16 MB
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
	order    uint64 // of arrival, among all replies
	parked   bool   // it had to wait at least once
	failed   bool   // its append failed at least once
}

// Stats counts what happened since the start.
type Stats struct {
	Stored     uint64
	Duplicates uint64 // dropped: the same seq, or after the final reply
	OverLimit  uint64 // dropped: more than one request may have
	Parked     uint64 // had to wait for room
	Aged       uint64 // dropped unread: older than the retention
	Unreadable uint64 // entries of the stream that were passed over, each time
	Waiting    int    // in the queue now, unread
}

// Queue holds the output queues of all devices.
type Queue struct {
	cfg      Config
	opened   time.Time
	life     uint64
	appender *stream.Appender
	marks    *stream.Appender
	room     chan struct{} // poked when a reply that waits may find room
	quiet    *rate.Limiter // of log lines that come with every reply
	stop     context.CancelFunc
	stopped  sync.WaitGroup

	mu          sync.Mutex // held while calling Records.Cached and UpdateCached, never while waiting
	closed      bool
	devices     map[device.ID]*deviceQueue
	parked      int // replies that wait for room, of all devices
	parkedBytes int // of those
	failedBytes int // of those whose append failed
	arrivals    uint64
	due         dueHeap
	unnoted     []leaving // replies that their records may not know of
	begun       []leaving // acknowledged replies, for the sweeper to remove; it alone takes any out
	stats       Stats
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
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	q := &Queue{
		cfg: cfg, opened: cfg.Clock(), devices: map[device.ID]*deviceQueue{}, room: make(chan struct{}, 1),
		quiet: rate.NewLimiter(rate.Every(time.Second), 10),
	}
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
	ctx, q.stop = context.WithCancel(context.Background())
	q.stopped.Go(func() { q.sweepLoop(ctx) })
	q.stopped.Go(func() { q.retryLoop(ctx) })
	return q, nil
}

// Close removes what was acknowledged, within 2 s, and stops the sweeper and the writers. Replies that wait, and those that
// still come, are refused.
func (q *Queue) Close() {
	q.stop()
	q.stopped.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), closeBudget)
	defer cancel()
	q.removeBegun(ctx)
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.appender.Close()
	q.marks.Close()
	var refused []*Reply
	q.mu.Lock()
	for _, d := range q.devices {
		refused = append(refused, q.unpark(d, len(d.parked))...)
	}
	q.mu.Unlock()
	for _, r := range refused {
		r.Done(stream.ErrClosed)
	}
}

// steady is the time that graces are measured by: a clock that is set while the queue is open ends none early or late
// (F14).
func (q *Queue) steady() time.Time { return q.opened.Add(q.cfg.Clock().Sub(q.opened)) }

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

// Unread lists the client's requests at the device that have an unread reply here, and the bytes of those replies.
func (q *Queue) Unread(dev device.ID, m device.Mailbox) (ids map[device.UUID]bool, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ids = map[device.UUID]bool{}
	for id, replies := range q.devices[dev].all() {
		for _, e := range replies {
			if e.mailbox == m && e.due == 0 {
				ids[id] = true
				bytes += int64(e.size)
			}
		}
	}
	return ids, bytes
}

// Complete adds to a copy of a request's record what the queue knows better: replies whose note is not written yet, and
// those whose grace is over. It reports whether a reply is in the queue now, one in its grace included.
func (q *Queue) Complete(rec *requests.Record) (queued bool) {
	claims, err := rec.ID.Claims()
	if err != nil {
		return false
	}
	now := requests.At(q.steady())
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, e := range q.devices[rec.Device].all()[claims.UUID] {
		if e.pending {
			continue
		}
		rec.AddReply(e.seq, e.size, e.final, e.at)
		switch {
		case e.begun:
		case e.over(now):
			rec.AddRead(e.seq)
		default:
			queued = true
		}
	}
	return queued
}

// Forget removes everything of a device that was deleted.
func (q *Queue) Forget(ctx context.Context, dev device.ID) error {
	q.mu.Lock()
	var parked []*Reply
	if d := q.devices[dev]; d != nil {
		parked = q.unpark(d, len(d.parked))
	}
	q.mu.Unlock()
	for _, r := range parked {
		r.Done(device.Errorf(device.DeviceNotFound, "the device was deleted"))
	}
	if err := q.cfg.Engine.PurgeSubject(ctx, streamName, "q."+string(dev)+".>"); err != nil {
		return fmt.Errorf("queue: forget: %w", err)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for id, replies := range q.devices[dev].all() {
		for _, e := range replies {
			if !e.pending { // else it is stored later, and ages out
				q.devices[dev].remove(id, e.seq)
			}
		}
	}
	q.tidy(dev)
	return nil
}
