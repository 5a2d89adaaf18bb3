package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// The systems that are measured.
const (
	Ours   = "signal-device" // this program
	Floor  = "floor"         // bare Mosquitto
	Bridge = "bridge"        // HTTP, Mosquitto, Redis and a few hundred lines between them
)

// system is one way of bringing a command to a camera and its reply back: started, with its cameras connected.
type system struct {
	name      string
	exchange  exchange
	cameras   *fleet
	processes []process
	stops     []func() // to be called last one first
}

// process is one process of a system.
type process struct {
	name string
	pid  int
}

func (s *system) onStop(stop func()) { s.stops = append(s.stops, stop) }

// stop ends the system's processes and connections.
func (s *system) stop() {
	for _, stop := range slices.Backward(s.stops) {
		stop()
	}
	s.stops = nil
}

// startSystem starts a system by its name, in a folder of its own below dir.
func startSystem(ctx context.Context, cfg Config, name, dir string) (*system, error) {
	start := map[string]func(*system, context.Context, Config, string) error{
		Ours: (*system).startOurs, Floor: (*system).startFloor, Bridge: (*system).startBridge,
	}[name]
	if start == nil {
		return nil, fmt.Errorf("%s: no such system", name)
	}
	dir = filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &system{name: name}
	if err := start(s, ctx, cfg, dir); err != nil {
		s.stop()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

// useCameras connects the cameras of the system.
func (s *system) useCameras(ctx context.Context, places []place, payload int) error {
	cameras, err := connectFleet(ctx, places, payload)
	if err != nil {
		return err
	}
	s.cameras = cameras
	s.onStop(cameras.close)
	return nil
}

// ids returns the device ids of places.
func ids(places []place) []string {
	list := make([]string, len(places))
	for i, p := range places {
		list[i] = p.id
	}
	return list
}
