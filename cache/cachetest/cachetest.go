// Package cachetest is the one suite that every dispatch.Cache must pass: Run for its contract case by case, RunModel for
// its agreement with a model over random histories.
//
// It is for tests only. Each case opens a cache of its own; cases do not run in parallel, so that caches may share a
// server.
package cachetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// T is what opening a cache needs of a test: *testing.T and *rapid.T have it.
type T interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Config is what a case wants of its cache.
type Config struct {
	TTL      time.Duration
	MaxBytes int64 // bound on what is stored, roughly; 0: whatever the cache has
}

// Harness is an empty cache and power over its time.
type Harness struct {
	Cache   dispatch.Cache
	Advance func(time.Duration) // lets the cache's time pass
	Slack   time.Duration       // how much of its time may pass by itself during a case
}

// Open returns a harness that is cleaned up with the test.
type Open func(t T, cfg Config) Harness

// Times of the cases. Slack is small beside them.
const (
	ttl   = time.Hour
	grace = 10 * time.Minute
)

// Run checks that a cache keeps the contract of dispatch.Cache.
func Run(t *testing.T, open Open) {
	cases := []struct {
		name string
		cfg  Config
		run  func(*fixture)
	}{
		{"a reply comes back whole", Config{}, comesBackWhole},
		{"an empty put stores nothing", Config{}, emptyPut},
		{"results come in the order of the replies", Config{}, resultsInOrder},
		{"a duplicate never overwrites", Config{}, duplicateNeverOverwrites},
		{"I3: another mailbox reads nothing", Config{}, otherMailboxReadsNothing},
		{"I3: another device's replies stay apart", Config{}, otherDeviceStaysApart},
		{"without ids every unread reply comes in order", Config{}, unreadInOrder},
		{"without ids at most 100 replies come at once", Config{}, atMostHundred},
		{"with ids only theirs come", Config{}, onlyTheIDs},
		{"more bytes than one take returns come with the next", Config{}, bytesBounded},
		{"in its grace a reply is read again by its id only", Config{}, readAgainInGrace},
		{"a second read does not extend the grace", Config{}, graceNotExtended},
		{"without a grace the body goes at once", Config{}, noGrace},
		{"a grace ends with the record", Config{}, graceEndsWithRecord},
		{"a read reply does not come back by a put", Config{}, readStaysRead},
		{"a request may have read and unread replies", Config{}, readAndUnread},
		{"an unread reply lives for the TTL exactly", Config{}, ttlOfUnread},
		{"a mark lives for the TTL of its record exactly", Config{}, ttlOfMark},
		{"each record of a request has its own TTL", Config{}, ttlOfEach},
		{"unread tells requests and bytes", Config{}, unreadTells},
		{"records counts replies that have a body", Config{}, recordsCounts},
		{"I2: a full cache stores nothing and keeps what it has", Config{MaxBytes: 1 << 20}, fullCache},
		{"a full cache that was read takes replies again", Config{MaxBytes: 1 << 20}, roomAgain},
		{"64 replies of one request", Config{}, manyReplies},
		{"bad input changes nothing", Config{}, badInput},
		{"an ended context changes nothing", Config{}, endedContext},
		{"of many takes at once one gets the reply", Config{}, takesAtOnce},
		{"of many puts at once one stores the reply", Config{}, putsAtOnce},
		{"puts and takes at once lose nothing", Config{}, putsAndTakesAtOnce},
		{"ping has no effect", Config{}, pingHasNoEffect},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			c.cfg.TTL = ttl
			c.run(&fixture{T: t, Harness: open(t, c.cfg)})
		})
	}
}

// fixture is a cache under test with short ways to use it.
type fixture struct {
	*testing.T
	Harness
}

// The callers and devices of the cases.
var (
	alice = device.MailboxOf("alice")
	bob   = device.MailboxOf("bob")
)

const (
	camera device.ID = "camera-1"
	other  device.ID = "camera-2"
)

// requestID returns an id of a real one's length.
func requestID(name string) device.RequestID {
	id := device.RequestIDPrefix + name + "_"
	return device.RequestID(id + strings.Repeat("x", device.RequestIDLen-len(id)))
}

// reply returns a valid reply of the camera to alice, with changes.
func reply(name string, edits ...func(*device.Reply)) device.Reply {
	r := device.Reply{
		Request:    requestID(name),
		Device:     camera,
		Mailbox:    alice,
		Command:    "snapshot",
		Final:      true,
		ReceivedAt: time.Date(2026, 11, 24, 8, 0, 0, 123456789, time.UTC),
		Body:       []byte(`{"request_id":"` + name + `","status":"ok"}`),
		Position:   []byte{0, 1, 0xff},
	}
	for _, edit := range edits {
		edit(&r)
	}
	return r
}

func seq(n int) func(*device.Reply) { return func(r *device.Reply) { r.Seq = n } }

func body(b []byte) func(*device.Reply) { return func(r *device.Reply) { r.Body = b } }

func to(m device.Mailbox) func(*device.Reply) { return func(r *device.Reply) { r.Mailbox = m } }

