package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// The bench measures this program, the floor and the bridge with real parts, and none of them loses an exchange.
func TestBench_MeasuresAllThree(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bench.json")
	out, err := exec.CommandContext(t.Context(), "signal-device", "bench", "--cameras", "3", "--clients", "2", "--rate", "10",
		"--duration", "2s", "--warmup", "500ms", "--redis", "start", "--against", "floor,bridge", "--json", file).CombinedOutput()
	if err != nil {
		t.Fatalf("bench: %v\n%s", err, out)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var report struct {
		Systems []struct {
			Name string `json:"name"`
			Load struct {
				Scheduled int            `json:"scheduled"`
				Completed int            `json:"completed"`
				Errors    map[string]int `json:"errors"`
			} `json:"load"`
		} `json:"systems"`
	}
	if err := json.Unmarshal(data, &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Systems) != 3 {
		t.Fatalf("%d systems, want 3:\n%s", len(report.Systems), out)
	}
	for _, s := range report.Systems {
		if s.Load.Scheduled == 0 || s.Load.Completed != s.Load.Scheduled || len(s.Load.Errors) != 0 {
			t.Errorf("%s: %d of %d exchanges, errors %v", s.Name, s.Load.Completed, s.Load.Scheduled, s.Load.Errors)
		}
	}
}
