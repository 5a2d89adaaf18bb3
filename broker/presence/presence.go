// Package presence remembers which devices are connected, and when each was last seen.
//
// Who is connected is known from the connections of this process alone, and is right at once. The last change of each
// device is also kept in a stream, so that a restart does not forget when a device was there. A Book is safe for
// concurrent use.
package presence

import (
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

const streamName = "PRESENCE"

// Book holds the presence of every device that ever connected.
type Book struct {
	engine   *stream.Engine
	appender *stream.Appender
	log      *slog.Logger
	writing  sync.WaitGroup

	mu     sync.RWMutex
	of     map[device.ID]device.Presence
	online int
	seen   map[device.ID]func() time.Time // of the devices online: the last packet
}

type stored struct {
	Since    time.Time `json:"since"`
	LastSeen time.Time `json:"last_seen"`
}

// Open creates or finds the stream and reads it. Every device is offline until it connects.
func Open(ctx context.Context, e *stream.Engine, log *slog.Logger) (*Book, error) {
	_, err := e.Ensure(ctx, jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"p.>"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, MaxBytes: 256 << 20, Discard: jetstream.DiscardOld, AllowDirect: true, AllowAtomicPublish: true,
	})
	if err != nil {
		return nil, fmt.Errorf("presence: %w", err)
	}
	b := &Book{
		engine: e, appender: e.NewAppender(), log: log,
		of: map[device.ID]device.Presence{}, seen: map[device.ID]func() time.Time{},
	}
	for after := uint64(0); ; {
		ms, more, err := e.Last(ctx, streamName, []string{"p.>"}, after, 500)
		if err != nil {
			b.appender.Close()
			return nil, fmt.Errorf("presence: %w", err)
		}
		for _, m := range ms {
			after = m.Seq
			var s stored
			if err := json.Unmarshal(m.Data, &s); err != nil {
				log.Warn("presence entry not readable", "subject", m.Subject, "error", err)
				continue
			}
			// It was connected when the process ended, or it had gone before: either way it is not here now.
			b.of[device.ID(strings.TrimPrefix(m.Subject, "p."))] = device.Presence{Since: s.Since, LastSeen: s.LastSeen}
		}
		if !more || len(ms) == 0 {
			return b, nil
		}
	}
}

// Close waits until what was noted is written. Nothing may be noted any more.
func (b *Book) Close() {
	b.writing.Wait()
	b.appender.Close()
}

// Came notes that the device is connected since a moment. seen tells when its last packet came.
func (b *Book) Came(id device.ID, since time.Time, seen func() time.Time) {
	b.mu.Lock()
	if !b.of[id].Online {
		b.online++
	}
	b.of[id] = device.Presence{Online: true, Since: since, LastSeen: since}
	b.seen[id] = seen
	b.mu.Unlock()
	b.write(id, stored{since, since})
}

// Went notes that the device is no longer connected.
func (b *Book) Went(id device.ID, at time.Time) {
	b.mu.Lock()
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
	b.mu.Unlock()
	b.write(id, stored{p.Since, p.LastSeen})
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

// Forget removes a device that was deleted.
func (b *Book) Forget(ctx context.Context, id device.ID) error {
	b.mu.Lock()
	if b.of[id].Online {
		b.online--
	}
	delete(b.of, id)
	delete(b.seen, id)
	b.mu.Unlock()
	return b.engine.PurgeSubject(ctx, streamName, "p."+string(id))
}

// write keeps the change, without anybody waiting for it.
func (b *Book) write(id device.ID, s stored) {
	body, err := json.Marshal(s)
	if err != nil {
		return // two times cannot fail
	}
	b.writing.Add(1)
	m := &stream.Append{Subject: "p." + string(id), Data: body, Key: string(id), Done: func(_ uint64, err error) {
		defer b.writing.Done()
		if err != nil {
			b.log.Warn("presence not written", "device", id, "error", err)
		}
	}}
	if err := b.appender.TryAppend(m); err != nil {
		m.Done(0, err)
	}
}
