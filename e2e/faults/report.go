package faults

import (
	"fmt"
	"html/template"
	"io"
	"slices"
	"sync"
	"time"
)

// Report is what one run has found.
type Report struct {
	Began   time.Time
	Took    time.Duration
	Config  Config
	Verdict *Verdict

	journal  *journal
	notBegun int
}

// Row is one fault of a run, in figures.
type Row struct {
	Fault     *Fault
	At        time.Time // of its begin
	Lasted    time.Duration
	Answered  int           // calls without wait that began during it and had an answer
	P50, P99  time.Duration // of those
	Slowest   time.Duration
	Refused   int // of those, answered 503
	Recovered time.Duration
	Note      string
}

// Rows returns the faults of the run in the order in which they came.
func (r *Report) Rows() []Row {
	var rows []Row
	for _, f := range r.journal.faults {
		took := latencies(r.journal, f.span)
		refused := 0
		for _, a := range r.journal.answers {
			if a.status == 503 && a.op != opWait && !a.began.Before(f.from) && a.began.Before(f.to) {
				refused++
			}
		}
		rows = append(rows, Row{
			Fault: f.fault, At: f.from, Lasted: f.to.Sub(f.from), Answered: len(took), P50: quantile(took, 0.5), P99: quantile(took, 0.99),
			Slowest: quantile(took, 1), Refused: refused, Recovered: f.recovered, Note: f.note,
		})
	}
	return rows
}

// recovered tells how long it took until all was well.
func recovered(took time.Duration) string {
	if took < 0 {
		return "**never**"
	}
	return took.Round(time.Millisecond).String()
}

// Summary is the verdict as a few lines of text.
func (r *Report) Summary() string { return r.Text(5) }

// Text is the verdict, with so many violations of each kind: a grave one must not be the last of many.
func (r *Report) Text(most int) string {
	v := r.Verdict
	text := fmt.Sprintf("%d commands tried, %d requests accepted, %d commands at cameras; %d replies have their PUBACK, %d of them were read, %d were lost with an emptied cache\n",
		v.Sent, v.Accepted, v.Delivered, v.Acked, v.Read, v.Emptied)
	text += fmt.Sprintf("replies given again with the same body: %d; histories judged: %d; asked for again after their grace: %d; ends: %v; exchanges not begun: %d\n", v.Repeated, v.Histories, v.AfterGrace, v.States, r.notBegun)
	if v.OK() {
		return text + "every promise was kept\n"
	}
	text += fmt.Sprintf("BROKEN: %s\n", v.kinds())
	told := map[string]int{}
	for _, x := range v.Violations {
		if told[x.Kind]++; told[x.Kind] <= most {
			text += fmt.Sprintf("  %7.2fs %s: %s\n", x.At.Sub(r.Began).Seconds(), x.Kind, x.Detail)
		}
	}
	return text
}

// printer writes lines with the time since its making. It is safe for concurrent use.
type printer struct {
	mu    sync.Mutex
	out   io.Writer
	began time.Time
}

func newPrinter(out io.Writer) *printer {
	if out == nil {
		out = io.Discard
	}
	return &printer{out: out, began: time.Now()}
}

func (p *printer) line(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(p.out, "%7.1fs  %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

// second is what one second of a run looked like.
type second struct {
	read     int           // replies read
	refused  int           // answers 503
	failed   int           // calls without an answer
	degraded int           // answers that say that something is missing
	p50, p99 time.Duration // of calls without wait
}

// seconds cuts a run into seconds.
func (r *Report) seconds() []second {
	n := int(r.Took/time.Second) + 1
	list, took := make([]second, n), make([][]time.Duration, n)
	at := func(t time.Time) int { return max(0, min(n-1, int(t.Sub(r.Began)/time.Second))) }
	for _, readings := range r.journal.read {
		for _, one := range readings {
			list[at(one.at)].read++
		}
	}
	for _, a := range r.journal.answers {
		s := &list[at(a.began)]
		switch a.status {
		case 0:
			s.failed++
		case 503:
			s.refused++
		}
		if a.degraded != "" {
			s.degraded++
		}
		if a.status != 0 && a.op != opWait {
			took[at(a.began)] = append(took[at(a.began)], a.took)
		}
	}
	for i := range list {
		slices.Sort(took[i])
		list[i].p50, list[i].p99 = quantile(took[i], 0.5), quantile(took[i], 0.99)
	}
	return list
}

// WriteHTML writes one page for several runs, with a plot of each. It needs nothing from elsewhere.
func WriteHTML(w io.Writer, reports []*Report) error {
	type section struct {
		*Report
		Plots []template.HTML
	}
	var sections []section
	for _, r := range reports {
		sections = append(sections, section{r, r.plots()})
	}
	if err := page().Execute(w, sections); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

// plots are those of one run, in their order.
func (r *Report) plots() []template.HTML {
	seconds := r.seconds()
	return append([]template.HTML{r.throughputPlot(seconds), r.latencyPlot(seconds)}, r.resourcesPlots(seconds)...)
}

func page() *template.Template {
	return template.Must(template.New("report").Funcs(template.FuncMap{
		"recovered": recovered,
		"ms":        func(d time.Duration) string { return d.Round(time.Millisecond).String() },
	}).Parse(`<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Faults under load</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } td, th { padding: .2em .8em .2em 0; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top }
pre { background: #f5f5f5; padding: 1em; overflow: auto } svg { width: 100%; height: auto } svg text { font: 11px system-ui, sans-serif; fill: #444 }
</style>
<h1>Faults under load</h1>
{{range .}}
<h2>{{.Began.UTC.Format "2006-01-02 15:04:05"}} UTC, {{ms .Took}}, {{.Config.Rate}} exchanges a second, seed {{.Config.Seed}}</h2>
<pre>{{.Text 1000}}</pre>
{{range .Plots}}{{.}}
{{end}}<table><tr><th>fault<th>lasted<th>answered<th>of these 503<th>p50<th>p99<th>slowest<th>well again after<th></tr>
{{range .Rows}}<tr><td>{{.Fault.ID}} {{.Fault.Name}}<td>{{ms .Lasted}}<td>{{.Answered}}<td>{{.Refused}}<td>{{ms .P50}}<td>{{ms .P99}}<td>{{ms .Slowest}}<td>{{recovered .Recovered}}<td>{{.Note}}</tr>
{{end}}</table>
{{end}}`))
}
