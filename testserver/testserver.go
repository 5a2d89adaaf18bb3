// Package testserver starts other people's programs for tests: Redis and Mosquitto.
//
// Each server listens on free ports of the loopback interface, keeps its files in a folder of the test's own and is
// stopped when the test ends. A constructor returns once the server answers; it ends the test, with one line that says
// what to do, where the program is not installed or does not start. Nothing is ever skipped.
//
// The constructors and methods end the test by t.Fatal and so belong to the test's own goroutine.
package testserver

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	startTimeout = 10 * time.Second // until a started server answers
	stopTimeout  = 5 * time.Second  // from SIGTERM to SIGKILL
	pollEvery    = 5 * time.Millisecond
	portAttempts = 5 // another program may take a free port before the server does
)

// program is what differs between the kinds of server.
type program struct {
	name  string                                        // the executable
	args  func(dir string, port int) []string           // its command line; files go into dir
	ready func(addr string, within time.Duration) error // nil: it serves
}

// process is one running server. It survives Kill and Restart on the same port and folder.
type process struct {
	t    testing.TB
	prog program
	path string
	dir  string
	port int
	addr string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// start runs the program on a free port and stops it when the test ends.
func start(t testing.TB, prog program) *process {
	t.Helper()
	path, err := exec.LookPath(prog.name)
	if err != nil {
		t.Fatalf("%s is not installed: run `make setup`", prog.name)
	}
	p := &process{t: t, prog: prog, path: path, dir: t.TempDir()}
	t.Cleanup(p.shutdown)
	for range portAttempts {
		p.setPort(freePort(t))
		if err = p.run(); err == nil {
			return p
		}
		p.Kill()
	}
	t.Fatalf("%s does not start: %v", prog.name, err)
	return nil
}

func (p *process) setPort(port int) {
	p.port = port
	p.addr = fmt.Sprintf("127.0.0.1:%d", port)
}

// run starts the program and waits until it is ready or has ended.
func (p *process) run() error {
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path, p.prog.args(p.dir, p.port)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, log, log
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(done)
	}()
	p.cmd, p.done = cmd, done
	return p.waitReady()
}

func (p *process) waitReady() error {
	deadline := time.Now().Add(startTimeout)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := p.prog.ready(p.addr, time.Until(deadline))
		if err == nil {
			return nil
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w; %s", p.addr, startTimeout, err, p.lastWords())
		}
		select {
		case <-p.done:
			return fmt.Errorf("it has ended; %s", p.lastWords())
		case <-tick.C:
		}
	}
}

// Kill ends the server at once, as kill -9 does, and returns when it is gone. Its files stay.
func (p *process) Kill() {
	if p.cmd == nil {
		return
	}
	_ = p.cmd.Process.Kill() // fails only where it has ended
	<-p.done
}

// Restart starts the server again on the same address with the same files, and returns when it answers.
func (p *process) Restart() {
	p.t.Helper()
	p.Kill()
	if err := p.run(); err != nil {
		p.t.Fatalf("%s does not start again: %v", p.prog.name, err)
	}
}

// Stop freezes the server by SIGSTOP: its connections stay open and nothing answers.
func (p *process) Stop() { p.signal(syscall.SIGSTOP) }

// Continue lets a frozen server go on.
func (p *process) Continue() { p.signal(syscall.SIGCONT) }

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatalf("%s: %v: %v", p.prog.name, s, err)
	}
}

// shutdown ends the server in its own way, or by force where it takes too long.
func (p *process) shutdown() {
	if p.cmd == nil {
		return
	}
	if p.t.Failed() {
		p.t.Logf("%s on %s: %s", p.prog.name, p.addr, p.lastWords())
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // a frozen process acts on SIGTERM only when it goes on
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.Kill()
	}
}

func (p *process) logFile() string { return filepath.Join(p.dir, p.prog.name+".log") }

// lastWords returns the end of the server's log.
func (p *process) lastWords() string {
	log, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	lines = lines[max(0, len(lines)-10):]
	return "the end of its log:\n" + strings.ToValidUTF8(string(bytes.Join(lines, []byte("\n"))), "?")
}

// freePort returns a port that nothing listened on a moment ago.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("no free port: %v", err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// connects reports whether something accepts connections there.
func connects(addr string, within time.Duration) error {
	conn, err := net.DialTimeout("tcp", addr, within)
	if err != nil {
		return err
	}
	return conn.Close()
}
