package stream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// Sizes of the appender's batches. A stream with fsync does one fsync for each plain append, and about six for an atomic
// batch of any size, plus its temporary files: a batch pays from about a dozen messages up. That holds where they share a key
// and so go one after the other, too: of five writers with one key 2,770 messages a second, and 625 in batches (BenchmarkAppend).
const (
	maxWaiting      = 8192
	maxWaitingBytes = 64 << 20
	minBatch        = 12
	maxBatch        = 500
	maxBatchBytes   = 4 << 20
	appendTimeout   = 2 * time.Second
	inARow          = 15 * time.Second // two writes without an answer that are further apart tell nothing of the time between
)

// Errors of appends that were not sent to the stream.
var (
	ErrClosed   = errors.New("stream: appender closed")
	ErrFull     = errors.New("stream: too many appends wait")
	ErrTooLarge = errors.New("stream: message too large")
)

// errBehind answers a message that waited behind a failed one of the same key.
var errBehind = errors.New("stream: an earlier message of the same key failed")

// NotStored reports whether a failed append has certainly stored nothing.
func NotStored(err error) bool {
	_, refused := errors.AsType[*APIError](err)
	return refused || errors.Is(err, errBehind) || errors.Is(err, ErrClosed) || errors.Is(err, ErrFull) || errors.Is(err, ErrTooLarge)
}

// Append is one message on its way into a stream.
type Append struct {
	Subject string
	Data    []byte
	Header  nats.Header
	// Key keeps messages in order: when one fails, those of the same key that wait behind it fail too. "": no order.
	Key string
	// Done is called once, from the appender's goroutine, when the message is durable or has failed. It must not block.
	// Of messages of one key that fail together the first is told of last. One that failed may still be stored, unless
	// NotStored says otherwise: give it a Nats-Msg-Id, or expect a subject sequence, and append it again.
	Done func(seq uint64, err error)
}

// Appender writes to one stream in the order it is given. It sends what has gathered while the previous write was on its
// way as one atomic batch (group commit), so that many devices share an fsync. It is safe for concurrent use.
type Appender struct {
	e    *Engine
	room chan struct{} // one token for each message that waits
	wake chan struct{} // poked when one has come

	mu      sync.Mutex
	waiting []*Append
	bytes   int // of those
	closed  bool

	closing chan struct{}
	done    chan struct{}

	// The first and the latest of the writes in a row that were not answered; zero: the last one was. Of the appender's goroutine.
	unanswered, latest time.Time
	failing            atomic.Int64 // nanoseconds from the first to the latest
}

// NewAppender starts an appender. Its stream must allow atomic publish. Close ends it.
func (e *Engine) NewAppender() *Appender {
	a := &Appender{
		e: e, room: make(chan struct{}, maxWaiting), wake: make(chan struct{}, 1),
		closing: make(chan struct{}), done: make(chan struct{}),
	}
	e.mu.Lock()
	e.appenders = append(e.appenders, a)
	e.mu.Unlock()
	go a.run()
	return a
}

// TryAppend hands a message over and never blocks. After an error, ErrFull where 8,192 messages or 64 MB wait, ErrClosed
// or ErrTooLarge, Done is not called.
func (a *Appender) TryAppend(m *Append) error {
	if err := a.fits(m); err != nil {
		return err
	}
	select {
	case a.room <- struct{}{}:
		return a.push(m, maxWaitingBytes)
	default:
		return ErrFull
	}
}

