package dispatch

import "signaldevice/device"

// state tells where a request that was asked for stands, from what was found and what the broker knows.
func (p *poll) state(id device.RequestID) device.State {
	if p.ended[id] {
		return device.StateAnswered
	}
	if claims, err := id.Claims(); err != nil || claims.Mailbox != p.mailbox {
		return device.StateNotFound
	}
	rec, known := p.records[id]
	switch {
	case !known:
		return p.unrecorded(id, device.StateUnverified)
	case rec.State == device.StateNotFound || rec.Device != p.device:
		return p.unrecorded(id, device.StateNotFound)
	case rec.State == device.StateAnswered:
		return p.answeredElsewhere(id, rec)
	case rec.State == device.StateNoReply:
		return p.noReply(id, rec)
	case p.read[id] && rec.Replies == 0:
		return device.StateAlreadyRead // the record is behind: a reply has been read
	default:
		return rec.State
	}
}

// unrecorded is the state where the broker tells nothing: what the replies tell, or else otherwise.
func (p *poll) unrecorded(id device.RequestID, otherwise device.State) device.State {
	switch {
	case p.begun[id]:
		return device.StateProgress
	case p.read[id]:
		return device.StateAlreadyRead
	default:
		return otherwise
	}
}

// answeredElsewhere is the state of a request whose final reply came, but was not found.
func (p *poll) answeredElsewhere(id device.RequestID, rec device.Request) device.State {
	switch {
	case rec.Read || p.read[id]:
		return device.StateAlreadyRead
	case p.cacheErr != nil || p.brokerErr != nil || p.partial:
		return device.StateAnswered // not everywhere was looked: the next poll may find it
	default:
		return device.StateGone
	}
}

// noReply is the state of a request whose time is up: "no reply" only where no reply can have been overlooked (I8).
func (p *poll) noReply(id device.RequestID, rec device.Request) device.State {
	switch {
	case p.begun[id] || rec.Replies > 0:
		return device.StateProgress
	case p.read[id]:
		return device.StateAlreadyRead
	case p.takeUnknown:
		return device.StateUnverified
	default:
		return device.StateNoReply
	}
}

// settled reports whether a request in this state can never have a reply to read any more.
func settled(s device.State) bool {
	switch s {
	case device.StateExpired, device.StateCancelled, device.StateAlreadyRead, device.StateGone, device.StateNotFound:
		return true
	}
	return false
}
