package testserver

import (
	"strconv"
	"testing"

	"signaldevice/testserver/child"
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
	p := start(t, child.Mosquitto(conf+"\nlog_type all")) // a failed test shows the log's end
	return &MosquittoServer{process: p, Addr: p.child.Addr()}
}

// Port returns the port of the listener, as command lines take it.
func (s *MosquittoServer) Port() string { return strconv.Itoa(s.child.Port()) }
