// Package bench measures whole exchanges of this program, and of what it competes with, on one machine in one run.
//
// It starts broker, API and Redis as processes of their own, or meets a running API; connects cameras over MQTT; and
// sends commands in the open model: a schedule says when each exchange is meant to start, and its latency counts from
// that moment, however late a slow system lets the driver begin it. Beside it, under the same load with the same cameras,
// it measures the floor (bare Mosquitto) and what a team would otherwise build (package bridge). The result is a Report,
// which shows itself as text and JSON.
//
// It does not measure networks, many machines, browsers or faults, and compares nothing with figures of other runs:
// driver and cameras use the same cores as what is measured, so that only ratios within one run tell much. CPU and memory
// of processes are told on Linux only.
//
// Run is called once at a time: two runs on one machine disturb each other.
package bench

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"time"
)

// Limits of a configuration.
const (
	maxCameras = 20_000 // as many as a broker admits by default
	maxPayload = 200_000
	maxRounds  = 20
)

// Config says what to measure. Fields without a stated default must be set.
type Config struct {
	Cameras  int           // connected cameras, which take commands in turn
	Clients  int           // clients that send in turn; with Server: one for each of Tokens
	Rate     float64       // exchanges a second
	Poisson  bool          // start them at random moments, and not evenly
	Duration time.Duration // of each round
	Warmup   time.Duration // before each round, not counted
	Rounds   int           // of each system, in turn
	Timeout  time.Duration // of one exchange
	Command  string        // what is sent; the cameras answer to any
	Payload  int           // bytes that pad each reply

	Against []string // other systems to measure in the same run: Floor, Bridge
	Redis   string   // cache of our API: "" in memory, "start" one of its own, or a URL

	Server string         // base URL of a running API; "": one is started
	Tokens []string       // of that API, one for each client; the first may register and delete devices
	PIDs   map[string]int // name → process id of that API's processes, where they run on this machine

	FindLimit bool          // search for the highest rate that keeps P99
	P99       time.Duration // the bound
	Probe     time.Duration // length of one try of that search
	Budget    time.Duration // for the whole search, of each system

	Idle int           // cameras that are connected and do nothing, to measure memory; 0: not measured
	Rest time.Duration // from the last connection until memory is looked at, so that what connecting needed is collected

	Binary  string // this program's executable, to be started again
	Data    string // folder for everything the systems write; "": a temporary one
	Seed    uint64 // of chance in a Poisson schedule
	Version string // of this program, for the report

	Progress func(Status)     // is told how it goes; nil: nobody. It must not block
	Clock    func() time.Time // dates the report; nil: time.Now
}

// Status is how far a run has come.
type Status struct {
	Stage  string // what happens now
	Done   int    // exchanges of this stage so far; 0 with Total 0: the stage has none
	Total  int    // exchanges that the stage will have, about
	Failed int
	P99    float64 // of the last second, in milliseconds
}

// Validate reports every fault of the configuration.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(c.Cameras >= 1 && c.Cameras <= maxCameras, "cameras: want 1 to %d", maxCameras)
	check(c.Idle >= 0 && c.Idle <= maxCameras, "idle: want 0 to %d", maxCameras)
	check(c.Clients >= 1 && c.Clients <= 1000, "clients: want 1 to 1000")
	check(c.Rate >= lowestRate && c.Rate <= highestRate, "rate: want %g to %g a second", lowestRate, highestRate)
	check(c.Duration >= time.Second, "duration: want at least 1s")
	check(c.Warmup >= 0, "warmup: must not be negative")
	check(c.Rounds >= 1 && c.Rounds <= maxRounds, "rounds: want 1 to %d", maxRounds)
	check(c.Timeout >= time.Second, "timeout: want at least 1s")
	check(c.Payload >= 0 && c.Payload <= maxPayload, "payload: want 0 to %d bytes", maxPayload)
	check(c.Command != "", "command: is needed")
	for _, name := range c.Against {
		check(name == Floor || name == Bridge, "against: want %s or %s, not %q", Floor, Bridge, name)
	}
	if c.FindLimit {
		check(c.P99 > 0, "p99: must be more than 0")
		check(c.Probe >= time.Second, "probe: want at least 1s")
		check(c.Budget >= c.Probe, "budget: want at least the length of a probe")
	}
	if c.Server != "" {
		u, err := url.Parse(c.Server)
		check(err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https"), "server: want a URL such as http://127.0.0.1:8080")
		check(len(c.Tokens) > 0, "token: a running API needs one")
		check(c.Redis == "", "redis: a running API has its own cache")
	}
	return errors.Join(errs...)
}

