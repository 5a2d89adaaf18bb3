package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Goals for the memory of our processes with goalCameras connected and idle cameras, in bytes.
const (
	goalCameras = 1_000
	goalAPI     = 60 << 20
	goalBroker  = 120 << 20
)

// goals are by the names of processes.
func goals() map[string]int64 { return map[string]int64{"serve": goalAPI, "broker": goalBroker} }

// WriteMarkdown writes the report as a document for people who decide: first where we lose, then everything else.
func (r Report) WriteMarkdown(w io.Writer) error {
	d := &document{}
	d.line("# Performance")
	d.text(`Written by %s. Not edited by hand: run it on your machine. Figures of two machines, or of two runs, tell little
side by side; the ratios within one run are what counts.`, "`make bench`")
	d.text("%s, version %s.\n%s.", r.MadeAt.Format("2 January 2006"), r.Version, r.Machine)
	if len(r.Systems) > 1 {
		r.competition(d)
	}
	d.line("## All figures")
	d.text("%s.", r.Plan)
	d.table(r.table(r.rows()))
	r.meaning(d)
	r.limits(d)
	r.processes(d)
	if r.Idle != nil {
		r.Idle.markdown(d)
	}
	r.method(d)
	_, err := io.WriteString(w, d.b.String())
	return err
}

// competition tells where others are better, before it tells where we are.
func (r Report) competition(d *document) {
	var lost, kept []row
	for _, row := range r.rows() {
		switch {
		case !row.ratio:
		case row.worse():
			lost = append(lost, row)
		default:
			kept = append(kept, row)
		}
	}
	if len(lost) > 0 {
		d.line("## Where we lose")
		d.text("Ours beside %s.\nThe columns \"ours\" tell how many times the figure to their left ours is.", others(r.Systems))
		d.table(r.table(lost))
		d.text(`What is paid with it: three fsyncs an exchange where the others make none. The request is on disk before the
command leaves, the reply before the camera's PUBACK, then the outcome of the request. Each command is checked against its
schema, its caller's permission and its deadline. The answer to a command tells whether the camera has it. A reply is in the
cache before it leaves the queue, and can be read again for a while. The floor does none of this; the
[package comment of the bridge](../bench/bridge/bridge.go) says what it leaves out.`)
	}
	if len(kept) > 0 {
		d.line("## Where we do not")
		d.table(r.table(kept))
	}
}

// others says what the other systems are.
func others(systems []SystemReport) string {
	what := map[string]string{
		Floor:  "the **floor** (bare Mosquitto, with one MQTT client that sends and receives)",
		Bridge: "the **bridge** (what a team would otherwise build: HTTP, Mosquitto,\nRedis, and [a few hundred lines](../bench/bridge) between them)",
	}
	var list []string
	for _, s := range systems[1:] {
		list = append(list, what[s.Name])
	}
	return strings.Join(list, " and ")
}

// meaning explains the rows.
func (r Report) meaning(d *document) {
	d.text(`A **whole exchange** ends when the client has read the reply. **Command taken** is the answer to the command: 202
from an API, the PUBACK from bare Mosquitto. Ours says by then whether the camera has it; the others only that Mosquitto
does. **Camera has it** is when the camera has sent its PUBACK. CPU and memory are those of all of a system's processes,
without driver and cameras.`)
}

// limits tells the highest rates.
func (r Report) limits(d *document) {
	cells := [][]string{{"", "exchanges a second", "p99 there, ms", "of it the driver late, ms", "broken at"}}
	var bound float64
	for _, s := range r.Systems {
		if l := s.Limit; l != nil {
			bound = l.Bound
			cells = append(cells, []string{s.Name, number(l.Rate), number(l.P99), number(l.Lag), l.brokenAt()})
		}
	}
	if len(cells) == 1 {
		return
	}
	d.line("## The highest rate")
	d.text(`The highest rate found at which no exchange failed and 99 of 100 took less than %s ms, on a machine that the driver
and the cameras use too: where the driver is late itself, the system could do more.`, number(bound))
	d.table(cells)
}

// brokenAt shows the lowest rate that broke the bound.
func (l Limit) brokenAt() string {
	if l.Failed == 0 {
		return "none tried"
	}
	return number(l.Failed)
}

// processes tells what each process used.
func (r Report) processes(d *document) {
	cells := [][]string{{"", "CPU, ms an exchange", "resident, MB", "at the most, MB"}}
	for _, s := range r.Systems {
		for _, p := range s.Load.Processes {
			name := s.Name + ": " + p.Name
			if p.Name == driverProcess {
				name = s.Name + ": driver and cameras"
			}
			cells = append(cells, []string{name, number(p.CPU), number(megabytes(p.RSS)), number(megabytes(p.Peak))})
		}
	}
	if len(cells) > 1 {
		d.line("## Processes under load")
		d.table(cells)
	}
}

