// Package presence remembers which devices are connected, and when each was last seen.
//
// Who is connected is known from the connections of this process alone, and is right at once. The last change of each
// device is also kept in a stream, so that a restart does not forget when a device was there; a killed process forgets
// its last second. A Book is safe for concurrent use.
package presence

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	streamName  = "PRESENCE"
	writeAtOnce = 1000
	writeEvery  = time.Second     // at most: each write is an fsync, which commands wait behind
	closeBudget = 2 * time.Second // of writing what is left
)

// Config wires a Book.
type Config struct {
	MaxStore int64 // bytes on disk; default 256 MiB
	Engine   *stream.Engine
	Clock    func() time.Time // default time.Now
	Log      *slog.Logger
}

// Book holds the presence of every device that ever connected.
type Book struct {
	cfg      Config
	appender *stream.Appender
	changed  chan struct{} // poked when something is dirty
	stop     chan struct{}
	stopped  chan struct{}

	mu     sync.RWMutex
	of     map[device.ID]device.Presence
	online int
	seen   map[device.ID]func() time.Time // of the devices online: the last packet
	dirty  map[device.ID]struct{}         // to be written, or removed where it is no longer in of
}

type stored struct {
	Online   bool      `json:"online,omitempty"`
	Since    time.Time `json:"since"`
	LastSeen time.Time `json:"last_seen"`
}

// Open creates or finds the stream and reads it. Every device is offline until it connects. Close ends it.
func Open(ctx context.Context, cfg Config) (*Book, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	_, err := cfg.Engine.Ensure(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"p.>"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, MaxBytes: cmp.Or(cfg.MaxStore, 256<<20), Discard: jetstream.DiscardOld, AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	b := &Book{
		cfg: cfg, changed: make(chan struct{}, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
		of: map[device.ID]device.Presence{}, seen: map[device.ID]func() time.Time{}, dirty: map[device.ID]struct{}{},
	}
	if err := b.read(ctx); err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	b.appender = cfg.Engine.NewAppender()
	go b.writeLoop()
	return b, nil
}

func (b *Book) read(ctx context.Context) error {
	now := b.cfg.Clock()
	for after := uint64(0); ; {
		ms, more, err := b.cfg.Engine.Last(ctx, streamName, []string{"p.>"}, after, 500)
		if err != nil {
			return err
		}
		for _, m := range ms {
			after = m.Seq
			var s stored
			if err := json.Unmarshal(m.Data, &s); err != nil {
				b.cfg.Log.Warn("presence entry not readable", "subject", m.Subject, "error", err)
				continue
			}
			if s.Online { // when the process ended, nobody noted when
				s.Since = now
			}
			b.of[device.ID(strings.TrimPrefix(m.Subject, "p."))] = device.Presence{Since: s.Since, LastSeen: s.LastSeen}
		}
		if !more || len(ms) == 0 {
			return nil
		}
	}
}

// Close writes what was noted, within 2 s. Nothing may be noted any more.
func (b *Book) Close() {
	close(b.stop)
	<-b.stopped
	b.appender.Close()
}

// Came notes that the device is connected since a moment. seen tells when its last packet came; it must not block.
func (b *Book) Came(id device.ID, since time.Time, seen func() time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.of[id].Online {
		b.online++
	}
	b.of[id] = device.Presence{Online: true, Since: since, LastSeen: since}
	b.seen[id] = seen
	b.touch(id)
}

// Went notes that the device is no longer connected.
func (b *Book) Went(id device.ID, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.of[id]
	if p.Online {
		b.online--
	}
	p.Online, p.Since = false, at
	if seen := b.seen[id]; seen != nil {
		p.LastSeen = seen()
	}
	b.of[id] = p
	delete(b.seen, id)
	b.touch(id)
}

// Of returns the device's presence now.
func (b *Book) Of(id device.ID) device.Presence {
	b.mu.RLock()
	defer b.mu.RUnlock()
	p := b.of[id]
	if seen := b.seen[id]; seen != nil {
		p.LastSeen = seen()
	}
	return p
}

// Online counts the devices that are connected.
func (b *Book) Online() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.online
}

// Forget removes a device that was deleted. What is stored of it goes soon.
func (b *Book) Forget(id device.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of[id].Online {
		b.online--
	}
	delete(b.of, id)
	delete(b.seen, id)
	b.touch(id)
}

// touch has the device's presence written soon, without anybody waiting for it. The caller holds the lock.
func (b *Book) touch(id device.ID) {
	b.dirty[id] = struct{}{}
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// writeLoop is the only writer, so that what is stored of a device last is what was noted last.
func (b *Book) writeLoop() {
	defer close(b.stopped)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for {
		select {
		case <-b.changed:
		case <-b.stop:
			b.writeRest()
			return
		}
		for full := true; full; {
			var err error
			if full, err = b.writeSome(ctx); err != nil {
				b.cfg.Log.Warn("presence not written, trying again", "error", err)
			}
		}
		select {
		case <-time.After(writeEvery):
		case <-b.stop:
			b.writeRest()
			return
		}
	}
}

func (b *Book) writeRest() {
	ctx, cancel := context.WithTimeout(context.Background(), closeBudget)
	defer cancel()
	for b.unwritten() {
		if _, err := b.writeSome(ctx); err != nil {
			b.cfg.Log.Warn("presence not written at stop", "error", err)
			return
		}
	}
}

func (b *Book) unwritten() bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return len(b.dirty) > 0
}

// writeSome writes some of what is dirty and waits for it. What fails is dirty again. full tells that there may be more.
func (b *Book) writeSome(ctx context.Context) (full bool, err error) {
	writes := b.takeDirty()
	results := make(chan error, len(writes))
	for id, p := range writes {
		b.writeOne(ctx, id, p, func(err error) {
			if err != nil {
				b.mu.Lock()
				b.touch(id)
				b.mu.Unlock()
			}
			results <- err
		})
	}
	for range writes {
		if failed := <-results; failed != nil {
			err = failed
		}
	}
	return err == nil && len(writes) == writeAtOnce, err
}

// takeDirty returns the presence of some devices as it is now, nil for those that were forgotten.
func (b *Book) takeDirty() map[device.ID]*device.Presence {
	b.mu.Lock()
	defer b.mu.Unlock()
	writes := map[device.ID]*device.Presence{}
	for id := range b.dirty {
		if len(writes) == writeAtOnce {
			break
		}
		delete(b.dirty, id)
		if p, ok := b.of[id]; ok {
			writes[id] = &p
		} else {
			writes[id] = nil
		}
	}
	return writes
}

func (b *Book) writeOne(ctx context.Context, id device.ID, p *device.Presence, done func(error)) {
	subject := "p." + string(id)
	if p == nil {
		done(b.cfg.Engine.PurgeSubject(ctx, streamName, subject))
		return
	}
	body, err := json.Marshal(stored{p.Online, p.Since, p.LastSeen})
	if err == nil {
		err = b.appender.TryAppend(&stream.Append{Subject: subject, Data: body, Done: func(_ uint64, err error) { done(err) }})
	}
	if err != nil {
		done(err)
	}
}
