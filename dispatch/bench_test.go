package dispatch_test

import (
	"testing"
	"time"
)

// One exchange: send, the device's reply, and a poll by id that drains, moves and takes it. The fakes cost about as much
// as the Dispatcher does; the figure is for comparing one state of the code with another.
func BenchmarkExchange(b *testing.B) {
	for name, durable := range map[string]bool{"durable": true, "not durable": false} {
		b.Run(name, func(b *testing.B) {
			now := time.Now()
			s := newSystemAt(func() time.Time { return now }, durable, nil)
			b.ReportAllocs()
			for n := 0; b.Loop(); n++ {
				if n%100 == 0 { // the fakes are lists: keep them short
					s = newSystemAt(func() time.Time { return now }, durable, nil)
				}
				id := s.answered(b, alice, `{"ok":true}`)
				if got, err := s.poll(alice, id); err != nil || !got.Answered {
					b.Fatal(got, err)
				}
			}
		})
	}
}

// A poll that finds nothing: cache, queue, cache, record.
func BenchmarkEmptyPoll(b *testing.B) {
	s := newSystem(true, nil)
	id := s.send(b, alice, cam)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.poll(alice, id); err != nil {
			b.Fatal(err)
		}
	}
}
