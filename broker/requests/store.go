package requests

import (
	"cmp"
	"container/list"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	streamName   = "REQUESTS"
	collectFor   = 50 * time.Millisecond // facts that nobody waits for are written together
	cached       = 16_384                // records in memory at most; about 0.7 KB each
	maxUnwritten = 8192                  // records that wait to be written before new ones are refused
	storeBudget  = 2 * time.Second
)

var errGone = errors.New("requests: the record has been dropped")

// What is kept where the Config does not say.
const (
	DefaultRecords = 500_000
	DefaultKeep    = 30 * 24 * time.Hour
)

// Config says how many records are kept, and for how long.
type Config struct {
	MaxRecords int64         // the oldest finished ones go first; default DefaultRecords
	Keep       time.Duration // since a record's last change; default DefaultKeep
	KeysStore  int64         // bytes on disk for idempotency keys; default 256 MiB
	Engine     *stream.Engine
	Clock      func() time.Time
	Log        *slog.Logger
}

// Store keeps request records in a JetStream stream, the last version of each under its own subject,
// `r.<6 h of its creation>.<30 s of it>.<mailbox>.<uuid>.<device>`. It is safe for concurrent use.
type Store struct {
	cfg      Config
	appender *stream.Appender
	keys     *keys
	ctx      context.Context // ends with Close
	stop     context.CancelFunc
	running  sync.WaitGroup

	most int // records in memory
	list listLimits

	mu      sync.Mutex
	records map[device.UUID]*entry
	recent  *list.List // of *entry, newest first
	dirty   map[*entry]struct{}
	untold  map[*entry]struct{} // what Tell looks at next; nil: nobody is told
	open    openRequests
}

// entry is a record in memory. Its facts may be ahead of the stream by what is dirty.
type entry struct {
	record    Record
	uuid      device.UUID
	mailbox   device.Mailbox
	revision  uint64 // stream sequence of the version last read or written; 0: none is durable
	version   int    // counts the changes made here
	persisted int    // the version that is durable
	writing   bool
	told      device.State // what Tell told last; "": nothing since it was read
	waiters   []waiter
	place     *list.Element
}

func (e *entry) subject() string {
	return subjectOf(device.Claims{UUID: e.uuid, Mailbox: e.mailbox}, e.record.Device)
}

type waiter struct {
	version int
	done    chan error
}

