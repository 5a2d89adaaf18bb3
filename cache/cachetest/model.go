package cachetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// Times of the model. Its clock moves in whole minutes, so that every limit is half a minute away from what is asked:
// more than the time that passes by itself.
const (
	modelTTL   = 20*time.Minute + 30*time.Second
	modelGrace = 3*time.Minute + 30*time.Second
)

// RunModel checks that a cache and a plain model of it agree on every answer over random histories of puts, takes and
// passing time.
func RunModel(t *testing.T, open Open) {
	rapid.Check(t, func(t *rapid.T) {
		m := &machine{Harness: open(t, Config{TTL: modelTTL}), records: map[modelKey]*modelRecord{}}
		t.Repeat(map[string]func(*rapid.T){
			"put":     m.put,
			"take":    m.take,
			"advance": m.advance,
			"records": m.countRecords,
			"unread":  m.unread,
		})
	})
}

// modelKey names a record; the cache must keep mailboxes and devices apart (I3).
type modelKey struct {
	mailbox device.Mailbox
	device  device.ID
	reply   device.ReplyKey
}

type modelRecord struct {
	reply   device.Reply
	order   int
	expires time.Duration
	till    time.Duration // end of the grace, where read
	read    bool
}

// machine is the cache under test with the model: all records ever stored, most of them expired.
type machine struct {
	Harness
	now     time.Duration
	puts    int
	records map[modelKey]*modelRecord
}

func (m *machine) live(k modelKey) *modelRecord {
	if r := m.records[k]; r != nil && r.expires > m.now {
		return r
	}
	return nil
}

// hasBody tells a reply that is unread or in its grace from a mark.
func (m *machine) hasBody(r *modelRecord) bool { return !r.read || r.till > m.now }

func drawMailbox(t *rapid.T) device.Mailbox {
	return rapid.SampledFrom([]device.Mailbox{alice, bob}).Draw(t, "mailbox")
}

func drawDevice(t *rapid.T) device.ID {
	return rapid.SampledFrom([]device.ID{camera, other}).Draw(t, "device")
}

func drawRequest(t *rapid.T) device.RequestID {
	return rapid.SampledFrom([]device.RequestID{requestID("a"), requestID("b"), requestID("c")}).Draw(t, "request")
}

func (m *machine) put(t *rapid.T) {
	n := rapid.IntRange(1, 4).Draw(t, "replies")
	var replies []device.Reply
	var want []dispatch.PutResult
	for range n {
		m.puts++
		r := reply("", body(fmt.Append(nil, "body ", m.puts)), seq(rapid.IntRange(0, 2).Draw(t, "seq")))
		r.Mailbox, r.Device, r.Request = drawMailbox(t), drawDevice(t), drawRequest(t)
		replies = append(replies, r)
		want = append(want, m.modelPut(r))
	}
	got, err := m.Cache.Put(context.Background(), replies)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("put: %v, %v; want %v", got, err, want)
	}
}

func (m *machine) modelPut(r device.Reply) dispatch.PutResult {
	k := modelKey{r.Mailbox, r.Device, r.Key()}
	switch known := m.live(k); {
	case known == nil:
		m.records[k] = &modelRecord{reply: r, order: m.puts, expires: m.now + modelTTL}
		return dispatch.Stored
	case m.hasBody(known):
		return dispatch.Duplicate
	default:
		return dispatch.Read
	}
}

func (m *machine) take(t *rapid.T) {
	q := dispatch.Take{
		Mailbox: drawMailbox(t),
		Device:  drawDevice(t),
		IDs:     rapid.SliceOfNDistinct(rapid.Custom(drawRequest), 0, 3, rapid.ID).Draw(t, "ids"),
		Grace:   rapid.SampledFrom([]time.Duration{0, modelGrace}).Draw(t, "grace"),
	}
	want, read, again := m.modelTake(q)
	got, err := m.Cache.Take(context.Background(), q)
	if err != nil {
		t.Fatalf("take: %v", err)
	}
	if len(got.Replies) != len(want) || got.Again != again || !slices.Equal(got.Read, read) {
		t.Fatalf("take: replies %s, %d again, read %v; want %s, %d, %v",
			names(got.Replies), got.Again, got.Read, names(want), again, read)
	}
	for i := range want {
		if fault := differ(got.Replies[i], want[i]); fault != "" {
			t.Fatalf("take: reply %d %s", i, fault)
		}
	}
}

func (m *machine) modelTake(q dispatch.Take) (replies []device.Reply, read []device.RequestID, again int) {
	var found []*modelRecord
	marks := map[device.RequestID]bool{}
	for k := range m.records {
		r := m.live(k)
		switch {
		case r == nil || k.mailbox != q.Mailbox || k.device != q.Device:
		case len(q.IDs) > 0 && !slices.Contains(q.IDs, k.reply.Request):
		case !r.read:
			found = append(found, r)
		case len(q.IDs) == 0:
		case m.hasBody(r):
			found = append(found, r)
			again++
		default:
			marks[k.reply.Request] = true
		}
	}
	slices.SortFunc(found, func(x, y *modelRecord) int { return x.order - y.order })
	for _, r := range found {
		replies = append(replies, r.reply)
		if !r.read {
			r.read, r.till = true, m.now+q.Grace
		}
	}
	for _, id := range q.IDs {
		if marks[id] {
			read = append(read, id)
		}
	}
	return replies, read, again
}

func (m *machine) advance(t *rapid.T) {
	d := time.Duration(rapid.IntRange(1, 12).Draw(t, "minutes")) * time.Minute
	m.now += d
	m.Advance(d)
}

func (m *machine) countRecords(t *rapid.T) {
	var want int64
	for k := range m.records {
		if r := m.live(k); r != nil && m.hasBody(r) {
			want++
		}
	}
	if got, err := m.Cache.Records(context.Background()); err != nil || got != want {
		t.Fatalf("records: %d, %v; want %d", got, err, want)
	}
}

func (m *machine) unread(t *rapid.T) {
	mailbox, dev := drawMailbox(t), drawDevice(t)
	var unread []*modelRecord
	for k := range m.records {
		if r := m.live(k); r != nil && !r.read && k.mailbox == mailbox && k.device == dev {
			unread = append(unread, r)
		}
	}
	slices.SortFunc(unread, func(x, y *modelRecord) int { return x.order - y.order })
	var want []device.RequestID
	var size int64
	for _, r := range unread {
		size += int64(len(r.reply.Body))
		if !slices.Contains(want, r.reply.Request) {
			want = append(want, r.reply.Request)
		}
	}
	ids, got, err := m.Cache.Unread(context.Background(), mailbox, dev)
	if err != nil || got != size || !slices.Equal(ids, want) {
		t.Fatalf("unread: %v, %d bytes, %v; want %v, %d", ids, got, err, want, size)
	}
}
