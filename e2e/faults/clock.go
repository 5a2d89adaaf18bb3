package faults

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// clockVariable names the file that tells a program with a movable clock how far ahead its clock is.
const clockVariable = "CLOCK_AHEAD"

// aheadSource is a file of package time in a program with a movable clock: seconds ahead, from shared memory, so that the
// clock can be set while the program runs. The monotonic clock goes on, as on a machine whose time of day is set.
const aheadSource = `package time

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

var ahead = func() *int64 {
	name, ok := syscall.Getenv("` + clockVariable + `")
	if !ok {
		return new(int64)
	}
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		panic("clock: " + name + ": " + err.Error())
	}
	memory, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("clock: " + name + ": " + err.Error())
	}
	syscall.Close(fd)
	return (*int64)(unsafe.Pointer(&memory[0]))
}()

func clockAhead() int64 { return atomic.LoadInt64(ahead) }
`

// movableClock writes the overlay for a build in which time.Now follows a clock that the harness sets. Nothing else of
// the program differs. A program in Go reads the time without the C library, so that no preloaded library reaches it.
func movableClock(ctx context.Context, dir string) (overlay string, err error) {
	const reads = "sec, nsec, mono := runtimeNow()\n"
	root, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	if err != nil {
		return "", fmt.Errorf("movable clock: %w", err)
	}
	std := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(std, "time.go"))
	if err != nil {
		return "", fmt.Errorf("movable clock: %w", err)
	}
	if strings.Count(string(source), reads) != 1 {
		return "", errors.New("movable clock: this version of Go reads the time in another way")
	}
	files := map[string]string{
		"time.go":  strings.Replace(string(source), reads, reads+"\tsec += clockAhead()\n", 1),
		"ahead.go": aheadSource,
	}
	replace := map[string]string{}
	for name, text := range files {
		own := filepath.Join(dir, "clock-"+name)
		replace[filepath.Join(std, name)] = own
		if err := os.WriteFile(own, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	overlay = filepath.Join(dir, "clock.json")
	return overlay, os.WriteFile(overlay, data, 0o600)
}

// aheadSourceC is the same for a program in C, as a library that is loaded before the others.
const aheadSourceC = `#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *ahead;

__attribute__((constructor)) static void start(void) {
	const char *name = getenv("` + clockVariable + `");
	int fd = name ? open(name, O_RDONLY | O_CLOEXEC) : -1;
	void *memory = fd < 0 ? MAP_FAILED : mmap(0, 8, PROT_READ, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED) _exit(99);
	close(fd);
	ahead = memory;
}

int clock_gettime(clockid_t id, struct timespec *t) {
	int failed = syscall(SYS_clock_gettime, id, t);
	if (!failed && ahead && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += *ahead;
	return failed;
}

int gettimeofday(struct timeval *restrict t, void *restrict zone) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	t->tv_sec = now.tv_sec;
	t->tv_usec = now.tv_nsec / 1000;
	return 0;
}

time_t time(time_t *t) {
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	if (t) *t = now.tv_sec;
	return now.tv_sec;
}
`

// movableClockC builds that library and returns its path.
func movableClockC(ctx context.Context, dir string) (string, error) {
	source, library := filepath.Join(dir, "clock.c"), filepath.Join(dir, "clock.so")
	if err := os.WriteFile(source, []byte(aheadSourceC), 0o600); err != nil {
		return "", err
	}
	if out, err := exec.CommandContext(ctx, "cc", "-shared", "-fPIC", "-O2", "-o", library, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("movable clock: %w\n%s", err, out)
	}
	return library, nil
}

// clock is that of one program. It is safe for concurrent use.
type clock struct {
	file *os.File

	mu            sync.Mutex
	ahead, before time.Duration
	changed       time.Time
}

func newClock(path string) (*clock, error) {
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	c := &clock{file: f}
	if err := c.set(0); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return c, nil
}

// set puts the clock ahead of this machine's, or back where negative.
func (c *clock) set(ahead time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(int64(ahead/time.Second))), 0); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	c.before, c.ahead, c.changed = c.ahead, ahead, time.Now()
	return nil
}

// at returns what the clock shows at a time of this machine; just after it was set, the earlier of the two.
func (c *clock) at(now time.Time) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now.Sub(c.changed) < settling {
		return now.Add(min(c.ahead, c.before))
	}
	return now.Add(c.ahead)
}

// isAhead reports whether the clock is ahead, or was a moment ago.
func (c *clock) isAhead() bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ahead > 0 || c.before > 0 && now.Sub(c.changed) < settling
}

func (c *clock) close() { _ = c.file.Close() } // nothing of it is needed any more
