package stream

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// Sizes of the appender's batches. A stream with fsync does one fsync for each plain append, and about six for an atomic
// batch of any size, plus its temporary files: a batch pays from about a dozen messages up.
const (
	appenderQueue = 8192
	minBatch      = 12
	maxBatch      = 500
	maxBatchBytes = 4 << 20
	appendTimeout = 2 * time.Second
)

// ErrClosed answers appends that were handed over to an appender that is closed.
var ErrClosed = errors.New("stream: appender closed")

// errBehind answers a message that follows a failed one of the same key in the same batch.
var errBehind = errors.New("stream: an earlier message of the same key failed")

// Append is one message on its way into a stream.
type Append struct {
	Subject string
	Data    []byte
	Header  nats.Header // the appender adds its own fields; the caller must not use it afterwards
	Key     string      // messages of one key keep their order: after a failed one, those already waiting behind it fail too
	// Done is called once, from the appender's goroutine, when the message is durable or has failed. It must not block.
	// A message that failed by time-out may still be stored: give it a Nats-Msg-Id, or expect a subject sequence, and
	// append it again.
	Done func(seq uint64, err error)
}

// Appender writes to one stream in the order it is given. It sends what has gathered while the previous write was on its
// way as one atomic batch (group commit), so that many devices share an fsync. It is safe for concurrent use.
type Appender struct {
	e      *Engine
	in     chan *Append
	closed chan struct{}
	once   sync.Once
	done   chan struct{}
}

// NewAppender starts an appender. Its stream must allow atomic publish. Close ends it.
func (e *Engine) NewAppender() *Appender {
	a := &Appender{e: e, in: make(chan *Append, appenderQueue), closed: make(chan struct{}), done: make(chan struct{})}
	go a.run()
	return a
}

// Append hands a message over. It blocks while 8,192 messages wait.
func (a *Appender) Append(m *Append) {
	select {
	case <-a.closed:
		m.Done(0, ErrClosed)
		return
	default:
	}
	select {
	case a.in <- m:
	case <-a.closed:
		m.Done(0, ErrClosed)
	}
}

// TryAppend hands a message over unless 8,192 wait already; then it returns false and Done is not called.
func (a *Appender) TryAppend(m *Append) bool {
	select {
	case <-a.closed:
		m.Done(0, ErrClosed)
		return true
	default:
	}
	select {
	case a.in <- m:
		return true
	default:
		return false
	}
}

// Do appends one message and waits until it is durable.
func (a *Appender) Do(ctx context.Context, m Append) (seq uint64, err error) {
	type result struct {
		seq uint64
		err error
	}
	ch := make(chan result, 1)
	m.Done = func(seq uint64, err error) { ch <- result{seq, err} }
	a.Append(&m)
	select {
	case r := <-ch:
		return r.seq, r.err
	case <-ctx.Done():
		return 0, ctx.Err() // it may still be stored
	}
}

// Close waits for the write under way; what waits behind it fails with ErrClosed.
func (a *Appender) Close() {
	a.once.Do(func() { close(a.closed) })
	<-a.done
}

func (a *Appender) run() {
	defer close(a.done)
	var batch []*Append
	for {
		select {
		case <-a.closed:
			a.refuseRest()
			return
		case m := <-a.in:
			batch = a.gather(append(batch[:0], m))
			a.write(batch)
			clear(batch) // let go of the bodies
		}
	}
}

// gather takes what waits already. It never waits for more: a lone message goes at once.
func (a *Appender) gather(batch []*Append) []*Append {
	size := len(batch[0].Data)
	for len(batch) < maxBatch && size < maxBatchBytes {
		select {
		case m := <-a.in:
			batch = append(batch, m)
			size += len(m.Data)
		default:
			return batch
		}
	}
	return batch
}

func (a *Appender) refuseRest() {
	for {
		select {
		case m := <-a.in:
			m.Done(0, ErrClosed)
		default:
			return
		}
	}
}

func (a *Appender) write(batch []*Append) {
	switch {
	case len(batch) == 1:
		m := batch[0]
		m.Done(a.single(m))
	case len(batch) < minBatch && distinctKeys(batch):
		a.pipeline(batch)
	default:
		last, err := a.atomic(batch)
		if err != nil {
			// A refusal answers the whole batch. One by one finds the culprit, and the others get in.
			a.oneByOne(batch)
			return
		}
		for i, m := range batch {
			m.Done(last-uint64(len(batch)-1-i), nil)
		}
	}
}

// distinctKeys reports whether no two messages share a key: only then may they be in flight side by side.
func distinctKeys(batch []*Append) bool {
	for i, m := range batch {
		for _, earlier := range batch[:i] {
			if m.Key != "" && m.Key == earlier.Key {
				return false
			}
		}
	}
	return true
}

func (a *Appender) oneByOne(batch []*Append) {
	failed := map[string]bool{}
	for _, m := range batch {
		if m.Key != "" && failed[m.Key] {
			m.Done(0, errBehind)
			continue
		}
		seq, err := a.single(m)
		if err != nil {
			failed[m.Key] = true
		}
		m.Done(seq, err)
	}
}

func (a *Appender) single(m *Append) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	return readAck(a.e.conn.RequestMsgWithContext(ctx, message(m)))
}

// pipeline publishes all, then collects the answers: one fsync each, but no round trip between them.
func (a *Appender) pipeline(batch []*Append) {
	ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
	defer cancel()
	sent := make([]<-chan *nats.Msg, len(batch))
	for i, m := range batch {
		inbox, ch, done := a.e.answers.open(1)
		defer done()
		msg := message(m)
		msg.Reply = inbox
		if err := a.e.conn.PublishMsg(msg); err != nil {
			m.Done(0, err)
			continue
		}
		sent[i] = ch
	}
	for i, m := range batch {
		if sent[i] != nil {
			m.Done(readAck(receive(ctx, sent[i])))
		}
	}
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
			return readAck(a.e.conn.RequestMsgWithContext(ctx, msg))
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
	for k, v := range m.Header {
		header[k] = v
	}
	return &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}
}

func readAck(m *nats.Msg, err error) (uint64, error) {
	if err != nil {
		return 0, err
	}
	var ack struct {
		Seq   uint64    `json:"seq"`
		Error *APIError `json:"error"`
	}
	if len(m.Data) == 0 {
		return 0, errors.New("stream: no stream takes this subject")
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return 0, err
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	return ack.Seq, nil
}
