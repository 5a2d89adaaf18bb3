package queue_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"signaldevice/broker/queue"
	"signaldevice/device"
)

// The oracle (I1, I2): over a small quota, with connections that end, readers with and without a grace, and a restart in
// between, every reply that was acknowledged is read or still there, and none is there that its device has not published.
func TestQueue_EverythingAtOnce(t *testing.T) {
	s := newShed(t, func(c *queue.Config) { c.MaxReplies = 5 })
	j := &journal{acknowledged: map[string]bool{}, read: map[string]bool{}}
	for round := range 3 {
		j.round(s, round)
		s.reopen()
	}
	for d := range journalDevices {
		for _, r := range s.all(journalDevice(d)) {
			j.read[string(r.Body)] = true
		}
	}
	for body := range j.acknowledged {
		if !j.read[body] {
			t.Errorf("%s was acknowledged, and is lost", body)
		}
	}
	if len(j.acknowledged) < 200 {
		t.Errorf("only %d replies were acknowledged", len(j.acknowledged))
	}
}

const journalDevices = 4

func journalDevice(d int) device.ID { return device.ID(fmt.Sprint("cam-", d)) }

// journal stands outside and notes what devices and readers were told.
type journal struct {
	mu                 sync.Mutex
	acknowledged, read map[string]bool
}

func (j *journal) note(set map[string]bool, body string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	set[body] = true
}

func (j *journal) round(s *shed, round int) {
	stop := make(chan struct{})
	var devices, readers sync.WaitGroup
	for d := range journalDevices {
		devices.Go(func() {
			for i := range 30 {
				j.connection(s, journalDevice(d), fmt.Sprint(round, "/", d, "/", i), i%7 == 3)
			}
		})
		readers.Go(func() { j.reader(s, journalDevice(d), stop) })
	}
	devices.Wait()
	close(stop)
	readers.Wait()
}

// connection publishes a few replies; one that is cut ends with them on their way.
func (j *journal) connection(s *shed, dev device.ID, name string, cut bool) {
	gone := make(chan struct{})
	id := s.request(dev, alice)
	var told sync.WaitGroup
	for seq := range 4 {
		r := reply(dev, id, seq, seq == 3, fmt.Sprint(name, "/", seq))
		r.Gone = gone
		told.Add(1)
		r.Done = func(err error) {
			if err == nil {
				j.note(j.acknowledged, string(r.Body))
			}
			told.Done()
		}
		s.queue.Put(r)
	}
	if !cut {
		told.Wait()
	}
	close(gone)
	told.Wait() // whatever becomes of it, it is told
}

func (j *journal) reader(s *shed, dev device.ID, stop <-chan struct{}) {
	for round := 0; ; round++ {
		select {
		case <-stop:
			return
		default:
		}
		rs := s.drain(queue.Drain{Device: dev, Wait: 20 * time.Millisecond})
		for _, r := range rs {
			j.note(j.read, string(r.Body))
		}
		s.acknowledge(dev, time.Duration(round%2)*time.Second, rs...)
	}
}
