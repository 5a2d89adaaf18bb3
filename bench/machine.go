package bench

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Machine describes where a report was made. A field that the system does not tell is empty.
type Machine struct {
	CPU       string  `json:"cpu,omitempty"`
	Cores     int     `json:"cores"`
	MemoryMB  int64   `json:"memory_mb,omitempty"`
	OS        string  `json:"os"`
	Go        string  `json:"go"`
	LoadAvg   float64 `json:"load_average"` // of the minute before; above a few tenths, others used the machine too
	FsyncP50  float64 `json:"fsync_p50_ms"` // appending 4 KB and making them durable, in the data folder
	FsyncP99  float64 `json:"fsync_p99_ms"`
	Mosquitto string  `json:"mosquitto,omitempty"` // version, where it is measured
	Redis     string  `json:"redis,omitempty"`     // version, where it is used
}

// describe looks at the machine. dir is where the systems will keep their data.
func describe(proc procfs, dir string) (Machine, error) {
	m := Machine{Cores: runtime.NumCPU(), OS: runtime.GOOS + "/" + runtime.GOARCH, Go: runtime.Version()}
	if cpu, err := fs.ReadFile(proc, "cpuinfo"); err == nil {
		m.CPU = field(cpu, "model name")
	}
	if memory, err := fs.ReadFile(proc, "meminfo"); err == nil {
		total, _ := kilobytesIn(memory, "MemTotal:") // 0 where it is not told
		m.MemoryMB = total >> 20
	}
	if release, err := fs.ReadFile(proc, "sys/kernel/osrelease"); err == nil {
		m.OS += " " + strings.TrimSpace(string(release))
	}
	if load, err := fs.ReadFile(proc, "loadavg"); err == nil {
		first, _, _ := strings.Cut(string(load), " ")
		m.LoadAvg, _ = strconv.ParseFloat(first, 64) // 0 where it is not told
	}
	costs, err := fsyncCosts(dir)
	if err != nil {
		return Machine{}, err
	}
	m.FsyncP50, m.FsyncP99 = millis(percentile(costs, 0.50)), millis(percentile(costs, 0.99))
	return m, nil
}

// field returns the value of the first line "name : value".
func field(file []byte, name string) string {
	for line := range strings.Lines(string(file)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

const (
	fsyncs     = 200
	fsyncBytes = 4 << 10
)

// fsyncCosts returns how long it takes to append some bytes to a file in the folder and make them durable, many times,
// sorted.
func fsyncCosts(dir string) ([]time.Duration, error) {
	f, err := os.CreateTemp(dir, "fsync-*")
	if err != nil {
		return nil, fmt.Errorf("measure fsync: %w", err)
	}
	defer func() {
		f.Close()
		_ = os.Remove(f.Name()) // the folder is temporary, or the user sees what is left
	}()
	costs := make([]time.Duration, fsyncs)
	block := make([]byte, fsyncBytes)
	for i := range costs {
		began := time.Now()
		if _, err = f.Write(block); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return nil, fmt.Errorf("measure fsync: %w", err)
		}
		costs[i] = time.Since(began)
	}
	slices.Sort(costs)
	return costs, nil
}

// versionOf returns the first word with a digit and a dot in what a program says of its version, without "v=".
func versionOf(ctx context.Context, program string, args ...string) string {
	said, _ := exec.CommandContext(ctx, program, args...).CombinedOutput() // `mosquitto -h` ends with 3
	for word := range strings.FieldsSeq(string(said)) {
		word = strings.TrimPrefix(word, "v=")
		if strings.Contains(word, ".") && word[0] >= '0' && word[0] <= '9' {
			return word
		}
	}
	return ""
}

// String is one line for people.
func (m Machine) String() string {
	cpu := m.CPU
	if cpu != "" {
		cpu = " (" + cpu + ")"
	}
	memory := ""
	if m.MemoryMB > 0 {
		memory = fmt.Sprintf(", %d GB", (m.MemoryMB+512)>>10)
	}
	return fmt.Sprintf("%d cores%s%s, %s, %s, fsync of 4 KB %s ms (p99 %s ms)",
		m.Cores, cpu, memory, m.OS, m.Go, number(m.FsyncP50), number(m.FsyncP99))
}
