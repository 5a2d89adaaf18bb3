package bench

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
)

//go:embed report.html.tmpl
var pageText string

// page is what the template shows.
type page struct {
	Report Report
	Date   string
	Cards  []card
	Charts []chart
	Table  [][]string
	Idle   *idleTable
}

// card is one figure of ours, and how others stand to it.
type card struct {
	Title, Value string
	Notes        []string
}

type chart struct {
	Title, Text string
	SVG         template.HTML
}

type idleTable struct {
	Cameras int
	Lines   [][]string
}

// WriteHTML writes the report as one page with charts. It loads nothing from anywhere.
func (r Report) WriteHTML(w io.Writer) error {
	t, err := template.New("report").Parse(pageText)
	if err != nil {
		return fmt.Errorf("bench: page: %w", err)
	}
	p := page{
		Report: r,
		Date:   r.MadeAt.Format("2 January 2006, 15:04 UTC"),
		Cards:  r.cards(),
		Charts: r.charts(),
		Table:  r.table(r.rows()),
	}
	if r.Idle != nil {
		p.Idle = &idleTable{Cameras: r.Idle.Cameras}
		for _, one := range r.Idle.Processes {
			p.Idle.Lines = append(p.Idle.Lines, []string{
				one.Process, number(megabytes(one.After)), number(megabytes(one.Before)), number(megabytes(one.Peak)),
				strings.ReplaceAll(r.Idle.goal(one), "**", ""),
			})
		}
	}
	if err := t.Execute(w, p); err != nil {
		return fmt.Errorf("bench: page: %w", err)
	}
	return nil
}

// cards shows the figures that compare systems, without those of single steps.
func (r Report) cards() []card {
	var cards []card
	for _, row := range r.rows() {
		if !row.ratio || row.step != "" && row.step != wholeExchange {
			continue
		}
		c := card{Title: strings.TrimSpace(row.step + " " + row.name), Value: number(row.values[0]) + " " + row.unit}
		for i, s := range r.Systems[1:] {
			c.Notes = append(c.Notes, fmt.Sprintf("%s %s, ours %s", s.Name, number(row.values[i+1]), row.times(i+1)))
		}
		cards = append(cards, c)
	}
	return cards
}

func (r Report) charts() []chart {
	charts := []chart{
		{"Latency by percentile", "Of whole exchanges. To the right stand ever rarer ones: one in ten, in a hundred, in a thousand.", r.percentileChart()},
		{"Latency over time", "For the exchanges that were meant to start in each second: p50 as a line, p99 dashed. Rounds stand one behind the other.", r.timeChart()},
		{"Throughput", "Replies read in each second, and the schedule dashed. Where a line falls below it, a queue grows.", r.throughputChart()},
	}
	if bars := r.cpuBars(); len(bars) > 0 {
		charts = append(charts,
			chart{"CPU for one exchange", "Of all processes of a system, without driver and cameras.", template.HTML(barChart(bars))},
			chart{"Memory under load", "Resident at the end, without driver and cameras.", template.HTML(barChart(r.memoryBars()))})
	}
	if svg := r.limitChart(); svg != "" {
		charts = append(charts, chart{"Search for the highest rate", "Each dot is a try. Pale ones broke the bound, which is dashed, or lost an exchange.", svg})
	}
	return charts
}

// class is the colour of a system.
func class(system int) string { return fmt.Sprintf("s%d", system%3) }

func (r Report) percentileChart() template.HTML {
	var lines []series
	var values []float64
	nines := 1.0
	for i, s := range r.Systems {
		line := series{name: s.Name, class: class(i)}
		for _, p := range s.Load.Curve {
			x := -math.Log10(1 - p.Quantile)
			nines = max(nines, x)
			values = append(values, p.Millis)
			line.points = append(line.points, point{x, p.Millis, fmt.Sprintf("%s: %s %% under %s ms", s.Name, plain(100*p.Quantile), number(p.Millis))})
		}
		lines = append(lines, line)
	}
	x := axis{title: "percentile", high: nines, ticks: []tick{{0, "0"}, {math.Log10(2), "50"}}}
	for n := 1.0; n <= nines; n++ {
		x.ticks = append(x.ticks, tick{n, plain(100 * (1 - math.Pow(10, -n)))})
	}
	return template.HTML(lineChart(x, logAxis("ms", values), lines))
}

