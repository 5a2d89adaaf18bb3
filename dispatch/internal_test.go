package dispatch

import (
	"context"
	"strconv"
	"testing"
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
