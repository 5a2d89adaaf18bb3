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
