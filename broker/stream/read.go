package stream

import (
	"context"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Message is one stored message.
type Message struct {
	Subject string
	Seq     uint64
	Header  nats.Header
	Data    []byte
}

// batchRead is a direct get of many messages (JetStream ADR-31).
type batchRead struct {
	Seq       uint64   `json:"seq,omitempty"`
	NextBy    string   `json:"next_by_subj,omitempty"`
	MultiLast []string `json:"multi_last,omitempty"`
	Batch     int      `json:"batch"`
	MaxBytes  int      `json:"max_bytes,omitempty"`
}

const (
	maxReadBytes = 8 << 20
	opTimeout    = 5 * time.Second // of an operation whose caller has more time
	maxDeletes   = 8               // calls of Delete at a time, and messages that one deletes at a time: together well
	deleteChunk  = 512             // under the 10,000 requests at which the server drops its whole queue
	purgeFrom    = 8               // messages at a stream's head that are worth the three requests of a purge
	maxGaps      = 1000            // of deleted messages in a stream, for its head to be looked at
)

var tokens = base32.HexEncoding.WithPadding(base32.NoPadding)

// Token writes bytes as one subject token. Tokens of one length sort as their bytes do.
func Token(b []byte) string { return strings.ToLower(tokens.EncodeToString(b)) }

// ParseToken reads what Token wrote.
func ParseToken(s string) ([]byte, error) { return tokens.DecodeString(strings.ToUpper(s)) }

var errTooMany = errors.New("too many matching subjects")

// Last reads the last message of each subject that matches one of the filters, in stream order, from the one after the
// sequence on. more tells that there are further ones. It reads at most limit messages and about 8 MB. With one filter
// the number of matches has no limit; several filters may match 1,024 subjects together.
func (e *Engine) Last(ctx context.Context, stream string, filters []string, after uint64, limit int) (ms []Message, more bool, err error) {
	ms, pending, err := e.batch(ctx, stream, batchRead{Seq: after + 1, MultiLast: filters, Batch: limit, MaxBytes: maxReadBytes})
	if errors.Is(err, errTooMany) && len(filters) == 1 {
		// The server gives up above 1,024 matches. Where every subject holds one message, walking the messages gives the
		// same: slower, and without a limit.
		ms, pending, err = e.batch(ctx, stream, batchRead{Seq: after + 1, NextBy: filters[0], Batch: limit, MaxBytes: maxReadBytes})
	}
	if err != nil {
		return nil, false, fmt.Errorf("stream: read %s: %w", stream, err)
	}
	return ms, pending > 0, nil
}

// batch makes one direct get. pending counts the messages that match behind those it got.
func (e *Engine) batch(ctx context.Context, stream string, req batchRead) (ms []Message, pending uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	body, err := json.Marshal(req)
	if err != nil {
		return nil, 0, err
	}
	inbox, ch, done := e.answers.open(req.Batch + 1)
	defer done()
	if err := e.conn.PublishRequest("$JS.API.DIRECT.GET."+stream, inbox, body); err != nil {
		return nil, 0, err
	}
	for {
		m, err := receive(ctx, ch)
		if err != nil {
			return nil, 0, err
		}
		switch m.Header.Get("Status") {
		case "":
			seq, err := strconv.ParseUint(m.Header.Get(jetstream.SequenceHeader), 10, 64)
			if err != nil {
				return nil, 0, fmt.Errorf("answer without a sequence: %w", err)
			}
			ms = append(ms, Message{m.Header.Get(jetstream.SubjectHeader), seq, m.Header, m.Data})
		case "204": // end of batch
			pending, _ = strconv.ParseUint(m.Header.Get("Nats-Num-Pending"), 10, 64)
			return ms, pending, nil
		case "404":
			if len(req.MultiLast) > 0 && m.Header.Get("Description") != "No Results" {
				return nil, 0, errors.New("direct get: a stored message cannot be read") // not to be taken for an end
			}
			return ms, 0, nil // nothing matches
		case "413":
			return nil, 0, errTooMany
		default:
			return nil, 0, fmt.Errorf("direct get: %s %s", m.Header.Get("Status"), m.Header.Get("Description"))
		}
	}
}

// Newest reads the last message of one exact subject from a replica. ok is false when there is none.
func (e *Engine) Newest(ctx context.Context, stream, subject string) (m Message, ok bool, err error) {
	ms, _, err := e.Last(ctx, stream, []string{subject}, 0, 1)
	if err != nil || len(ms) == 0 {
		return Message{}, false, err
	}
	return ms[0], true, nil
}

// Next reads, from the leader, the first message after a sequence whose subject matches. ok is false when there is none.
func (e *Engine) Next(ctx context.Context, stream, filter string, after uint64) (m Message, ok bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	body, err := json.Marshal(map[string]any{"seq": after + 1, "next_by_subj": filter})
	if err != nil {
		return Message{}, false, err
	}
	answer, err := e.conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, body)
	if err != nil {
		return Message{}, false, fmt.Errorf("stream: next of %s: %w", stream, err)
	}
	var got struct {
		Error   *APIError `json:"error"`
		Message *struct {
			Subject string `json:"subject"`
			Seq     uint64 `json:"seq"`
			Header  []byte `json:"hdrs"`
			Data    []byte `json:"data"`
		} `json:"message"`
	}
	if err := json.Unmarshal(answer.Data, &got); err != nil {
		return Message{}, false, fmt.Errorf("stream: next of %s: %w", stream, err)
	}
	if got.Error != nil {
		if got.Error.Code == codeNoMessage {
			return Message{}, false, nil
		}
		return Message{}, false, fmt.Errorf("stream: next of %s: %w", stream, got.Error)
	}
	if got.Message == nil {
		return Message{}, false, fmt.Errorf("stream: next of %s: empty answer", stream)
	}
	m = Message{Subject: got.Message.Subject, Seq: got.Message.Seq, Data: got.Message.Data}
	if len(got.Message.Header) > 0 {
		if m.Header, err = nats.DecodeHeadersMsg(got.Message.Header); err != nil {
			return Message{}, false, fmt.Errorf("stream: next of %s: %w", stream, err)
		}
	}
	return m, true, nil
}

