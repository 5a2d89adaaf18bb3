// Package child runs other programs as children of this process: Redis, Mosquitto, and this program itself.
//
// A started child answers, keeps its files in a folder that its owner names, survives Kill and Restart on the same port
// and folder, and ends when this process does, at the latest (on Linux; elsewhere a killed parent leaves it behind).
// Nothing here is for production use: no restarts by itself, no log rotation. Package testserver gives tests the same
// programs, with their clean-up.
//
// A Process is used by one goroutine at a time; Done, Addr and PID are safe for concurrent use between two restarts.
package child

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startTimeout = 10 * time.Second // until a started program answers
	stopTimeout  = 12 * time.Second // from SIGTERM to SIGKILL; this program's own promise is 10 s
	pollEvery    = 5 * time.Millisecond
	portAttempts = 5 // another program may take a free port before the child does
	lastLines    = 10
)

// Program says how to run a program and how to tell that it serves.
type Program struct {
	Name string   // of the log file and in errors; also the executable, where Path names none
	Path string   // the executable; "": Name, looked up in PATH
	Env  []string // as of exec.Cmd; nil: this process's own

	// Args returns the command line. Files go into dir; port was free a moment ago.
	Args func(dir string, port int) ([]string, error)

	// Ready returns nil once the program serves. It is called again and again until then, each time with what is left
	// of the time that a start may take.
	Ready func(p *Process, within time.Duration) error
}

// Process is one running program.
type Process struct {
	prog Program
	path string
	dir  string
	port int
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
}

// Start runs the program in the folder, on a free port of the loopback interface, and returns once it is ready. An error
// leaves nothing running; one that is exec.ErrNotFound means that the program is not installed.
func Start(dir string, prog Program) (*Process, error) {
	path := prog.Path
	if path == "" {
		var err error
		if path, err = exec.LookPath(prog.Name); err != nil {
			return nil, fmt.Errorf("%s is not installed: run `make setup`: %w", prog.Name, exec.ErrNotFound)
		}
	}
	p := &Process{prog: prog, path: path, dir: dir}
	var err error
	for range portAttempts {
		if p.port, err = FreePort(); err != nil {
			return nil, err
		}
		if err = p.run(); err == nil {
			return p, nil
		}
		if !p.ended() {
			p.Kill()
			break // with another port it would be as slow again
		}
	}
	return nil, fmt.Errorf("%s does not start: %w", prog.Name, err)
}

// Addr returns 127.0.0.1:port.
func (p *Process) Addr() string { return fmt.Sprintf("127.0.0.1:%d", p.port) }

// Port returns the port that the program was given.
func (p *Process) Port() int { return p.port }

// Dir returns the folder of its files.
func (p *Process) Dir() string { return p.dir }

// PID returns the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// ended reports whether there is no such process any more, or never was.
func (p *Process) ended() bool {
	if p.cmd == nil {
		return true
	}
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// run starts the program and waits until it is ready or has ended.
func (p *Process) run() error {
	args, err := p.prog.Args(p.dir, p.port)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(p.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(p.path, args...) //nolint:noctx // it lives until Kill or Shutdown, not as long as a call
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = p.dir, p.prog.Env, log, log
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

func (p *Process) waitReady() error {
	deadline := time.Now().Add(startTimeout)
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := p.prog.Ready(p, time.Until(deadline))
		if err == nil {
			return nil
		}
		if !time.Now().Before(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w; %s", p.Addr(), startTimeout, err, p.LastWords())
		}
		select {
		case <-p.done:
			return fmt.Errorf("it has ended; %s", p.LastWords())
		case <-tick.C:
		}
	}
}

// Kill ends the process at once, as kill -9 does, and returns when it is gone. Its files stay.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails only where it has ended
	<-p.done
}

// Restart kills the process and starts the program again on the same port with the same files.
func (p *Process) Restart() error {
	p.Kill()
	if err := p.run(); err != nil {
		return fmt.Errorf("%s does not start again: %w", p.prog.Name, err)
	}
	return nil
}

// Signal sends a signal.
func (p *Process) Signal(s syscall.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s: %v: %w", p.prog.Name, s, err)
	}
	return nil
}

// Shutdown ends the process in its own way, by SIGTERM, or by force where that takes too long.
func (p *Process) Shutdown() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only where it has ended
	_ = p.cmd.Process.Signal(syscall.SIGCONT) // a frozen process acts on SIGTERM only when it goes on
	select {
	case <-p.done:
	case <-time.After(stopTimeout):
		p.Kill()
	}
}

func (p *Process) logFile() string { return filepath.Join(p.dir, p.prog.Name+".log") }

// LastWords returns the end of what the program wrote on its standard output and standard error.
func (p *Process) LastWords() string {
	log, err := os.ReadFile(p.logFile())
	if err != nil {
		return err.Error()
	}
	lines := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	lines = lines[max(0, len(lines)-lastLines):]
	return "the end of its log:\n" + strings.ToValidUTF8(string(bytes.Join(lines, []byte("\n"))), "?")
}

// FreePort returns a port of the loopback interface that nothing listened on a moment ago.
func FreePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it blocks on nothing
	if err != nil {
		return 0, fmt.Errorf("no free port: %w", err)
	}
	defer l.Close()
	addr, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("no free port: the listener is not of TCP")
	}
	return addr.Port, nil
}

// Connects is a Ready for programs that serve as soon as they accept connections.
func Connects(p *Process, within time.Duration) error {
	conn, err := net.DialTimeout("tcp", p.Addr(), within) //nolint:noctx // within is its limit
	if err != nil {
		return err
	}
	return conn.Close()
}
