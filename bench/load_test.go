package bench

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// instant is an exchange that takes as long as it is told to and tells no steps.
func instant(d time.Duration) exchange {
	return func(ctx context.Context, _ int) (trace, error) {
		if !sleep(ctx, d) {
			return trace{}, ctx.Err()
		}
		return trace{done: time.Now()}, nil
	}
}

func testLoad(s schedule, e exchange) load {
	return load{schedule: s, exchange: e, timeout: 10 * time.Second, nap: time.Sleep}
}

func TestLoad_StartsWhenTheScheduleSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		starts := map[int]time.Duration{}
		samples := testLoad(constant(100, time.Second), func(_ context.Context, n int) (trace, error) {
			mu.Lock()
			defer mu.Unlock()
			starts[n] = time.Since(began)
			return trace{done: time.Now()}, nil
		}).run(t.Context())

		if len(samples) != 100 || starts[0] != 0 || starts[99] != 990*time.Millisecond {
			t.Errorf("%d samples, begun from %v to %v", len(samples), starts[0], starts[99])
		}
	})
}

// A system that answers nothing for a second keeps waiting everybody who came in that second. A driver that waits for
// answers before it goes on would have one slow exchange to tell of.
func TestLoad_AStallIsNotHidden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stallEnds := time.Now().Add(1500 * time.Millisecond)
		samples := testLoad(constant(100, 2*time.Second), func(_ context.Context, n int) (trace, error) {
			if n >= 50 { // from half a second on
				time.Sleep(time.Until(stallEnds))
			}
			return trace{done: time.Now()}, nil
		}).run(t.Context())

		slow := 0
		for _, s := range samples {
			if s.done > 10*time.Millisecond {
				slow++
			}
		}
		if slow != 99 {
			t.Errorf("%d of %d exchanges were slow, want the 99 that were due more than 10 ms before the end of the stall", slow, len(samples))
		}
		if worst := summarise(doneOf(samples)).Max; worst != 1000 {
			t.Errorf("the slowest took %v ms, want the whole stall", worst)
		}
	})
}

func TestLoad_CountsTheDriversOwnDelay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := testLoad(slices.Values([]time.Duration{time.Millisecond}), instant(2*time.Millisecond))
		l.nap = func(time.Duration) { time.Sleep(5 * time.Millisecond) } // a machine without time for us
		samples := l.run(t.Context())
		if s := samples[0]; s.lag != 4*time.Millisecond || s.done != 6*time.Millisecond {
			t.Errorf("begun %v late and done after %v, want 4ms and 6ms", s.lag, s.done)
		}
	})
}

func TestLoad_AFailureHasAKindAndNoLatency(t *testing.T) {
	tests := map[string]struct {
		exchange exchange
		want     string
	}{
		"too slow": {instant(time.Minute), failedTimeout},
		"refused": {func(context.Context, int) (trace, error) {
			return trace{}, &failure{"device_offline", errors.New("409")}
		}, "device_offline"},
		"no connection":    {func(context.Context, int) (trace, error) { return trace{}, errors.New("connection refused") }, failedConnection},
		"a reply too many": {func(context.Context, int) (trace, error) { return trace{}, &failure{failedAnswer, errors.New("2")} }, failedAnswer},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				samples := testLoad(slices.Values([]time.Duration{0}), tt.exchange).run(t.Context())
				if len(samples) != 1 || samples[0].failure != tt.want || samples[0].done != 0 {
					t.Errorf("%+v, want the failure %s", samples, tt.want)
				}
			})
		})
	}
}

// The driver stays bounded before a system that takes everything and answers nothing.
func TestLoad_TooManyUnderWayAreNotBegun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := make([]time.Duration, maxInFlight+5)
		samples := testLoad(slices.Values(all), instant(time.Second)).run(t.Context())
		failed := 0
		for _, s := range samples {
			if s.failure == failedNotBegun {
				failed++
			}
		}
		if len(samples) != len(all) || failed != 5 {
			t.Errorf("%d of %d were not begun, want 5 of %d", failed, len(samples), len(all))
		}
	})
}

func TestLoad_EndsEarly(t *testing.T) {
	t.Run("when enough is known", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := testLoad(constant(10, time.Hour), instant(0))
			seen := 0
			l.observe = func(sample) bool { seen++; return seen < 3 }
			if samples := l.run(t.Context()); len(samples) != 3 {
				t.Errorf("%d samples, want 3", len(samples))
			}
		})
	})
	t.Run("when its context does, without the exchanges under way", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 950*time.Millisecond)
			defer cancel()
			if samples := testLoad(constant(10, time.Hour), instant(80*time.Millisecond)).run(ctx); len(samples) != 9 {
				t.Errorf("%d samples, want the 9 that had ended", len(samples))
			}
		})
	})
}