// Count returns how many messages the stream holds.
func (e *Engine) Count(ctx context.Context, stream string) (uint64, error) {
	s, err := e.js.Stream(ctx, stream) // it comes with the stream's state
	if err != nil {
		return 0, fmt.Errorf("stream: count of %s: %w", stream, err)
	}
	return s.CachedInfo().State.Msgs, nil
}

// Matching counts the messages whose subject matches. It takes about 0.3 s for 500,000 matches.
func (e *Engine) Matching(ctx context.Context, stream, filter string) (uint64, error) {
	// A direct get of one message tells how many there are behind it.
	ms, pending, err := e.batch(ctx, stream, batchRead{Seq: 1, NextBy: filter, Batch: 1})
	if err != nil {
		return 0, fmt.Errorf("stream: count in %s: %w", stream, err)
	}
	return uint64(len(ms)) + pending, nil
}

// Oldest reads the first messages of the stream, at most limit.
func (e *Engine) Oldest(ctx context.Context, stream string, limit int) ([]Message, error) {
	ms, _, err := e.batch(ctx, stream, batchRead{Seq: 1, NextBy: ">", Batch: limit, MaxBytes: maxReadBytes})
	if err != nil {
		return nil, fmt.Errorf("stream: oldest of %s: %w", stream, err)
	}
	return ms, nil
}

// Subjects calls fn for each subject in the stream that matches the filter, in no order. It takes about a second for
// 300,000 matches.
func (e *Engine) Subjects(ctx context.Context, stream, filter string, fn func(subject string)) error {
	s, err := e.handle(ctx, stream)
	if err != nil {
		return fmt.Errorf("stream: subjects of %s: %w", stream, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter)) // reads all pages
	if err != nil {
		return fmt.Errorf("stream: subjects of %s: %w", stream, err)
	}
	for subject := range info.State.Subjects {
		fn(subject)
	}
	return nil
}

