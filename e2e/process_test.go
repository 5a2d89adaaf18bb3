package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 30 * time.Second // a program under the race detector on a busy machine
	stopTimeout  = 10 * time.Second // the contract: SIGTERM to exit
)

// ready is the ready file as the contract describes it.
type ready struct {
	HTTP       string            `json:"http"`
	Admin      string            `json:"admin"`
	MQTT       string            `json:"mqtt"`
	GRPC       string            `json:"grpc"`
	CA         string            `json:"ca"`
	RegistryID string            `json:"registry_id"`
	Service    keyPair           `json:"service"`
	Operator   keyPair           `json:"operator"`
	Tokens     map[string]string `json:"tokens"`
}

type keyPair struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// process is one running signal-device.
type process struct {
	ready
	t    *testing.T
	cmd  *exec.Cmd
	out  string        // file: standard output
	log  string        // file: standard error
	done chan struct{} // closed when it has ended
}

// start runs signal-device with the arguments and returns once its ready file is there. The process is killed when the
// test ends.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	readyFile := filepath.Join(dir, "ready.json")
	p := &process{t: t, out: filepath.Join(dir, "out"), log: filepath.Join(dir, "log"), done: make(chan struct{})}
	p.cmd = exec.Command("signal-device", append(args, "--ready-file", readyFile)...)
	p.cmd.SysProcAttr = dieWithParent()
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = create(t, p.out), create(t, p.log)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	t.Cleanup(p.kill)
	t.Cleanup(p.showLogOfFailure)
	waitFor(t, startTimeout, "the ready file of "+args[0], func() bool {
		data, err := os.ReadFile(readyFile)
		if errors.Is(err, os.ErrNotExist) {
			if p.ended() {
				t.Fatalf("%s has ended: %s\n%s", args[0], p.cmd.ProcessState, read(t, p.log))
			}
			return false
		}
		if err == nil {
			err = json.Unmarshal(data, &p.ready)
		}
		if err != nil {
			t.Fatalf("the ready file: %v", err)
		}
		return true
	})
	return p
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// kill is kill -9.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // fails only where it has ended
	<-p.done
}

// terminate sends SIGTERM and returns the exit code.
func (p *process) terminate() int {
	p.t.Helper()
	began := time.Now()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	select {
	case <-p.done:
	case <-time.After(2 * stopTimeout):
		p.t.Fatalf("still running %s after SIGTERM", time.Since(began))
	}
	if took := time.Since(began); took > stopTimeout {
		p.t.Errorf("took %s to stop, want at most %s", took, stopTimeout)
	}
	return p.cmd.ProcessState.ExitCode()
}

// showLogOfFailure makes a data race a failure, and shows what the process said: of a race the first report, else the
// end.
func (p *process) showLogOfFailure() {
	const most = 60 // lines
	log := read(p.t, p.log)
	if i := strings.Index(log, "WARNING: DATA RACE"); i >= 0 {
		lines := strings.SplitAfter(log[i:], "\n")
		p.t.Errorf("%s: %s", p.cmd.Args[1], strings.Join(lines[:min(most, len(lines))], ""))
	} else if p.t.Failed() {
		lines := strings.SplitAfter(log, "\n")
		p.t.Errorf("%s: the end of its log:\n%s", p.cmd.Args[1], strings.Join(lines[max(0, len(lines)-most):], ""))
	}
}

// run runs a program to its end and returns what it wrote on standard output. The test fails where it does.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	return runIn(t, "", name, args...)
}

// runIn is run with standard input.
func runIn(t *testing.T, input, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(input), &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, out, stderr.String())
	}
	return string(out)
}

// waitFor polls until the condition holds, and ends the test where it does not in time.
func waitFor(t *testing.T, within time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("waited %s for %s", within, what)
		case <-tick.C:
		}
	}
}

func create(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
