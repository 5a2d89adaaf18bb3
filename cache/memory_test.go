package cache_test

import (
	"testing"
	"time"

	"signaldevice/cache"
	"signaldevice/cache/cachetest"
	"signaldevice/device"
	"signaldevice/dispatch"
)

func openMemory(_ cachetest.T, cfg cachetest.Config) cachetest.Harness {
	now := time.Date(2026, 11, 24, 8, 0, 0, 0, time.UTC)
	return cachetest.Harness{
		Cache: cache.NewMemory(cache.MemoryConfig{
			TTL:      cfg.TTL,
			MaxBytes: cfg.MaxBytes,
			Clock:    func() time.Time { return now },
		}),
		Advance: func(d time.Duration) { now = now.Add(d) },
	}
}

func TestMemory_KeepsTheContract(t *testing.T) { cachetest.Run(t, openMemory) }

func TestMemory_AgreesWithTheModel(t *testing.T) { cachetest.RunModel(t, openMemory) }

// The bound counts what records and marks carry, and is met exactly.
func TestMemory_BoundInBytes(t *testing.T) {
	r := reply("r")
	r.Body = make([]byte, 1000)
	size := int64(512 + len(r.Request) + len(r.Command) + len(r.Body))
	tests := map[string]struct {
		max  int64
		want device.Kind
	}{
		"at the limit":  {2 * size, device.OK},
		"one byte over": {2*size - 1, device.CacheFull},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := cache.NewMemory(cache.MemoryConfig{MaxBytes: test.max})
			if _, err := c.Put(t.Context(), []device.Reply{r}); err != nil {
				t.Fatal(err)
			}
			s := r
			s.Seq = 1
			_, err := c.Put(t.Context(), []device.Reply{s})
			wantKind(t, err, test.want)
		})
	}
}

func TestMemory_KeepsItsOwnCopy(t *testing.T) {
	c := cache.NewMemory(cache.MemoryConfig{})
	r := reply("r")
	r.Body, r.Position = []byte("body"), []byte("position")
	if _, err := c.Put(t.Context(), []device.Reply{r}); err != nil {
		t.Fatal(err)
	}
	r.Body[0], r.Position[0] = 'X', 'X'
	taken, err := c.Take(t.Context(), dispatch.Take{Mailbox: r.Mailbox, Device: r.Device})
	if err != nil || string(taken.Replies[0].Body) != "body" || string(taken.Replies[0].Position) != "position" {
		t.Fatalf("took %+v, %v", taken.Replies, err)
	}
}

func TestMemory_IsNotDurable(t *testing.T) {
	if cache.NewMemory(cache.MemoryConfig{}).Durable() {
		t.Error("I2: memory counts as durable")
	}
}
