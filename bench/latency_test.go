package bench

import (
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

func TestCurve_GoesAsFarAsTheValuesTell(t *testing.T) {
	thousand := make([]time.Duration, 1000)
	for i := range thousand {
		thousand[i] = time.Duration(i+1) * time.Millisecond
	}
	points := curve(thousand)
	first, last := points[0], points[len(points)-1]
	if first != (CurvePoint{0, 1}) || last != (CurvePoint{0.999, 1000}) {
		t.Errorf("from %+v to %+v, want from the fastest to the slowest of a thousand", first, last)
	}
	for i, p := range points[1:] {
		if p.Quantile < points[i].Quantile || p.Millis < points[i].Millis {
			t.Errorf("the curve falls at %+v", p)
		}
	}
	if got := curve(nil); got != nil {
		t.Errorf("of nothing: %+v", got)
	}
}