func from(d device.ID) func(*device.Reply) { return func(r *device.Reply) { r.Device = d } }

// put stores replies and checks what became of each.
func (f *fixture) put(replies []device.Reply, want ...dispatch.PutResult) {
	f.Helper()
	got, err := f.Cache.Put(f.Context(), replies)
	if err != nil {
		f.Fatalf("put: %v", err)
	}
	if !slices.Equal(got, want) {
		f.Fatalf("put: results %v, want %v", got, want)
	}
}

// store puts replies that must all be new.
func (f *fixture) store(replies ...device.Reply) {
	f.Helper()
	f.put(replies, slices.Repeat([]dispatch.PutResult{dispatch.Stored}, len(replies))...)
}

// take takes for alice from the camera, with the usual grace.
func (f *fixture) take(ids ...device.RequestID) dispatch.Taken {
	f.Helper()
	return f.takeAs(dispatch.Take{Mailbox: alice, Device: camera, IDs: ids, Grace: grace})
}

func (f *fixture) takeAs(q dispatch.Take) dispatch.Taken {
	f.Helper()
	taken, err := f.Cache.Take(f.Context(), q)
	if err != nil {
		f.Fatalf("take: %v", err)
	}
	return taken
}

// wantTaken checks what a take returned, in order.
func (f *fixture) wantTaken(got dispatch.Taken, want ...device.Reply) {
	f.Helper()
	if len(got.Replies) != len(want) {
		f.Fatalf("took %d replies, want %d: %s", len(got.Replies), len(want), names(got.Replies))
	}
	for i := range want {
		if fault := differ(got.Replies[i], want[i]); fault != "" {
			f.Fatalf("reply %d of %s: %s", i, names(got.Replies), fault)
		}
	}
}

// wantRead checks which ids a take called read.
func (f *fixture) wantRead(got dispatch.Taken, want ...device.RequestID) {
	f.Helper()
	if !slices.Equal(got.Read, want) {
		f.Fatalf("read requests %v, want %v", got.Read, want)
	}
}

func (f *fixture) wantRecords(want int64) {
	f.Helper()
	got, err := f.Cache.Records(f.Context())
	if err != nil {
		f.Fatalf("records: %v", err)
	}
	if got != want {
		f.Fatalf("%d records, want %d", got, want)
	}
}

func (f *fixture) wantUnread(m device.Mailbox, dev device.ID, wantBytes int64, want ...device.RequestID) {
	f.Helper()
	ids, size, err := f.Cache.Unread(f.Context(), m, dev)
	if err != nil {
		f.Fatalf("unread: %v", err)
	}
	if !slices.Equal(ids, want) || size != wantBytes {
		f.Fatalf("unread %v with %d bytes, want %v with %d", ids, size, want, wantBytes)
	}
}

// wantKind checks the kind of an error.
func (f *fixture) wantKind(err error, want device.Kind) {
	f.Helper()
	if got := device.KindOf(err); got != want {
		f.Fatalf("error %v is of kind %q, want %q", err, got, want)
	}
}

// edge is the smallest step that surely crosses a limit in the cache's time.
func (f *fixture) edge() time.Duration { return max(f.Slack, time.Millisecond) }

// toJustBefore lets time pass until a limit that is d away is still ahead.
func (f *fixture) toJustBefore(d time.Duration) { f.Advance(d - f.edge()) }

// over lets time pass over the limit that toJustBefore stopped at.
func (f *fixture) over() { f.Advance(f.edge()) }

func (f *fixture) ended() context.Context {
	ctx, cancel := context.WithCancel(f.Context())
	cancel()
	return ctx
}

// differ tells how a reply that was taken differs from the one that was put.
func differ(got, want device.Reply) string {
	switch {
	case got.Request != want.Request || got.Seq != want.Seq:
		return fmt.Sprintf("is %s/%d, want %s/%d", got.Request, got.Seq, want.Request, want.Seq)
	case got.Device != want.Device || got.Mailbox != want.Mailbox:
		return fmt.Sprintf("is of %s to %x, want %s to %x", got.Device, got.Mailbox, want.Device, want.Mailbox)
	case got.Command != want.Command || got.Final != want.Final || got.Late != want.Late:
		return fmt.Sprintf("command, final, late are %q %t %t, want %q %t %t",
			got.Command, got.Final, got.Late, want.Command, want.Final, want.Late)
	case !got.ReceivedAt.Equal(want.ReceivedAt):
		return fmt.Sprintf("received at %s, want %s", got.ReceivedAt, want.ReceivedAt)
	case !bytes.Equal(got.Body, want.Body):
		return fmt.Sprintf("has another body of %d bytes, want %d", len(got.Body), len(want.Body))
	case !bytes.Equal(got.Position, want.Position):
		return fmt.Sprintf("position %x, want %x", got.Position, want.Position)
	}
	return ""
}

func names(replies []device.Reply) string {
	var b strings.Builder
	for _, r := range replies {
		fmt.Fprintf(&b, "%s/%d ", strings.TrimRight(string(r.Request), "x"), r.Seq)
	}
	return "[" + strings.TrimSpace(b.String()) + "]"
}