// Delete removes messages by sequence, durably. One that is gone already is no error. Each costs an fsync of its own, but
// those that make up the head of the stream go together in one purge.
func (e *Engine) Delete(ctx context.Context, stream string, seqs []uint64) error {
	select {
	case e.deletes <- struct{}{}:
		defer func() { <-e.deletes }()
	case <-ctx.Done():
		return fmt.Errorf("stream: delete from %s: %w", stream, ctx.Err())
	}
	seqs, err := e.purgeHead(ctx, stream, slices.Compact(slices.Sorted(slices.Values(seqs))))
	if err != nil {
		return fmt.Errorf("stream: purge %s: %w", stream, err)
	}
	for chunk := range slices.Chunk(seqs, deleteChunk) {
		if err := e.delete(ctx, stream, chunk); err != nil {
			return fmt.Errorf("stream: delete from %s: %w", stream, err)
		}
	}
	return nil
}

// purgeHead removes the messages before which none stays, where they are many, and returns the rest. The sequences are
// sorted.
func (e *Engine) purgeHead(ctx context.Context, stream string, seqs []uint64) (rest []uint64, err error) {
	if len(seqs) < purgeFrom {
		return seqs, nil
	}
	s, err := e.js.Stream(ctx, stream)
	if err != nil {
		return nil, err
	}
	state := s.CachedInfo().State
	if state.NumDeleted > maxGaps {
		return seqs, nil
	}
	if state.NumDeleted > 0 {
		info, err := s.Info(ctx, jetstream.WithDeletedDetails(true))
		if err != nil {
			return nil, err
		}
		state = info.State
	}
	gone, end := slices.Sorted(slices.Values(state.Deleted)), state.FirstSeq
	n, _ := slices.BinarySearch(seqs, end)
	for ; end <= state.LastSeq; end++ {
		if n < len(seqs) && seqs[n] == end {
			n++
		} else if _, ok := slices.BinarySearch(gone, end); !ok {
			break
		}
	}
	if n < purgeFrom {
		return seqs, nil
	}
	return seqs[n:], s.Purge(ctx, jetstream.WithPurgeSequence(end)) // up to it, and it stays
}

func (e *Engine) delete(ctx context.Context, stream string, seqs []uint64) error {
	ctx, cancel := context.WithTimeout(ctx, opTimeout)
	defer cancel()
	inbox, ch, done := e.answers.open(len(seqs))
	defer done()
	for _, seq := range seqs {
		body := append(strconv.AppendUint([]byte(`{"no_erase":true,"seq":`), seq, 10), '}')
		if err := e.conn.PublishRequest("$JS.API.STREAM.MSG.DELETE."+stream, inbox, body); err != nil {
			return err
		}
	}
	var failed error
	for range seqs { // all of them, so that one failure does not hide what became of the others
		m, err := receive(ctx, ch)
		if err != nil {
			return err
		}
		var answer struct {
			Error *APIError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			failed = err
		} else if answer.Error != nil && !answer.Error.gone() {
			failed = answer.Error
		}
	}
	return failed
}

// PurgeSubject removes every message whose subject matches.
func (e *Engine) PurgeSubject(ctx context.Context, stream, filter string) error {
	s, err := e.js.Stream(ctx, stream)
	if err == nil {
		err = s.Purge(ctx, jetstream.WithPurgeSubject(filter))
	}
	if err != nil {
		return fmt.Errorf("stream: purge %s: %w", stream, err)
	}
	return nil
}

// APIError is JetStream's own refusal.
type APIError struct {
	Code        int    `json:"err_code"`
	Description string `json:"description"`
}

// Error gives the server's text and number.
func (e *APIError) Error() string { return fmt.Sprintf("%s (%d)", e.Description, e.Code) }

// The server's error numbers that are told apart here.
const (
	codeNoMessage    = 10037
	codeNoSequence   = 10043
	codeDeleteFailed = 10057 // any failure, one of a sequence that is gone already among them
	codeWrongLastSeq = 10071 // Nats-Expected-Last-Subject-Sequence was another one
)

func (e *APIError) gone() bool {
	return e.Code == codeNoMessage || e.Code == codeNoSequence ||
		e.Code == codeDeleteFailed && (e.Description == server.ErrStoreMsgNotFound.Error() || e.Description == server.ErrStoreEOF.Error())
}

// IsConflict reports whether an append was refused because the subject's last message was not the expected one.
func IsConflict(err error) bool {
	var api *APIError
	return errors.As(err, &api) && api.Code == codeWrongLastSeq
}
