package requests

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/broker/stream"
	"signaldevice/device"
)

const (
	keyStream = "KEYS"
	keepKeys  = time.Hour
)

// keys remembers for an hour which request an idempotency key of a client stands for.
type keys struct {
	engine   *stream.Engine
	appender *stream.Appender
}

// Reservation is what an idempotency key stands for.
type Reservation struct {
	ID        device.RequestID `json:"id"`
	Hash      []byte           `json:"hash"`
	Created   Millis           `json:"created"`
	DeliverBy Millis           `json:"deliver_by"`
	ReplyBy   Millis           `json:"reply_by"`
}

func openKeys(ctx context.Context, e *stream.Engine, store int64) (*keys, error) {
	_, err := e.Ensure(ctx, jetstream.StreamConfig{
		Name: keyStream, Subjects: []string{"i.>"}, Storage: jetstream.FileStorage,
		MaxMsgsPerSubject: 1, MaxAge: keepKeys, MaxBytes: store, Discard: jetstream.DiscardNew,
		AllowAtomicPublish: true,
	})
	if err != nil {
		return nil, err
	}
	return &keys{e, e.NewAppender()}, nil
}

func (k *keys) close() { k.appender.Close() }

// Reserve ties the client's idempotency key to a request, durably, unless it stands for one already: then it returns
// that one. Of any number of callers at once, one wins.
func (s *Store) Reserve(ctx context.Context, m device.Mailbox, key string, r Reservation) (Reservation, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return Reservation{}, err
	}
	subject := keySubject(m, key)
	_, err = s.keys.appender.Do(ctx, stream.Append{
		Subject: subject, Data: body,
		Header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"0"}},
	})
	switch {
	case err == nil:
		return r, nil
	case !stream.IsConflict(err):
		return Reservation{}, fmt.Errorf("requests: reserve: %w", err)
	}
	first, ok, err := s.Reserved(ctx, m, key)
	if err == nil && !ok {
		err = errors.New("requests: reserve: the key has just run out")
	}
	return first, err
}

// Reserved returns what the client's idempotency key stands for; ok is false when it stands for nothing.
func (s *Store) Reserved(ctx context.Context, m device.Mailbox, key string) (r Reservation, ok bool, err error) {
	found, ok, err := s.keys.engine.Next(ctx, keyStream, keySubject(m, key), 0)
	if err != nil || !ok {
		return Reservation{}, false, err
	}
	if err := s.keys.engine.Broken(); err != nil { // it may not outlive the store's next start
		return Reservation{}, false, fmt.Errorf("requests: reservation: %w", err)
	}
	if err := json.Unmarshal(found.Data, &r); err != nil {
		return Reservation{}, false, fmt.Errorf("requests: reservation: %w", err)
	}
	return r, true, nil
}

func keySubject(m device.Mailbox, key string) string {
	sum := sha256.Sum256([]byte(key))
	return "i." + stream.Token(m[:]) + "." + stream.Token(sum[:16])
}
