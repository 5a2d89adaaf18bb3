package child_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/testserver/child"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell is a program that is ready at once.
func shell(script string) child.Program {
	return child.Program{
		Name:  "sh",
		Args:  func(string, int) ([]string, error) { return []string{"-c", script}, nil },
		Ready: func(*child.Process, time.Duration) error { return nil },
	}
}

func TestStart_TellsTheLastWordsOfAProgramThatEnds(t *testing.T) {
	prog := shell("echo no disk >&2; exit 1")
	prog.Ready = child.Connects

	_, err := child.Start(t.TempDir(), prog)

	if err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("the error is %v, want one with what the program said", err)
	}
}

func TestStart_TellsAProgramThatIsNotInstalled(t *testing.T) {
	_, err := child.Start(t.TempDir(), child.Program{Name: "no-such-program"})

	if !errors.Is(err, exec.ErrNotFound) || !strings.Contains(fmt.Sprint(err), "make setup") {
		t.Errorf("the error is %v, want one that says how to install it", err)
	}
}

func TestShutdown_EndsAProgramInItsOwnWay(t *testing.T) {
	prog := shell(`trap 'echo good bye; exit 0' TERM; echo hello; while :; do sleep 0.01; done`)
	prog.Ready = func(p *child.Process, _ time.Duration) error {
		if !strings.Contains(p.LastWords(), "hello") {
			return errors.New("it has not set its trap")
		}
		return nil
	}
	p, err := child.Start(t.TempDir(), prog)
	if err != nil {
		t.Fatal(err)
	}

	p.Shutdown()

	select {
	case <-p.Done():
	default:
		t.Error("it still runs")
	}
	if !strings.Contains(p.LastWords(), "good bye") {
		t.Errorf("it did not end by its own wish; %s", p.LastWords())
	}
}

func TestRestart_KeepsPortAndFolder(t *testing.T) {
	p, err := child.Start(t.TempDir(), shell("echo started; exec sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	addr, pid := p.Addr(), p.PID()

	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}

	if p.Addr() != addr || p.PID() == pid {
		t.Errorf("restarted at %s as process %d, before at %s as %d", p.Addr(), p.PID(), addr, pid)
	}
}

func TestOwnEnvironment_LeavesOutWhatWasMeantForTheParent(t *testing.T) {
	got := child.OwnEnvironment([]string{"PATH=/bin", "SIGNAL_DEVICE_REDIS=redis://x", "SIGNAL_DEVICE_LOG_LEVEL=debug"})
	if want := []string{"PATH=/bin", "SIGNAL_DEVICE_LOG_LEVEL=warn"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
