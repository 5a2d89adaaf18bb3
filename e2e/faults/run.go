package faults

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	foreignCameras = 6
	ownCameras     = 2
	startWithin    = 30 * time.Second
	recoverWithin  = 15 * time.Second
	probeEvery     = 50 * time.Millisecond
	progressEvery  = 5 * time.Second
	drainWorkers   = 8
	maxPollIDs     = 100
	settleWithin   = 15 * time.Second // in the end, until the cameras have their PUBACKs, and until a client can read
	calmAfter      = 6 * time.Second  // load after the last fault: no fault disturbs what is read then
)

// Step is one fault of a run.
type Step struct {
	Fault *Fault
	After time.Duration // since the recovery from the one before
	For   time.Duration
}

// Config says what a run does.
type Config struct {
	Binary   string // the program, with a movable clock where the steps need one
	Dir      string // of all files; "": a temporary folder that is removed
	Rate     float64
	Steps    []Step
	Soak     time.Duration // without faults, and with a broker that soon has as many request records as it may keep
	Crowd    int           // devices that connect at once in F16; 0: 2,000
	Seed     uint64
	Progress io.Writer // nil: silence
}

// run is one run under way.
type run struct {
	*system
	cfg  Config
	load *load
	out  *printer

	foreign    []*foreignCamera
	mu         sync.Mutex
	violations []Violation
}

// Run starts a system, puts it under load and the faults, drains what is left and judges. An error means that the run
// could not be made; what the system did wrong is in the report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	if cfg.Dir == "" {
		dir, err := os.MkdirTemp("", "signal-device-chaos-*")
		if err != nil {
			return nil, err
		}
		defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
		cfg.Dir = dir
	}
	if cfg.Crowd == 0 {
		cfg.Crowd = 2_000
	}
	s, err := startSystem(ctx, cfg.Binary, cfg.Dir, cfg.conditions())
	if err != nil {
		return nil, err
	}
	defer s.stop()
	r := &run{system: s, cfg: cfg, out: newPrinter(cfg.Progress)}
	return r.run(ctx)
}

// MovesClocks reports whether the program has to be built with a movable clock.
func (cfg Config) MovesClocks() bool { return cfg.conditions().clocks }

// conditions returns what the faults need from the start. Only one of several may need more than clocks.
func (cfg Config) conditions() (under conditions) {
	if cfg.Soak > 0 {
		return conditions{records: recordsOfSoak(cfg.Rate)}
	}
	for _, step := range cfg.Steps {
		if step.Fault.under != (conditions{clocks: true}) && step.Fault.under != (conditions{}) {
			return step.Fault.under
		}
		under.clocks = under.clocks || step.Fault.under.clocks
	}
	return under
}

func (r *run) run(ctx context.Context) (*Report, error) {
	began := time.Now()
	cameras, stopCameras := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stopCameras()
	if err := r.startCameras(cameras, &running); err != nil {
		return nil, err
	}
	r.out.line("%d cameras, %d clients, %g exchanges a second", foreignCameras+ownCameras, clientCount, r.cfg.Rate)

	if took, amiss := r.recovery(ctx, startWithin, false); took < 0 { // a first exchange at each API, so that its pools are there
		return nil, fmt.Errorf("the system does not work: %s", amiss)
	}
	before := r.resources(ctx)
	if len(before) <= apiCount {
		r.violation(strange, "only %d processes tell what they hold", len(before))
	}
	loading, stopLoad := context.WithCancel(ctx)
	var loop sync.WaitGroup
	loop.Go(func() { r.sampleResources(loading) })
	loop.Go(func() { r.load.run(loading) })
	loop.Go(func() { r.reportProgress(loading) })
	err := r.steps(ctx)
	stopLoad()
	loop.Wait()
	loaded := time.Now()
	if err != nil {
		r.load.wait()
		return nil, err
	}
	r.out.line("the faults are over; %d exchanges are under way", r.load.inFlight.Load())
	r.load.wait()
	r.settle(ctx)
	if err := r.drain(ctx); err != nil {
		return nil, err
	}
	if err := r.reread(ctx, loaded); err != nil {
		return nil, err
	}
	if err := r.askStates(ctx); err != nil {
		return nil, err
	}
	r.shrink(ctx, before)
	stopCameras()
	running.Wait()
	r.journal.mu.Lock()
	defer r.journal.mu.Unlock()
	verdict := judge(r.journal)
	verdict.Violations = append(verdict.Violations, r.violations...)
	report := &Report{Began: began, Took: time.Since(began), Config: r.cfg, Verdict: verdict, journal: r.journal, notBegun: int(r.load.notBegun.Load())}
	if r.cfg.Soak > 0 {
		report.judgeTrends()
	}
	return report, nil
}

