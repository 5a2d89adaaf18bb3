package bench

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestPercentile_NearestRank(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(i + 1)
	}
	tests := map[string]struct {
		values []time.Duration
		q      float64
		want   time.Duration
	}{
		"the only value":    {[]time.Duration{7}, 0.99, 7},
		"the lowest":        {hundred, 0, 1},
		"the middle":        {hundred, 0.5, 50},
		"99 in a hundred":   {hundred, 0.99, 99},
		"just above it":     {hundred, 0.991, 100},
		"the highest":       {hundred, 1, 100},
		"the higher of two": {[]time.Duration{1, 2}, 0.51, 2},
		"the lower of two":  {[]time.Duration{1, 2}, 0.5, 1},
	}
	for name, tt := range tests {
		if got := percentile(tt.values, tt.q); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if s := summarise(nil); s != (Latencies{}) {
		t.Errorf("of nothing: %+v", s)
	}
}

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

func TestFindLimit_ClosesIn(t *testing.T) {
	for _, limit := range []float64{1, 3, 100, 1234} {
		tries := 0
		got, err := findLimit(t.Context(), 100, time.Minute, func(_ context.Context, rate float64) (Probe, error) {
			tries++
			return Probe{Rate: rate, Kept: rate <= limit}, nil
		})
		if err != nil || got.Rate > limit || got.Rate*precision*1.05 < limit-1 || tries > 40 {
			t.Errorf("limit %v: found %v in %d tries, %v", limit, got.Rate, tries, err)
		}
	}
	spent, err := findLimit(t.Context(), 100, 0, func(context.Context, float64) (Probe, error) {
		t.Error("probed without a budget")
		return Probe{}, nil
	})
	if err != nil || spent.Rate != 0 {
		t.Errorf("without a budget: %+v, %v", spent, err)
	}
}

func TestProc_ReadsWhatLinuxSays(t *testing.T) {
	stat := []byte("42 (a (strange) name) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 5 0 100 1000 200\n")
	if got, err := cpuIn(stat); err != nil || got != 2*time.Second {
		t.Errorf("CPU %v, %v", got, err)
	}
	if _, err := cpuIn([]byte("42 (cut")); err == nil {
		t.Error("half a line was read")
	}
	rss, peak, err := memoryIn([]byte("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n"))
	if err != nil || rss != 1<<20 || peak != 2<<20 {
		t.Errorf("memory %d, %d, %v", rss, peak, err)
	}
	if _, _, err := memoryIn([]byte("Name:\tx\n")); err == nil {
		t.Error("memory of a file that tells none")
	}
}
