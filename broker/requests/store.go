package requests

import (
	"container/list"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	streamName  = "REQUESTS"
	collectFor  = 50 * time.Millisecond // facts that nobody waits for are written together
	keepRecords = 30 * 24 * time.Hour
	cached      = 32_768 // records in memory; about 0.6 KB each
)

// Config says how many records are kept.
type Config struct {
	MaxRecords int64 // the oldest go first; default 500,000
	Engine     *stream.Engine
	Clock      func() time.Time
	Log        *slog.Logger
}

// Store keeps request records in a JetStream stream, the last version of each under its own subject,
// `r.<mailbox>.<uuid>.<device>`. It is safe for concurrent use.
type Store struct {
	cfg      Config
	appender *stream.Appender
	keys     *keys
	stop     context.CancelFunc
	stopped  chan struct{}

	mu      sync.Mutex
	records map[device.UUID]*entry
	recent  *list.List // of *entry, newest first
	dirty   map[*entry]struct{}
}

// entry is a record in memory. Its facts may be ahead of the stream by what is dirty.
type entry struct {
	record    Record
	uuid      device.UUID
	subject   string
	revision  uint64 // stream sequence of the version last read or written; 0: none
	version   int    // counts the changes made here
	persisted int    // the version that is durable
	writing   bool
	waiters   []waiter
	place     *list.Element
}

type waiter struct {
	version int
	done    chan error
}

// Open creates or finds the stream and starts the writer. Close stops it.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.MaxRecords == 0 {
		cfg.MaxRecords = 500_000
	}
	_, err := cfg.Engine.Ensure(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"r.>"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, MaxMsgs: cfg.MaxRecords, MaxAge: keepRecords, Discard: jetstream.DiscardOld,
		MaxBytes: cfg.MaxRecords * 2048, AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		return nil, fmt.Errorf("requests: %w", err)
	}
	s := &Store{
		cfg: cfg, appender: cfg.Engine.NewAppender(), stopped: make(chan struct{}),
		records: map[device.UUID]*entry{}, recent: list.New(), dirty: map[*entry]struct{}{},
	}
	if s.keys, err = openKeys(ctx, cfg.Engine); err != nil {
		s.appender.Close()
		return nil, fmt.Errorf("requests: %w", err)
	}
	ctx, s.stop = context.WithCancel(context.Background())
	go s.flushLoop(ctx)
	return s, nil
}

// Close writes what is dirty and stops the writer.
func (s *Store) Close() {
	s.stop()
	<-s.stopped
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := s.flushAll(ctx); err != nil {
		s.cfg.Log.Warn("request records not written at stop", "error", err)
	}
	s.appender.Close()
	s.keys.close()
}

func subject(c device.Claims, dev device.ID) string {
	return "r." + stream.Token(c.Mailbox[:]) + "." + stream.Token(c.UUID[:]) + "." + string(dev)
}

// Create writes a new record durably and returns once it is on disk.
func (s *Store) Create(ctx context.Context, r Record) error {
	claims, err := r.ID.Claims()
	if err != nil {
		return fmt.Errorf("requests: create: %w", err)
	}
	s.mu.Lock()
	e := s.remember(claims, r, 0)
	done := s.changed(e)
	s.mu.Unlock()
	return await(ctx, done)
}