// violation notes what a fault itself has seen.
func (r *run) violation(kind, format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, Violation{kind, time.Now(), fmt.Sprintf(format, args...)})
}

func (r *run) startCameras(ctx context.Context, running *sync.WaitGroup) error {
	r.load = &load{s: r.system, rate: r.cfg.Rate, seed: r.cfg.Seed, fewKeys: r.cfg.Soak > 0}
	foreign, err := r.registerCameras(ctx)
	if err != nil {
		return err
	}
	if err := r.startForeign(ctx, running, foreign); err != nil {
		return err
	}
	var readies []<-chan struct{}
	for i := range ownCameras {
		registered, err := r.register(ctx, fmt.Sprintf("own-%d", i), oneDay)
		if err != nil {
			return err
		}
		wrongBy := []time.Duration{2 * time.Hour, -2 * time.Hour}[i%2]
		cam, err := r.newOwnCamera(registered, r.cfg.Seed+uint64(i), wrongBy)
		if err != nil {
			return err
		}
		readies = append(readies, cam.Ready())
		r.load.own = append(r.load.own, registered.ID)
		r.journal.note(func(j *journal) { j.own[registered.ID] = true })
		running.Go(func() {
			if err := cam.Run(ctx); err != nil {
				r.violation(strange, "a simulated camera ended: %v", err)
			}
		})
	}
	return r.await(ctx, startWithin, "the cameras to connect", func() bool {
		for _, ready := range readies {
			select {
			case <-ready:
			default:
				return false
			}
		}
		return true
	})
}

// registerCameras registers the foreign cameras.
func (r *run) registerCameras(ctx context.Context) (cameras []registration, err error) {
	for i := range foreignCameras {
		registered, err := r.register(ctx, fmt.Sprintf("foreign-%d", i), oneDay)
		if err != nil {
			return nil, err
		}
		cameras = append(cameras, registered)
	}
	return cameras, nil
}

// startForeign starts the foreign cameras and returns once they are connected.
func (r *run) startForeign(ctx context.Context, running *sync.WaitGroup, cameras []registration) error {
	for i, registered := range cameras {
		cam, err := r.newForeignCamera(registered, r.cfg.Seed+uint64(i))
		if err != nil {
			return err
		}
		r.foreign = append(r.foreign, cam)
		r.load.devices = append(r.load.devices, registered.ID)
		running.Go(func() { cam.run(ctx) })
	}
	return r.await(ctx, startWithin, "the cameras to connect", func() bool {
		return !slices.ContainsFunc(r.foreign, func(cam *foreignCamera) bool { return cam.connected() == nil })
	})
}

// await polls until a condition holds.
func (r *run) await(ctx context.Context, within time.Duration, what string, condition func() bool) error {
	for until := time.Now().Add(within); !condition(); hold(ctx, probeEvery) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(until) {
			return fmt.Errorf("waited %s for %s", within, what)
		}
	}
	return nil
}

// steps lets the faults happen, one after the other.
func (r *run) steps(ctx context.Context) error {
	for n, step := range r.cfg.Steps {
		hold(ctx, step.After)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f := step.Fault
		r.out.line("%d of %d: %s %s, for %s", n+1, len(r.cfg.Steps), f.ID, f.Name, step.For)
		ask := r.askDuring(ctx, f)
		at := faultSpan{fault: f, span: span{from: time.Now()}}
		var asking sync.WaitGroup
		asking.Go(func() { hold(ctx, step.For/2); ask() })
		note, err := f.make(ctx, r, step.For)
		asking.Wait()
		at.to, at.note = time.Now(), note
		if err != nil {
			return fmt.Errorf("%s: %w", f.ID, err)
		}
		var amiss string
		within := cmp.Or(f.within, recoverWithin)
		at.recovered, amiss = r.recovery(ctx, within, f.mayEnd)
		r.journal.note(func(j *journal) { j.faults = append(j.faults, at) })
		if at.recovered < 0 {
			r.violation(noRecovery, "%s was over and the system was not well %s later: %s", f.ID, within, amiss)
		}
		r.out.line("   well again after %s %s", recovered(at.recovered), note)
	}
	hold(ctx, calmAfter+r.cfg.Soak)
	return ctx.Err()
}

// recovery waits until each API misses nothing and makes a whole exchange, and returns how long that took; negative:
// it did not, and what was amiss.
func (r *run) recovery(ctx context.Context, within time.Duration, mayEnd bool) (time.Duration, string) {
	began := time.Now()
	for i := range r.apis {
		for {
			amiss := r.amissAt(ctx, i)
			if amiss == "" {
				break
			}
			if time.Since(began) > within || ctx.Err() != nil {
				return -1, amiss
			}
			r.supervise(mayEnd)
			hold(ctx, probeEvery)
		}
	}
	return time.Since(began), ""
}

