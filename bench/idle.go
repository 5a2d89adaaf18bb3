package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// IdleReport is the memory of our processes with cameras that are connected and do nothing.
type IdleReport struct {
	Cameras   int          `json:"cameras"`
	Connect   float64      `json:"connect_s"` // seconds from the first registration until all are subscribed
	Rest      float64      `json:"rest_s"`    // seconds from then until the look at memory
	Processes []IdleMemory `json:"processes"`
}

// IdleMemory is the memory of one process, in bytes.
type IdleMemory struct {
	Process string `json:"process"`
	Before  int64  `json:"before"` // before the first camera
	After   int64  `json:"after"`  // with all cameras, at rest
	Peak    int64  `json:"peak"`   // since the process began
}

// idle starts our system for itself, connects cameras and looks at its memory.
func (r *runner) idle(ctx context.Context) (*IdleReport, error) {
	cfg := r.cfg
	r.stage("idle: starting")
	s := &system{name: Ours}
	defer s.stop()
	dir := filepath.Join(r.dir, "idle")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	api, err := s.reachAPI(ctx, cfg, dir)
	if err != nil {
		return nil, err
	}
	m := newMeasurement(s, r.proc)
	before := m.usages()
	r.stage("idle: connecting %d cameras", cfg.Idle)
	began := time.Now()
	places, err := s.registerCameras(ctx, cfg, api, cfg.Idle)
	if err != nil {
		return nil, err
	}
	if err := s.useCameras(ctx, places, cfg.Payload); err != nil {
		return nil, err
	}
	connect := time.Since(began)
	r.stage("idle: %d cameras rest for %s", cfg.Idle, cfg.Rest)
	if !sleep(ctx, cfg.Rest) {
		return nil, context.Cause(ctx)
	}
	if lost := s.cameras.lost.Load(); lost > 0 {
		return nil, fmt.Errorf("%d cameras lost their connection", lost)
	}
	after := m.usages()
	report := &IdleReport{Cameras: cfg.Idle, Connect: connect.Seconds(), Rest: cfg.Rest.Seconds()}
	for i, p := range s.processes {
		report.Processes = append(report.Processes, IdleMemory{
			Process: p.name, Before: before[i].rss, After: after[i].rss, Peak: after[i].peak,
		})
	}
	return report, nil
}

// sleep reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
