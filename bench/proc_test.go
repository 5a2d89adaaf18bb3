package bench

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func TestProc_ReadsWhatLinuxSays(t *testing.T) {
	stat := []byte("42 (a (strange) name) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 5 0 100 1000 200\n")
	if got, err := cpuIn(stat); err != nil || got != 2*time.Second {
		t.Errorf("CPU %v, %v", got, err)
	}
	if _, err := cpuIn([]byte("42 (cut")); err == nil {
		t.Error("half a line was read")
	}
	rss, peak, err := memoryIn([]byte("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n"))
	if err != nil || rss != 1<<20 || peak != 2<<20 {
		t.Errorf("memory %d, %d, %v", rss, peak, err)
	}
	if _, _, err := memoryIn([]byte("Name:\tx\n")); err == nil {
		t.Error("memory of a file that tells none")
	}
}

func TestUsage_OfOneProcess(t *testing.T) {
	const stat = "7 (signal-device) S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 5 0 100 1000 200\n"
	const status = "Name:\tsignal-device\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n"
	tests := map[string]struct {
		files fstest.MapFS
		fault string
	}{
		"a process":            {fstest.MapFS{"7/stat": {Data: []byte(stat)}, "7/status": {Data: []byte(status)}}, ""},
		"one that has ended":   {fstest.MapFS{}, "process 7"},
		"one that ends now":    {fstest.MapFS{"7/stat": {Data: []byte(stat)}}, "process 7"},
		"a zombie":             {fstest.MapFS{"7/stat": {Data: []byte(stat)}, "7/status": {Data: []byte("Name:\tx\n")}}, "VmRSS"},
		"times that are words": {fstest.MapFS{"7/stat": {Data: []byte(strings.Replace(stat, "150", "x", 1))}, "7/status": {Data: []byte(status)}}, "stat"},
		"memory in words":      {fstest.MapFS{"7/stat": {Data: []byte(stat)}, "7/status": {Data: []byte("VmRSS:\tmuch kB\n")}}, "VmRSS"},
	}
	for name, tt := range tests {
		got, err := procfs{tt.files}.usage(7)
		switch {
		case tt.fault == "" && (err != nil || got != usage{2 * time.Second, 1 << 20, 2 << 20}):
			t.Errorf("%s: %+v, %v", name, got, err)
		case tt.fault != "" && (err == nil || !strings.Contains(err.Error(), tt.fault)):
			t.Errorf("%s: %+v, %v; want an error that names %q", name, got, err, tt.fault)
		}
	}
}

func TestDescribe_ReadsWhatLinuxSays(t *testing.T) {
	proc := procfs{fstest.MapFS{
		"cpuinfo":              {Data: []byte("processor\t: 0\nmodel name\t: Fast One\nprocessor\t: 1\nmodel name\t: Fast Two\n")},
		"meminfo":              {Data: []byte("MemTotal:       16777216 kB\nMemFree: 1 kB\n")},
		"loadavg":              {Data: []byte("0.25 0.50 0.75 1/100 999\n")},
		"sys/kernel/osrelease": {Data: []byte("6.1.0\n")},
	}}
	m, err := describe(proc, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if m.CPU != "Fast One" || m.MemoryMB != 16<<10 || m.LoadAvg != 0.25 || !strings.HasSuffix(m.OS, " 6.1.0") {
		t.Errorf("%+v", m)
	}
	if m.FsyncP50 <= 0 || m.FsyncP99 < m.FsyncP50 {
		t.Errorf("an fsync takes %v ms, in one of a hundred %v ms", m.FsyncP50, m.FsyncP99)
	}
	if line := m.String(); !strings.Contains(line, "(Fast One), 16 GB") {
		t.Errorf("described as %q", line)
	}
}

func TestDescribe_WithoutProcTellsTheRest(t *testing.T) {
	m, err := describe(procfs{fstest.MapFS{}}, t.TempDir())
	if err != nil || m.Cores == 0 || m.CPU != "" || m.MemoryMB != 0 {
		t.Errorf("%+v, %v", m, err)
	}
}
