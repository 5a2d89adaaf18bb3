package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"signaldevice/bench"
)

type benchCommand struct {
	Cameras  int           `help:"Cameras that are connected and take commands in turn." default:"100" group:"Load"`
	Rate     float64       `help:"Exchanges a second: each is a command, and the poll for its reply." default:"100" group:"Load"`
	Duration time.Duration `help:"How long each round is." default:"30s" group:"Load"`
	Warmup   time.Duration `help:"How long each round runs before it counts." default:"5s" group:"Load"`
	Rounds   int           `help:"Rounds of each system, in turn." default:"1" group:"Load"`
	Poisson  bool          `help:"Start exchanges at random moments, as many people do, instead of evenly." group:"Load"`
	Clients  int           `help:"Clients that send in turn." default:"10" group:"Load"`
	Command  string        `help:"What is sent." default:"ping" group:"Load"`
	Payload  int           `help:"Bytes that pad each reply." default:"1000" group:"Load"`
	Timeout  time.Duration `help:"How long an exchange may take." default:"10s" group:"Load"`
	Seed     uint64        `help:"Of chance, with --poisson." default:"1" group:"Load"`

	Redis   string   `help:"Cache: start for a redis-server of its own, or redis://HOST:PORT. Without it the cache is in memory." placeholder:"start|URL" group:"What is measured"`
	Against []string `help:"Measure these too, under the same load: floor (bare Mosquitto), bridge (HTTP, Mosquitto, Redis and a bridge between them)." placeholder:"floor,bridge" group:"What is measured"`
	Data    string   `help:"Folder for the data of what is started; its disk is measured too. Without it, the one for temporary files." placeholder:"DIR" type:"existingdir" group:"What is measured"`

	Server string         `help:"Measure the API that runs here, instead of starting one." placeholder:"URL" group:"A running API"`
	Token  []string       `help:"Bearer token of that API, one for each client; the first may register and delete devices." placeholder:"TOKEN" group:"A running API"`
	PID    map[string]int `name:"pid" help:"Process of that API on this machine, for CPU and memory." placeholder:"NAME=PID" group:"A running API"`

	FindLimit bool          `help:"Search for the highest rate that keeps --p99, too." group:"Limit"`
	P99       time.Duration `name:"p99" env:"SIGNAL_DEVICE_P99" help:"The bound: so long may one exchange in a hundred take." default:"50ms" group:"Limit"`
	Probe     time.Duration `help:"How long each rate is tried." default:"4s" group:"Limit"`
	Budget    time.Duration `help:"How long the search may take, for each system." default:"75s" group:"Limit"`

	Idle int           `help:"Connect so many idle cameras first, and look at the memory of our processes." default:"0" group:"Memory"`
	Rest time.Duration `help:"How long they rest before that look." default:"10s" group:"Memory"`

	JSON     string `name:"json" help:"Write the report here as JSON." placeholder:"FILE" group:"Report"`
	HTML     string `name:"html" help:"Write the report here as one page with charts." placeholder:"FILE" group:"Report"`
	Markdown string `help:"Write the report here as Markdown." placeholder:"FILE" group:"Report"`

	// How the bench starts the bridge, as a process of its own.
	Bridge    string `hidden:"" help:"Be the bridge that this file of the bench describes."`
	ReadyFile string `hidden:"" help:"Tell here where the bridge listens."`
}

// Help tells what the figures mean, and shows examples.
func (benchCommand) Help() string {
	return `Broker, API and Redis are started as processes of their own on this machine, and stopped again. Exchanges begin when
the schedule says, however slow the system is, and their latency counts from that moment. Figures depend on the machine:
compare what was measured in one run.

Examples:
  signal-device bench
  signal-device bench --redis start --against floor,bridge --html bench.html
  signal-device bench --find-limit --p99 50ms
  signal-device bench --idle 1000 --duration 5s
  signal-device bench --server http://127.0.0.1:8080 --token "$TOKEN" --rate 20`
}

// Run measures, and shows what was found.
func (c *benchCommand) Run(ctx context.Context, env *environment) error {
	if c.Bridge != "" {
		return bench.RunBridge(ctx, c.Bridge, c.ReadyFile)
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	progress := newBenchProgress(env.err)
	config := bench.Config{
		Cameras: c.Cameras, Clients: c.Clients, Rate: c.Rate, Poisson: c.Poisson, Seed: c.Seed,
		Duration: c.Duration, Warmup: c.Warmup, Rounds: c.Rounds, Timeout: c.Timeout,
		Command: c.Command, Payload: c.Payload,
		Against: c.Against, Redis: c.Redis, Data: c.Data,
		Server: c.Server, Tokens: c.Token, PIDs: c.PID,
		FindLimit: c.FindLimit, P99: c.P99, Probe: c.Probe, Budget: c.Budget,
		Idle: c.Idle, Rest: c.Rest,
		Binary: binary, Version: version(), Progress: progress.tell,
	}
	if err := config.Validate(); err != nil {
		return usageError{err}
	}
	report, err := bench.Run(ctx, config)
	progress.end()
	if err != nil {
		return err
	}
	return errors.Join(
		report.WriteText(env.out),
		writeFile(c.JSON, func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(report)
		}),
		writeFile(c.HTML, report.WriteHTML),
		writeFile(c.Markdown, report.WriteMarkdown),
	)
}

// writeFile lets write fill a file; "" is none.
func writeFile(path string, write func(io.Writer) error) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}

// version names this build in a report.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	return strings.TrimSpace(info.Main.Version + " " + strings.TrimSuffix(commit(info), " "))
}

// benchProgress shows how a run goes: on a terminal in one line that changes, else one line for each stage.
type benchProgress struct {
	out      io.Writer
	terminal bool
	stage    string
	written  int // characters of the line that changes
}

func newBenchProgress(out io.Writer) *benchProgress {
	p := &benchProgress{out: out}
	if f, ok := out.(*os.File); ok {
		info, err := f.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

func (p *benchProgress) tell(s bench.Status) {
	line := s.Stage
	if s.Done > 0 {
		line = fmt.Sprintf("%s: %d of %d exchanges, p99 %.1f ms, %d failed", s.Stage, s.Done, s.Total, s.P99, s.Failed)
	}
	switch {
	case p.terminal:
		fmt.Fprintf(p.out, "\r%-*s", p.written, line)
		p.written = len(line)
	case s.Stage != p.stage:
		fmt.Fprintln(p.out, line)
	}
	p.stage = s.Stage
}

// end leaves a clean line behind.
func (p *benchProgress) end() {
	if p.terminal {
		fmt.Fprintf(p.out, "\r%-*s\r", p.written, "")
	}
}
