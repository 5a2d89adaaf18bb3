package bench

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"
)

// driverProcess is the name under which a report tells of this process: the driver and all cameras.
const driverProcess = "load"

// measurement is what the rounds of one system have given so far.
type measurement struct {
	system    *system
	proc      procfs
	processes []process       // the system's, and this one
	cpu       []time.Duration // of each of them, in the counted time
	memory    []usage         // of each of them, at the end
	samples   []sample        // of all rounds, one behind the other in time
	rounds    [][]sample
	length    time.Duration // of all rounds
}

func newMeasurement(s *system, proc procfs) *measurement {
	all := append(slices.Clone(s.processes), process{driverProcess, os.Getpid()})
	return &measurement{system: s, proc: proc, processes: all, cpu: make([]time.Duration, len(all)), memory: make([]usage, len(all))}
}

// round loads the system once and adds what came of it. No exchange but a failed one is left out.
func (m *measurement) round(ctx context.Context, cfg Config, stage string, seed uint64) error {
	watch := newWatcher(cfg.Progress, stage, int(cfg.Rate*(cfg.Warmup+cfg.Duration).Seconds()))
	before := make(chan []usage, 1)
	warm := time.AfterFunc(cfg.Warmup, func() { before <- m.usages() })
	samples := load{
		schedule: arrivals(cfg, cfg.Rate, cfg.Warmup+cfg.Duration, seed),
		exchange: m.system.exchange,
		timeout:  cfg.Timeout,
		nap:      nap,
		observe:  watch.observe,
	}.run(ctx)
	if warm.Stop() {
		before <- nil // the load was shorter than its warm-up: ctx has ended
	}
	start, end := <-before, m.usages()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i := range start {
		m.cpu[i] += max(0, end[i].cpu-start[i].cpu)
	}
	m.memory = end
	counted := withoutWarmup(samples, cfg.Warmup)
	if len(counted) == 0 {
		return errors.New("no exchange was made")
	}
	m.rounds = append(m.rounds, counted)
	for _, s := range counted {
		s.intended += m.length
		m.samples = append(m.samples, s)
	}
	m.length += cfg.Duration
	return nil
}

// usages looks at all processes. One that cannot be looked at, because it has ended or the operating system tells
// nothing, has used nothing, and the report leaves it out.
func (m *measurement) usages() []usage {
	all := make([]usage, len(m.processes))
	for i, p := range m.processes {
		all[i], _ = m.proc.usage(p.pid)
	}
	return all
}

// arrivals returns the schedule that the configuration asks for.
func arrivals(cfg Config, rate float64, length time.Duration, stream uint64) schedule {
	if cfg.Poisson {
		return poisson(rate, length, rand.New(rand.NewPCG(cfg.Seed, stream)))
	}
	return constant(rate, length)
}

// withoutWarmup returns the samples that count, their times from the end of the warm-up.
func withoutWarmup(samples []sample, warmup time.Duration) []sample {
	var counted []sample
	for _, s := range samples {
		if s.intended >= warmup {
			s.intended -= warmup
			counted = append(counted, s)
		}
	}
	return counted
}

// limit searches for the highest rate at which the system keeps the bound.
func (r *runner) limit(ctx context.Context, s *system) (Limit, error) {
	found, err := findLimit(ctx, r.cfg.Rate, r.cfg.Budget, func(ctx context.Context, rate float64) (Probe, error) {
		return r.probe(ctx, s, rate)
	})
	found.Bound = millis(r.cfg.P99)
	return found, err
}

// probeWarmup is shorter than that of a measurement: the system has worked before.
const probeWarmup = time.Second

// probe loads the system with one rate. It ends as soon as more exchanges than one in a hundred of all that were to come
// are over the bound: nothing can then bring p99 back under it.
func (r *runner) probe(ctx context.Context, s *system, rate float64) (Probe, error) {
	cfg := r.cfg
	total := int(rate * cfg.Probe.Seconds())
	watch := newWatcher(cfg.Progress, fmt.Sprintf("%s, limit: %g a second", s.name, rate), total)
	over := 0
	samples := load{
		schedule: arrivals(cfg, rate, probeWarmup+cfg.Probe, uint64(rate)),
		exchange: s.exchange,
		timeout:  cfg.Timeout,
		nap:      nap,
		observe: func(s sample) bool {
			watch.observe(s)
			if s.intended >= probeWarmup && (s.failure != "" || s.done > cfg.P99) {
				over++
			}
			return over <= total/100
		},
	}.run(ctx)
	if ctx.Err() != nil {
		return Probe{}, context.Cause(ctx)
	}
	counted := withoutWarmup(samples, probeWarmup)
	p := Probe{Rate: rate}
	done := doneOf(counted)
	p.P99, p.Errors = summarise(done).P99, len(counted)-len(done)
	p.Lag = summarise(lagsOf(counted)).P99
	p.Kept = p.Errors == 0 && over <= total/100 && len(done) > 0
	return p, nil
}

// watcher tells of a load's progress about once a second.
type watcher struct {
	tell   func(Status)
	status Status
	since  time.Time
	recent []time.Duration
}

func newWatcher(tell func(Status), stage string, total int) *watcher {
	w := &watcher{tell: tell, status: Status{Stage: stage, Total: total}, since: time.Now()}
	tell(w.status)
	return w
}

// observe always goes on.
func (w *watcher) observe(s sample) bool {
	w.status.Done++
	if s.failure != "" {
		w.status.Failed++
	} else {
		w.recent = append(w.recent, s.done)
	}
	if time.Since(w.since) >= time.Second {
		w.status.P99 = summarise(w.recent).P99
		w.tell(w.status)
		w.since, w.recent = time.Now(), w.recent[:0]
	}
	return true
}
