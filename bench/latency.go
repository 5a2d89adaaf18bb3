package bench

import (
	"math"
	"slices"
	"time"
)

// Latencies sums up how long something took, in milliseconds. Percentiles are by nearest rank: the smallest recorded
// value that at least so many of all values do not exceed, so each is a latency that somebody had.
type Latencies struct {
	Count int     `json:"count"`
	Mean  float64 `json:"mean_ms"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

// summarise sorts the values and sums them up. Of nothing all fields are zero.
func summarise(values []time.Duration) Latencies {
	if len(values) == 0 {
		return Latencies{}
	}
	slices.Sort(values)
	var sum time.Duration
	for _, v := range values {
		sum += v
	}
	return Latencies{
		Count: len(values),
		Mean:  millis(sum) / float64(len(values)),
		P50:   millis(percentile(values, 0.50)),
		P95:   millis(percentile(values, 0.95)),
		P99:   millis(percentile(values, 0.99)),
		P999:  millis(percentile(values, 0.999)),
		Max:   millis(values[len(values)-1]),
	}
}

// percentile returns the value of nearest rank in a sorted slice that is not empty. q is from 0 to 1.
func percentile(sorted []time.Duration, q float64) time.Duration {
	// 0.99 * 100 is a little more than 99 in binary, and must not become rank 100.
	rank := int(math.Ceil(q*float64(len(sorted)) - 1e-9))
	return sorted[min(max(rank, 1), len(sorted))-1]
}

// CurvePoint is one point of a percentile curve.
type CurvePoint struct {
	Quantile float64 `json:"quantile"` // 0 to 1
	Millis   float64 `json:"ms"`
}

// curveSteps is how many points a curve has for each further nine: from 0.9 to 0.99 as many as from 0.99 to 0.999.
const curveSteps = 12

// curve returns the percentile curve of sorted values, evenly over the number of nines, as far as there are values to
// tell one quantile from the next.
func curve(sorted []time.Duration) []CurvePoint {
	if len(sorted) == 0 {
		return nil
	}
	var points []CurvePoint
	nines := math.Log10(float64(len(sorted)))
	for step := range int(nines*curveSteps) + 1 {
		q := 1 - math.Pow(10, -float64(step)/curveSteps)
		points = append(points, CurvePoint{Quantile: q, Millis: millis(percentile(sorted, q))})
	}
	return append(points, CurvePoint{
		Quantile: 1 - 1/float64(len(sorted)),
		Millis:   millis(sorted[len(sorted)-1]),
	})
}

func millis(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
