package faults

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"
)

// WriteReliability writes docs/reliability.md: one row for each fault, from runs that had it alone.
func WriteReliability(w io.Writer, reports []*Report, contests []Contest, command string) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Reliability

What becomes of replies when things break. Each row is a run of its own: redis-server, a broker, two API instances, eight cameras
and eight clients, each program a process of its own with a TCP proxy on every way between them. The load is in the open model.
Made on %s with

    %s

on %s/%s with %d processors, which other programs used too, so the times are no benchmark. `+"`make chaos`"+` makes a longer,
random run ([chaos](chaos.md)), `+"`make soak`"+` a long one without faults ([soak](soak.md)).

- **p99**: of calls that do not wait, begun while the fault was there and answered. **503**: how many of them were refused.
- **well again**: from the end of the fault until both APIs miss nothing and each has made a whole exchange.
- **lost**: replies that a camera has a PUBACK for and its client could not read. **emptied**: those that were in a cache whose
  content the fault itself removed; all of these are counted, none is hidden.
- **doubled**: one request and seq read with two bodies. **elsewhere**: replies given to another client, commands at another
  device, after their deadline or twice. **untrue**: everything else that breaks a promise: "no reply" told although the reply had
  its PUBACK, or although nothing was broken, requests that ended in nothing, answers that the table of fallbacks does not
  allow or that took more than %s, a cached reply not given, histories that no order explains, cameras that were not cut,
  processes that end by themselves or hold more afterwards than before.
- **again**: replies that were asked for once more when their grace was over, and were not given.

| fault | | PUBACKs | p99 | slowest | 503 | well again | lost | emptied | doubled | elsewhere | untrue | again | |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`, reports[0].Began.UTC().Format(time.DateOnly), command, runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), slowest)
	for _, r := range reports {
		v := r.Verdict
		elsewhere := v.Count(foreign) + v.Count(misdelivered) + v.Count(overdue) + v.Count(twice)
		untold := len(v.Violations) - v.Count(lost) - v.Count(doubled) - elsewhere
		for _, row := range r.Rows() {
			fmt.Fprintf(&b, "| %s | %s: %s | %d | %s | %s | %d of %d | %s | %d | %d | %d | %d | %d | %d | %s |\n",
				row.Fault.ID, row.Fault.Name, row.Fault.Must, v.Acked, row.P99.Round(time.Millisecond), row.Slowest.Round(time.Millisecond),
				row.Refused, row.Answered, recovered(row.Recovered), v.Count(lost), v.Emptied, v.Count(doubled), elsewhere, untold,
				v.AfterGrace, row.Note)
		}
	}
	if len(contests) > 0 {
		writeContests(&b, contests)
	}
	b.WriteString(limits)
	_, err := io.WriteString(w, b.String())
	return err
}

// writeContests compares with what others would build.
func writeContests(b *strings.Builder, contests []Contest) {
	b.WriteString(contestText)
	for _, c := range contests {
		fmt.Fprintf(b, "| %s | %s | %s | %d | **%d** | %d | %d of %d | %d | %s |\n",
			c.Fault.ID, c.Fault.Name, c.Contender, c.Acked, c.Lost, c.Wrong, c.Refused, c.Answered, c.Silent, recovered(c.Recovered))
	}
}

const contestText = `
## Beside what one would build instead

Mosquitto, Redis with its append-only file, and a bridge between them with an HTTP API ([bench/bridge](../bench/bridge)), under
the same load, with the same cameras and clients, and the oracle's first questions. It is built with care: QoS 1 everywhere, persistent sessions of cameras
and bridge, a reply is acknowledged to Mosquitto after Redis has it, tried again while Redis is away, no limit of messages in
flight, a new subscription with each connection. Mosquitto keeps its messages in memory and writes a file: every half hour by
default, and after each change with the other setting. Each exchange has one reply, asked for by its request id.

- **never readable**: replies that a camera has a PUBACK for, and that its client could not read in the end. **wrong**: given to
  another client, or with another body.
- **503**, **no answer**: of calls that do not wait, begun during the fault. There is one bridge, because its waiting clients are
  woken in its memory; two APIs are killed in turn.

| fault | | system | PUBACKs | never readable | wrong | 503 | no answer | well again |
|---|---|---|---|---|---|---|---|---|
`

// limits is what no run shows.
const limits = `
What these runs do not show:

- F20, a cluster.
- F16 lets the crowd run at the lowest priority (nice 19), because the processors of devices are not those of the service; its
  TLS is still done on this machine. The broker lets in 100 devices a second for each processor, --connect-rate; its p99
  counts the calls until the last device is connected. The number of devices is the option -crowd.
- F14 and F17b change what is around the program: F14 runs a build whose clock can be set, with nothing else changed, and Redis
  under a library that shifts its clock; F17b keeps the broker's files on a file system of 48 MB in memory, which root alone can
  mount.
- Streams of events in F12, and a stream that is never read, are in [e2e/events_test.go](../e2e/events_test.go) and
  [httpapi/events_test.go](../httpapi/events_test.go).
- The exact moments of F11, between a cache write and its acknowledgement, are in [e2e/kill_test.go](../e2e/kill_test.go); here
  kills come at any moment. That SIGTERM ends with exit code 0 is in [e2e/stop_test.go](../e2e/stop_test.go).
- F7 with a Redis that is loading its file: [cache](../cache) has that.
- F17 and F17b end a broker whose store failed under it, by design: something has to start it again, here the harness does.
- A power failure. The kernel survives a kill -9, and with it what a process had written.
`
