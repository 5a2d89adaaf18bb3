package faults

import (
	"fmt"
	"io"
	"time"
)

const (
	fillWithin   = time.Minute // until the broker of a soak has as many request records as it may keep
	leastRecords = 1000        // that it can be told to keep
)

func recordsOfSoak(rate float64) int { return max(leastRecords, int(rate*fillWithin.Seconds())) }

// judgeTrends adds to the verdict what is not flat.
func (r *Report) judgeTrends() {
	for _, t := range r.Trends() {
		if t.Judged && !t.Flat {
			r.Verdict.add(grown, r.Began.Add(r.Took), "%s: %s rose from %.0f to %.0f", t.Process, t.What, t.First, t.Last)
		}
	}
}

// WriteSoak writes docs/soak.md: what the processes of a run without faults held. plots is the name of its picture.
func WriteSoak(w io.Writer, r *Report, command, plots string) error {
	_, err := fmt.Fprintf(w, `# Soak

One system of real processes under load, without faults: what they hold stays flat. %s

![Throughput, latency, and what the processes held](%s)

The broker keeps %d request records here, those of about a minute, and replies for a minute (`+"`--max-requests`, `--retention`"+`). So
it is full within the first fifth of the run, which is not judged: from then on, for each record that comes one goes, as with
the default of 500,000 later. What a record costs until then is in [operations](operations.md#what-the-broker-keeps-and-how-much).
An idempotency key lasts an hour, whatever else is full. So that the run does not show the growth of that hour, one request of
fifteen has one, enough for a leak in their handling to show; what a key costs is there, too.

## What the processes held

%s
Flat: the line rises by no more than a tenth, or than %d goroutines, %d files and %d MiB of heap. What is not flat breaks a promise.
The heap in use is what the collector last found alive. The broker's store has a buffer for what it wrote last to each of its streams,
which fills to 8 MB over minutes and goes, so its line may lean by one of these: over the time that is judged that is %.0f bytes
an exchange, and a leak of more in each would show. Resident memory has the garbage, too, as much again by the collector's default;
it is shown and not judged.

## What became of every reply

%s`, r.setting(command), plots, r.journal.records, r.trendTable(),
		int(quantities[0].small), int(quantities[1].small), int(quantities[2].small),
		quantities[2].small*(1<<20)/(r.Config.Rate*r.Took.Seconds()*4/5), r.replyTable())
	if err == nil && r.Verdict.States[noRecord] > 0 {
		_, err = fmt.Fprintf(w, "\n%d requests could not be asked about in the end: their records had made room for newer ones.\n", r.Verdict.States[noRecord])
	}
	return err
}
