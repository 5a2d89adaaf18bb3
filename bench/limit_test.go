package bench

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestFindLimit_ClosesIn(t *testing.T) {
	for _, limit := range []float64{1, 3, 100, 1234} {
		tries := 0
		got, err := findLimit(t.Context(), 100, time.Minute, func(_ context.Context, rate float64) (Probe, error) {
			tries++
			return Probe{Rate: rate, Kept: rate <= limit}, nil
		})
		if err != nil || got.Failed <= limit || got.Rate > limit || got.Rate*precision*1.05 < limit-1 || tries > 40 {
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

// One hiccup of the machine is no limit.
func TestFindLimit_GivesARateASecondChance(t *testing.T) {
	failed := false
	got, err := findLimit(t.Context(), 100, time.Minute, func(_ context.Context, rate float64) (Probe, error) {
		if rate == 200 && !failed {
			failed = true
			return Probe{Rate: rate}, nil
		}
		return Probe{Rate: rate, P99: 7, Kept: rate <= 300}, nil
	})
	if err != nil || got.Rate < 280 || got.P99 != 7 {
		t.Errorf("found %v with p99 %v, %v; want almost 300", got.Rate, got.P99, err)
	}
}

func TestFindLimit_EndsWithTheFirstError(t *testing.T) {
	gone := errors.New("gone")
	tries := 0
	_, err := findLimit(t.Context(), 100, time.Minute, func(context.Context, float64) (Probe, error) {
		tries++
		return Probe{}, gone
	})
	if !errors.Is(err, gone) || tries != 1 {
		t.Errorf("%d tries, %v", tries, err)
	}
}

func TestFindLimit_KnowsItsOwnLimits(t *testing.T) {
	for name, tt := range map[string]struct {
		keeps        bool
		want, failed float64
	}{
		"nothing is too fast": {true, highestRate, 0},
		"everything is":       {false, 0, lowestRate},
	} {
		got, err := findLimit(t.Context(), 100, time.Minute, func(_ context.Context, rate float64) (Probe, error) {
			if rate < lowestRate || rate > highestRate {
				t.Errorf("%s: tried %v", name, rate)
			}
			return Probe{Rate: rate, Kept: tt.keeps}, nil
		})
		if err != nil || got.Rate != tt.want || got.Failed != tt.failed {
			t.Errorf("%s: found %v, %v broke it, %v; want %v and %v", name, got.Rate, got.Failed, err, tt.want, tt.failed)
		}
	}
}
