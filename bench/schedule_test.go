package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// The open model: exchanges are meant to start by the schedule alone.
func TestSchedules(t *testing.T) {
	even := slices.Collect(constant(100, time.Second))
	if len(even) != 100 || even[1] != 10*time.Millisecond || even[99] != 990*time.Millisecond {
		t.Errorf("%d starts, the second at %v, the last at %v", len(even), even[1], even[len(even)-1])
	}
	random := slices.Collect(poisson(1000, 10*time.Second, rand.New(rand.NewPCG(1, 2))))
	again := slices.Collect(poisson(1000, 10*time.Second, rand.New(rand.NewPCG(1, 2))))
	if !slices.Equal(random, again) || !slices.IsSorted(random) {
		t.Error("the same seed gives another schedule, or one out of order")
	}
	if n := len(random); n < 9500 || n > 10_500 {
		t.Errorf("%d starts in 10 s at 1,000 a second", n)
	}
}
