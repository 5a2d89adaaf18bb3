package camera

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

func TestFleet_RunsAllItsCameras(t *testing.T) {
	const n = 12
	s := newSite(t)
	var cfg FleetConfig
	for i := range n {
		cfg.Cameras = append(cfg.Cameras, Config{Identity: s.identity(fmt.Sprint("cam", i)), Seed: uint64(i)})
	}
	cfg.Starting = 3
	f := must(NewFleet(cfg))(t)
	stop := run(t, f.Run)
	s.waitFor("the fleet", f.Ready())
	for i := range n {
		id := fmt.Sprint("r", i)
		s.send(fmt.Sprint("cam", i), id, "ping", "")
		if r := s.replies(id)[0]; r.topic != fmt.Sprintf("$devices/cam%d/events", i) {
			t.Errorf("%s on %s", r.body, r.topic)
		}
	}
	eventually(t, "every reply has its PUBACK", func() bool { return f.Stats().RepliesAcked == n }) // a subscriber has it sooner
	stop()
	if got := f.Stats(); got.CommandsExecuted != n || got.RepliesAcked != n || got.Connections != n || got.Reconnects != 0 {
		t.Errorf("%+v", got)
	}
}

func TestFleet_ComesBackAfterTheBroker(t *testing.T) {
	const n = 5
	s := newSite(t)
	var cfg FleetConfig
	for i := range n {
		cfg.Cameras = append(cfg.Cameras, Config{Identity: s.identity(fmt.Sprint("cam", i)), Seed: uint64(i)})
	}
	f := must(NewFleet(cfg))(t)
	run(t, f.Run)
	s.waitFor("the fleet", f.Ready())
	s.broker.Restart()
	eventually(t, "all are back", func() bool { return f.Stats().Reconnects == n })
}

func TestFleet_OneFailureStopsAll(t *testing.T) {
	s := newSite(t)
	a := newAPI(s)
	a.refuse = func(_ int, w http.ResponseWriter) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	f := must(NewFleet(FleetConfig{Cameras: []Config{{Identity: s.identity("cam1")}, {Name: "x", API: a.URL, Code: "c"}}}))(t)
	var refusal *EnrolmentError
	if err := f.Run(t.Context()); !errors.As(err, &refusal) || refusal.Status != http.StatusForbidden {
		t.Errorf("Run: %v", err)
	}
}

func TestNewFleet_NamesTheBadCamera(t *testing.T) {
	if _, err := NewFleet(FleetConfig{}); err == nil {
		t.Error("a fleet of nothing was accepted")
	}
	_, err := NewFleet(FleetConfig{Cameras: []Config{{API: "http://x"}, {}}})
	if err == nil || !strings.Contains(err.Error(), "camera 1") {
		t.Errorf("NewFleet: %v", err)
	}
}

// BenchmarkFleet_Idle reports what one idle camera costs this process: `go test -bench Idle -benchtime 1x ./camera`.
// SIGNAL_DEVICE_BENCH_CAMERAS sets how many there are (default 200).
func BenchmarkFleet_Idle(b *testing.B) {
	n := 200
	if v := os.Getenv("SIGNAL_DEVICE_BENCH_CAMERAS"); v != "" {
		n = must(strconv.Atoi(v))(b)
	}
	s := newSite(b)
	one := s.identity("cam")
	for b.Loop() {
		var cfg FleetConfig
		for i := range n {
			id := *one
			id.ID = fmt.Sprint("cam", i)
			cfg.Cameras = append(cfg.Cameras, Config{Identity: &id, Seed: uint64(i)})
		}
		memory, goroutines := inUse(), runtime.NumGoroutine()
		f := must(NewFleet(cfg))(b)
		stop := run(b, f.Run)
		<-f.Ready()
		b.ReportMetric(float64(inUse()-memory)/float64(n)/1024, "KB/camera")
		b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/float64(n), "goroutines/camera")
		stop()
	}
}

// inUse returns the bytes of heap and stacks after a garbage collection.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}
