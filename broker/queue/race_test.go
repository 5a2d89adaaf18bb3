package queue_test

import (
	"sync"
	"testing"
	"time"

	"signaldevice/broker/queue"
	"signaldevice/device"
)

// A reply can be read, and removed, before its append is known to have ended: the stream has it sooner than the queue is
// told. Its device is told all the same, and it does not come back (I1, I2).
func TestAcknowledge_BeforeTheAppendIsKnown(t *testing.T) {
	const other = device.ID("cam-2")
	tests := map[string]func(s *shed, r queue.Drained){
		"removed at once": func(s *shed, r queue.Drained) { s.acknowledge(other, 0, r) },
		"after a grace":   func(s *shed, r queue.Drained) { s.acknowledge(other, time.Minute, r) },
	}
	for name, acknowledge := range tests {
		t.Run(name, func(t *testing.T) {
			s := newShed(t, nil)
			s.t = t
			// While the first reply's device is told, two gather and are sent together. While the second one's is told, the
			// third is in the stream and the queue does not know.
			gates := []chan struct{}{make(chan struct{}), make(chan struct{})}
			told := []chan struct{}{make(chan struct{}), make(chan struct{})}
			open := make([]func(), 2)
			for i := range gates {
				r := reply(cam, s.request(cam, alice), 0, true, "x")
				r.Done = func(error) { close(told[i]); <-gates[i] }
				open[i] = sync.OnceFunc(func() { close(gates[i]) })
				t.Cleanup(open[i])
				if i == 1 {
					<-told[0]
				}
				s.queue.Put(r)
			}
			id := s.request(other, alice)
			done := s.offer(reply(other, id, 0, true, "early"))
			open[0]()
			<-told[1]
			var rs []queue.Drained
			s.until("it is in the stream", func() bool { rs = s.all(other); return len(rs) == 1 })
			select {
			case err := <-done:
				t.Fatalf("told already, the test tries nothing: %v", err)
			default:
			}
			acknowledge(s, rs[0])
			duplicate := s.offer(reply(other, id, 0, true, "again"))
			if left := s.all(other); len(left) != 0 {
				t.Errorf("shown: %s", bodies(left))
			}
			open[1]()
			s.wait(done)
			s.wait(duplicate)
			if left, waiting := s.all(other), s.queue.Stats().Waiting; len(left) != 0 || waiting != 2 { // those of the first device
				t.Errorf("afterwards %s, %d waiting", bodies(left), waiting)
			}
			s.advance(61 * time.Second)
			s.until("it is gone", func() bool {
				return len(s.drain(queue.Drain{Device: other, Requests: uuids(id)})) == 0 && s.streamSize("QUEUE") == 2
			})
			if rec := s.record(id); rec.Answered == 0 || len(rec.Seqs) != 1 {
				t.Errorf("record %+v", rec)
			}
		})
	}
}
