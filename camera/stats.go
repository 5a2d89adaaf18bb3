package camera

import "sync/atomic"

// Stats counts what a camera, or a fleet, has done since it was made.
type Stats struct {
	CommandsReceived  int64 // messages on the commands topic, of every kind below
	CommandsMalformed int64 // no JSON, or no request id
	CommandsDuplicate int64 // request ids seen before
	CommandsRefused   int64 // left without PUBACK, for want of room for replies
	CommandsExecuted  int64 // known, in time and not a duplicate

	RepliesPublished int64 // PUBLISH packets with replies, repetitions included
	RepliesAcked     int64 // replies done with, each once for each time it was said
	GarbagePublished int64

	Connections int64 // that reached a subscription
	Reconnects  int64 // all of them but a camera's first
}

func (s Stats) plus(o Stats) Stats {
	return Stats{
		CommandsReceived:  s.CommandsReceived + o.CommandsReceived,
		CommandsMalformed: s.CommandsMalformed + o.CommandsMalformed,
		CommandsDuplicate: s.CommandsDuplicate + o.CommandsDuplicate,
		CommandsRefused:   s.CommandsRefused + o.CommandsRefused,
		CommandsExecuted:  s.CommandsExecuted + o.CommandsExecuted,
		RepliesPublished:  s.RepliesPublished + o.RepliesPublished,
		RepliesAcked:      s.RepliesAcked + o.RepliesAcked,
		GarbagePublished:  s.GarbagePublished + o.GarbagePublished,
		Connections:       s.Connections + o.Connections,
		Reconnects:        s.Reconnects + o.Reconnects,
	}
}

// counters are the running sums behind Stats.
type counters struct {
	received, malformed, duplicates, refused, executed atomic.Int64
	published, acked, garbage, connections             atomic.Int64
}

// Stats returns the counts so far. They are read one after the other, not at one instant.
func (c *Camera) Stats() Stats {
	connections := c.count.connections.Load()
	return Stats{
		CommandsReceived:  c.count.received.Load(),
		CommandsMalformed: c.count.malformed.Load(),
		CommandsDuplicate: c.count.duplicates.Load(),
		CommandsRefused:   c.count.refused.Load(),
		CommandsExecuted:  c.count.executed.Load(),
		RepliesPublished:  c.count.published.Load(),
		RepliesAcked:      c.count.acked.Load(),
		GarbagePublished:  c.count.garbage.Load(),
		Connections:       connections,
		Reconnects:        max(0, connections-1),
	}
}