// Run measures what the configuration asks for. It ends early, with an error, when ctx does; what it started is stopped
// then and what it registered is deleted.
func Run(ctx context.Context, cfg Config) (Report, error) {
	if err := cfg.Validate(); err != nil {
		return Report{}, err
	}
	if cfg.Progress == nil {
		cfg.Progress = func(Status) {}
	}
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	dir, err := os.MkdirTemp(cfg.Data, "signal-device-bench-*")
	if err != nil {
		return Report{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // temporary, whatever is left of it
	r := &runner{cfg: cfg, dir: dir, proc: procfs{os.DirFS("/proc")}}
	report, err := r.run(ctx)
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped before the end: %w", context.Cause(ctx))
	}
	return report, err
}

// runner is one run.
type runner struct {
	cfg  Config
	dir  string
	proc procfs
}

func (r *runner) run(ctx context.Context) (Report, error) {
	report := Report{MadeAt: r.cfg.Clock().UTC(), Version: r.cfg.Version, Plan: planOf(r.cfg)}
	r.stage("looking at the machine")
	var err error
	if report.Machine, err = r.machine(ctx); err != nil {
		return Report{}, err
	}
	if r.cfg.Idle > 0 {
		if report.Idle, err = r.idle(ctx); err != nil {
			return Report{}, fmt.Errorf("idle: %w", err)
		}
	}
	systems, err := r.start(ctx)
	defer func() {
		r.stage("stopping")
		for _, s := range systems {
			s.stop()
		}
	}()
	if err != nil {
		return Report{}, err
	}
	measured, err := r.rounds(ctx, systems)
	if err != nil {
		return Report{}, err
	}
	for i, s := range systems {
		result := SystemReport{Name: s.name, Load: measured[i].report()}
		if r.cfg.FindLimit {
			limit, err := r.limit(ctx, s)
			if err != nil {
				return Report{}, fmt.Errorf("%s: limit: %w", s.name, err)
			}
			result.Limit = &limit
		}
		report.Systems = append(report.Systems, result)
	}
	return report, nil
}

func (r *runner) stage(format string, args ...any) {
	r.cfg.Progress(Status{Stage: fmt.Sprintf(format, args...)})
}

// machine describes the machine, and the programs of others that are measured on it.
func (r *runner) machine(ctx context.Context) (Machine, error) {
	m, err := describe(r.proc, r.dir)
	if err != nil {
		return Machine{}, err
	}
	if len(r.cfg.Against) > 0 {
		m.Mosquitto = versionOf(ctx, "mosquitto", "-h")
	}
	if r.cfg.Redis == startRedis || slices.Contains(r.cfg.Against, Bridge) {
		m.Redis = versionOf(ctx, "redis-server", "--version")
	}
	return m, nil
}

// start starts all systems, ours first. Those that were started are returned also with an error.
func (r *runner) start(ctx context.Context) ([]*system, error) {
	var systems []*system
	for _, name := range append([]string{Ours}, r.cfg.Against...) {
		r.stage("%s: starting, with %d cameras", name, r.cfg.Cameras)
		s, err := startSystem(ctx, r.cfg, name, r.dir)
		if err != nil {
			return systems, err
		}
		systems = append(systems, s)
	}
	return systems, nil
}

// rounds loads each system in turn, and begins each round with another one: what the machine does to one system for a
// while, it so does to all.
func (r *runner) rounds(ctx context.Context, systems []*system) ([]*measurement, error) {
	all := make([]*measurement, len(systems))
	for i, s := range systems {
		all[i] = newMeasurement(s, r.proc)
	}
	for round := range r.cfg.Rounds {
		for i := range systems {
			m := all[(i+round)%len(systems)]
			stage := m.system.name
			if r.cfg.Rounds > 1 {
				stage = fmt.Sprintf("%s, round %d of %d", stage, round+1, r.cfg.Rounds)
			}
			if err := m.round(ctx, r.cfg, stage, uint64(round)); err != nil {
				return nil, fmt.Errorf("%s: %w", m.system.name, err)
			}
		}
	}
	return all, nil
}
