// Package testserver starts other people's programs for tests: Redis, Mosquitto and HAProxy.
//
// Each server listens on free ports of the loopback interface, keeps its files in a folder of the test's own and is
// stopped when the test ends. A constructor returns once the server answers; it ends the test, with one line that says
// what to do, where the program is not installed or does not start. Nothing is ever skipped. Package child, below this
// folder, starts the same programs outside of tests.
//
// The constructors and methods end the test by t.Fatal and so belong to the test's own goroutine.
package testserver

import (
	"errors"
	"os/exec"
	"syscall"
	"testing"

	"signaldevice/testserver/child"
)

// process is one running server. It survives Kill and Restart on the same port and folder.
type process struct {
	t     testing.TB
	name  string
	child *child.Process
}

// start runs the program and stops it when the test ends.
func start(t testing.TB, prog child.Program) *process {
	t.Helper()
	c, err := child.Start(t.TempDir(), prog)
	if errors.Is(err, exec.ErrNotFound) {
		t.Fatalf("%s is not installed: run `make setup`", prog.Name)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, name: prog.Name, child: c}
	t.Cleanup(p.shutdown)
	return p
}

// Kill ends the server at once, as kill -9 does, and returns when it is gone. Its files stay.
func (p *process) Kill() { p.child.Kill() }

// Restart starts the server again on the same address with the same files, and returns when it answers.
func (p *process) Restart() {
	p.t.Helper()
	if err := p.child.Restart(); err != nil {
		p.t.Fatal(err)
	}
}

// Stop freezes the server by SIGSTOP: its connections stay open and nothing answers.
func (p *process) Stop() { p.signal(syscall.SIGSTOP) }

// Continue lets a frozen server go on.
func (p *process) Continue() { p.signal(syscall.SIGCONT) }

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.child.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) shutdown() {
	if p.t.Failed() {
		p.t.Logf("%s on %s: %s", p.name, p.child.Addr(), p.child.LastWords())
	}
	p.child.Shutdown()
}

// freePort returns a port that nothing listened on a moment ago.
func freePort(t testing.TB) int {
	t.Helper()
	port, err := child.FreePort()
	if err != nil {
		t.Fatal(err)
	}
	return port
}