func (r Report) timeChart() template.HTML {
	var lines []series
	var values []float64
	length := 0
	for i, s := range r.Systems {
		middle := series{name: s.Name, class: class(i)}
		tail := series{class: class(i), dashed: true}
		for t, second := range s.Load.Seconds {
			if second.P50 == 0 {
				continue // every exchange failed
			}
			at, note := float64(t), fmt.Sprintf("%s, second %d: p50 %s ms, p99 %s ms", s.Name, t+1, number(second.P50), number(second.P99))
			middle.points = append(middle.points, point{at, second.P50, note})
			tail.points = append(tail.points, point{at, second.P99, note})
			values = append(values, second.P50, second.P99)
		}
		length = max(length, len(s.Load.Seconds))
		lines = append(lines, tail, middle)
	}
	return template.HTML(lineChart(secondsAxis(length), logAxis("ms", values), lines))
}

func (r Report) throughputChart() template.HTML {
	scheduled := series{name: "schedule", class: "soft", dashed: true}
	var lines []series
	length, high := 0, 0.0
	for i, s := range r.Systems {
		line := series{name: s.Name, class: class(i)}
		for t, second := range s.Load.Seconds {
			line.points = append(line.points, point{float64(t), float64(second.Completed), fmt.Sprintf("%s, second %d: %d replies", s.Name, t+1, second.Completed)})
			high = max(high, float64(second.Completed), float64(second.Scheduled))
			if i == 0 {
				scheduled.points = append(scheduled.points, point{x: float64(t), y: float64(second.Scheduled)})
			}
		}
		length = max(length, len(s.Load.Seconds))
		lines = append(lines, line)
	}
	return template.HTML(lineChart(secondsAxis(length), linearAxis("replies a second", high), append(lines, scheduled)))
}

// secondsAxis covers so many seconds, of which the last one begins at its end.
func secondsAxis(n int) axis {
	a := linearAxis("seconds", float64(n-1))
	a.high = max(float64(n-1), 1)
	for len(a.ticks) > 0 && a.ticks[len(a.ticks)-1].at > a.high {
		a.ticks = a.ticks[:len(a.ticks)-1]
	}
	return a
}

func (r Report) cpuBars() []bar {
	return r.bars("ms", func(p ProcessUse) float64 { return p.CPU })
}

func (r Report) memoryBars() []bar {
	return r.bars("MB", func(p ProcessUse) float64 { return megabytes(p.RSS) })
}

// bars makes a bar of each system whose processes are known.
func (r Report) bars(unit string, value func(ProcessUse) float64) []bar {
	var bars []bar
	for i, s := range r.Systems {
		one, sum := bar{name: s.Name, class: class(i)}, 0.0
		for _, p := range s.Load.servers() {
			v := value(p)
			sum += v
			one.parts = append(one.parts, barPart{p.Name, v, fmt.Sprintf("%s: %s %s", p.Name, number(v), unit)})
		}
		one.total = number(sum) + " " + unit
		if len(one.parts) > 0 {
			bars = append(bars, one)
		}
	}
	return bars
}

func (r Report) limitChart() template.HTML {
	var lines []series
	var rates, latencies []float64
	bound := 0.0
	for i, s := range r.Systems {
		if s.Limit == nil {
			continue
		}
		bound = s.Limit.Bound
		kept := series{name: s.Name, class: class(i), dots: true}
		over := series{class: class(i) + " over", dots: true}
		for _, p := range s.Limit.Probes {
			rates, latencies = append(rates, p.Rate), append(latencies, p.P99)
			dot := point{p.Rate, p.P99, fmt.Sprintf("%s, %s a second: p99 %s ms, %d failed", s.Name, number(p.Rate), number(p.P99), p.Errors)}
			if p.Kept {
				kept.points = append(kept.points, dot)
			} else {
				over.points = append(over.points, dot)
			}
		}
		lines = append(lines, over, kept)
	}
	if len(lines) == 0 {
		return ""
	}
	x, y := logAxis("exchanges a second", rates), logAxis("p99, ms", append(latencies, bound))
	lines = append(lines, series{name: "bound", class: "soft", dashed: true, points: []point{{x: x.low, y: bound}, {x: x.high, y: bound}}})
	return template.HTML(lineChart(x, y, lines))
}
