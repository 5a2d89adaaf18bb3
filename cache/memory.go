package cache

import (
	"bytes"
	"cmp"
	"container/heap"
	"container/list"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// DefaultMaxBytes bounds a Memory where the configuration says nothing: 100 MiB.
const DefaultMaxBytes = 100 << 20

// recordOverhead is what a record or mark occupies beside the bytes it carries: structs, map entry, heap and list
// places. It makes many small records and marks count against the bound too.
const recordOverhead = 512

// MemoryConfig configures a Memory. Every zero value means the default.
type MemoryConfig struct {
	TTL      time.Duration    // life of a record from its write; default DefaultTTL
	MaxBytes int64            // bound on records and marks together; default DefaultMaxBytes
	Clock    func() time.Time // default time.Now
}

// Memory is a cache in this process. It is bounded in bytes, holds nothing after a restart, and so is not durable:
// replies stay in their output queue until they are read (I2). It starts no goroutine: what is due is settled by the
// next call.
type Memory struct {
	ttl   time.Duration
	max   int64
	clock func() time.Time

	mu    sync.Mutex
	boxes map[boxKey]*box
	due   dueHeap // every record, the next one to change first
	bytes int64   // what records and marks occupy
	live  int64   // records that have their body
	puts  uint64  // records ever stored, for their order
}

// NewMemory returns an empty cache.
func NewMemory(cfg MemoryConfig) *Memory {
	m := &Memory{
		ttl:   cmp.Or(cfg.TTL, DefaultTTL),
		max:   cmp.Or(cfg.MaxBytes, DefaultMaxBytes),
		clock: cfg.Clock,
		boxes: map[boxKey]*box{},
	}
	if m.clock == nil {
		m.clock = time.Now
	}
	return m
}

type boxKey struct {
	mailbox device.Mailbox
	device  device.ID
}

// box holds the replies of one device to one client.
type box struct {
	requests map[device.RequestID][]*record // each in order of arrival, marks included
	unread   list.List                      // of *record, in order of arrival
}

// record is a reply; after its grace it is a mark, a reply without body.
type record struct {
	key     boxKey
	reply   device.Reply
	order   uint64
	expires time.Time
	next    time.Time     // when it next changes: its body goes, or all of it
	place   int           // in the heap
	unread  *list.Element // in the box; nil once read
}

func (r *record) size() int64 {
	return recordOverhead + int64(len(r.reply.Request)+len(r.reply.Command)+len(r.reply.Body)+len(r.reply.Position))
}

// hasBody tells a record from a mark. A record's body may be empty but is never nil.
func (r *record) hasBody() bool { return r.reply.Body != nil }

// Put stores the replies and copies their bodies. CacheFull: what is there, with those of one mailbox, would exceed
// MaxBytes. It implements dispatch.Cache.
func (m *Memory) Put(ctx context.Context, replies []device.Reply) ([]dispatch.PutResult, error) {
	if err := checkPut(ctx, replies); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.settle()
	results := make([]dispatch.PutResult, len(replies))
	for _, group := range byMailbox(replies) {
		if err := m.putGroup(now, replies, group, results); err != nil {
			return nil, err
		}
	}
	return results, nil
}

// putGroup stores the replies of one mailbox, all or none.
func (m *Memory) putGroup(now time.Time, replies []device.Reply, group []int, results []dispatch.PutResult) error {
	var stored []*record
	for _, i := range group {
		var rec *record
		if results[i], rec = m.put(now, replies[i]); rec != nil {
			stored = append(stored, rec)
		}
	}
	if len(stored) == 0 || m.bytes <= m.max {
		return nil
	}
	for _, rec := range stored {
		m.remove(rec)
	}
	return device.Wrap(device.CacheFull, fmt.Errorf("cache: put: over %d bytes", m.max), "the cache is full")
}

func (m *Memory) put(now time.Time, reply device.Reply) (dispatch.PutResult, *record) {
	key := boxKey{reply.Mailbox, reply.Device}
	b := m.boxes[key]
	if b == nil {
		b = &box{requests: map[device.RequestID][]*record{}}
		m.boxes[key] = b
	}
	for _, rec := range b.requests[reply.Request] {
		switch {
		case rec.reply.Seq != reply.Seq:
		case rec.hasBody():
			return dispatch.Duplicate, nil
		default:
			return dispatch.Read, nil
		}
	}
	// The copy keeps the caller's buffers, which may be a whole drain page, from living as long as the record.
	reply.Body = append([]byte{}, reply.Body...)
	reply.Position = bytes.Clone(reply.Position)
	m.puts++
	rec := &record{key: key, reply: reply, order: m.puts, expires: now.Add(m.ttl)}
	rec.next = rec.expires
	rec.unread = b.unread.PushBack(rec)
	b.requests[reply.Request] = append(b.requests[reply.Request], rec)
	heap.Push(&m.due, rec)
	m.bytes += rec.size()
	m.live++
	return dispatch.Stored, rec
}

// Take returns replies and marks them read. The bodies belong to the cache and must not be changed. It implements
// dispatch.Cache.
func (m *Memory) Take(ctx context.Context, q dispatch.Take) (dispatch.Taken, error) {
	if err := checkTake(ctx, q); err != nil {
		return dispatch.Taken{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.settle()
	b := m.boxes[boxKey{q.Mailbox, q.Device}]
	if b == nil {
		return dispatch.Taken{}, nil
	}
	var taken dispatch.Taken
	var found []*record
	if len(q.IDs) == 0 {
		found = b.oldest(maxTakeReplies)
	} else {
		found, taken.Read = b.find(q.IDs)
	}
	chosen := bounded(found)
	taken.More = len(chosen) < len(found)
	slices.SortFunc(chosen, byOrder)
	for _, rec := range chosen {
		taken.Replies = append(taken.Replies, rec.reply)
		if rec.unread != nil {
			m.markRead(now, b, rec, q.Grace)
		} else {
			taken.Again++
		}
	}
	return taken, nil
}

// oldest returns the first unread records, at most n.
func (b *box) oldest(n int) []*record {
	var recs []*record
	for e := b.unread.Front(); e != nil && len(recs) < n; e = e.Next() {
		recs = append(recs, e.Value.(*record))
	}
	return recs
}

// find returns the records of the requests, unread ones first and each kind in order of arrival, and the requests that
// have a mark.
func (b *box) find(ids []device.RequestID) (found []*record, marked []device.RequestID) {
	var again []*record
	for _, id := range distinct(ids) {
		mark := false
		for _, rec := range b.requests[id] {
			switch {
			case rec.unread != nil:
				found = append(found, rec)
			case rec.hasBody():
				again = append(again, rec)
			default:
				mark = true
			}
		}
		if mark {
			marked = append(marked, id)
		}
	}
	slices.SortFunc(found, byOrder)
	slices.SortFunc(again, byOrder)
	return append(found, again...), marked
}

func byOrder(x, y *record) int { return cmp.Compare(x.order, y.order) }

// bounded cuts the records where their bodies exceed what one Take returns.
func bounded(recs []*record) []*record {
	total := 0
	for i, rec := range recs {
		if total += len(rec.reply.Body); i > 0 && total > maxTakeBytes {
			return recs[:i]
		}
	}
	return recs
}

// markRead starts the grace of a record; without one its body goes at once.
func (m *Memory) markRead(now time.Time, b *box, rec *record, grace time.Duration) {
	b.unread.Remove(rec.unread)
	rec.unread = nil
	if grace <= 0 {
		m.dropBody(rec)
		return
	}
	if till := now.Add(grace); till.Before(rec.expires) {
		rec.next = till
		heap.Fix(&m.due, rec.place)
	}
}

// dropBody makes the record a mark.
func (m *Memory) dropBody(rec *record) {
	m.bytes -= rec.size()
	rec.reply.Body, rec.reply.Position = nil, nil
	m.bytes += rec.size()
	m.live--
	rec.next = rec.expires
	heap.Fix(&m.due, rec.place)
}

// settle makes every change that is due and returns the time.
func (m *Memory) settle() time.Time {
	now := m.clock()
	for len(m.due) > 0 && !m.due[0].next.After(now) {
		if rec := m.due[0]; rec.expires.After(now) {
			m.dropBody(rec)
		} else {
			m.remove(rec)
		}
	}
	return now
}

// remove forgets the record or mark wholly.
func (m *Memory) remove(rec *record) {
	heap.Remove(&m.due, rec.place)
	m.bytes -= rec.size()
	if rec.hasBody() {
		m.live--
	}
	b := m.boxes[rec.key]
	if rec.unread != nil {
		b.unread.Remove(rec.unread)
	}
	id := rec.reply.Request
	b.requests[id] = slices.DeleteFunc(b.requests[id], func(r *record) bool { return r == rec })
	if len(b.requests[id]) == 0 {
		delete(b.requests, id)
	}
	if len(b.requests) == 0 {
		delete(m.boxes, rec.key)
	}
}

// Unread lists requests in the order of their first unread reply. It implements dispatch.Cache.
func (m *Memory) Unread(ctx context.Context, mb device.Mailbox, dev device.ID) ([]device.RequestID, int64, error) {
	if err := checkContext(ctx, "unread"); err != nil {
		return nil, 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settle()
	b := m.boxes[boxKey{mb, dev}]
	if b == nil {
		return nil, 0, nil
	}
	var ids []device.RequestID
	var total int64
	for e := b.unread.Front(); e != nil; e = e.Next() {
		reply := e.Value.(*record).reply
		ids = append(ids, reply.Request)
		total += int64(len(reply.Body))
	}
	return distinct(ids), total, nil
}

// Records implements dispatch.Cache.
func (m *Memory) Records(ctx context.Context) (int64, error) {
	if err := checkContext(ctx, "records"); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settle()
	return m.live, nil
}

// Durable reports false: nothing here survives this process.
func (m *Memory) Durable() bool { return false }

// Ping reports nil as long as its context lasts.
func (m *Memory) Ping(ctx context.Context) error { return checkContext(ctx, "ping") }

// dueHeap orders records by their next change (container/heap).
type dueHeap []*record

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].next.Before(h[j].next) }
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].place, h[j].place = i, j
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	rec := x.(*record)
	rec.place = len(*h)
	*h = append(*h, rec)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	rec := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	return rec
}