// Do appends one message and waits until it is durable. When ctx ends first it may still be stored.
func (a *Appender) Do(ctx context.Context, m Append) (seq uint64, err error) {
	if err := a.fits(&m); err != nil {
		return 0, err
	}
	select {
	case a.room <- struct{}{}:
	case <-a.closing:
		return 0, ErrClosed
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	type result struct {
		seq uint64
		err error
	}
	ch := make(chan result, 1)
	m.Done = func(seq uint64, err error) { ch <- result{seq, err} }
	if err := a.push(&m, math.MaxInt); err != nil { // its caller waits too, and holds the body anyway
		return 0, err
	}
	select {
	case r := <-ch:
		return r.seq, r.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

// fits keeps a message that the connection would refuse out of the others' batches.
func (a *Appender) fits(m *Append) error {
	const ownFields = 256 // of a batch
	size := len(m.Data) + ownFields
	for k, values := range m.Header {
		for _, v := range values {
			size += len(k) + len(v) + len(": \r\n")
		}
	}
	if int64(size) > a.e.conn.MaxPayload() {
		return ErrTooLarge
	}
	return nil
}

// push lets a message wait, if no more than so many bytes do then. Its token goes back where it may not.
func (a *Appender) push(m *Append, most int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		<-a.room
		return ErrClosed
	case len(m.Data) > most-a.bytes:
		<-a.room
		return ErrFull
	}
	a.waiting = append(a.waiting, m)
	a.bytes += len(m.Data)
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

// Close waits for the write under way; what waits behind it fails with ErrClosed. It may be called more than once.
func (a *Appender) Close() {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.closing)
	}
	a.mu.Unlock()
	<-a.done
}

func (a *Appender) run() {
	defer close(a.done)
	var batch []*Append
	for {
		select {
		case <-a.closing:
			a.failAll(a.take(nil, maxWaiting, math.MaxInt), ErrClosed)
			return
		default:
		}
		if batch = a.take(batch[:0], maxBatch, maxBatchBytes); len(batch) > 0 {
			a.write(batch)
			clear(batch) // let go of the bodies
			continue
		}
		select {
		case <-a.wake:
		case <-a.closing:
		}
	}
}

// take moves what waits into the batch, until it has so many messages or bytes. It never waits for more: a lone message
// goes at once.
func (a *Appender) take(batch []*Append, most, bytes int) []*Append {
	a.mu.Lock()
	defer a.mu.Unlock()
	size := 0
	for _, m := range a.waiting {
		if len(batch) == most || size >= bytes {
			break
		}
		batch = append(batch, m)
		size += len(m.Data)
		<-a.room
	}
	a.bytes -= size
	a.waiting = slices.Delete(a.waiting, 0, len(batch))
	return batch
}

// takeBehind takes out what waits and has the key.
func (a *Appender) takeBehind(key string) (behind []*Append) {
	if key == "" {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.waiting = slices.DeleteFunc(a.waiting, func(m *Append) bool {
		if m.Key != key {
			return false
		}
		behind = append(behind, m)
		a.bytes -= len(m.Data)
		<-a.room
		return true
	})
	return behind
}

func (a *Appender) write(batch []*Append) {
	if len(batch) < minBatch {
		a.inTurns(batch)
		return
	}
	last, err := a.atomic(batch)
	if err != nil {
		// A refusal answers the whole batch. One message at a time finds the culprit, and the others get in.
		a.inTurns(batch)
		return
	}
	for i, m := range batch {
		m.Done(last-uint64(len(batch)-1-i), nil)
	}
}

// inTurns appends messages, each by itself. Those in flight side by side are few, and share no key.
func (a *Appender) inTurns(batch []*Append) {
	for len(batch) > 0 {
		n := distinctKeys(batch[:min(len(batch), minBatch)])
		batch = a.pipeline(batch[:n], batch[n:])
	}
}

// distinctKeys returns how many messages from the first on share no key with one before them.
func distinctKeys(batch []*Append) int {
	for i, m := range batch {
		for _, earlier := range batch[:i] {
			if m.Key != "" && m.Key == earlier.Key {
				return i
			}
		}
	}
	return len(batch)
}

// fail answers a failed message and those of its key behind it, in the rest of its batch and in the queue. It returns
// what is left of the batch.
func (a *Appender) fail(m *Append, err error, rest []*Append) []*Append {
	var behind, others []*Append
	for _, o := range rest {
		if m.Key != "" && o.Key == m.Key {
			behind = append(behind, o)
		} else {
			others = append(others, o)
		}
	}
	behind = append(behind, a.takeBehind(m.Key)...)
	for len(behind) > 0 {
		for _, o := range slices.Backward(behind) {
			o.Done(0, errBehind)
		}
		behind = a.takeBehind(m.Key) // it came before its sender was told of a failure
	}
	m.Done(0, err)
	return others
}

// failAll answers every message of a batch, and what waits behind them.
func (a *Appender) failAll(batch []*Append, err error) {
	for _, m := range slices.Backward(batch) {
		a.fail(m, err, nil)
	}
}

// answered reads the answer to a write, and notes whether the stream answers. A refusal is an answer; a stream that cannot
// write gives none.
func (a *Appender) answered(m *nats.Msg, err error) (uint64, error) {
	seq, duplicate, err := readAck(m, err)
	if duplicate || IsConflict(err) {
		// The server knows a batch's messages before their fsync. Where that failed they are in the stream without being
		// durable (I1): the stream is broken then, and only its next start tells what it has.
		if broken := a.e.Broken(); broken != nil {
			return 0, fmt.Errorf("stream: written before, perhaps not durably: %w", broken)
		}
	}
	if _, refused := errors.AsType[*APIError](err); err == nil || refused {
		a.unanswered = time.Time{}
		a.failing.Store(0)
		return seq, err
	}
	now := time.Now()
	if a.unanswered.IsZero() || now.Sub(a.latest) > inARow {
		a.unanswered = now
	}
	a.latest = now
	a.failing.Store(int64(now.Sub(a.unanswered)))
	return seq, err
}

// pipeline publishes all, then collects the answers: one fsync each, but no round trip between them. It returns what is
// left of the rest that waits behind them: failures take some of it with them.
func (a *Appender) pipeline(batch, rest []*Append) []*Append {
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	answers := make([]func() (*nats.Msg, error), len(batch))
	for i, m := range batch {
		inbox, ch, done := a.e.answers.open(1)
		defer done()
		msg := message(m)
		msg.Reply = inbox
		if err := a.e.conn.PublishMsg(msg); err != nil {
			answers[i] = func() (*nats.Msg, error) { return nil, err }
		} else {
			answers[i] = func() (*nats.Msg, error) { return receive(ctx, ch) }
		}
	}
	var silent error
	for i, m := range batch {
		seq, err := a.answered(answers[i]())
		if err == nil {
			m.Done(seq, nil)
			continue
		}
		rest = a.fail(m, err, rest)
		if !NotStored(err) {
			silent = err
		}
	}
	if silent != nil { // the stream does not answer: the others would only wait in turn for nothing
		a.failAll(rest, silent)
		return nil
	}
	return rest
}

// atomic publishes the batch as one durable commit and returns the sequence of its last message (JetStream ADR-50).
func (a *Appender) atomic(batch []*Append) (last uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	id := nuid.Next()
	for i, m := range batch {
		msg := message(m)
		msg.Header["Nats-Batch-Id"] = []string{id}
		msg.Header["Nats-Batch-Sequence"] = []string{strconv.Itoa(i + 1)}
		if i == len(batch)-1 {
			msg.Header["Nats-Batch-Commit"] = []string{"1"}
			return a.answered(a.e.conn.RequestMsgWithContext(ctx, msg))
		}
		if err := a.e.conn.PublishMsg(msg); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// message copies the header, so that a batch's fields do not reach a single append of the same message.
func message(m *Append) *nats.Msg {
	header := make(nats.Header, len(m.Header)+3)
	maps.Copy(header, m.Header)
	return &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}
}

// readAck reads an answer. duplicate: the message was written before, and seq is its place.
func readAck(m *nats.Msg, err error) (seq uint64, duplicate bool, _ error) {
	if err != nil {
		return 0, false, err
	}
	var ack struct {
		Seq       uint64    `json:"seq"`
		Duplicate bool      `json:"duplicate"`
		Error     *APIError `json:"error"`
	}
	if len(m.Data) == 0 {
		return 0, false, nats.ErrNoResponders
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return 0, false, err
	}
	if ack.Error != nil {
		return 0, false, ack.Error
	}
	return ack.Seq, ack.Duplicate, nil
}
