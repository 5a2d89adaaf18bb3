package bench

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// row is one line of figures: one for each system, in the order of the report. NaN: there is none.
type row struct {
	group  string // what several rows have in common, such as "whole exchange"
	name   string
	unit   string
	values []float64
	less   bool // less is better
	ratio  bool // a ratio between systems tells something
}

// rows returns all figures of the loads and limits.
func (r Report) rows() []row {
	var rows []row
	add := func(group, name, unit string, less, ratio bool, value func(SystemReport) float64) {
		one := row{group: group, name: name, unit: unit, less: less, ratio: ratio}
		for _, s := range r.Systems {
			one.values = append(one.values, value(s))
		}
		if slices.ContainsFunc(one.values, func(v float64) bool { return !math.IsNaN(v) }) {
			rows = append(rows, one)
		}
	}
	for _, step := range []struct {
		name string
		of   func(Load) Latencies
	}{
		{"whole exchange", func(l Load) Latencies { return l.Done }},
		{"command taken", func(l Load) Latencies { return l.Sent }},
		{"camera has it", func(l Load) Latencies { return l.Delivered }},
	} {
		for _, q := range []struct {
			name string
			of   func(Latencies) float64
		}{
			{"p50", func(l Latencies) float64 { return l.P50 }},
			{"p95", func(l Latencies) float64 { return l.P95 }},
			{"p99", func(l Latencies) float64 { return l.P99 }},
			{"p99.9", func(l Latencies) float64 { return l.P999 }},
			{"max", func(l Latencies) float64 { return l.Max }},
		} {
			add(step.name, q.name, "ms", true, q.name == "p50" || q.name == "p99", func(s SystemReport) float64 {
				if l := step.of(s.Load); l.Count > 0 {
					return q.of(l)
				}
				return math.NaN()
			})
		}
	}
	add("load", "replies", "/s", false, false, func(s SystemReport) float64 { return s.Load.Throughput })
	add("load", "errors", "", true, false, func(s SystemReport) float64 { return float64(s.Load.failed()) })
	add("load", "driver late, p99", "ms", true, false, func(s SystemReport) float64 { return s.Load.Lag.P99 })
	add("processes", "CPU for an exchange", "ms", true, true, func(s SystemReport) float64 { return orNaN(s.Load.serverCPU()) })
	add("processes", "memory", "MB", true, true, func(s SystemReport) float64 { return orNaN(megabytes(s.Load.serverRSS())) })
	add("limit", "highest rate", "/s", false, true, func(s SystemReport) float64 {
		if s.Limit == nil {
			return math.NaN()
		}
		return s.Limit.Rate
	})
	return rows
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

// ratio shows how a figure of ours compares with one of another system, "" where that tells nothing.
func (r row) times(other int) string {
	if !r.ratio || r.values[0] == 0 || r.values[other] == 0 || math.IsNaN(r.values[0]) || math.IsNaN(r.values[other]) {
		return ""
	}
	q := r.values[0] / r.values[other]
	if q >= 10 {
		return fmt.Sprintf("× %.0f", q)
	}
	return fmt.Sprintf("× %.2f", q)
}

// WriteText writes the report for a terminal.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", r.Machine, r.Plan)
	if len(r.Systems) > 0 {
		b.WriteString("\n" + r.textTable())
	}
	for _, s := range r.Systems {
		b.WriteString(s.notes())
	}
	if r.Idle != nil {
		b.WriteString("\n" + r.Idle.text())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// textTable aligns the figures of all systems, and how many times those of others ours are.
func (r Report) textTable() string {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\t\t")
	for i, s := range r.Systems {
		fmt.Fprintf(t, "%s\t", s.Name)
		if i > 0 {
			fmt.Fprint(t, "ours\t")
		}
	}
	fmt.Fprintln(t)
	for _, row := range r.rows() {
		fmt.Fprintf(t, "%s %s\t%s\t", row.group, row.name, row.unit)
		for i, v := range row.values {
			fmt.Fprintf(t, "%s\t", number(v))
			if i > 0 {
				fmt.Fprintf(t, "%s\t", row.times(i))
			}
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // into memory
	return b.String()
}

// notes are what a table has no room for: processes, errors by kind, and how rounds differ.
func (s SystemReport) notes() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\n%s\n", s.Name)
	for _, p := range s.Load.Processes {
		fmt.Fprintf(&b, "  %-14s %s ms CPU an exchange, %s MB resident, %s MB at the most\n",
			p.Name, number(p.CPU), number(megabytes(p.RSS)), number(megabytes(p.Peak)))
	}
	if len(s.Load.RoundP99) > 1 {
		fmt.Fprintf(&b, "  p99 of the rounds: %s ms\n", strings.Join(numbers(s.Load.RoundP99), ", "))
	}
	for _, kind := range slices.Sorted(maps.Keys(s.Load.Errors)) {
		fmt.Fprintf(&b, "  %d exchanges failed: %s\n", s.Load.Errors[kind], kind)
	}
	if s.Load.CamerasLost > 0 {
		fmt.Fprintf(&b, "  %d cameras lost their connection\n", s.Load.CamerasLost)
	}
	if l := s.Limit; l != nil {
		fmt.Fprintf(&b, "  highest rate with p99 under %s ms: %s\n", number(l.Bound), l)
	}
	return b.String()
}

// String is the rate, and what it cost.
func (l Limit) String() string {
	if l.Rate == 0 {
		return "none was found"
	}
	return fmt.Sprintf("%s a second (p99 %s ms, %d probes)", number(l.Rate), number(l.P99), len(l.Probes))
}

func numbers(list []float64) []string {
	shown := make([]string, len(list))
	for i, v := range list {
		shown[i] = number(v)
	}
	return shown
}

func (r IdleReport) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d cameras connected and idle (%s s to register and connect them)\n", r.Cameras, number(r.Connect))
	for _, p := range r.Processes {
		fmt.Fprintf(&b, "  %-14s %s MB resident; %s MB without cameras; %s MB at the most\n",
			p.Process, number(megabytes(p.After)), number(megabytes(p.Before)), number(megabytes(p.Peak)))
	}
	return b.String()
}
