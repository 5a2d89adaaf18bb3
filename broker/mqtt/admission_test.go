package mqtt

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// F16: who comes when nobody waits is admitted at once, the others in their order and at the rate.
func TestAdmission_KeepsRateAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate, comers = 10, 25
		a := newAdmission(rate)
		admitted := make(chan net.Conn, comers)
		ctx, stop := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer stop()
		go a.run(ctx, func(c net.Conn) { admitted <- c })
		var came []net.Conn
		for range comers {
			c, _ := net.Pipe()
			came = append(came, c)
			if !a.join(c) {
				t.Fatal("was turned away")
			}
		}
		for n, c := range came {
			synctest.Wait()
			if len(admitted) != 1 || <-admitted != c {
				t.Fatalf("number %d is not admitted alone in its turn", n+1)
			}
			time.Sleep(time.Second/rate - time.Nanosecond)
			synctest.Wait()
			if len(admitted) != 0 {
				t.Fatalf("one is admitted before its turn, after number %d", n+1)
			}
			time.Sleep(time.Nanosecond)
		}
	})
}

// The last one in the line waits as long as is allowed, and the next one is turned away until there is room.
func TestAdmission_BoundsTheLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const rate = 10
		room := rate * int(longestWait/time.Second)
		a := newAdmission(rate)
		c, _ := net.Pipe()
		for n := range room {
			if !a.join(c) {
				t.Fatalf("number %d was turned away", n+1)
			}
		}
		if a.join(c) {
			t.Fatal("one more was taken than can be served in time")
		}
		admitted := make(chan net.Conn, room+1)
		ctx, stop := context.WithCancel(t.Context())
		defer synctest.Wait()
		defer stop()
		go a.run(ctx, func(c net.Conn) { admitted <- c })
		synctest.Wait()
		if !a.join(c) {
			t.Error("was turned away although there is room")
		}
		time.Sleep(longestWait)
		synctest.Wait()
		if len(admitted) < room {
			t.Errorf("%d of %d are admitted after the longest wait", len(admitted), room)
		}
	})
}

func TestAdmission_EndsWhileOneWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAdmission(1)
		c, _ := net.Pipe()
		admitted := make(chan net.Conn, 2)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			a.run(ctx, func(c net.Conn) { admitted <- c })
		}()
		a.join(c)
		a.join(c)
		synctest.Wait()
		stop()
		<-done
		if len(admitted) != 1 {
			t.Errorf("%d are admitted, want 1", len(admitted))
		}
	})
}
