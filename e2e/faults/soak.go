package faults

import (
	"fmt"
	"io"
	"slices"
	"time"
)

const (
	fillWithin   = time.Minute // until the broker of a soak has as many request records as it may keep
	leastRecords = 1000        // that it can be told to keep
)

func recordsOfSoak(rate float64) int { return max(leastRecords, int(rate*fillWithin.Seconds())) }

// judgeTrends adds to the verdict what is not flat.
func (r *Report) judgeTrends() {
	trends := r.Trends()
	for _, name := range r.processes() {
		if !slices.ContainsFunc(trends, func(t Trend) bool { return t.Process == name }) {
			r.Verdict.add(strange, r.Began, "%s did not tell what it holds", name)
		}
	}
	for _, t := range trends {
		if !t.Flat {
			r.Verdict.add(grown, r.Began.Add(r.Took), "%s: %s rose from %.0f to %.0f", t.Process, t.What, t.First, t.Last)
		}
	}
}

// WriteSoak writes docs/soak.md: what the processes of a run without faults held. plots is the name of its picture.
func WriteSoak(w io.Writer, r *Report, command, plots string) error {
	_, err := fmt.Fprintf(w, `# Soak

One system of real processes under load, without faults: what they hold stays flat. %s

![Throughput, latency, and what the processes held](%s)

The second half of the run is judged. Until then everything has filled that has a bound. The broker keeps %d request records here,
those of about a minute, and replies for a minute (`+"`--max-requests`, `--retention`"+`): from then on, for each record that comes one
goes, as with the default of 500,000 later. What a record costs until then is in [operations](operations.md#what-the-broker-keeps-and-how-much).
The broker's store has a buffer of up to %d MB for what it wrote last to each of its streams. Most of them fill in less than ten
minutes, again and again, and the collector lets garbage of as much again lie about: this is why memory goes up and down.
An idempotency key lasts an hour, whatever else is full. So that the run does not show the growth of that hour, one request of
fifteen has one, enough for a leak in their handling to show; what a key costs is there, too.

## What the processes held

%s
Flat: the line rises by no more than a tenth, or than %d goroutines, %d files and %d MiB. What is not flat breaks a promise. The heap
in use is what the collector last found alive, memory is what is resident. A leak of %.0f bytes in each exchange would show.

## What became of every reply

%s`, r.setting(command), plots, r.journal.records, bufferMiB, r.trendTable(),
		int(quantities[0].small), int(quantities[1].small), bufferMiB, bufferMiB*(1<<20)/(r.Config.Rate*r.Took.Seconds()/2), r.replyTable())
	if err == nil && r.Verdict.States[noRecord] > 0 {
		_, err = fmt.Fprintf(w, "\n%d requests could not be asked about in the end: their records had made room for newer ones.\n", r.Verdict.States[noRecord])
	}
	return err
}
