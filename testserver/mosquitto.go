package testserver

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"testing"
)

// MosquittoServer is a running mosquitto.
type MosquittoServer struct {
	*process
	Addr string // 127.0.0.1:port
}

// Mosquitto starts a mosquitto with one listener that admits anybody. conf is more of mosquitto.conf, put after the
// listener's own lines: cafile, certfile and the like so belong to that listener, and a bridge may be declared.
func Mosquitto(t testing.TB, conf string) *MosquittoServer {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatalf("mosquitto: %v", err)
	}
	// Started by root, mosquitto would become a user who cannot read the test's files.
	head := fmt.Sprintf("user %s\nallow_anonymous true\n", me.Username)
	p := start(t, program{
		name: "mosquitto",
		args: func(dir string, port int) []string {
			file := filepath.Join(dir, "mosquitto.conf")
			text := fmt.Sprintf("%slistener %d 127.0.0.1\n%s\n", head, port, conf)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatalf("mosquitto: %v", err)
			}
			return []string{"-v", "-c", file}
		},
		ready: connects,
	})
	return &MosquittoServer{process: p, Addr: p.addr}
}

// Port returns the port of the listener, as command lines take it.
func (s *MosquittoServer) Port() string { return strconv.Itoa(s.port) }
