package bench

import (
	"syscall"
	"time"
)

// nap sleeps for a short time, to about a tenth of a millisecond. The runtime's own timers are late by half a
// millisecond on average, because an idle scheduler waits in whole milliseconds; each exchange would seem slower by that.
func nap(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&ts, nil) // a signal ends it early, and the caller looks at the clock again
}
