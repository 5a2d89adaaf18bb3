package stream

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Writes without an answer that are far apart are stalls of their own; close together they are one failure.
func TestAppender_LoneStallsAreNoFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &Appender{}
		e := &Engine{appenders: []*Appender{a}}
		for i, step := range []struct{ after, failing time.Duration }{
			{0, 0},
			{12 * time.Hour, 0},
			{inARow + 1, 0},
			{inARow, inARow},
			{3 * time.Second, inARow + 3*time.Second},
			{12 * time.Hour, 0},
			{3 * time.Second, 3 * time.Second},
		} {
			time.Sleep(step.after)
			if _, err := a.answered(nil, context.DeadlineExceeded); err == nil {
				t.Error("stored without an answer")
			}
			if d := e.Failing(); d != step.failing {
				t.Errorf("failing for %v after write %d, want %v", d, i, step.failing)
			}
		}
	})
}

// Every way out of the queue makes room for as many bytes again.
func TestAppender_RoomForBytes(t *testing.T) {
	a := &Appender{room: make(chan struct{}, maxWaiting), wake: make(chan struct{}, 1)}
	m := &Append{Key: "one", Data: make([]byte, 1<<20)}
	fill := func() (n int) {
		for {
			a.room <- struct{}{}
			if err := a.push(m, maxWaitingBytes); err != nil {
				return n
			}
			n++
		}
	}
	for _, step := range []struct {
		leave func()
		room  int
	}{
		{func() {}, 64},
		{func() {}, 0},
		{func() { a.take(nil, 3, maxBatchBytes) }, 3},
		{func() { a.take(nil, maxBatch, maxBatchBytes) }, 4},
		{func() { a.takeBehind("another") }, 0},
		{func() { a.takeBehind("one") }, 64},
	} {
		step.leave()
		if n := fill(); n != step.room {
			t.Errorf("room for %d, want %d", n, step.room)
		}
	}
	if n := len(a.room); n != 64 {
		t.Errorf("%d tokens are out", n)
	}
}
