package dispatch_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// The ledger's world with calls at the same time, hints, waits and probes, under the race detector.
func TestLedger_ConcurrentClients(t *testing.T) {
	for name, durable := range map[string]bool{"durable cache": true, "cache that is not durable": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { concurrentClients(t, durable) })
		})
	}
}

func concurrentClients(t *testing.T, durable bool) {
	s := newSystem(durable, nil)
	s.start(t)
	other := &system{Dispatcher: dispatch.New(s.cfg), broker: s.broker, cache: s.cache, cfg: s.cfg}
	other.start(t)
	synctest.Wait()

	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 2))
	chance := func(n int) bool {
		mu.Lock()
		defer mu.Unlock()
		return random.IntN(n) == 0
	}
	sometimes := func(down fault) func(string) fault {
		return func(op string) fault {
			switch {
			case op == "send" || op == "watch" || op == "ping":
			case chance(15):
				return down
			case chance(30):
				return cutOff
			case chance(200):
				return fault{hang: true}
			}
			return fault{}
		}
	}
	s.broker.set(sometimes(brokerDown))
	s.cache.set(sometimes(cacheDown))

	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			c := caller(strconv.Itoa(i))
			instance := []*system{s, other}[i%2]
			for n := range 15 {
				want := fmt.Sprintf("%d/%d", i, n)
				id := instance.send(t, c, cam)
				clients.Go(func() {
					time.Sleep(time.Duration(n) * 37 * time.Millisecond)
					s.broker.arrive(id, 0, true, want)
				})
				if got := readOne(instance, c, id); got != want {
					t.Errorf("client %d read %q, want %q", i, got, want)
				}
			}
		})
	}
	clients.Wait()
}

// readOne asks for one request until its reply is there, as a client would.
func readOne(s *system, c dispatch.Caller, id device.RequestID) string {
	for range 1000 {
		got, err := s.Replies(context.Background(), c, dispatch.RepliesInput{Device: cam, IDs: []device.RequestID{id}, Wait: 10 * time.Second})
		if err != nil {
			time.Sleep(100 * time.Millisecond)
			continue
		}
		switch state := got.Requests[0].State; {
		case len(got.Replies) == 1:
			return string(got.Replies[0].Body)
		case len(got.Replies) > 1:
			return "several replies"
		case state == device.StateNoReply || state == device.StateGone || state == device.StateAlreadyRead || state == device.StateNotFound:
			return string(state)
		}
	}
	return "nothing"
}