// Get returns a copy of the record. A zero mailbox in the claims matches any. ok is false when there is none.
func (s *Store) Get(ctx context.Context, c device.Claims) (r Record, ok bool, err error) {
	e, err := s.load(ctx, c)
	if err != nil || e == nil {
		return Record{}, false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return e.record.clone(), true, nil
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
// record allows for. change returns false where there is nothing to add. A record that no longer exists stays so.
func (s *Store) Update(ctx context.Context, c device.Claims, change func(*Record) bool) error {
	e, err := s.load(ctx, c)
	if err != nil || e == nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if change(&e.record) {
		e.version++
		s.dirty[e] = struct{}{}
	}
	return nil
}

// UpdateNow adds facts and returns once they are durable. changed tells whether change found something to add; it runs
// once, so that it may decide between two writers, for example between cancelling and sending.
func (s *Store) UpdateNow(ctx context.Context, c device.Claims, change func(*Record) bool) (changed bool, err error) {
	e, err := s.load(ctx, c)
	if err != nil || e == nil {
		return false, err
	}
	s.mu.Lock()
	if !change(&e.record) {
		s.mu.Unlock()
		return false, nil
	}
	done := s.changed(e)
	s.mu.Unlock()
	return true, await(ctx, done)
}

// Flush returns once every fact of these requests is durable.
func (s *Store) Flush(ctx context.Context, ids []device.UUID) error {
	var pending []chan error
	s.mu.Lock()
	for _, id := range ids {
		if e := s.records[id]; e != nil && e.persisted < e.version {
			pending = append(pending, s.await(e))
			s.write(e)
		}
	}
	s.mu.Unlock()
	for _, done := range pending {
		if err := await(ctx, done); err != nil {
			return err
		}
	}
	return nil
}

func await(ctx context.Context, done chan error) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// changed notes a change and starts its write; the channel tells when it is durable. The caller holds the lock.
func (s *Store) changed(e *entry) chan error {
	e.version++
	done := s.await(e)
	s.write(e)
	return done
}

func (s *Store) await(e *entry) chan error {
	done := make(chan error, 1)
	e.waiters = append(e.waiters, waiter{e.version, done})
	return done
}

// write hands the entry's present state to the appender, unless a write of it is under way: that one's end starts the
// next. The caller holds the lock.
func (s *Store) write(e *entry) {
	if e.writing || e.persisted == e.version {
		return
	}
	body, err := json.Marshal(&e.record)
	if err != nil { // a record has no field that can fail
		s.settle(e, e.version, err)
		return
	}
	e.writing = true
	delete(s.dirty, e)
	version := e.version
	// The expected revision makes every write safe to repeat, and lets two nodes write one record.
	m := &stream.Append{
		Subject: e.subject, Data: body, Key: e.subject,
		Header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {strconv.FormatUint(e.revision, 10)}},
		Done:   func(seq uint64, err error) { s.written(e, version, seq, err) },
	}
	if err := s.appender.TryAppend(m); err != nil {
		e.writing = false
		s.dirty[e] = struct{}{} // the flush loop tries again
		s.settle(e, version, err)
	}
}

func (s *Store) written(e *entry, version int, seq uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.writing = false
	switch {
	case err == nil:
		e.revision = seq
		e.persisted = version
		s.settle(e, version, nil)
		s.write(e)
	case stream.IsConflict(err):
		e.writing = true
		go s.reconcile(e)
	default:
		s.dirty[e] = struct{}{} // the flush loop tries again
		s.settle(e, version, err)
	}
}

// settle answers those who wait for this version or an earlier one.
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
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	m, ok, err := s.cfg.Engine.Next(ctx, streamName, e.subject, 0)
	var theirs Record
	if err == nil && ok {
		err = json.Unmarshal(m.Data, &theirs)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e.writing = false
	if err != nil {
		s.dirty[e] = struct{}{}
		s.settle(e, e.version, err)
		return
	}
	if ok {
		e.record.merge(&theirs)
		e.revision = m.Seq
	} else {
		e.revision = 0
	}
	s.write(e)
}

// load returns the entry of a request, from memory or from the stream; nil when there is none.
func (s *Store) load(ctx context.Context, c device.Claims) (*entry, error) {
	s.mu.Lock()
	e := s.records[c.UUID]
	if e != nil {
		s.recent.MoveToFront(e.place)
	}
	s.mu.Unlock()
	if e != nil {
		if c.Mailbox != (device.Mailbox{}) && !strings.HasPrefix(e.subject, "r."+stream.Token(c.Mailbox[:])+".") {
			return nil, nil
		}
		return e, nil
	}
	mailbox := "*"
	if c.Mailbox != (device.Mailbox{}) {
		mailbox = stream.Token(c.Mailbox[:])
	}
	m, ok, err := s.cfg.Engine.Newest(ctx, streamName, "r."+mailbox+"."+stream.Token(c.UUID[:])+".*")
	if err != nil || !ok {
		return nil, err
	}
	r, claims, err := parse(m)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.records[c.UUID]; e != nil { // another loader was faster
		return e, nil
	}
	return s.remember(claims, r, m.Seq), nil
}

func parse(m stream.Message) (Record, device.Claims, error) {
	var r Record
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return Record{}, device.Claims{}, fmt.Errorf("requests: record %s: %w", m.Subject, err)
	}
	c, err := r.ID.Claims()
	if err != nil {
		return Record{}, device.Claims{}, fmt.Errorf("requests: record %s: %w", m.Subject, err)
	}
	return r, c, nil
}