// Open creates or finds the stream and starts the writer. Close stops it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.MaxRecords == 0 {
		cfg.MaxRecords = DefaultRecords
	}
	if cfg.Keep == 0 {
		cfg.Keep = DefaultKeep
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	_, err := cfg.Engine.Ensure(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"r.>"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, MaxMsgs: withSlack(cfg.MaxRecords), MaxAge: cfg.Keep, Discard: jetstream.DiscardOld,
		MaxBytes: StoreBytes(cfg.MaxRecords), AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		return nil, fmt.Errorf("requests: %w", err)
	}
	s := &Store{
		cfg: cfg, appender: cfg.Engine.NewAppender(), most: int(min(cached, cfg.MaxRecords)), list: defaultListLimits,
		records: map[device.UUID]*entry{}, recent: list.New(), dirty: map[*entry]struct{}{},
	}
	if s.keys, err = openKeys(ctx, cfg.Engine, cmp.Or(cfg.KeysStore, 256<<20)); err != nil {
		s.appender.Close()
		return nil, fmt.Errorf("requests: %w", err)
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	s.running.Go(func() { s.flushLoop(s.ctx) })
	s.running.Go(func() { s.trimLoop(s.ctx) })
	return s, nil
}

// StoreBytes is what so many records take on disk at most.
func StoreBytes(records int64) int64 { return withSlack(records) * 2048 }

// withSlack adds what trim has not come to yet.
func withSlack(records int64) int64 { return records + records/4 }

// Close writes what is dirty and stops the writer.
func (s *Store) Close() {
	s.stop()
	ctx, cancel := context.WithTimeout(context.Background(), storeBudget)
	defer cancel()
	if err := s.flushAll(ctx); err != nil {
		s.cfg.Log.Warn("request records not written at stop", "error", err)
	}
	s.appender.Close()
	s.keys.close()
	s.running.Wait()
}

// Create writes a new record durably and returns once it is on disk. Repeating it with the same id is safe. After an
// error the record may still be written.
func (s *Store) Create(ctx context.Context, r Record) error {
	claims, err := r.ID.Claims()
	if err != nil {
		return fmt.Errorf("requests: create: %w", err)
	}
	s.mu.Lock()
	e := s.records[claims.UUID]
	if e == nil {
		if len(s.dirty) >= maxUnwritten {
			s.mu.Unlock()
			return device.Errorf(device.BrokerUnavailable, "too many request records wait to be written")
		}
		e = s.remember(claims, r, 0)
		e.version++
		s.changed(e)
	}
	done := s.await(e)
	s.write(e)
	s.mu.Unlock()
	return receive(ctx, done)
}

// Get returns a copy of the record, once its creation is durable. A zero mailbox in the claims matches any. ok is false
// when there is none.
func (s *Store) Get(ctx context.Context, c device.Claims) (r Record, ok bool, err error) {
	var created chan error
	ok, err = s.with(ctx, c, func(e *entry) {
		r = e.record.clone()
		if e.revision == 0 {
			created = s.await(e)
			s.write(e)
		}
	})
	if created != nil {
		err = receive(ctx, created)
	}
	if err != nil || !ok {
		return Record{}, false, err
	}
	return r, true, nil
}

// Cached returns the record when it is in memory, without any input or output.
func (s *Store) Cached(id device.UUID) (r Record, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.records[id]; e != nil {
		return e.record.clone(), true
	}
	return Record{}, false
}

// Update adds facts. They are durable within about 50 ms; a process that dies before loses them, which every reader of a
// record allows for. change returns false where there is nothing to add; it must not block. A record that no longer
// exists stays so.
func (s *Store) Update(ctx context.Context, c device.Claims, change func(*Record) bool) error {
	_, err := s.with(ctx, c, func(e *entry) { s.change(e, change) })
	return err
}

// UpdateCached is Update for a record in memory: without any input or output. ok is false when it is not there.
func (s *Store) UpdateCached(id device.UUID, change func(*Record) bool) (ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.records[id]
	if e != nil {
		s.change(e, change)
	}
	return e != nil
}

// change adds facts that nobody waits for. The caller holds the lock.
func (s *Store) change(e *entry, change func(*Record) bool) {
	if change(&e.record) {
		e.version++
		s.dirty[e] = struct{}{}
		s.changed(e)
	}
}

// UpdateNow adds facts and returns once all facts of the record are durable, also those that change found there: an
// earlier call may have failed to write them. changed tells whether change found something to add; it runs once, so that
// it may decide between two writers, for example between cancelling and sending.
func (s *Store) UpdateNow(ctx context.Context, c device.Claims, change func(*Record) bool) (changed bool, err error) {
	var done chan error
	_, err = s.with(ctx, c, func(e *entry) {
		if changed = change(&e.record); changed {
			e.version++
			s.changed(e)
		}
		done = s.await(e)
		s.write(e)
	})
	if done != nil {
		err = receive(ctx, done)
	}
	return changed, err
}

// Flush returns once every fact of these requests is durable. A record that was dropped has none.
func (s *Store) Flush(ctx context.Context, ids []device.UUID) error {
	var pending []chan error
	s.mu.Lock()
	for _, id := range ids {
		if e := s.records[id]; e != nil {
			pending = append(pending, s.await(e))
			s.write(e)
		}
	}
	s.mu.Unlock()
	for _, done := range pending {
		if err := receive(ctx, done); err != nil && !errors.Is(err, errGone) {
			return err
		}
	}
	return nil
}

func receive(ctx context.Context, done chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// await returns a channel that tells when the entry's present facts are durable. The caller holds the lock.
func (s *Store) await(e *entry) chan error {
	done := make(chan error, 1)
	if e.persisted == e.version {
		done <- nil
	} else {
		e.waiters = append(e.waiters, waiter{e.version, done})
	}
	return done
}

// write hands the entry's present state to the appender, unless a write of it is under way: that one's end starts the
// next. ok is false when the appender takes nothing. The caller holds the lock.
func (s *Store) write(e *entry) (ok bool) {
	if e.writing || e.persisted == e.version {
		return true
	}
	version := e.version
	body, err := json.Marshal(&e.record)
	if err == nil {
		// The expected revision makes every write safe to repeat, and lets two nodes write one record.
		err = s.appender.TryAppend(&stream.Append{
			Subject: e.subject(), Data: body,
			Header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {strconv.FormatUint(e.revision, 10)}},
			Done:   func(seq uint64, err error) { s.written(e, version, seq, err) },
		})
	}
	if err != nil {
		s.dirty[e] = struct{}{}
		s.settle(e, version, err)
		return false
	}
	e.writing = true
	delete(s.dirty, e)
	return true
}

func (s *Store) written(e *entry, version int, seq uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stream.IsConflict(err) { // still writing, so that nobody else writes it meanwhile
		s.running.Go(func() { s.reconcile(e) })
		return
	}
	e.writing = false
	if err != nil {
		s.dirty[e] = struct{}{} // the flush loop tries again
		s.settle(e, version, err)
		return
	}
	e.revision, e.persisted = seq, version
	s.settle(e, version, nil)
	s.write(e)
}

// settle answers those who wait for this version or an earlier one. The caller holds the lock.
func (s *Store) settle(e *entry, version int, err error) {
	e.waiters = slices.DeleteFunc(e.waiters, func(w waiter) bool {
		if w.version <= version {
			w.done <- err
		}
		return w.version <= version
	})
}

// reconcile merges the stream's version into ours after a conflict: another node wrote, or an earlier write of ours was
// stored although its answer was lost.
func (s *Store) reconcile(e *entry) {
	ctx, cancel := context.WithTimeout(context.Background(), storeBudget)
	defer cancel()
	m, ok, err := s.cfg.Engine.Next(ctx, streamName, e.subject(), 0)
	var theirs Record
	if err == nil && ok {
		err = json.Unmarshal(m.Data, &theirs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.writing = false
	switch {
	case err != nil:
		s.dirty[e] = struct{}{}
		s.settle(e, e.version, err)
	case ok:
		e.record.merge(&theirs)
		e.revision = m.Seq
		s.write(e)
		s.changed(e)
	case e.revision != 0: // dropped for its age or number
		s.forget(e)
		s.settle(e, e.version, errGone)
	default:
		s.write(e)
	}
}

// with calls fn under the lock with the request's entry, from memory or from the stream. ok is false when there is none.
func (s *Store) with(ctx context.Context, c device.Claims, fn func(*entry)) (ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.records[c.UUID]
	if e == nil {
		s.mu.Unlock()
		m, ok, err := s.cfg.Engine.Newest(ctx, streamName, subjectOf(c, "*"))
		s.mu.Lock()
		if err != nil || !ok {
			return false, err
		}
		if e = s.records[c.UUID]; e == nil { // nobody else was faster
			r, claims, ok := s.parse(m)
			if !ok {
				return false, nil
			}
			e = s.remember(claims, r, m.Seq)
		}
	}
	if c.Mailbox != (device.Mailbox{}) && c.Mailbox != e.mailbox {
		return false, nil
	}
	s.recent.MoveToFront(e.place)
	fn(e)
	return true, nil
}

// parse reads a stored record. One that cannot be read is as good as none: it must not stand in the way of others.
func (s *Store) parse(m stream.Message) (r Record, c device.Claims, ok bool) {
	err := json.Unmarshal(m.Data, &r)
	if err == nil {
		c, err = r.ID.Claims()
	}
	if err != nil {
		s.cfg.Log.Error("request record not readable, passed over", "sequence", m.Seq, "error", err)
		return Record{}, device.Claims{}, false
	}
	return r, c, true
}

// remember puts a record into memory and lets one go that was not used for long. The caller holds the lock.
func (s *Store) remember(c device.Claims, r Record, revision uint64) *entry {
	e := &entry{record: r, uuid: c.UUID, mailbox: c.Mailbox, revision: revision}
	e.place = s.recent.PushFront(e)
	s.records[c.UUID] = e
	for range 4 { // of which some may be busy
		if len(s.records) <= s.most {
			break
		}
		oldest := s.recent.Back().Value.(*entry)
		if _, untold := s.untold[oldest]; untold || oldest.writing || oldest.persisted != oldest.version {
			s.recent.MoveToFront(oldest.place)
			continue
		}
		s.forget(oldest)
	}
	return e
}

// forget takes an entry out of memory. The caller holds the lock.
func (s *Store) forget(e *entry) {
	s.recent.Remove(e.place)
	delete(s.records, e.uuid)
	delete(s.dirty, e)
	delete(s.untold, e)
}

func (s *Store) flushLoop(ctx context.Context) {
	tick := time.NewTicker(collectFor)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.mu.Lock()
		for e := range s.dirty {
			if !s.write(e) {
				break // it takes nothing now
			}
		}
		s.mu.Unlock()
	}
}

func (s *Store) flushAll(ctx context.Context) error {
	s.mu.Lock()
	var ids []device.UUID
	for id, e := range s.records {
		if e.persisted != e.version {
			ids = append(ids, id)
		}
	}
	s.mu.Unlock()
	return s.Flush(ctx, ids)
}
