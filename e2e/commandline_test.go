package e2e

import (
	"encoding/json"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The whole way by our own command line: what an operator types, and what a script reads.

func TestCommandLine_FromCodeToReply(t *testing.T) {
	s := startSystem(t)
	t.Setenv("SIGNAL_DEVICE_SERVER", s.admin.base)
	t.Setenv("SIGNAL_DEVICE_TOKEN", s.admin.token)
	folder := filepath.Join(t.TempDir(), "camera")
	code := strings.TrimSpace(run(t, "signal-device", "enrol-code", "--name", "typed", "--label", "city=omsk", "--expires-in", "10m"))

	runCamera(t, "--code", code, "--data", folder)
	id := onlyDevice(t, s.admin, "label=city=omsk")
	s.admin.waitOnline(id)

	var sent accepted
	decode(t, run(t, "signal-device", "send", id, "ping", "--wait", "10s"), &sent)
	if sent.State != "answered" || len(sent.Replies) != 1 {
		t.Errorf("send answered %+v, want one reply", sent)
	}
	decode(t, run(t, "signal-device", "send", id, "get_status", "--idempotency-key", "k1"), &sent)
	var got replies
	decode(t, run(t, "signal-device", "replies", id, sent.RequestID, "--wait", "10s"), &got)
	if !got.Answered || got.state(sent.RequestID) != "answered" {
		t.Errorf("replies answered %+v, want the reply", got)
	}

	t.Run("a refusal is told with its reason", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), "signal-device", "send", id, "set_volume", `{"level":1000}`).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "invalid_arguments") || !strings.Contains(string(out), "level") {
			t.Errorf("ended with %v and said %s", err, out)
		}
	})
	t.Run("a code is spent once", func(t *testing.T) {
		out, err := exec.CommandContext(t.Context(), "signal-device", "camera", "--code", code).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "invalid_code") || !strings.Contains(string(out), "signal-device enrol-code") {
			t.Errorf("ended with %v and said %s", err, out)
		}
	})
}

// A camera that misbehaves still answers each command, and nothing reaches the wrong client.
func TestCommandLine_CameraWithFaults(t *testing.T) {
	s := startSystem(t)
	code := strings.TrimSpace(run(t, "signal-device", "enrol-code", "--server", s.admin.base, "--token", s.admin.token))
	runCamera(t, "--server", s.admin.base, "--code", code, "--name", "faulty",
		"--duplicate", "--drop-connection", "0.3", "--garbage", "0.5", "--reply-delay", "20ms", "--seed", "7")
	id := onlyDevice(t, s.admin, "name=faulty")

	for range 10 {
		s.alice.waitOnline(id)
		sent := s.alice.ping(id)
		got := s.alice.poll(id, "20", sent.RequestID)
		if len(got.Replies) != 1 || got.Replies[0].Status != "ok" {
			t.Errorf("read %+v, want one reply", got)
		}
	}
	if got := s.bob.poll(id, ""); len(got.Replies) != 0 {
		t.Errorf("bob sent nothing and read %v", got.results())
	}
}

func TestBrokerCert_AdmitsOneMoreClient(t *testing.T) {
	b := startBroker(t)
	out := filepath.Join(t.TempDir(), "api-2")
	printed := strings.TrimSpace(run(t, "signal-device", "broker", "cert", "--data", b.data, "--role", "service", "--out", out))
	if want := filepath.Join(out, "service.pem"); printed != want {
		t.Errorf("printed %q, want %q", printed, want)
	}
	b.Service, b.CA = keyPair{Cert: printed, Key: filepath.Join(out, "service.key")}, filepath.Join(out, "ca.pem")
	tok := newTokens(t, b.data)

	p := start(t, b.serve("--tokens", tok.file)...)

	if got := tok.admin.at(p).devices(); len(got) != 0 {
		t.Errorf("the devices are %v, want an empty list from the broker", got)
	}
}

func TestTokens_AreKnownAndForgottenWhileItRuns(t *testing.T) {
	s := startSystem(t)
	file := filepath.Join(s.data, "tokens.yaml")
	late := api{t: t, base: s.admin.base}
	late.token = strings.TrimSpace(run(t, "signal-device", "token", "create", "--tokens", file, "--client", "late", "--role", "viewer"))
	status := func() int { return late.call("GET", "/v1/me", nil).status }

	waitFor(t, 2*time.Second, "the new token to be known", func() bool { return status() == http.StatusOK })
	var kept []string
	for line := range strings.Lines(read(t, file)) {
		if !strings.Contains(line, `"late"`) {
			kept = append(kept, line)
		}
	}
	write(t, file, strings.Join(kept, ""))
	if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, 2*time.Second, "the token to be revoked", func() bool { return status() == http.StatusUnauthorized })
	s.admin.devices()
}

// runCamera starts `signal-device camera` until the test ends.
func runCamera(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "signal-device", append([]string{"camera"}, args...)...)
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = stopTimeout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Wait() // it answers to SIGTERM; the context of the test has ended
		if code := cmd.ProcessState.ExitCode(); code != 0 || t.Failed() {
			t.Errorf("the camera ended with %d:\n%s", code, said.String())
		}
	})
}

// onlyDevice waits for the one device that a filter of the list finds.
func onlyDevice(t *testing.T, admin api, filter string) string {
	t.Helper()
	var page struct {
		Items []struct {
			ID string `json:"id"`
		} `json:"items"`
	}
	waitFor(t, startTimeout, "a device with "+filter, func() bool {
		admin.call("GET", "/v1/devices?"+filter, nil).into(http.StatusOK, &page)
		return len(page.Items) == 1
	})
	return page.Items[0].ID
}

func decode(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}
