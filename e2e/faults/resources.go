package faults

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	brokerName      = "broker"
	heapInUse       = "heap in use, MiB"
	sampleEvery     = 2 * time.Second
	scrapeWithin    = time.Second
	shrinkWithin    = 20 * time.Second // after everything: until a process holds no more than at the start
	slackFiles      = 16               // connections that a pool may keep
	slackGoroutines = 40               // 2 or so for each of these
)

// resources is what one process holds.
type resources struct {
	goroutines, files int
	memory            float64 // bytes, resident
	heap              float64 // bytes that were in use after the last garbage collection
}

// sample is what all processes held at one moment, by name. One that did not answer is not in it.
type sample struct {
	at   time.Time
	held map[string]resources
}

// resources asks broker and APIs for their metrics.
func (r *run) resources(ctx context.Context) map[string]resources {
	addrs := map[string]string{brokerName: r.brokerAdmin}
	for i, a := range r.apis {
		addrs[apiName(i)] = a.admin
	}
	var mu sync.Mutex
	held := map[string]resources{}
	var all sync.WaitGroup
	for name, addr := range addrs {
		all.Go(func() {
			if got, err := scrape(ctx, addr); err == nil {
				mu.Lock()
				held[name] = got
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return held
}

func scrape(ctx context.Context, addr string) (got resources, err error) {
	ctx, cancel := context.WithTimeout(ctx, scrapeWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/metrics", http.NoBody)
	if err != nil {
		return got, err
	}
	req.Close = true // so that nothing of it is left in what is counted
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return got, err
	}
	defer res.Body.Close()
	values := map[string]float64{}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			values[name], _ = strconv.ParseFloat(value, 64) // what is no number is not asked for
		}
	}
	const nextGC, gogc, percent = "go_memstats_next_gc_bytes", "go_gc_gogc_percent", 100
	for _, name := range []string{"go_goroutines", "process_open_fds", "process_resident_memory_bytes", nextGC, gogc} {
		if values[name] == 0 {
			return got, fmt.Errorf("%s has no metric %s", addr, name)
		}
	}
	return resources{
		goroutines: int(values["go_goroutines"]),
		files:      int(values["process_open_fds"]),
		memory:     values["process_resident_memory_bytes"],
		heap:       values[nextGC] / (1 + values[gogc]/percent), // the collector's goal is so much more than it found in use
	}, nil
}

// sampleResources samples until ctx ends.
func (r *run) sampleResources(ctx context.Context) {
	for ctx.Err() == nil {
		s := sample{time.Now(), r.resources(ctx)}
		r.journal.note(func(j *journal) { j.samples = append(j.samples, s) })
		hold(ctx, sampleEvery)
	}
}

// shrink waits until every process holds hardly more than before the load.
func (r *run) shrink(ctx context.Context, before map[string]resources) {
	r.http.close()
	var now map[string]resources
	err := r.await(ctx, shrinkWithin, "goroutines and files to go", func() bool {
		now = r.resources(ctx)
		for name, b := range before {
			n, there := now[name]
			if !there || n.goroutines > b.goroutines+slackGoroutines || n.files > b.files+slackFiles {
				return false
			}
		}
		return true
	})
	if err == nil {
		return
	}
	for name, b := range before {
		n := now[name]
		r.violation(grown, "%s holds %d goroutines and %d files %s after everything; before the load it had %d and %d",
			name, n.goroutines, n.files, shrinkWithin, b.goroutines, b.files)
	}
}

// Trend is how what a process holds changed over a run.
type Trend struct {
	Process, What string
	First, Last   float64 // of the fitted line; MiB for memory
	Highest       float64
	Hour          float64 // growth in an hour, by that line
	Flat          bool    // the line rises by less than a tenth, or by hardly anything
}

const bufferMiB = 8 // of the broker's store, for one stream

// quantities are what a trend is made of, and what counts as hardly anything.
var quantities = []struct {
	name  string
	of    func(resources) float64
	small float64
}{
	{"goroutines", func(r resources) float64 { return float64(r.goroutines) }, slackGoroutines / 2},
	{"files", func(r resources) float64 { return float64(r.files) }, slackFiles / 2},
	{heapInUse, func(r resources) float64 { return r.heap / (1 << 20) }, bufferMiB},
	{"memory, MiB", func(r resources) float64 { return r.memory / (1 << 20) }, bufferMiB},
}

// Trends fits a line to the second half of each curve, by least squares: in the first half everything fills that has a
// bound.
func (r *Report) Trends() []Trend {
	samples := r.journal.samples
	samples = samples[len(samples)/2:]
	var trends []Trend
	for _, name := range r.processes() {
		for _, q := range quantities {
			t := Trend{Process: name, What: q.name}
			var at, values []float64
			for _, s := range samples {
				if held, there := s.held[name]; there {
					at, values = append(at, s.at.Sub(r.Began).Hours()), append(values, q.of(held))
					t.Highest = max(t.Highest, q.of(held))
				}
			}
			if len(at) < 2 || len(at) < len(samples)/2 {
				continue
			}
			var offset float64
			offset, t.Hour = fit(at, values)
			t.First, t.Last = offset+t.Hour*at[0], offset+t.Hour*at[len(at)-1]
			t.Flat = t.Last-t.First <= max(q.small, t.First/10)
			trends = append(trends, t)
		}
	}
	return trends
}

// fit returns the line through the points with the least squares.
func fit(x, y []float64) (offset, slope float64) {
	var mx, my, xx, xy float64
	for i := range x {
		mx, my = mx+x[i]/float64(len(x)), my+y[i]/float64(len(x))
	}
	for i := range x {
		xx += (x[i] - mx) * (x[i] - mx)
		xy += (x[i] - mx) * (y[i] - my)
	}
	if xx > 0 {
		slope = xy / xx
	}
	return my - slope*mx, slope
}

// processes are the names of those that were sampled.
func (r *Report) processes() []string {
	names := []string{brokerName}
	for i := range apiCount {
		names = append(names, apiName(i))
	}
	return names
}
