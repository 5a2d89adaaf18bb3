package faults

import (
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"
)

// WriteSVG writes the plots of a run as one picture that needs nothing from elsewhere.
func WriteSVG(w io.Writer, r *Report) error {
	const gap = 16.0
	plots := r.plots()
	var b strings.Builder
	height := float64(len(plots)) * (plotHeight + gap)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" font-family="sans-serif" font-size="11">`, plotWidth, height)
	fmt.Fprintf(&b, `<rect width="%g" height="%g" fill="#fff"/>`, plotWidth, height)
	for i, p := range plots {
		fmt.Fprintf(&b, `<g transform="translate(0 %g)">%s</g>`, float64(i)*(plotHeight+gap), strings.Replace(string(p), "<svg ", fmt.Sprintf(`<svg width="%g" height="%g" `, plotWidth, plotHeight), 1))
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteChaos writes docs/chaos.md: what one long run did, and what it found. plots is the name of its picture.
func WriteChaos(w io.Writer, r *Report, command, plots string) error {
	_, err := fmt.Fprintf(w, `# Chaos

One system of real processes under load, with faults that a random schedule draws. %s The program's clocks are movable (F14),
nothing else of it differs.

![Throughput, latency, and what the processes held](%s)

Pale red: a fault. A red line: a kill. Orange on top: answers said that something was missing.

## What became of every reply

%s
## What the processes held

%s
Here faults come and go at random, and some, a crowd of devices say, open hundreds of connections while they last: a line through
that says where in the run they came. What the broker keeps of %g requests a second, records and idempotency keys, is in its memory, too.
Whether anything grows by itself is judged by [a soak](soak.md).

## The faults, in their order

%s`, r.setting(command), plots, r.replyTable(), r.trendTable(), r.Config.Rate, r.faultTable())
	return err
}

// setting tells how and when a run was made, and on what.
func (r *Report) setting(command string) string {
	return fmt.Sprintf(`Written by the run itself, %s UTC:

    %s

Seed %d, %g exchanges a second in the open model, %s, on %s. Two API instances, one broker, one redis-server, %d cameras on
Eclipse Paho and %d simulated ones, %d clients, with a TCP proxy on every way between them. Each API and the broker have one
processor (GOMAXPROCS). The load generator, the proxies and the oracle share the machine, so latencies are no benchmark.`, r.Began.UTC().Format(time.DateTime), command, r.Config.Seed, r.Config.Rate,
		r.Took.Round(time.Second), machine(), foreignCameras, ownCameras, clientCount)
}

// replyTable tells what became of every reply.
func (r *Report) replyTable() string {
	var b strings.Builder
	b.WriteString("| | |\n|---|---|\n")
	v := r.Verdict
	row := func(what string, n int) { fmt.Fprintf(&b, "| %s | %d |\n", what, n) }
	row("commands that clients tried to send", v.Sent)
	row("accepted requests", v.Accepted)
	row("commands that came to cameras", v.Delivered)
	row("replies with a PUBACK", v.Acked)
	row("of these, read by their client", v.Read)
	row("of these, in a cache that a fault emptied (F7, F9)", v.Emptied)
	row("**lost**: with a PUBACK, and never readable", v.Count(lost))
	row("**misdelivered**: given to another client, or a command at another device, or twice", v.Count(foreign)+v.Count(misdelivered)+v.Count(twice))
	row("**doubled**: one reply with two bodies, or with one that no camera published", v.Count(doubled)+v.Count(invented))
	row("**late**: commands after their deadline", v.Count(overdue))
	row("\"no reply\" told of a reply with a PUBACK", v.Count(untrue))
	row("requests without an end, without a cause, or without a reply although nothing was broken", v.Count(unfinished)+v.Count(unanswered))
	row("answers that the table of fallbacks does not allow", v.Count(wrongAnswer)+v.Count(cutCall))
	row(fmt.Sprintf("answers, of calls that do not wait, after more than %s", slowest), v.Count(slow))
	row("histories that no order explains", v.Count(inexplicable))
	row("faults without recovery, processes that grew or ended by themselves, cameras not cut", v.Count(noRecovery)+v.Count(grown)+v.Count(died)+v.Count(lingering))
	row(fmt.Sprintf("faults after which all was well only more than %s later", wellWithin), r.lingered())
	row("histories that were judged", v.Histories)
	row("requests that came when too many had a history, and have none", v.Unfollowed)
	row("replies asked for again when their grace was over, and no fault had touched them", v.AfterGrace)
	row("given again, with the same body", v.Repeated)
	for _, state := range slices.Sorted(maps.Keys(v.States)) {
		row("requests that ended as "+state, v.States[state])
	}
	row("times during which answers said that something was missing", v.Hitches)
	row("exchanges that were due and not begun, because too many were under way", r.notBegun)
	if !v.OK() {
		fmt.Fprintf(&b, "\nBroken promises:\n\n```\n%s```\n", r.Summary())
	}
	return b.String()
}

// wellWithin is how soon after a fault all has to be well again. On a machine that is busy with the harness, too, it is told
// and not judged; never is judged.
const wellWithin = 2 * time.Second

// lingered counts the faults after which it took longer, but for those with a time of their own.
func (r *Report) lingered() (n int) {
	for _, f := range r.journal.faults {
		if f.fault.within == 0 && f.recovered > wellWithin {
			n++
		}
	}
	return n
}

// faultTable tells how each fault went.
func (r *Report) faultTable() string {
	var b strings.Builder
	b.WriteString("| at | fault | lasted | answered calls | 503 | p50 | p99 | slowest | well again after | |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, x := range r.Rows() {
		fmt.Fprintf(&b, "| %s | %s %s | %s | %d | %d | %s | %s | %s | %s | %s |\n", x.At.Sub(r.Began).Round(time.Second), x.Fault.ID, x.Fault.Name,
			x.Lasted.Round(100*time.Millisecond), x.Answered, x.Refused, x.P50.Round(100*time.Microsecond), x.P99.Round(100*time.Microsecond),
			x.Slowest.Round(time.Millisecond), recovered(x.Recovered), x.Note)
	}
	b.WriteString("\nCalls are those that do not wait and began during the fault. Well again: from its end until both APIs miss nothing and each\nhas made a whole exchange.\n")
	return b.String()
}

// trendTable tells what each process held, and whether that stayed flat.
func (r *Report) trendTable() string {
	var b strings.Builder
	b.WriteString("| process | | at first | at last | highest | growth in an hour | |\n|---|---|---|---|---|---|---|\n")
	for _, t := range r.Trends() {
		flat := "flat"
		if !t.Flat {
			flat = "**grows**"
		}
		fmt.Fprintf(&b, "| %s | %s | %.0f | %.0f | %.0f | %+.0f | %s |\n", t.Process, t.What, t.First, t.Last, t.Highest, t.Hour, flat)
	}
	b.WriteString("\nFirst, last and growth are those of a line through the samples, one every two seconds, in the second half of the run. After\n" +
		"the load goroutines and files come back to what they were before it; a process that keeps more breaks a promise.\n")
	return b.String()
}

// machine says what a run was made on.
func machine() string {
	return fmt.Sprintf("%s/%s with %d processors", runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
}
