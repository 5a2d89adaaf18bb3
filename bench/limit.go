package bench

import (
	"context"
	"math"
	"time"
)

// Limit is the highest rate that a search found to keep its bound.
type Limit struct {
	Bound  float64 `json:"p99_bound_ms"`
	Rate   float64 `json:"rate"`   // exchanges a second; 0: not even the lowest one tried
	Failed float64 `json:"failed"` // the lowest rate that broke the bound; 0: none did before the budget was spent
	P99    float64 `json:"p99_ms"` // of the exchanges at that rate
	Lag    float64 `json:"lag_ms"` // p99 of how late the driver began there: what is left of P99 is the system's
	Probes []Probe `json:"probes"` // in the order in which they were made
}

// Probe is one short run of the search.
type Probe struct {
	Rate   float64 `json:"rate"`
	P99    float64 `json:"p99_ms"`
	Lag    float64 `json:"lag_ms"`
	Errors int     `json:"errors"`
	Kept   bool    `json:"kept"` // no error, and p99 under the bound
}

const (
	lowestRate  = 1.0
	highestRate = 50_000.0
	step        = 2.0  // between rates while none has failed yet, or all have
	precision   = 1.05 // the search ends when good and bad are so close
)

// findLimit searches for the highest rate that keeps the bound: by steps from a first rate until one side of the limit
// and the other are known, then by halving. A rate that fails gets a second chance, since one hiccup of the machine is
// no limit. No probe is begun after the budget is spent; the best rate so far is then the result.
func findLimit(ctx context.Context, first float64, budget time.Duration, probe func(context.Context, float64) (Probe, error)) (Limit, error) {
	var found Limit
	deadline := time.Now().Add(budget)
	good, bad := 0.0, math.Inf(1)
	for rate := first; rate > 0 && time.Now().Before(deadline); rate = nextRate(good, bad) {
		p, err := probe(ctx, rate)
		if err != nil {
			return Limit{}, err
		}
		found.Probes = append(found.Probes, p)
		if !p.Kept && time.Now().Before(deadline) {
			if p, err = probe(ctx, rate); err != nil {
				return Limit{}, err
			}
			found.Probes = append(found.Probes, p)
		}
		if p.Kept {
			good, found.Rate, found.P99, found.Lag = rate, rate, p.P99, p.Lag
		} else {
			bad, found.Failed = rate, rate
		}
	}
	return found, nil
}

// nextRate returns what to try between the highest rate known to be good and the lowest known to be bad, 0 when there is
// nothing left to find. Rates are whole.
func nextRate(good, bad float64) float64 {
	var rate float64
	switch {
	case math.IsInf(bad, 1):
		rate = min(good*step, highestRate)
	case good == 0:
		rate = max(bad/step, lowestRate)
	default:
		rate = math.Sqrt(good * bad)
	}
	rate = math.Round(rate)
	if rate <= good || rate >= bad || bad/good < precision {
		return 0
	}
	return rate
}
