package testserver_test

import (
	"fmt"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/testserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ask runs redis-cli, an independent client, and returns what it printed.
func ask(t *testing.T, s *testserver.RedisServer, args ...string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.Addr)
	out, err := exec.CommandContext(t.Context(), "redis-cli", append([]string{"-p", port}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestRedis_KeepsItsDataAndAddressOverAKill(t *testing.T) {
	s := testserver.Redis(t, "--appendfsync", "always")
	ask(t, s, "SET", "k", "v")
	s.Kill()
	if conn, err := net.Dial("tcp", s.Addr); err == nil {
		conn.Close()
		t.Fatal("something still listens after Kill")
	}
	s.Restart()
	if got := ask(t, s, "GET", "k"); got != "v" {
		t.Errorf("GET after a restart: %q", got)
	}
}

func TestRedis_DefaultsAndOptions(t *testing.T) {
	s := testserver.Redis(t, "--maxmemory", "10mb")
	for option, want := range map[string]string{
		"appendonly": "yes", "maxmemory-policy": "noeviction", "save": "", "maxmemory": "10485760",
	} {
		if got := ask(t, s, "CONFIG", "GET", option); got != strings.TrimSpace(option+"\n"+want) {
			t.Errorf("CONFIG GET %s: %q, want %q", option, got, want)
		}
	}
}

func TestRedis_StopFreezesAndContinueThaws(t *testing.T) {
	s := testserver.Redis(t)
	s.Stop()
	conn, err := net.Dial("tcp", s.Addr) // the kernel still accepts
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 7)
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := conn.Read(answer); err == nil {
		t.Fatalf("a frozen server answered %q", answer[:n])
	}
	s.Continue()
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(answer); err != nil || string(answer[:n]) != "+PONG\r\n" {
		t.Fatalf("a thawed server answered %q, %v", answer[:n], err)
	}
}

func TestMosquitto_CarriesAMessage(t *testing.T) {
	s := testserver.Mosquitto(t, "max_inflight_messages 5")
	if out, err := exec.CommandContext(t.Context(), "mosquitto_pub", "-p", s.Port(), "-t", "t", "-m", "hello", "-r", "-q", "1").CombinedOutput(); err != nil {
		t.Fatalf("mosquitto_pub: %v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), "mosquitto_sub", "-p", s.Port(), "-t", "t", "-C", "1", "-W", "5").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "hello" {
		t.Fatalf("mosquitto_sub: %v: %s", err, out)
	}
}

func TestMissingProgram_FailsWithOneLine(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	probe := &fatalProbe{TB: t}
	func() {
		defer func() { _ = recover() }()
		testserver.Redis(probe)
	}()
	if want := "redis-server is not installed: run `make setup`"; probe.message != want {
		t.Errorf("message %q, want %q", probe.message, want)
	}
}

// fatalProbe notes what the test would have ended with.
type fatalProbe struct {
	testing.TB
	message string
}

func (p *fatalProbe) Fatalf(format string, args ...any) {
	p.message = strings.TrimSpace(fmt.Sprintf(format, args...))
	panic(p.message)
}
