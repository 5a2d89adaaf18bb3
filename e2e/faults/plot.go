package faults

import (
	"fmt"
	"html/template"
	"math"
	"strings"
	"time"
)

// Size of a plot in its own units.
const (
	plotWidth  = 1000.0
	plotHeight = 220.0
	plotLeft   = 50.0
	plotTop    = 30.0
	plotBottom = 20.0
)

// line is one curve of a plot: a value for each second.
type line struct {
	name, colour string
	values       []float64
}

// throughputPlot shows what was read, refused and unanswered in each second, and in the strip on top when answers said
// that something is missing.
func (r *Report) throughputPlot(seconds []second) template.HTML {
	read, refused, failed := line{"replies read a second", "#1668b8", nil}, line{"answers 503", "#d08a00", nil}, line{"calls without answer", "#c22", nil}
	for _, s := range seconds {
		read.values = append(read.values, float64(s.read))
		refused.values = append(refused.values, float64(s.refused))
		failed.values = append(failed.values, float64(s.failed))
	}
	return r.plot("", seconds, read, refused, failed)
}

// latencyPlot shows how long calls without wait took that began in each second.
func (r *Report) latencyPlot(seconds []second) template.HTML {
	p50, p99 := line{"p50 of calls without wait", "#1668b8", nil}, line{"p99", "#8a2be2", nil}
	for _, s := range seconds {
		p50.values = append(p50.values, float64(s.p50)/float64(time.Millisecond))
		p99.values = append(p99.values, float64(s.p99)/float64(time.Millisecond))
	}
	return r.plot(" ms", seconds, p50, p99)
}

// resourcesPlots show what the processes held: goroutines, open files, memory.
func (r *Report) resourcesPlots(seconds []second) (plots []template.HTML) {
	colours := []string{"#1668b8", "#8a2be2", "#0a7d4f"}
	for _, q := range quantities {
		var lines []line
		for i, name := range r.processes() {
			l := line{q.name + " of " + name, colours[i%len(colours)], make([]float64, len(seconds))}
			next, last := 0, 0.0
			for n := range seconds {
				for ; next < len(r.journal.samples) && r.journal.samples[next].at.Sub(r.Began).Seconds() <= float64(n); next++ {
					if held, there := r.journal.samples[next].held[name]; there {
						last = q.of(held)
					}
				}
				l.values[n] = last
			}
			lines = append(lines, l)
		}
		plots = append(plots, r.plot("", seconds, lines...))
	}
	return plots
}

func (r *Report) plot(unit string, seconds []second, lines ...line) template.HTML {
	top := 1.0
	for _, l := range lines {
		for _, v := range l.values {
			top = max(top, v)
		}
	}
	x := func(second float64) float64 {
		return plotLeft + second*(plotWidth-plotLeft)/math.Max(1, float64(len(seconds)-1))
	}
	y := func(v float64) float64 { return plotHeight - plotBottom - v/top*(plotHeight-plotTop-plotBottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img">`, plotWidth, plotHeight)
	for _, f := range r.journal.faults {
		from, to := x(f.from.Sub(r.Began).Seconds()), x(f.to.Sub(r.Began).Seconds())
		fmt.Fprintf(&b, `<rect x="%.1f" y="%g" width="%.1f" height="%g" fill="#f6d5d5"/><text x="%.1f" y="12">%s</text>`,
			from, plotTop-12, max(1, to-from), plotHeight-plotTop-plotBottom+12, from, f.fault.ID)
	}
	for _, at := range r.journal.kills {
		fmt.Fprintf(&b, `<line x1="%.1f" x2="%.1f" y1="%g" y2="%g" stroke="#c22" stroke-width="0.7"/>`,
			x(at.Sub(r.Began).Seconds()), x(at.Sub(r.Began).Seconds()), plotTop-12, plotHeight-plotBottom)
	}
	for i, s := range seconds {
		if s.degraded > 0 {
			fmt.Fprintf(&b, `<rect x="%.1f" y="%g" width="%.1f" height="4" fill="#d08a00"/>`, x(float64(i)), plotTop-12, x(1)-x(0))
		}
	}
	for _, v := range []float64{0, top / 2, top} {
		fmt.Fprintf(&b, `<line x1="%g" x2="%g" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="0" y="%.1f">%.0f%s</text>`,
			plotLeft, plotWidth, y(v), y(v), y(v)+4, v, unit)
	}
	for i := 0; i < len(seconds); i += max(1, len(seconds)/10) {
		fmt.Fprintf(&b, `<text x="%.1f" y="%g">%d s</text>`, x(float64(i)), plotHeight-4, i)
	}
	for n, l := range lines {
		var points []string
		for i, v := range l.values {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(float64(i)), y(v)))
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`, l.colour, strings.Join(points, " "))
		fmt.Fprintf(&b, `<text x="%g" y="%g" style="fill:%s">%s</text>`, plotLeft+10+float64(n)*190, plotTop+6, l.colour, l.name)
	}
	b.WriteString("</svg>")
	return template.HTML(b.String()) // numbers, and names that stand in this package
}
