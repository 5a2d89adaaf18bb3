package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"signaldevice/brokerlink"
	"signaldevice/device"
	"signaldevice/migrate"
)

type migrateCommand struct {
	From       string   `help:"Folder of an export, as docs/migration.md makes it." required:"" placeholder:"DIR" type:"existingdir"`
	Registry   []string `help:"Move only the registry with this id; may be repeated. A disabled one is moved only so." placeholder:"ID"`
	DryRun     bool     `help:"Write nothing, only tell what would be done. Without --broker, the export alone is looked at."`
	Brokers    []string `name:"broker" help:"Where the broker's gRPC listens, every node of it." placeholder:"HOST:PORT" group:"Broker"`
	BrokerCA   string   `name:"broker-ca" help:"The broker's ca.pem." placeholder:"FILE" group:"Broker"`
	BrokerCert string   `help:"Certificate with the role operator: the broker's operator.pem." placeholder:"FILE" group:"Broker"`
	BrokerKey  string   `help:"Its key: the broker's operator.key." placeholder:"FILE" group:"Broker"`
}

// Help tells what happens, and shows examples.
func (migrateCommand) Help() string {
	return `Moves the devices of Yandex IoT Core, with their ids, names, descriptions, labels and certificates, so that a
camera changes only the address and the CA file. The export is made while IoT Core can be read: docs/migration.md has
the script.

Nothing that is in the broker is changed, so the same command may be run again: it goes on where it was interrupted.
It exits with 0 when every device of the export is in the broker, 1 when one is not, and 2 when the command line is
wrong or the folder is no export.

Examples:
  signal-device migrate --from iot-export --dry-run
  signal-device migrate --from iot-export --broker broker:8443 --broker-ca ca.pem \
    --broker-cert operator.pem --broker-key operator.key`
}

// Run reads the export, tells what it will do, and does it.
func (c *migrateCommand) Run(ctx context.Context, env *environment) error {
	if err := c.check(); err != nil {
		return err
	}
	export, err := migrate.Read(os.DirFS(c.From), c.Registry...)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", c.From, err)}
	}
	var link *brokerlink.Link
	var there []device.Device
	if len(c.Brokers) > 0 {
		link, err = brokerlink.Dial(brokerlink.Config{
			Addrs: c.Brokers, CAFile: c.BrokerCA, CertFile: c.BrokerCert, KeyFile: c.BrokerKey,
		})
		if err != nil {
			return err
		}
		defer link.Close()
		if there, err = migrate.Devices(ctx, link); err != nil {
			return err
		}
	}
	plan := migrate.NewPlan(export, there, time.Now())
	if _, err := io.WriteString(env.out, planText(plan)); err != nil {
		return err
	}
	if c.DryRun {
		return c.finish(env.out, "Nothing was written.", len(plan.Faults))
	}
	return c.move(ctx, env, link, plan)
}

// check finds what only the options together can tell.
func (c *migrateCommand) check() error {
	missing := c.BrokerCA == "" || c.BrokerCert == "" || c.BrokerKey == ""
	switch {
	case len(c.Brokers) == 0 && !c.DryRun:
		return usagef("migrate needs --broker HOST:PORT, or --dry-run to look at the export alone")
	case len(c.Brokers) > 0 && missing:
		return usagef("--broker needs --broker-ca, --broker-cert and --broker-key")
	}
	return nil
}

func (c *migrateCommand) move(ctx context.Context, env *environment, link *brokerlink.Link, plan *migrate.Plan) error {
	started := time.Now()
	result, err := migrate.Run(ctx, link, plan, newProgress(env.err, len(plan.Moves)).show)
	far := fmt.Sprintf("%d of %d devices were moved: run the same command again to go on", result.Moved, len(plan.Moves))
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("interrupted: %s", far)
	case device.Is(err, device.Forbidden):
		return fmt.Errorf("%w\nThe certificate must have the role operator: --broker-cert operator.pem", err)
	case err != nil:
		return fmt.Errorf("%w\n%s", err, far)
	}
	faults := len(plan.Faults) + len(result.Faults)
	summary := fmt.Sprintf("Moved: %d, there already: %d, problems: %d. It took %s.",
		result.Moved, plan.Present+result.Present, faults, time.Since(started).Round(time.Millisecond))
	return c.finish(env.out, findingsText("Refused", result.Faults)+summary, faults)
}

// finish prints the last words. The error says that something of the export is not in the broker.
func (c *migrateCommand) finish(out io.Writer, text string, faults int) error {
	if _, err := fmt.Fprintln(out, text); err != nil {
		return err
	}
	if faults > 0 {
		return fmt.Errorf("not everything of %s can be moved: see the problems above", c.From)
	}
	return nil
}

// planText tells what will be done, and what will not.
func planText(plan *migrate.Plan) string {
	return fmt.Sprintf("Registries: %d, devices: %d. To move: %d, there already: %d, problems: %d.\n\n",
		plan.Registries, plan.Devices, len(plan.Moves), plan.Present, len(plan.Faults)) +
		findingsText("Problems: these are not moved", plan.Faults) +
		findingsText("Warnings: these cameras cannot connect, or not as they did", plan.Warnings) +
		findingsText("Notes", plan.Notes)
}

// findingsText is a table, or nothing where there is nothing to tell.
func findingsText(title string, findings []migrate.Finding) string {
	if len(findings) == 0 {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n", title)
	table := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(table, "  %s\t%s\n", oneLine(f.Place), oneLine(f.Text))
	}
	if err := table.Flush(); err != nil {
		panic(err) // a Builder takes everything
	}
	return b.String() + "\n"
}

// oneLine keeps what came from a file from writing lines, or codes of a terminal, of its own.
func oneLine(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c >= 0x7f && c < 0xa0 {
			return ' '
		}
		return c
	}, text)
}

// progress shows how far a move is: a bar on a terminal, elsewhere a line for each tenth.
type progress struct {
	out   io.Writer
	total int
	bar   bool
	shown int // tenths
}

func newProgress(out io.Writer, total int) *progress {
	file, ok := out.(*os.File)
	if ok {
		info, err := file.Stat()
		ok = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return &progress{out: out, total: total, bar: ok}
}

func (p *progress) show(settled int) {
	const width = 40
	if p.bar {
		full := width * settled / p.total
		fmt.Fprintf(p.out, "\r[%s%s] %d/%d", strings.Repeat("#", full), strings.Repeat(".", width-full), settled, p.total)
		if settled == p.total {
			fmt.Fprintln(p.out)
		}
		return
	}
	if tenths := 10 * settled / p.total; tenths > p.shown {
		p.shown = tenths
		fmt.Fprintf(p.out, "%d of %d devices\n", settled, p.total)
	}
}
