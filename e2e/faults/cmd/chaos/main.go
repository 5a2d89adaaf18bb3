// Command chaos breaks whole systems of real processes under load, and judges what became of every reply.
//
//	go run ./e2e/faults/cmd/chaos -fault F3            one fault
//	go run ./e2e/faults/cmd/chaos -fault F1,F10        several, each with a system of its own
//	go run ./e2e/faults/cmd/chaos -fault all           all of them
//	go run ./e2e/faults/cmd/chaos -for 15m -rate 200   random faults, from a seed that is printed
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
	"strings"
	"syscall"
	"time"

	"signaldevice/e2e/faults"
)

// Exit codes.
const (
	exitKept = iota
	exitBroken
	exitFailed
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(code)
}

type options struct {
	fault  string
	each   time.Duration
	length time.Duration
	rate   float64
	seed   uint64
	html   string
	doc    string
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
	binary, err := faults.Build(ctx, dir)
	if err != nil {
		return false, err
	}
	fmt.Fprintf(out, "seed %d\n", o.seed)
	kept = true
	var reports []*faults.Report
	for _, steps := range runs {
		report, err := faults.Run(ctx, faults.Config{Binary: binary, Rate: o.rate, Steps: steps, Seed: o.seed, Progress: out})
		if err != nil {
			return false, err
		}
		fmt.Fprintln(out, report.Summary())
		kept = kept && report.Verdict.OK()
		reports = append(reports, report)
	}
	return kept, errors.Join(
		write(o.html, func(w io.Writer) error { return faults.WriteHTML(w, reports) }),
		write(o.doc, func(w io.Writer) error { return faults.WriteReliability(w, reports, command) }),
	)
}

// runs returns the steps of each run.
func (o options) runs() ([][]faults.Step, error) {
	if o.fault == "" {
		return [][]faults.Step{faults.Random(o.seed, o.length)}, nil
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
	var runs [][]faults.Step
	for _, f := range chosen {
		runs = append(runs, []faults.Step{{Fault: f, After: 2 * time.Second, For: o.each}})
	}
	return runs, nil
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
