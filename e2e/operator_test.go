package e2e

import (
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An operator at a terminal: a server with a name, lists, one command to many cameras, a picture, a request taken back.
func TestOperator_AtATerminal(t *testing.T) {
	s := startSystem(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "token"), s.admin.token+"\n")
	config := write(t, filepath.Join(dir, "servers.yaml"), "servers:\n  here:\n    url: "+s.admin.base+"\n    token_file: token\n")
	t.Setenv("SIGNAL_DEVICE_CONFIG", config)
	t.Setenv("SIGNAL_DEVICE_SERVER", "here")
	code := strings.TrimSpace(run(t, "signal-device", "enrol-code", "--name", "taxi-1", "--label", "city=omsk"))
	runCamera(t, "--server", s.admin.base, "--code", code)
	id := onlyDevice(t, s.admin, "label=city=omsk")
	s.admin.waitOnline(id)
	away := s.admin.newDevice("away")

	t.Run("devices are listed with their presence", func(t *testing.T) {
		wantLine(t, run(t, "signal-device", "devices"), "taxi-1", id, "yes", "city=omsk")
		wantLine(t, run(t, "signal-device", "devices", "--offline"), "away", away.ID, "no", "never")
		wantLine(t, run(t, "signal-device", "devices", "show", id), "Labels", "city=omsk")
	})
	t.Run("a command goes to all with a label", func(t *testing.T) {
		out := run(t, "signal-device", "send", "--label", "city=omsk", "ping", "--wait", "10s")
		wantLine(t, out, "taxi-1", id, "answered")
		wantLine(t, out, "answered", "1")
	})
	t.Run("a snapshot becomes a file", func(t *testing.T) {
		file := filepath.Join(dir, "front.jpg")
		wantLine(t, run(t, "signal-device", "send", id, "snapshot", "--wait", "20s", "--save", file), "image/jpeg")
		if picture := read(t, file); !strings.HasPrefix(picture, "\xff\xd8\xff") {
			t.Errorf("the file starts with %q, want that of a JPEG", picture[:min(len(picture), 8)])
		}
	})
	t.Run("a held request is taken back once", func(t *testing.T) {
		var held accepted
		decode(t, run(t, "signal-device", "send", away.ID, "update_firmware",
			`{"version":"2.11.0","url":"https://firmware.example.org/2.11.0.bin","sha256":"`+strings.Repeat("0a", 32)+`"}`), &held)
		wantLine(t, run(t, "signal-device", "requests", "--device", away.ID), "update_firmware", "held", held.RequestID)
		wantLine(t, run(t, "signal-device", "requests", "cancel", held.RequestID), "State", "cancelled")
		wantLine(t, run(t, "signal-device", "requests", "show", held.RequestID), "cancelled")
	})
	t.Run("exit codes tell why there is no answer", func(t *testing.T) {
		wantExit(t, 3, "send", id, "fly")
		wantExit(t, 4, "send", away.ID, "ping")
		wantExit(t, 5, "send", away.ID, "update_firmware", "--wait", "1s",
			`{"version":"2.11.1","url":"https://firmware.example.org/2.11.1.bin","sha256":"`+strings.Repeat("0b", 32)+`"}`)
	})
}

// wantLine looks for one line that has all the words, in their order.
func wantLine(t *testing.T, out string, words ...string) {
	t.Helper()
next:
	for line := range strings.Lines(out) {
		for _, word := range words {
			_, rest, found := strings.Cut(line, word)
			if !found {
				continue next
			}
			line = rest
		}
		return
	}
	t.Errorf("no line has %q in\n%s", words, out)
}

func wantExit(t *testing.T, code int, args ...string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "signal-device", args...).CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != code {
		t.Errorf("%q ended with %v, want exit code %d, and said\n%s", args, err, code, out)
	}
}
