package presence_test

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/broker/presence"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var t0 = time.UnixMilli(1_795_000_000_000).UTC()

func open(t *testing.T, dir string, now time.Time) (*presence.Book, *stream.Engine) {
	t.Helper()
	e, err := stream.Open(t.Context(), stream.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	b, err := presence.Open(t.Context(), presence.Config{Engine: e, Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	return b, e
}

func at(moment time.Time) func() time.Time { return func() time.Time { return moment } }

func TestBook(t *testing.T) {
	dir := t.TempDir()
	b, e := open(t, dir, t0)
	seen := t0
	if p := b.Of("cam-1"); p != (device.Presence{}) {
		t.Errorf("before it ever came: %+v", p)
	}
	b.Came("cam-1", t0, func() time.Time { return seen })
	b.Came("cam-2", t0, at(t0))
	b.Came("cam-2", t0.Add(time.Second), at(t0)) // another connection of it
	seen = t0.Add(time.Minute)
	if p := b.Of("cam-1"); !p.Online || !p.Since.Equal(t0) || !p.LastSeen.Equal(seen) {
		t.Errorf("while it is there: %+v", p)
	}
	if n := b.Online(); n != 2 {
		t.Errorf("%d online", n)
	}
	gone := t0.Add(2 * time.Minute)
	b.Went("cam-1", gone)
	b.Went("cam-1", gone)
	want := device.Presence{Since: gone, LastSeen: seen}
	if p := b.Of("cam-1"); p != want {
		t.Errorf("after it went: %+v", p)
	}
	if n := b.Online(); n != 1 {
		t.Errorf("%d online", n)
	}
	b.Close()
	e.Close()

	restart := t0.Add(time.Hour)
	b, e = open(t, dir, restart)
	if p := b.Of("cam-1"); p.Online || !p.Since.Equal(gone) || !p.LastSeen.Equal(seen) {
		t.Errorf("after a restart: %+v", p)
	}
	if p := b.Of("cam-2"); p.Online || !p.Since.Equal(restart) || !p.LastSeen.Equal(t0.Add(time.Second)) {
		t.Errorf("connected when the process ended: %+v", p)
	}
	b.Forget("cam-1")
	b.Came("cam-2", restart, at(restart))
	b.Forget("cam-2")
	if n := b.Online(); n != 0 {
		t.Errorf("%d online after they were deleted", n)
	}
	b.Close()
	e.Close()
	b, e = open(t, dir, restart)
	defer func() { b.Close(); e.Close() }()
	for _, id := range []device.ID{"cam-1", "cam-2"} {
		if p := b.Of(id); p != (device.Presence{}) {
			t.Errorf("after it was deleted: %+v", p)
		}
	}
}

// A fleet that leaves all at once, as it does at a stop, is written to the last device.
func TestBook_ManyAtOnce(t *testing.T) {
	dir := t.TempDir()
	b, e := open(t, dir, t0)
	const n = 10_000
	for i := range n {
		b.Came(device.ID(fmt.Sprint("cam-", i)), t0, at(t0))
	}
	for i := range n {
		b.Went(device.ID(fmt.Sprint("cam-", i)), t0.Add(time.Minute))
	}
	b.Close()
	e.Close()
	b, e = open(t, dir, t0)
	defer func() { b.Close(); e.Close() }()
	for i := range n {
		if p := b.Of(device.ID(fmt.Sprint("cam-", i))); !p.Since.Equal(t0.Add(time.Minute)) {
			t.Fatalf("device %d: %+v", i, p)
		}
	}
}

// What cannot be written waits until it can.
func TestBook_StreamDoesNotAnswer(t *testing.T) {
	dir := t.TempDir()
	b, e := open(t, dir, t0)
	s, err := e.JetStream().Stream(t.Context(), "PRESENCE")
	if err != nil {
		t.Fatal(err)
	}
	if err := e.JetStream().DeleteStream(t.Context(), "PRESENCE"); err != nil {
		t.Fatal(err)
	}
	b.Came("cam-1", t0, at(t0))
	b.Went("cam-1", t0.Add(time.Minute))
	until(t, func() bool { return e.Failing() > 0 })
	until(t, func() bool {
		_, err := e.Ensure(t.Context(), s.CachedInfo().Config)
		return err == nil
	})
	until(t, func() bool { return e.Failing() == 0 })
	b.Close()
	e.Close()
	b, e = open(t, dir, t0)
	defer func() { b.Close(); e.Close() }()
	if p := b.Of("cam-1"); !p.Since.Equal(t0.Add(time.Minute)) {
		t.Errorf("%+v", p)
	}
}

// An entry that cannot be read is passed over.
func TestOpen_UnreadableEntry(t *testing.T) {
	dir := t.TempDir()
	b, e := open(t, dir, t0)
	b.Came("cam-1", t0, at(t0))
	b.Close()
	if _, err := e.JetStream().Publish(t.Context(), "p.cam-2", []byte("{")); err != nil {
		t.Fatal(err)
	}
	e.Close()
	b, e = open(t, dir, t0)
	defer func() { b.Close(); e.Close() }()
	if b.Of("cam-1").Since.IsZero() || !b.Of("cam-2").Since.IsZero() {
		t.Errorf("%+v, %+v", b.Of("cam-1"), b.Of("cam-2"))
	}
}

func until(t *testing.T, is func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(5 * time.Second); !is(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatal("it did not come true")
		}
	}
}