func (r *IdleReport) markdown(d *document) {
	d.line(fmt.Sprintf("## Memory with %d idle cameras", r.Cameras))
	d.text("Connected over mutual TLS, subscribed, and at rest for %g s. Registering and connecting them took %s s.", r.Rest, number(r.Connect))
	cells := [][]string{{"", "resident, MB", "without cameras, MB", "at the most, MB", "goal, MB"}}
	for _, p := range r.Processes {
		cells = append(cells, []string{
			p.Process, number(megabytes(p.After)), number(megabytes(p.Before)), number(megabytes(p.Peak)), r.goal(p),
		})
	}
	d.table(cells)
}

// goal shows the goal of a process and whether it is met, "" where there is none.
func (r *IdleReport) goal(p IdleMemory) string {
	goal, ok := goals()[p.Process]
	switch {
	case !ok || r.Cameras != goalCameras:
		return ""
	case p.After < goal:
		return fmt.Sprintf("under %s: met", number(megabytes(goal)))
	default:
		return fmt.Sprintf("under %s: **missed**", number(megabytes(goal)))
	}
}

// method tells how much to believe.
func (r Report) method(d *document) {
	d.line("## How it was measured")
	d.item(`Open model: a schedule says when each exchange is meant to start, and its latency counts from that moment, however
  late a slow system lets the driver begin. Coordinated omission hides nothing.`)
	d.item(`Driver and cameras share the machine, and are the same for all systems. The cameras answer at once: no radio, no
  video. Everything is on loopback, with mutual TLS towards the cameras and plain HTTP towards the clients.`)
	if r.Plan.Rounds > 1 {
		d.item(`Each system runs %d rounds of %g s in turn. p99 of each round: %s.`, r.Plan.Rounds, r.Plan.Duration, r.roundP99s())
	}
	d.item(`Broker, API, bridge, Redis and Mosquitto are processes of their own. Redis has an append-only file with an fsync
  every second. Mosquitto has %s (its default costs 40 ms an exchange) and no limit of messages in flight.`, "`set_tcp_nodelay true`")
	if r.Machine.Mosquitto != "" || r.Machine.Redis != "" {
		d.item("Mosquitto %s, Redis %s.", r.Machine.Mosquitto, r.Machine.Redis)
	}
	d.item("The load average of the minute before was %s: what is above a few tenths is somebody else's work.", number(r.Machine.LoadAvg))
	failures := "No exchange failed."
	if f := r.failures(); f != "" {
		failures = "Failed exchanges, which no percentile counts: " + f + "."
	}
	d.item("%s", failures)
}

func (r Report) roundP99s() string {
	var list []string
	for _, s := range r.Systems {
		list = append(list, s.Name+" "+strings.Join(numbers(s.Load.RoundP99), ", ")+" ms")
	}
	return strings.Join(list, "; ")
}

func (r Report) failures() string {
	var list []string
	for _, s := range r.Systems {
		for _, kind := range slices.Sorted(maps.Keys(s.Load.Errors)) {
			list = append(list, fmt.Sprintf("%s %d of %d (%s)", s.Name, s.Load.Errors[kind], s.Load.Scheduled, kind))
		}
	}
	return strings.Join(list, "; ")
}

// document is Markdown in the making.
type document struct{ b strings.Builder }

func (d *document) gap() {
	if d.b.Len() > 0 && !strings.HasSuffix(d.b.String(), "\n\n") {
		d.b.WriteByte('\n')
	}
}

// line adds a heading.
func (d *document) line(text string) {
	d.gap()
	d.b.WriteString(text + "\n\n")
}

// text adds a paragraph.
func (d *document) text(format string, args ...any) {
	d.gap()
	fmt.Fprintf(&d.b, format+"\n", args...)
}

// item adds an item of a list.
func (d *document) item(format string, args ...any) {
	fmt.Fprintf(&d.b, "- "+format+"\n", args...)
}

// table adds cells: the first line is the head, the first column is text and the others are figures.
func (d *document) table(cells [][]string) {
	d.gap()
	for i, line := range cells {
		d.b.WriteString("| " + strings.Join(line, " | ") + " |\n")
		if i == 0 {
			d.b.WriteString("|---" + strings.Repeat("|--:", len(line)-1) + "|\n")
		}
	}
}
