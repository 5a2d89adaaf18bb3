package bench

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden files again")

// exampleReport is a report of three systems in which everything occurs.
func exampleReport() Report {
	one := func(name string, scale float64, processes ...ProcessUse) SystemReport {
		l := Latencies{Count: 200, Mean: 2 * scale, P50: 2 * scale, P95: 4 * scale, P99: 8 * scale, P999: 9 * scale, Max: 10 * scale}
		return SystemReport{
			Name: name,
			Load: Load{
				Scheduled: 200, Completed: 200, Throughput: 100,
				Sent: l, Delivered: l, Done: l, Lag: Latencies{Count: 200, P99: 0.1},
				Processes: append(processes, ProcessUse{Name: driverProcess, CPU: 0.5, RSS: 40 << 20, Peak: 50 << 20}),
				Seconds:   []Second{{100, 99, 2 * scale, 7 * scale}, {100, 101, 2 * scale, 8 * scale}},
				Curve:     []CurvePoint{{0, scale}, {0.5, 2 * scale}, {0.9, 4 * scale}, {0.995, 10 * scale}},
				RoundP99:  []float64{7 * scale, 8 * scale},
			},
			Limit: &Limit{Bound: 50, Rate: math.Round(1000 / scale), Failed: math.Round(2000 / scale), P99: 45, Lag: 2, Probes: []Probe{
				{Rate: 100, P99: 2 * scale, Kept: true}, {Rate: math.Round(2000 / scale), P99: 90, Errors: 1}, {Rate: math.Round(1000 / scale), P99: 45, Kept: true},
			}},
		}
	}
	r := Report{
		MadeAt:  time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC),
		Version: "v1.2.3",
		Machine: Machine{
			CPU: "Example <CPU>", Cores: 4, MemoryMB: 16 << 10, OS: "linux/amd64 6.1", Go: "go1.26", LoadAvg: 0.05,
			FsyncP50: 0.5, FsyncP99: 1.25, Mosquitto: "2.0.11", Redis: "7.0.15",
		},
		Plan: Plan{Cameras: 100, Clients: 10, Rate: 100, Duration: 1, Warmup: 1, Rounds: 2, Command: "ping", Payload: 1000, Cache: "redis"},
		Systems: []SystemReport{
			one(Ours, 1, ProcessUse{"broker", 1.5, 60 << 20, 70 << 20}, ProcessUse{"serve", 1, 40 << 20, 45 << 20}),
			one(Floor, 0.25, ProcessUse{"mosquitto", 0.1, 10 << 20, 11 << 20}),
			one(Bridge, 0.5, ProcessUse{"mosquitto", 0.1, 10 << 20, 11 << 20}, ProcessUse{"bridge", 3, 200 << 20, 210 << 20}),
		},
		Idle: &IdleReport{Cameras: goalCameras, Connect: 2.5, Rest: 10, Processes: []IdleMemory{
			{"broker", 30 << 20, 119 << 20, 130 << 20}, {"serve", 30 << 20, goalAPI, 61 << 20}, {"redis-server", 9 << 20, 9 << 20, 9 << 20},
		}},
	}
	r.Systems[0].Load.Completed, r.Systems[0].Load.Errors, r.Systems[0].Load.CamerasLost = 197, map[string]int{"timeout": 2, "device_offline": 1}, 1
	return r
}

// The golden files are written again by: go test ./bench -run Golden -update.
func TestReport_Golden(t *testing.T) {
	r := exampleReport()
	for name, write := range map[string]func(io.Writer) error{
		"report.txt": r.WriteText, "report.md": r.WriteMarkdown, "report.html": r.WriteHTML,
	} {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			if err := write(&got); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join("testdata", name)
			if *update {
				if err := os.WriteFile(file, got.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.Bytes(), want) {
				t.Errorf("differs from %s at %s", file, firstDifference(got.String(), string(want)))
			}
		})
	}
}

func firstDifference(got, want string) string {
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i, line := range gotLines {
		if i >= len(wantLines) || line != wantLines[i] {
			return "line: " + line
		}
	}
	return "its end"
}

// A page of figures has to open on a machine without a network.
func TestReport_ThePageLoadsNothingAndQuotesAll(t *testing.T) {
	var b bytes.Buffer
	if err := exampleReport().WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	for _, unwanted := range []string{"http:", "https:", "src=", "@import", "url(", "<script", "<CPU>", "NaN", "Inf"} {
		if strings.Contains(b.String(), unwanted) {
			t.Errorf("the page holds %q", unwanted)
		}
	}
}

