package bench

import (
	"bytes"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of times in /proc: USER_HZ, which is 100 on every architecture that Go runs on.
const ticksPerSecond = 100

// procfs reads the files of /proc. On systems without it every look fails, and a report then has no figures of
// processes.
type procfs struct{ fs.FS }

// usage is what a process has used until now.
type usage struct {
	cpu  time.Duration // user and system time since its start, to 10 ms
	rss  int64         // bytes resident now
	peak int64         // bytes resident at the most since its start
}

// usage looks at a process (proc(5)).
func (p procfs) usage(pid int) (usage, error) {
	stat, err := fs.ReadFile(p, fmt.Sprintf("%d/stat", pid))
	if err != nil {
		return usage{}, fmt.Errorf("process %d: %w", pid, err)
	}
	status, err := fs.ReadFile(p, fmt.Sprintf("%d/status", pid))
	if err != nil {
		return usage{}, fmt.Errorf("process %d: %w", pid, err)
	}
	var u usage
	if u.cpu, err = cpuIn(stat); err == nil {
		u.rss, u.peak, err = memoryIn(status)
	}
	if err != nil {
		return usage{}, fmt.Errorf("process %d: %w", pid, err)
	}
	return u, nil
}

// cpuIn reads fields 14 and 15 of /proc/PID/stat, user and system time. They are counted from behind the program's name,
// which stands in parentheses and may hold spaces and parentheses itself.
func cpuIn(stat []byte) (time.Duration, error) {
	const user, system = 14 - 3, 15 - 3 // field 3 is the first one behind the name
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= system {
		return 0, fmt.Errorf("stat has %d fields behind the name, want more than %d", len(fields), system)
	}
	var ticks int64
	for _, field := range []string{fields[user], fields[system]} {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// memoryIn reads VmRSS and VmHWM of /proc/PID/status.
func memoryIn(status []byte) (rss, peak int64, err error) {
	if rss, err = kilobytesIn(status, "VmRSS:"); err == nil {
		peak, err = kilobytesIn(status, "VmHWM:")
	}
	return rss, peak, err
}

// kilobytesIn returns the bytes of a line such as "VmRSS:	  123 kB".
func kilobytesIn(file []byte, name string) (int64, error) {
	for line := range strings.Lines(string(file)) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("%s %w", name, err)
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("there is no %s", strings.TrimSuffix(name, ":"))
}