// remember puts a record into memory and lets the oldest clean ones go. The caller holds the lock.
func (s *Store) remember(c device.Claims, r Record, revision uint64) *entry {
	e := &entry{record: r, uuid: c.UUID, subject: subject(c, r.Device), revision: revision}
	e.place = s.recent.PushFront(e)
	s.records[c.UUID] = e
	for oldest := s.recent.Back(); len(s.records) > cached && oldest != nil; {
		previous := oldest.Prev()
		if o := oldest.Value.(*entry); !o.writing && o.persisted == o.version {
			s.recent.Remove(oldest)
			delete(s.records, o.uuid)
		}
		oldest = previous
	}
	return e
}

func (s *Store) flushLoop(ctx context.Context) {
	defer close(s.stopped)
	tick := time.NewTicker(collectFor)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.mu.Lock()
			for e := range s.dirty {
				s.write(e)
			}
			s.mu.Unlock()
		}
	}
}

func (s *Store) flushAll(ctx context.Context) error {
	s.mu.Lock()
	ids := make([]device.UUID, 0, len(s.dirty))
	for e := range s.dirty {
		ids = append(ids, e.uuid)
	}
	s.mu.Unlock()
	return s.Flush(ctx, ids)
}

// List returns records newest first: those of one mailbox or, where it is zero, of all, and of one device or all. cursor
// is "" for the first page; next is "" on the last.
func (s *Store) List(ctx context.Context, m device.Mailbox, dev device.ID, limit int, cursor string) (records []Record, next string, err error) {
	mailbox, devices := "*", "*"
	if m != (device.Mailbox{}) {
		mailbox = stream.Token(m[:])
	}
	if dev != "" {
		devices = string(dev)
	}
	var subjects []string
	err = s.cfg.Engine.Subjects(ctx, streamName, "r."+mailbox+".*."+devices, func(subject string) {
		if u := uuidToken(subject); cursor == "" || u < cursor {
			subjects = append(subjects, subject)
		}
	})
	if err != nil {
		return nil, "", err
	}
	slices.SortFunc(subjects, func(a, b string) int { return strings.Compare(uuidToken(b), uuidToken(a)) })
	if len(subjects) > limit {
		subjects = subjects[:limit]
		next = uuidToken(subjects[limit-1])
	}
	if len(subjects) == 0 {
		return nil, "", nil
	}
	records, err = s.read(ctx, subjects)
	return records, next, err
}

// read returns the records of exact subjects, newest first, with what is newer in memory.
func (s *Store) read(ctx context.Context, subjects []string) ([]Record, error) {
	records := make([]Record, 0, len(subjects))
	for after := uint64(0); ; {
		ms, more, err := s.cfg.Engine.Last(ctx, streamName, subjects, after, len(subjects))
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			after = m.Seq
			r, c, err := parse(m)
			if err != nil {
				return nil, err
			}
			if newer, ok := s.Cached(c.UUID); ok {
				r = newer
			}
			records = append(records, r)
		}
		if !more || len(ms) == 0 {
			break
		}
	}
	slices.SortFunc(records, func(a, b Record) int { return strings.Compare(uuidOf(b), uuidOf(a)) })
	return records, nil
}

func uuidToken(subject string) string { return strings.SplitN(subject, ".", 4)[2] }

func uuidOf(r Record) string {
	c, _ := r.ID.Claims() // parse has checked it
	return stream.Token(c.UUID[:])
}