// What was measured least is shown without a fault too: one system, no processes, every exchange failed.
func TestReport_OfAlmostNothing(t *testing.T) {
	r := Report{Systems: []SystemReport{{Name: Ours, Load: Load{
		Scheduled: 3, Errors: map[string]int{"connection": 3}, Seconds: []Second{{Scheduled: 3}},
	}}}}
	for name, write := range map[string]func(io.Writer) error{
		"text": r.WriteText, "Markdown": r.WriteMarkdown, "HTML": r.WriteHTML,
	} {
		var b bytes.Buffer
		if err := write(&b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if s := b.String(); strings.Contains(s, "NaN") || strings.Contains(s, "Where we lose") {
			t.Errorf("%s: %s", name, s)
		}
	}
}

func TestReport_SurvivesJSON(t *testing.T) {
	data, err := json.Marshal(exampleReport())
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(data, &back); err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	if err := exampleReport().WriteText(&a); err != nil {
		t.Fatal(err)
	}
	if err := back.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if a.String() != b.String() {
		t.Errorf("differs at %s", firstDifference(b.String(), a.String()))
	}
}

func TestRow_Worse(t *testing.T) {
	tests := map[string]struct {
		row  row
		want bool
	}{
		"slower":                    {row{values: []float64{2, 1}, ratio: true}, true},
		"faster":                    {row{values: []float64{1, 2}, ratio: true}, false},
		"slower within the noise":   {row{values: []float64{1.04, 1}, ratio: true}, false},
		"slower than one of two":    {row{values: []float64{2, 3, 1}, ratio: true}, true},
		"a lower rate":              {row{values: []float64{1, 2}, ratio: true, more: true}, true},
		"a higher rate":             {row{values: []float64{2, 1}, ratio: true, more: true}, false},
		"no rate at all":            {row{values: []float64{0, 2}, ratio: true, more: true}, true},
		"nothing to compare with":   {row{values: []float64{2, math.NaN()}, ratio: true}, false},
		"alone":                     {row{values: []float64{2}, ratio: true}, false},
		"a figure without a better": {row{values: []float64{2, 1}}, false},
	}
	for name, tt := range tests {
		if got := tt.row.worse(); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

func TestMeasurement_ReportOfTwoRounds(t *testing.T) {
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	first := []sample{
		{intended: ms(100), sent: ms(2), delivered: ms(3), done: ms(5), lag: ms(1)},
		{intended: ms(900), sent: ms(4), done: ms(200)}, // read in the second second
	}
	second := []sample{{intended: ms(100), failure: failedTimeout}}
	m := &measurement{
		system: &system{cameras: &fleet{}}, rounds: [][]sample{first, second}, length: 2 * time.Second,
		samples:   append(first, sample{intended: ms(1100), failure: failedTimeout}),
		processes: []process{{"broker", 1}, {"gone", 2}},
		cpu:       []time.Duration{ms(10), 0},
		memory:    []usage{{rss: 1 << 20, peak: 2 << 20}, {}},
	}
	l := m.report()
	if l.Scheduled != 3 || l.Completed != 2 || l.Throughput != 1 || l.Errors[failedTimeout] != 1 {
		t.Errorf("%d of %d, %v a second, errors %v", l.Completed, l.Scheduled, l.Throughput, l.Errors)
	}
	if l.Done.P50 != 5 || l.Done.Max != 200 || l.Sent.Max != 4 || l.Delivered.Count != 1 || l.Lag.Max != 1 {
		t.Errorf("%+v", l)
	}
	if len(l.Processes) != 1 || l.Processes[0] != (ProcessUse{"broker", 5, 1 << 20, 2 << 20}) {
		t.Errorf("processes %+v, want the one that was seen, with 10 ms over two exchanges", l.Processes)
	}
	want := []Second{{Scheduled: 2, Completed: 1, P50: 5, P99: 200}, {Scheduled: 1, Completed: 1}}
	if len(l.Seconds) != 2 || l.Seconds[0] != want[0] || l.Seconds[1] != want[1] {
		t.Errorf("seconds %+v, want %+v", l.Seconds, want)
	}
}

func TestWithoutWarmup_CountsFromItsEnd(t *testing.T) {
	got := withoutWarmup([]sample{{intended: time.Second - 1}, {intended: time.Second}, {intended: 3 * time.Second}}, time.Second)
	if len(got) != 2 || got[0].intended != 0 || got[1].intended != 2*time.Second {
		t.Errorf("%+v", got)
	}
}
