package queue_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"signaldevice/broker/queue"
	"signaldevice/device"
)

// BenchmarkPut stores final replies of 1 KB with fsync; each of the devices waits for its PUBACK before the next one.
func BenchmarkPut(b *testing.B) {
	body := strings.Repeat("x", 1024)
	for _, devices := range []int{1, 10, 50, 1000} {
		b.Run(fmt.Sprintf("devices=%d", devices), func(b *testing.B) {
			s := newShed(b, func(c *queue.Config) { c.MaxReplies, c.MaxBytes = 1<<30, 1<<40 })
			ids := requestMany("cam", devices, b.N)
			b.ResetTimer()
			var wg sync.WaitGroup
			for d, mine := range ids {
				wg.Go(func() {
					for _, id := range mine {
						s.put(name("cam", d), id, body)
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "replies/s")
		})
	}
}

// BenchmarkDrainAcknowledge reads and removes replies of 1 KB of one device, beside a backlog of others.
func BenchmarkDrainAcknowledge(b *testing.B) {
	for _, replies := range []int{1, 40} {
		for _, backlog := range []int{0, 40_000} {
			b.Run(fmt.Sprintf("replies=%d/backlog=%d", replies, backlog), func(b *testing.B) {
				s := newShed(b, nil)
				s.fill(64, backlog/64)
				b.ResetTimer()
				for range b.N {
					b.StopTimer()
					for range replies {
						s.put(cam, s.request(cam, alice), strings.Repeat("x", 1024))
					}
					b.StartTimer()
					rs := s.all(cam)
					if len(rs) != replies {
						b.Fatalf("%d replies", len(rs))
					}
					s.acknowledge(cam, 0, rs...)
				}
			})
		}
	}
}

func name(prefix string, i int) device.ID { return device.ID(fmt.Sprint(prefix, "-", i)) }

// requestMany mints n ids over devices of a prefix; their records are not needed.
func requestMany(prefix string, devices, n int) [][]device.RequestID {
	out := make([][]device.RequestID, devices)
	now := time.Now()
	for i := range n {
		d := i % devices
		out[d] = append(out[d], ring.Mint(now, alice, name(prefix, d), now.Add(time.Hour)))
	}
	return out
}

// fill stores replies of other devices.
func (s *shed) fill(devices, each int) {
	var wg sync.WaitGroup
	for d, ids := range requestMany("backlog", devices, devices*each) {
		wg.Go(func() {
			for _, id := range ids {
				s.put(name("backlog", d), id, strings.Repeat("x", 1024))
			}
		})
	}
	wg.Wait()
}
