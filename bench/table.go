package bench

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// row is one line of figures: one for each system, in the order of the report. NaN: there is none.
type row struct {
	step   string // of an exchange, for a latency; else ""
	name   string
	unit   string
	values []float64
	more   bool // more is better
	ratio  bool // a ratio between systems tells something
}

// wholeExchange is the step that counts most: the client has read the reply.
const wholeExchange = "whole exchange"

// rows returns all figures of the loads and limits.
func (r Report) rows() []row {
	rows := r.latencies()
	figure := func(name, unit string, more, ratio bool, value func(SystemReport) float64) {
		one := row{name: name, unit: unit, more: more, ratio: ratio}
		for _, s := range r.Systems {
			one.values = append(one.values, value(s))
		}
		if one.told() {
			rows = append(rows, one)
		}
	}
	figure("highest rate", "/s", true, true, func(s SystemReport) float64 {
		if s.Limit == nil {
			return math.NaN()
		}
		return s.Limit.Rate
	})
	figure("CPU for an exchange", "ms", false, true, func(s SystemReport) float64 { return orNaN(s.Load.serverCPU()) })
	figure("memory under load", "MB", false, true, func(s SystemReport) float64 { return orNaN(megabytes(s.Load.serverRSS())) })
	figure("replies read", "/s", true, false, func(s SystemReport) float64 { return s.Load.Throughput })
	figure("exchanges failed", "", false, false, func(s SystemReport) float64 { return float64(s.Load.failed()) })
	figure("driver late p99", "ms", false, false, func(s SystemReport) float64 { return s.Load.Lag.P99 })
	return rows
}

// latencies returns the percentiles of each step.
func (r Report) latencies() []row {
	var rows []row
	for _, step := range []struct {
		name string
		of   func(Load) Latencies
	}{
		{wholeExchange, func(l Load) Latencies { return l.Done }},
		{"command taken", func(l Load) Latencies { return l.Sent }},
		{"camera has it", func(l Load) Latencies { return l.Delivered }},
	} {
		for _, q := range []struct {
			name  string
			of    func(Latencies) float64
			ratio bool
		}{
			{"p50", func(l Latencies) float64 { return l.P50 }, true},
			{"p95", func(l Latencies) float64 { return l.P95 }, false},
			{"p99", func(l Latencies) float64 { return l.P99 }, true},
			{"p99.9", func(l Latencies) float64 { return l.P999 }, false},
			{"max", func(l Latencies) float64 { return l.Max }, false},
		} {
			one := row{step: step.name, name: q.name, unit: "ms", ratio: q.ratio}
			for _, s := range r.Systems {
				if l := step.of(s.Load); l.Count > 0 {
					one.values = append(one.values, q.of(l))
				} else {
					one.values = append(one.values, math.NaN())
				}
			}
			if one.told() {
				rows = append(rows, one)
			}
		}
	}
	return rows
}

// told reports whether there is a figure of any system.
func (r row) told() bool {
	return slices.ContainsFunc(r.values, func(v float64) bool { return !math.IsNaN(v) })
}

// title names the row in full.
func (r row) title() string {
	title := strings.TrimSpace(r.step + " " + r.name)
	if r.unit != "" {
		title += ", " + r.unit
	}
	return title
}

// quotient returns how many times another system's figure ours is; NaN where that tells nothing.
func (r row) quotient(other int) float64 {
	if !r.ratio || r.values[0] == 0 || r.values[other] == 0 {
		return math.NaN()
	}
	return r.values[0] / r.values[other]
}

// show returns a figure of the row as text. One without a unit is a count.
func (r row) show(v float64) string {
	if r.unit == "" && !math.IsNaN(v) {
		return fmt.Sprintf("%.0f", v)
	}
	return number(v)
}

// times shows a quotient.
func (r row) times(other int) string {
	switch q := r.quotient(other); {
	case math.IsNaN(q):
		return ""
	case q >= 10:
		return fmt.Sprintf("× %.0f", q)
	default:
		return fmt.Sprintf("× %.2f", q)
	}
}

// noise is how far two figures of one run may be apart and still count as equal.
const noise = 1.05

// worse reports whether ours is the worse figure beside any other system.
func (r row) worse() bool {
	for i, other := range r.values[1:] {
		if r.ratio && r.more && r.values[0] == 0 && other > 0 {
			return true
		}
		q := r.quotient(i + 1)
		if r.more {
			q = 1 / q
		}
		if q > noise {
			return true
		}
	}
	return false
}

// orNaN is NaN for a figure that could not be measured.
func orNaN(v float64) float64 {
	if v == 0 {
		return math.NaN()
	}
	return v
}

func megabytes(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// number shows a figure with three digits or so.
func number(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case v == 0 || v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3f", v)
	}
}

func numbers(list []float64) []string {
	shown := make([]string, len(list))
	for i, v := range list {
		shown[i] = number(v)
	}
	return shown
}
