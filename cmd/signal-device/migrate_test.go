package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"signaldevice/broker"
	"signaldevice/broker/identity"
	"signaldevice/brokerlink"
	"signaldevice/migrate"
	"signaldevice/migrate/migratetest"
)

// site is a running broker, and an export of devices for it.
type site struct {
	broker *broker.Broker
	export string
	link   *brokerlink.Link
}

func newSite(t *testing.T, devices int) *site {
	t.Helper()
	s := &site{export: t.TempDir()}
	migratetest.Export(t, s.export, devices)
	var err error
	s.broker, err = broker.Start(t.Context(), broker.Config{DataDir: t.TempDir(), MQTTAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := s.broker.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	cert, key := s.broker.ClientCertificate(identity.RoleOperator)
	s.link, err = brokerlink.Dial(brokerlink.Config{
		Addrs: []string{s.broker.GRPCAddr().String()}, CAFile: s.broker.CAFile(), CertFile: cert, KeyFile: key,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.link.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// migrate is the command of somebody with a certificate of that role.
func (s *site) migrate(t *testing.T, role identity.Role, more ...string) *exec.Cmd {
	t.Helper()
	cert, key := s.broker.ClientCertificate(role)
	return exec.CommandContext(t.Context(), "signal-device", append([]string{
		"migrate", "--from", s.export, "--broker", s.broker.GRPCAddr().String(),
		"--broker-ca", s.broker.CAFile(), "--broker-cert", cert, "--broker-key", key,
	}, more...)...)
}

func TestMigrate_WritesNothing(t *testing.T) {
	s := newSite(t, 3)
	out, err := s.migrate(t, identity.RoleOperator, "--dry-run").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "To move: 3, there already: 0, problems: 0.\n") || !strings.Contains(string(out), "\nNothing was written.\n") {
		t.Errorf("a dry run: %v:\n%s", err, out)
	}
	out, err = s.migrate(t, identity.RoleService).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != exitFailed || !strings.Contains(string(out), "\nThe certificate must have the role operator") {
		t.Errorf("with the API's certificate: %v:\n%s", err, out)
	}
	if n := s.count(t); n != 0 {
		t.Errorf("%d devices are there", n)
	}
}

// The program is killed in the middle of a move, and the same command goes on where it stopped: nothing is doubled and
// nothing is half written.
func TestMigrate_KilledAndResumed(t *testing.T) {
	const total = 600
	s := newSite(t, total)
	command := func() *exec.Cmd { return s.migrate(t, identity.RoleOperator) }
	first := command()
	stderr, err := first.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err != nil || line != "60 of 600 devices\n" {
		t.Errorf("first line of progress %q, %v", line, err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, stderr)
	if err := first.Wait(); err == nil {
		t.Fatal("it was killed after it had ended: the test needs more devices")
	}
	written := s.count(t)
	if written < total/10 || written == total {
		t.Errorf("%d devices after the kill", written)
	}

	out, err := command().CombinedOutput()
	summary := regexp.MustCompile(`(?m)^Moved: (\d+), there already: (\d+), problems: 0\. It took `).FindStringSubmatch(string(out))
	if err != nil || summary == nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	moved, present := number(t, summary[1]), number(t, summary[2])
	if present < written || moved+present != total || s.count(t) != total {
		t.Errorf("%d were written, then %s, and %d are there", written, summary[0], s.count(t))
	}
	out, err = command().CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Moved: 0, there already: 600, problems: 0.") {
		t.Errorf("once more: %v:\n%s", err, out)
	}
}

// count counts the devices, each of which must have its certificate.
func (s *site) count(t *testing.T) int {
	t.Helper()
	all, err := migrate.Devices(t.Context(), s.link)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range all {
		if len(d.Certificates) != 1 {
			t.Errorf("device %s has %d certificates", d.ID, len(d.Certificates))
		}
	}
	return len(all)
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestProgress_Terminal(t *testing.T) {
	var out strings.Builder
	p := &progress{out: &out, total: 4, bar: true}
	for n := range 4 {
		p.show(n + 1)
	}
	want := "\r[##########..............................] 1/4" + "\r[####################....................] 2/4" +
		"\r[##############################..........] 3/4" + "\r[########################################] 4/4\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

// What stands in a file must not write to the terminal of whoever reads the table.
func TestFindings_OneLineEach(t *testing.T) {
	got := findingsText("Notes", []migrate.Finding{{Place: "device a\x1b[2J", Text: "b\nc\td\u009b"}, {Place: "é", Text: "ü"}})
	if got != "Notes\n  device a [2J  b c d \n  é             ü\n\n" {
		t.Errorf("%q", got)
	}
}
