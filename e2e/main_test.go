// Package e2e tests the compiled program from outside, as operators, panels and cameras meet it: processes that are
// started by command line, spoken to over HTTP, MQTT and gRPC by clients that are not ours, and killed.
//
// The binary is built once for each run, with the race detector. Every test starts what it needs on free ports in a
// folder of its own. The tests ask for redis-server, mosquitto-clients, haproxy, openssl, curl, node and MQTT.js: `make
// setup`.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "signal-device-e2e-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	build := exec.Command("go", "build", "-race", "-o", filepath.Join(dir, "signal-device"), "signaldevice/cmd/signal-device")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n%s", build, err, out)
		os.Exit(1)
	}
	for name, value := range map[string]string{
		"PATH":   dir + string(os.PathListSeparator) + os.Getenv("PATH"),
		"GORACE": "atexit_sleep_ms=0", // else every process sleeps for a second before it ends
	} {
		if err := os.Setenv(name, value); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir) // a temporary folder
		os.Exit(code)
	}))
}
