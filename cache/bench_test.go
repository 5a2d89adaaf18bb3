package cache_test

import (
	"bytes"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"signaldevice/cache"
	"signaldevice/device"
	"signaldevice/dispatch"
	"signaldevice/testserver"
)

// The benchmarks use 64 goroutines, 100 mailboxes, 20 devices and bodies of 1 KB.

func BenchmarkPut(b *testing.B) {
	eachCache(b, func(b *testing.B, c dispatch.Cache) {
		replies := benchReplies(b)
		inParallel(b, func(i int) error {
			_, err := c.Put(b.Context(), replies[i:i+1])
			return err
		})
	})
}

func BenchmarkTake(b *testing.B) {
	eachCache(b, func(b *testing.B, c dispatch.Cache) {
		replies := benchReplies(b)
		for part := 0; part < len(replies); part += 100 {
			if _, err := c.Put(b.Context(), replies[part:min(part+100, len(replies))]); err != nil {
				b.Fatal(err)
			}
		}
		inParallel(b, func(i int) error { return takeOne(b, c, replies[i]) })
	})
}

func BenchmarkPutAndTake(b *testing.B) {
	eachCache(b, func(b *testing.B, c dispatch.Cache) {
		replies := benchReplies(b)
		inParallel(b, func(i int) error {
			if _, err := c.Put(b.Context(), replies[i:i+1]); err != nil {
				return err
			}
			return takeOne(b, c, replies[i])
		})
	})
}

// Small takes while another client reads again and again as much as one take returns: they share a connection.
func BenchmarkTakeBesideLarge(b *testing.B) {
	server := testserver.Redis(b)
	c, err := cache.OpenRedis(b.Context(), cache.RedisConfig{URL: server.URL})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	large := dispatch.Take{Mailbox: device.MailboxOf("bob"), Device: "camera-1", Grace: time.Hour}
	for i := range 40 {
		r := reply(device.RequestID("large-" + strconv.Itoa(i)))
		r.Mailbox, r.Body = large.Mailbox, make([]byte, device.MaxPayload)
		if _, err := c.Put(b.Context(), []device.Reply{r}); err != nil {
			b.Fatal(err)
		}
		large.IDs = append(large.IDs, r.Request)
	}
	small := dispatch.Take{Mailbox: alice, Device: "camera-1", IDs: []device.RequestID{"r"}, Grace: time.Hour}
	if _, err := c.Put(b.Context(), []device.Reply{reply("r")}); err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	var others sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := c.Take(b.Context(), large); err != nil {
				b.Error(err)
				return
			}
		}
	})
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := c.Take(b.Context(), small); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	close(done)
	others.Wait()
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "max-ms")
}

func BenchmarkRecords(b *testing.B) {
	eachCache(b, func(b *testing.B, c dispatch.Cache) {
		for b.Loop() {
			if _, err := c.Records(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func eachCache(b *testing.B, run func(*testing.B, dispatch.Cache)) {
	b.Run("memory", func(b *testing.B) {
		run(b, cache.NewMemory(cache.MemoryConfig{MaxBytes: 8 << 30}))
	})
	b.Run("redis", func(b *testing.B) {
		server := testserver.Redis(b)
		c, err := cache.OpenRedis(b.Context(), cache.RedisConfig{URL: server.URL})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(c.Close)
		run(b, c)
	})
}

// A put that a replica confirms, next door: what --cache-replicas costs at least.
func BenchmarkPutWithReplica(b *testing.B) {
	master := testserver.Redis(b)
	testserver.RedisReplica(b, master, master.Addr)
	c, err := cache.OpenRedis(b.Context(), cache.RedisConfig{URL: master.URL, Replicas: 1})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(c.Close)
	replies := benchReplies(b)
	var unsafe atomic.Int64
	inParallel(b, func(i int) error {
		results, err := c.Put(b.Context(), replies[i:i+1])
		if err == nil && results[0] == dispatch.Unsafe {
			unsafe.Add(1)
			err = c.Ping(b.Context())
		}
		return err
	})
	b.ReportMetric(float64(unsafe.Load())/float64(b.N), "unsafe/op")
}

func benchReplies(b *testing.B) []device.Reply {
	b.Helper()
	body := bytes.Repeat([]byte("x"), 1024)
	replies := make([]device.Reply, b.N)
	for i := range replies {
		replies[i] = device.Reply{
			Request: device.RequestID(device.RequestIDPrefix + strconv.Itoa(1e9+i) + string(body[:58])),
			Device:  device.ID("device-" + strconv.Itoa(i%20)),
			Mailbox: device.MailboxOf(device.ClientID("client-" + strconv.Itoa(i%100))),
			Command: "snapshot", Final: true, ReceivedAt: time.Now(), Body: body, Position: body[:16],
		}
	}
	return replies
}

func takeOne(b *testing.B, c dispatch.Cache, r device.Reply) error {
	taken, err := c.Take(b.Context(), dispatch.Take{
		Mailbox: r.Mailbox, Device: r.Device, IDs: []device.RequestID{r.Request}, Grace: 30 * time.Second,
	})
	if err == nil && len(taken.Replies) != 1 {
		b.Errorf("took %d replies", len(taken.Replies))
	}
	return err
}

// inParallel calls do once with each number below b.N.
func inParallel(b *testing.B, do func(i int) error) {
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := do(int(next.Add(1)) - 1); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
