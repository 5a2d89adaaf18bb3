package audit

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"signaldevice/device"
)

func open(t *testing.T, path string) *Log {
	t.Helper()
	log, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	return log
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestLog_AppendsToAFileOfItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	for _, line := range []string{"one\n", "two\n"} {
		if err := open(t, path).write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	if got := read(t, path); got != "one\ntwo\n" {
		t.Errorf("the file holds %q", got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

func TestLog_ReopenGoesOnInANewFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log := open(t, path)
	if err := log.write([]byte("old\n")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	if err := log.write([]byte("moved\n")); err != nil {
		t.Fatal(err)
	}
	if err := log.Reopen(); err != nil {
		t.Fatal(err)
	}
	if err := log.write([]byte("new\n")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, path+".1") + "|" + read(t, path); got != "old\nmoved\n|new\n" {
		t.Errorf("the files hold %q", got)
	}
}

func TestLog_ReopenThatFailsKeepsTheFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "audit.log")
	log := open(t, path)
	if err := os.Rename(dir, dir+".1"); err != nil {
		t.Fatal(err)
	}
	if err := log.Reopen(); err == nil {
		t.Error("a folder that is gone was opened")
	}
	if err := log.write([]byte("line\n")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(dir+".1", "audit.log")); got != "line\n" {
		t.Errorf("the file holds %q", got)
	}
}

func TestLog_LosesAndMixesNoLineWhileItIsReopened(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	log := open(t, path)
	const writers, each = 4, 200
	line := strings.Repeat("x", 500) + "\n"
	var group sync.WaitGroup
	for range writers {
		group.Go(func() {
			for range each {
				if err := log.write([]byte(line)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 20 {
		if err := log.Reopen(); err != nil {
			t.Error(err)
		}
	}
	group.Wait()
	if got := read(t, path); got != strings.Repeat(line, writers*each) {
		t.Errorf("%d bytes, want %d", len(got), writers*each*len(line))
	}
}

func TestLog_FileThatCannotBeWritten(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none", "audit.log")); err == nil {
		t.Error("a file in a folder that is not there was opened")
	}
	// A closed file stands for every file that takes no writes.
	log := open(t, filepath.Join(t.TempDir(), "audit.log"))
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	called := false
	s := newService(&fakeService{before: func() { called = true }}, log)
	if err := s.DeleteDevice(t.Context(), panel, cam); !device.Is(err, device.AuditUnavailable) || called {
		t.Errorf("got %v, called %v", err, called)
	}
}

func TestLog_StandardErrorIsLeftAlone(t *testing.T) {
	log := NewLog(&failing{})
	if err := log.Reopen(); err != nil {
		t.Error(err)
	}
	if err := log.Close(); err != nil {
		t.Error(err)
	}
	if err := log.write([]byte("line\n")); err != nil {
		t.Error(err)
	}
}
