package dispatch

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
)

func TestWaiters_AreBoundedInTotal(t *testing.T) {
	ws := newWaiters()
	client := func(n int) place { return place{device.MailboxOf(device.ClientID(strconv.Itoa(n))), "cam"} }
	var all []*waiter
	for n := range maxWaiters {
		w, err := ws.join(client(n), nil)
		if err != nil {
			t.Fatalf("waiter %d: %v", n, err)
		}
		all = append(all, w)
	}
	if _, err := ws.join(client(maxWaiters), nil); !device.Is(err, device.RateLimited) {
		t.Errorf("one waiter too many: %v", err)
	}
	for _, w := range all {
		ws.leave(w)
	}
	if len(ws.at)+len(ws.perBox)+ws.total != 0 {
		t.Errorf("after all have left: %d places, %d clients, %d waiters", len(ws.at), len(ws.perBox), ws.total)
	}
}

func TestMoves_APanicFreesTheDevice(t *testing.T) {
	var m moves
	func() {
		defer func() { _ = recover() }()
		_, _ = m.do(context.Background(), "cam", func() (cost time.Duration, err error) { panic("in the middle") })
	}()
	ran := false
	_, err := m.do(context.Background(), "cam", func() (cost time.Duration, err error) { ran = true; return 0, nil })
	if err != nil || !ran {
		t.Errorf("the next move: ran %v, %v", ran, err)
	}
	if len(m.running)+len(m.next) != 0 {
		t.Errorf("%d moves are still noted", len(m.running)+len(m.next))
	}
}

// A call waits for the move ahead no longer than it has time. Those who were to share its own move still get one.
func TestMoves_WaitingIsBounded(t *testing.T) { // I7
	synctest.Test(t, func(t *testing.T) {
		var m moves
		release := make(chan struct{})
		go func() {
			_, _ = m.do(t.Context(), "cam", func() (time.Duration, error) { <-release; return 0, nil })
		}()
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		led := make(chan error)
		go func() {
			_, err := m.do(short, "cam", func() (time.Duration, error) { t.Error("moved beside another"); return 0, nil })
			led <- err
		}()
		synctest.Wait()
		shared := make(chan error)
		moved := 0
		for range 2 {
			go func() {
				_, err := m.do(t.Context(), "cam", func() (time.Duration, error) { moved++; return 0, nil })
				shared <- err
			}()
		}
		start := time.Now()
		if err := <-led; !device.Is(err, device.BrokerUnavailable) || time.Since(start) != time.Second {
			t.Errorf("the call with a second left: %v after %s", err, time.Since(start))
		}
		synctest.Wait()
		close(release)
		for range 2 {
			if err := <-shared; err != nil {
				t.Error(err)
			}
		}
		if moved != 1 {
			t.Errorf("%d moves for the two that had time, want 1", moved)
		}
		if len(m.running)+len(m.next) != 0 {
			t.Errorf("%d moves are still noted", len(m.running)+len(m.next))
		}
	})
}

// A move whose time is up in the middle is no failure of those who share it.
func TestMoves_GivenUpInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m moves
		down := device.Errorf(device.BrokerUnavailable, "the broker did not answer in time")
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		release := make(chan struct{})
		go func() {
			_, _ = m.do(t.Context(), "cam", func() (time.Duration, error) { <-release; return 0, nil })
		}()
		synctest.Wait()
		led, shared := make(chan error), make(chan error)
		go func() {
			_, err := m.do(short, "cam", func() (time.Duration, error) { time.Sleep(time.Second); return 0, down })
			led <- err
		}()
		synctest.Wait()
		go func() {
			_, err := m.do(t.Context(), "cam", func() (time.Duration, error) { return 0, nil })
			shared <- err
		}()
		synctest.Wait()
		close(release)
		if err := <-led; !errors.Is(err, down) {
			t.Errorf("whose time was up: %v", err)
		}
		if err := <-shared; err != nil {
			t.Errorf("who has time left: %v", err)
		}
	})
}

// A call does not go where the one ahead met an outage; it does where that one only had too little time.
func TestMoves_OnlyAnOutageIsPassedOn(t *testing.T) {
	down := device.Errorf(device.CacheUnavailable, "down")
	tests := map[string]struct{ first, second error }{
		"the cache is out":        {down, down},
		"the first had no time":   {errNotMoved, nil},
		"the broker refused it":   {device.Errorf(device.Forbidden, "no"), nil},
		"nothing was wrong there": {nil, nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var m moves
				release, second := make(chan struct{}), make(chan error)
				go func() {
					_, _ = m.do(t.Context(), "cam", func() (time.Duration, error) { <-release; return 0, tt.first })
				}()
				synctest.Wait()
				go func() {
					_, err := m.do(t.Context(), "cam", func() (time.Duration, error) { return 0, nil })
					second <- err
				}()
				synctest.Wait()
				close(release)
				if err := <-second; !errors.Is(err, tt.second) {
					t.Errorf("the second: %v, want %v", err, tt.second)
				}
			})
		})
	}
}

// A call that was refused for want of time, or room, had to do without, whoever else got what it asked for meanwhile.
func TestOutage_OfACallThatWasTurnedAway(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	later := now.Add(time.Nanosecond)
	t.Run("no time", func(t *testing.T) {
		d := newDependency("broker", device.BrokerUnavailable, nil, Config{Clock: clock, Observer: nobody{}, Log: slog.New(slog.DiscardHandler)})
		if err := d.call(t.Context(), &allowance{}, nil); !device.Is(err, device.BrokerUnavailable) {
			t.Error(err)
		}
		if since, out := d.outage(now); !out || !since.Equal(now) {
			t.Errorf("for that call: %t since %s", out, since)
		}
		if _, out := d.outage(later); out {
			t.Error("it counts as out for calls that came later")
		}
	})
	t.Run("no room", func(t *testing.T) {
		r := room{clock: clock, log: slog.New(slog.DiscardHandler)}
		r.refused()
		if !r.turnsAway() {
			t.Error("it is tried again at once")
		}
		r.stored()
		if _, full := r.outage(now); !full {
			t.Error("not full for that call")
		}
		if _, full := r.outage(later); full {
			t.Error("full for calls that came later")
		}
	})
}

func TestPartLen_KeepsPutsSmall(t *testing.T) {
	reply := func(size int) device.Reply { return device.Reply{Body: make([]byte, size)} }
	tests := map[string]struct {
		sizes []int
		want  int
	}{
		"one":                         {[]int{1}, 1},
		"all that fit":                {[]int{putBytes / 2, putBytes / 2}, 2},
		"one byte more":               {[]int{putBytes / 2, putBytes/2 + 1}, 1},
		"a single one over the bound": {[]int{putBytes + 1, 1}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var replies []device.Reply
			for _, size := range tt.sizes {
				replies = append(replies, reply(size))
			}
			if got := partLen(replies); got != tt.want {
				t.Errorf("partLen = %d, want %d", got, tt.want)
			}
		})
	}
}
