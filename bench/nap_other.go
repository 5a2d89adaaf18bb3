//go:build !linux

package bench

import "time"

// nap sleeps for a short time, as exactly as the runtime's timers do.
func nap(d time.Duration) { time.Sleep(d) }
