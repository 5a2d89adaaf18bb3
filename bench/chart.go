package bench

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Size of a chart in its own units; a page scales it.
const (
	chartWidth   = 860.0
	chartHeight  = 300.0
	marginLeft   = 64.0
	marginRight  = 130.0 // names of series stand there
	marginTop    = 14.0
	marginBottom = 44.0
)

// axis maps values to a stretch of the chart.
type axis struct {
	title    string
	low      float64
	high     float64
	from, to float64 // where low and high are drawn
	log      bool
	ticks    []tick
}

// tick is a labelled value.
type tick struct {
	at    float64
	label string
}

// place returns where a value is drawn. A value beyond the axis is drawn at its end.
func (a axis) place(v float64) float64 {
	v = min(max(v, a.low), a.high)
	share := 0.5
	switch {
	case a.high == a.low:
	case a.log:
		share = math.Log(v/a.low) / math.Log(a.high/a.low)
	default:
		share = (v - a.low) / (a.high - a.low)
	}
	return a.from + share*(a.to-a.from)
}

// logAxis covers all positive values, with ticks at 1, 2 and 5 of each power of ten.
func logAxis(title string, values []float64) axis {
	low, high := math.Inf(1), 0.0
	for _, v := range values {
		if v > 0 {
			low, high = min(low, v), max(high, v)
		}
	}
	if high == 0 {
		low, high = 1, 10
	}
	a := axis{title: title, log: true}
	for power := math.Floor(math.Log10(low)); power <= math.Ceil(math.Log10(high)); power++ {
		for _, digit := range []float64{1, 2, 5} {
			v := digit * math.Pow(10, power)
			a.ticks = append(a.ticks, tick{v, plain(v)})
		}
	}
	// From the last tick below all values to the first one above.
	for len(a.ticks) > 2 && a.ticks[1].at <= low {
		a.ticks = a.ticks[1:]
	}
	for n := len(a.ticks); n > 2 && a.ticks[n-2].at >= high; n-- {
		a.ticks = a.ticks[:n-1]
	}
	a.low, a.high = a.ticks[0].at, a.ticks[len(a.ticks)-1].at
	return a
}

// linearAxis begins at zero and has some five round ticks.
func linearAxis(title string, high float64) axis {
	if high <= 0 {
		high = 1
	}
	step := math.Pow(10, math.Floor(math.Log10(high/4)))
	for _, times := range []float64{1, 2, 5, 10} {
		if high/(step*times) <= 5 {
			step *= times
			break
		}
	}
	a := axis{title: title}
	for i := 0; ; i++ {
		v := float64(i) * step
		a.ticks = append(a.ticks, tick{v, plain(v)})
		if v >= high {
			a.high = v
			return a
		}
	}
}

// plain shows a round number.
func plain(v float64) string { return fmt.Sprintf("%.6g", v) }

// point is one value of a series; note is shown when the mouse is over it.
type point struct {
	x, y float64
	note string
}

// series is one line of a chart. class is its colour in the page's style: s0, s1 … of the systems.
type series struct {
	name   string
	class  string
	dashed bool
	dots   bool // points alone, no line
	points []point
}

// lineChart draws series over two axes.
func lineChart(x, y axis, lines []series) string {
	x.from, x.to = marginLeft, chartWidth-marginRight
	y.from, y.to = chartHeight-marginBottom, marginTop
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s over %s">`+"\n",
		chartWidth, chartHeight, html.EscapeString(y.title), html.EscapeString(x.title))
	grid(&b, x, y)
	for _, s := range lines {
		s.draw(&b, x, y)
	}
	names(&b, x, y, lines)
	b.WriteString("</svg>\n")
	return b.String()
}

