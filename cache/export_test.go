package cache

import "time"

// Advance lets the records live on by d, as if Redis's clock had moved. Redis itself forgets them by its real clock.
func (r *Redis) Advance(d time.Duration) { r.link.shift.Add(d.Milliseconds()) }