// supervise starts a broker again that has ended by itself: it does so where only a new start helps.
func (r *run) supervise(mayEnd bool) {
	select {
	case <-r.broker.Done():
		r.out.line("   the broker ended, and is started again")
		if !mayEnd {
			r.violation(died, "the broker, where no file and no disk was wanting")
		}
		if err := r.broker.Restart(); err != nil {
			r.violation(noRecovery, "the broker ended by itself: %v", err)
		}
	default:
	}
}

// amissAt says what one API lacks; "": nothing.
func (r *run) amissAt(ctx context.Context, i int) string {
	who := r.clients[0]
	me := r.http.do(ctx, i, who, request{op: opMe, method: "GET", path: "/v1/me"})
	if me.status != 200 || me.degraded != "" {
		return fmt.Sprintf("API %d: %d %s, degraded: %q", i, me.status, me.err, me.degraded)
	}
	x := r.load.probe(who)
	x.attempt()
	q := x.request(opWait)
	q.header.Set("Prefer", "wait=2")
	sent := r.http.do(ctx, i, who, q)
	if sent.code == tooManyUnread {
		x.readAny(ctx)
	}
	if got := x.accept(sent); !got.final(x.id) {
		return fmt.Sprintf("API %d: no whole exchange: %d %s %s", i, sent.status, sent.code, sent.err)
	}
	return ""
}

// settle waits until the cameras have a PUBACK for everything, as far as they get it.
func (r *run) settle(ctx context.Context) {
	waiting := 0
	err := r.await(ctx, settleWithin, "PUBACKs", func() bool {
		waiting = 0
		for _, cam := range r.foreign {
			waiting += cam.unacknowledged()
		}
		return waiting == 0
	})
	if err != nil {
		r.violation(noRecovery, "%d replies have no PUBACK %s after everything", waiting, settleWithin)
	}
}

// drain reads what is left, as each client, at the APIs in turn: by request id what the journal knows of, and whatever
// else is there.
func (r *run) drain(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(drainWorkers)
	n := 0
	for _, who := range r.clients {
		for _, device := range append(append([]string{}, r.load.devices...), r.load.own...) {
			at := n % apiCount
			n++
			group.Go(func() error { return r.drainOne(ctx, at, who, device) })
		}
	}
	return group.Wait()
}

func (r *run) drainOne(ctx context.Context, at int, who client, device string) error {
	ids := r.journal.unread(who.name, device)
	for len(ids) > 0 {
		some := ids[:min(len(ids), maxPollIDs)]
		ids = ids[len(some):]
		if _, err := r.readRest(ctx, at, who, device, some); err != nil {
			return err
		}
	}
	for {
		got, err := r.readRest(ctx, at, who, device, nil)
		if err != nil || len(got.Replies) == 0 {
			return err
		}
	}
}

// readRest polls until it is answered, and until no answer says that there is a reply which this look did not find: a
// machine that has just been through everything may hold up a call, or a part of it.
func (r *run) readRest(ctx context.Context, at int, who client, device string, ids []string) (got replies, err error) {
	answered := false
	err = r.await(ctx, settleWithin, "the rest", func() bool {
		more, ok := r.http.poll(ctx, at, who, device, ids, 0)
		if ok {
			got, answered = more, true
		}
		return ok && !more.mayFindMore()
	})
	if err != nil && !answered {
		return got, fmt.Errorf("%s could not read the rest at %s within %s", who.name, device, settleWithin)
	}
	return got, ctx.Err()
}

// askStates asks how every accepted request ended.
func (r *run) askStates(ctx context.Context) error {
	byName := r.clientsByName()
	type question struct {
		id  string
		who client
	}
	var questions []question
	r.journal.note(func(j *journal) {
		for id, a := range j.accepted {
			questions = append(questions, question{id, byName[a.client]})
		}
	})
	r.out.line("everything is drained; asking how %d requests ended", len(questions))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(drainWorkers)
	for n, q := range questions {
		group.Go(func() error { return r.http.state(ctx, n%apiCount, q.who, q.id) })
	}
	return group.Wait()
}

// reportProgress tells how far the load has come.
func (r *run) reportProgress(ctx context.Context) {
	before := int64(0)
	for {
		hold(ctx, progressEvery)
		if ctx.Err() != nil {
			return
		}
		done := r.load.finished.Load()
		r.out.line("%d exchanges ended, %.0f a second, %d under way", done, float64(done-before)/progressEvery.Seconds(), r.load.inFlight.Load())
		before = done
	}
}