// grid draws both axes.
func grid(b *strings.Builder, x, y axis) {
	for _, t := range y.ticks {
		at := y.place(t.at)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, x.from, x.to, at, at)
		fmt.Fprintf(b, `<text class="tick" text-anchor="end" x="%.1f" y="%.1f">%s</text>`+"\n", x.from-8, at+4, html.EscapeString(t.label))
	}
	for _, t := range x.ticks {
		at := x.place(t.at)
		fmt.Fprintf(b, `<line class="grid" x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f"/>`, at, at, y.from, y.from+5)
		fmt.Fprintf(b, `<text class="tick" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`+"\n", at, y.from+19, html.EscapeString(t.label))
	}
	fmt.Fprintf(b, `<text class="axis" text-anchor="middle" x="%.1f" y="%.1f">%s</text>`, (x.from+x.to)/2, chartHeight-6, html.EscapeString(x.title))
	fmt.Fprintf(b, `<text class="axis" text-anchor="middle" transform="translate(14 %.1f) rotate(-90)">%s</text>`+"\n", (y.from+y.to)/2, html.EscapeString(y.title))
}

func (s series) draw(b *strings.Builder, x, y axis) {
	if !s.dots {
		var path []string
		for _, p := range s.points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x.place(p.x), y.place(p.y)))
		}
		dash := ""
		if s.dashed {
			dash = " dashed"
		}
		fmt.Fprintf(b, `<polyline class="line %s%s" points="%s"/>`+"\n", s.class, dash, strings.Join(path, " "))
	}
	for _, p := range s.points {
		if p.note != "" {
			shape := "hit"
			if s.dots {
				shape = "dot " + s.class
			}
			fmt.Fprintf(b, `<circle class="%s" cx="%.1f" cy="%.1f" r="4"><title>%s</title></circle>`+"\n",
				shape, x.place(p.x), y.place(p.y), html.EscapeString(p.note))
		}
	}
}

// names writes the name of each series behind its last point, far enough apart to be read.
func names(b *strings.Builder, x, y axis, lines []series) {
	const apart = 15.0
	var taken []float64
	for _, s := range lines {
		if s.name == "" || len(s.points) == 0 {
			continue
		}
		at := y.place(s.points[len(s.points)-1].y)
		for moved := true; moved; {
			moved = false
			for _, other := range taken {
				if math.Abs(at-other) < apart {
					at, moved = other+apart, true
				}
			}
		}
		taken = append(taken, at)
		fmt.Fprintf(b, `<text class="name %s" x="%.1f" y="%.1f">%s</text>`+"\n", s.class, x.to+8, at+4, html.EscapeString(s.name))
	}
}

// bar is one line of a bar chart, made of parts one behind the other.
type bar struct {
	name  string
	class string
	total string // written behind it
	parts []barPart
}

type barPart struct {
	name  string
	value float64
	note  string
}

// barChart draws horizontal bars. Parts of a bar differ in how strong their colour is.
func barChart(bars []bar) string {
	const height, gap, left = 26.0, 14.0, 120.0
	high := 0.0
	for _, one := range bars {
		sum := 0.0
		for _, p := range one.parts {
			sum += p.value
		}
		high = max(high, sum)
	}
	if high == 0 {
		high = 1
	}
	scale := (chartWidth - left - marginRight) / high
	var b strings.Builder
	fmt.Fprintf(&b, `<svg viewBox="0 0 %g %g" role="img">`+"\n", chartWidth, float64(len(bars))*(height+gap)+gap)
	for i, one := range bars {
		top, at := gap+float64(i)*(height+gap), left
		fmt.Fprintf(&b, `<text class="name %s" text-anchor="end" x="%.1f" y="%.1f">%s</text>`, one.class, left-10, top+height/2+5, html.EscapeString(one.name))
		for j, p := range one.parts {
			width := p.value * scale
			fmt.Fprintf(&b, `<rect class="bar %s p%d" x="%.1f" y="%.1f" width="%.1f" height="%.1f"><title>%s</title></rect>`,
				one.class, j%3, at, top, max(width, 0.5), height, html.EscapeString(p.note))
			if width > 7*float64(len(p.name))+8 {
				fmt.Fprintf(&b, `<text class="part" x="%.1f" y="%.1f">%s</text>`, at+6, top+height/2+4, html.EscapeString(p.name))
			}
			at += width
		}
		fmt.Fprintf(&b, `<text class="tick" x="%.1f" y="%.1f">%s</text>`+"\n", at+8, top+height/2+4, html.EscapeString(one.total))
	}
	b.WriteString("</svg>\n")
	return b.String()
}
