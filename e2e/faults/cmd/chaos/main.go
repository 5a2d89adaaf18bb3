// Command chaos breaks whole systems of real processes under load, and judges what became of every reply.
//
//	go run ./e2e/faults/cmd/chaos -fault F3            one fault
//	go run ./e2e/faults/cmd/chaos -fault F1,F10        several, each with a system of its own
//	go run ./e2e/faults/cmd/chaos -fault all           all of them
//	go run ./e2e/faults/cmd/chaos -for 15m -rate 200   random faults, from a seed that is printed
//	go run ./e2e/faults/cmd/chaos -for 20m -soak       no faults: what the processes hold has to stay flat
//	go run ./e2e/faults/cmd/chaos -compare             F3, F10 and F11, beside Mosquitto with a bridge into Redis
//
// It exits with 0 when every promise was kept, with 1 when one was broken and with 2 when a run could not be made.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"signaldevice/e2e/faults"
)

// Exit codes.
const (
	exitKept = iota
	exitBroken
	exitFailed
)

// moreGarbage spends memory, of which the journal of a long run takes much anyway, to leave the processors to the system that
// is tried.
const moreGarbage = 400

func main() {
	debug.SetGCPercent(moreGarbage)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

type options struct {
	fault    string
	each     time.Duration
	length   time.Duration
	rate     float64
	seed     uint64
	crowd    int
	parallel int
	soak     bool
	beside   bool
	html     string
	doc      string
	chaos    string
}

func run(ctx context.Context, args []string, out io.Writer) int {
	var o options
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(out)
	flags.StringVar(&o.fault, "fault", "", "`ids` of faults, separated by commas, or all; each has a system of its own")
	flags.DurationVar(&o.each, "each", 10*time.Second, "how long each of them lasts")
	flags.DurationVar(&o.length, "for", 2*time.Minute, "without -fault: how long random faults go on")
	flags.Float64Var(&o.rate, "rate", 50, "exchanges a second")
	flags.Uint64Var(&o.seed, "seed", 0, "of schedule and load; 0: one is drawn")
	flags.StringVar(&o.html, "html", "", "`file` for a report with plots")
	flags.IntVar(&o.crowd, "crowd", 2_000, "`devices` that connect at once in F16")
	flags.IntVar(&o.parallel, "parallel", 1, "how many `runs` go on side by side")
	flags.BoolVar(&o.soak, "soak", false, "no faults at all, and a broker that keeps the request records of a minute: what the processes hold must stay flat in the second half; all is full after ten minutes, so give it twenty")
	flags.BoolVar(&o.beside, "compare", false, "afterwards F3, F10 and F11 beside Mosquitto with a bridge; without -fault nothing else")
	flags.StringVar(&o.chaos, "chaos", "", "`file` for the report of a random run, as docs/chaos.md, or of a soak, as docs/soak.md; its plots go beside it, as .svg")
	flags.StringVar(&o.doc, "doc", "", "`file` for the table of reliability, as docs/reliability.md")
	if err := flags.Parse(args); err != nil {
		return exitFailed
	}
	if o.seed == 0 {
		o.seed = rand.Uint64()%1_000_000 + 1
	}
	kept, err := o.runAll(ctx, out, "go run ./e2e/faults/cmd/chaos "+strings.Join(args, " "))
	switch {
	case err != nil:
		fmt.Fprintln(out, "chaos:", err)
		return exitFailed
	case !kept:
		return exitBroken
	}
	return exitKept
}

// runAll makes all runs, writes the files, and reports whether every promise was kept.
func (o options) runAll(ctx context.Context, out io.Writer, command string) (kept bool, err error) {
	runs, err := o.runs()
	if err != nil {
		return false, err
	}
	dir, err := os.MkdirTemp("", "chaos-*")
	if err != nil {
		return false, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a temporary folder
	binaries := map[bool]string{}            // with a movable clock or without
	fmt.Fprintf(out, "seed %d\n", o.seed)
	kept = true
	build := func(movable bool) (binary string, err error) {
		if binaries[movable] == "" {
			binaries[movable], err = faults.Build(ctx, filepath.Join(dir, fmt.Sprint(movable)), movable)
		}
		return binaries[movable], err
	}
	for i := range runs {
		runs[i].Progress = out
		if runs[i].Binary, err = build(runs[i].MovesClocks()); err != nil {
			return false, err
		}
	}
	reports := make([]*faults.Report, len(runs))
	group, side := errgroup.WithContext(ctx)
	group.SetLimit(o.parallel)
	for i, cfg := range runs {
		group.Go(func() (err error) {
			if reports[i], err = faults.Run(side, cfg); err == nil {
				fmt.Fprintln(out, reports[i].Summary())
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return false, err
	}
	for _, r := range reports {
		kept = kept && r.Verdict.OK()
	}
	var contests []faults.Contest
	if o.beside {
		binary, err := build(false)
		if err != nil {
			return false, err
		}
		cfg := faults.Config{Binary: binary, Rate: o.rate, Seed: o.seed, Progress: out}
		if contests, err = faults.Compare(ctx, cfg, o.each, o.parallel); err != nil {
			return false, err
		}
	}
	for _, c := range contests {
		kept = kept && c.OK()
	}
	return kept, errors.Join(
		write(o.html, func(w io.Writer) error { return faults.WriteHTML(w, reports) }),
		o.writeChaos(reports, command),
		write(o.doc, func(w io.Writer) error { return faults.WriteReliability(w, reports, contests, command) }),
	)
}

// runs returns what each run does.
func (o options) runs() ([]faults.Config, error) {
	cfg := faults.Config{Rate: o.rate, Seed: o.seed, Crowd: o.crowd}
	switch {
	case o.fault == "" && o.beside:
		return nil, nil
	case o.soak:
		cfg.Soak = o.length
		return []faults.Config{cfg}, nil
	case o.fault == "":
		cfg.Steps = faults.Random(o.seed, o.length)
		return []faults.Config{cfg}, nil
	}
	chosen := faults.Faults()
	if o.fault != "all" {
		chosen = nil
		for id := range strings.SplitSeq(o.fault, ",") {
			f, err := faults.Find(id)
			if err != nil {
				return nil, err
			}
			chosen = append(chosen, f)
		}
	}
	var runs []faults.Config
	for _, f := range chosen {
		cfg.Steps = []faults.Step{{Fault: f, After: 2 * time.Second, For: o.each}}
		runs = append(runs, cfg)
	}
	return runs, nil
}

// writeChaos writes the report of a long run and its plots, where they are asked for.
func (o options) writeChaos(reports []*faults.Report, command string) error {
	if o.chaos == "" || len(reports) == 0 {
		return nil
	}
	r := reports[0]
	report := faults.WriteChaos
	if o.soak {
		report = faults.WriteSoak
	}
	plots := strings.TrimSuffix(o.chaos, filepath.Ext(o.chaos)) + ".svg"
	return errors.Join(
		write(plots, func(w io.Writer) error { return faults.WriteSVG(w, r) }),
		write(o.chaos, func(w io.Writer) error { return report(w, r, command, filepath.Base(plots)) }),
	)
}

// write makes a file, where one is asked for.
func write(path string, content func(io.Writer) error) error {
	if path == "" {
		return nil
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(content(f), f.Close())
}
