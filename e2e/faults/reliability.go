package faults

import (
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"
)

// WriteReliability writes docs/reliability.md: one row for each fault, from runs that had it alone.
func WriteReliability(w io.Writer, reports []*Report, command string) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Reliability

What becomes of replies when things break. Each row is a run of its own: redis-server, a broker, two API instances, eight cameras
and eight clients, each program a process of its own with a TCP proxy on every way between them. The load is in the open model.
Made on %s with

    %s

on %s/%s with %d processors, which other programs used too, so the times are no benchmark. `+"`make chaos`"+` makes a longer,
random run.

- **p99**: of calls that do not wait, begun while the fault was there and answered. **503**: how many of them were refused.
- **well again**: from the end of the fault until both APIs miss nothing and each has made a whole exchange.
- **lost**: replies that a camera has a PUBACK for and its client could not read. **emptied**: those that were in a cache whose
  content the fault itself removed; all of these are counted, none is hidden.
- **doubled**: one request and seq read with two bodies. **elsewhere**: replies given to another client, commands at another
  device, commands after their deadline. **untrue**: "no reply" told although the reply had its PUBACK, requests that ended in
  nothing, answers that the table of fallbacks does not allow.

| fault | | PUBACKs | p99 | 503 | well again | lost | emptied | doubled | elsewhere | untrue | |
|---|---|---|---|---|---|---|---|---|---|---|---|
`, reports[0].Began.UTC().Format(time.DateOnly), command, runtime.GOOS, runtime.GOARCH, runtime.NumCPU())
	for _, r := range reports {
		v := r.Verdict
		elsewhere := v.Count(foreign) + v.Count(misdelivered) + v.Count(overdue)
		untold := v.Count(untrue) + v.Count(unfinished) + v.Count(wrongAnswer) + v.Count(invented) + v.Count(cutCall) + v.Count(lingering)
		for _, row := range r.Rows() {
			fmt.Fprintf(&b, "| %s | %s: %s | %d | %s | %d of %d | %s | %d | %d | %d | %d | %d | %s |\n",
				row.Fault.ID, row.Fault.Name, row.Fault.Must, v.Acked, row.P99.Round(time.Millisecond), row.Refused, row.Answered,
				row.Recovered.Round(10*time.Millisecond), v.Count(lost), v.Emptied, v.Count(doubled), elsewhere, untold, row.Note)
		}
	}
	b.WriteString(limits)
	_, err := io.WriteString(w, b.String())
	return err
}

// limits is what no run shows.
const limits = `
What these runs do not show:

- F14, a clock that is wrong on one side: processes of one machine share its clock, and libfaketime, which shifts it for one
  process, does not reach a static Go program. The clocks of the simulated cameras are two hours wrong in every run.
- F16 (10,000 devices at once), F17 (full disk, no file descriptors) and F20 (a cluster) are not made here.
- F18, a reader that never reads its stream of events, is in [httpapi/events_test.go](../httpapi/events_test.go); F12 with 100
  streams besides is in [e2e/events_test.go](../e2e/events_test.go).
- The exact moments of F11, between a cache write and its acknowledgement, are in [e2e/kill_test.go](../e2e/kill_test.go); here
  kills come at any moment. That SIGTERM ends with exit code 0 is in [e2e/stop_test.go](../e2e/stop_test.go).
- A power failure. The kernel survives a kill -9, and with it what a process had written.
`
