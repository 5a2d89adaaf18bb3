package requests

import (
	"container/list"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"signaldevice/device"
)

// BenchmarkKept tells what one more request record, or idempotency key, costs while it is kept and nobody uses it: bytes of
// the heap after a start, and on disk.
func BenchmarkKept(b *testing.B) {
	for what, keep := range map[string]func(*testing.B, *Store, int) error{"record": keepRecord, "key": keepKey} {
		b.Run(what, func(b *testing.B) {
			const few = 20_000 // beyond what an open store holds whatever is in it
			heap, disk := atRest(b, few, keep)
			moreHeap, moreDisk := atRest(b, few+b.N, keep)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(moreHeap-heap)/float64(b.N), "heap-B/"+what)
			b.ReportMetric(float64(moreDisk-disk)/float64(b.N), "disk-B/"+what)
		})
	}
}

func keepRecord(b *testing.B, s *Store, i int) error {
	r, c := realRecord(b, i)
	if err := s.Create(b.Context(), r); err != nil {
		return err
	}
	_, err := s.UpdateNow(b.Context(), c, func(r *Record) bool {
		r.Sent, r.Delivered = r.Created, r.Created
		return r.AddReply(0, 100, true, r.Created)
	})
	return err
}

func keepKey(b *testing.B, s *Store, i int) error {
	r, c := realRecord(b, i)
	_, err := s.Reserve(b.Context(), c.Mailbox, r.Key, Reservation{
		ID: r.ID, Hash: r.Hash, Created: r.Created, DeliverBy: r.DeliverBy, ReplyBy: r.ReplyBy,
	})
	return err
}

// atRest returns the bytes that a store which keeps so many holds in memory after its start, and on disk.
func atRest(b *testing.B, n int, keep func(*testing.B, *Store, int) error) (memory, disk int64) {
	b.Helper()
	dir := b.TempDir()
	fill(b, dir, n, keep)
	if err := filepath.WalkDir(dir, func(_ string, file fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := file.Info()
		if err == nil {
			disk += info.Size()
		}
		return err
	}); err != nil {
		b.Fatal(err)
	}
	before := inUse()
	s := openIn(b, dir, nil)
	defer s.closeAll()
	return inUse() - before, disk
}

// fill makes a store that keeps so many, of clients that come all at once.
func fill(b *testing.B, dir string, n int, keep func(*testing.B, *Store, int) error) {
	b.Helper()
	s := openIn(b, dir, nil)
	defer s.closeAll()
	next := make(chan int)
	var clients sync.WaitGroup
	for range 500 {
		clients.Go(func() {
			for i := range next {
				if err := keep(b, s, i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	clients.Wait()
}

// BenchmarkRemembered tells what one record costs while it is among those in memory: bytes of the heap.
func BenchmarkRemembered(b *testing.B) {
	s := Store{most: b.N, records: map[device.UUID]*entry{}, recent: list.New()}
	before := inUse()
	for i := range b.N {
		r, c := realRecord(b, i)
		r.AddReply(0, 100, true, r.Created)
		s.remember(c, r, 1)
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(inUse()-before)/float64(b.N), "heap-B/record")
	runtime.KeepAlive(&s)
}

// realRecord is as large as records are: it has a hash and an idempotency key.
func realRecord(b *testing.B, i int) (Record, device.Claims) {
	b.Helper()
	client, dev := device.ClientID(fmt.Sprint("client-", i%8)), device.ID(fmt.Sprintf("d4f2c8a1b7e3%04x", i%1000))
	r, c := newRecordOf(b, time.Now(), client, dev)
	r.Hash, r.Key = make([]byte, 32), fmt.Sprintf("%032x", i)
	return r, c
}

// inUse returns the bytes of the heap that are in use.
func inUse() int64 {
	for range 3 { // what a pool holds is let go by the second one
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
