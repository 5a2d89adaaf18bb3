package presence_test

import (
	"log/slog"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/broker/presence"
	"signaldevice/broker/stream"
	"signaldevice/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, dir string) (*presence.Book, func()) {
	t.Helper()
	e, err := stream.Open(t.Context(), stream.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	b, err := presence.Open(t.Context(), e, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return b, func() { b.Close(); e.Close() }
}

func TestBook(t *testing.T) {
	dir := t.TempDir()
	b, stop := open(t, dir)
	t0 := time.UnixMilli(1_795_000_000_000).UTC()
	seen := t0
	if p := b.Of("cam-1"); p != (device.Presence{}) {
		t.Errorf("before it ever came: %+v", p)
	}
	b.Came("cam-1", t0, func() time.Time { return seen })
	b.Came("cam-2", t0, func() time.Time { return t0 })
	b.Came("cam-2", t0.Add(time.Second), func() time.Time { return t0 }) // another connection of it
	seen = t0.Add(time.Minute)
	if p := b.Of("cam-1"); !p.Online || !p.Since.Equal(t0) || !p.LastSeen.Equal(seen) {
		t.Errorf("while it is there: %+v", p)
	}
	if n := b.Online(); n != 2 {
		t.Errorf("%d online", n)
	}
	gone := t0.Add(2 * time.Minute)
	b.Went("cam-1", gone)
	want := device.Presence{Since: gone, LastSeen: seen}
	if p := b.Of("cam-1"); p != want {
		t.Errorf("after it went: %+v", p)
	}
	if n := b.Online(); n != 1 {
		t.Errorf("%d online", n)
	}
	stop()

	b, stop = open(t, dir)
	if p := b.Of("cam-1"); p.Online || !p.Since.Equal(gone) || !p.LastSeen.Equal(seen) {
		t.Errorf("after a restart: %+v", p)
	}
	if p := b.Of("cam-2"); p.Online || p.LastSeen.IsZero() {
		t.Errorf("connected when the process ended: %+v", p)
	}
	if err := b.Forget(t.Context(), "cam-1"); err != nil {
		t.Fatal(err)
	}
	stop()
	b, stop = open(t, dir)
	defer stop()
	if p := b.Of("cam-1"); p != (device.Presence{}) {
		t.Errorf("after it was deleted: %+v", p)
	}
}
