package dispatch

import (
	"cmp"
	"slices"

	"signaldevice/device"
)

// answer makes what the caller gets of what was found.
func (p *poll) answer() Replies {
	out := Replies{Source: p.source, Replies: []Reply{}, Requests: []RequestState{}}
	if len(p.found) == 0 && p.drained {
		out.Source = SourceBroker
	}
	for _, r := range p.inOrder() {
		out.Answered = out.Answered || r.Final
		answer := p.d.catalogue.Answer(r.Command, r.Request, r.Body)
		r.Position = nil // nobody's business beyond here
		out.Replies = append(out.Replies, Reply{Reply: r, Answer: answer})
	}
	for _, id := range p.reported(out.Replies) {
		out.Requests = append(out.Requests, RequestState{ID: id, State: p.state(id)})
	}
	return out
}

func (p *poll) inOrder() []device.Reply {
	replies := make([]device.Reply, 0, len(p.found))
	for _, r := range p.found {
		replies = append(replies, r)
	}
	slices.SortFunc(replies, func(a, b device.Reply) int {
		return cmp.Or(a.ReceivedAt.Compare(b.ReceivedAt), cmp.Compare(a.Request, b.Request), cmp.Compare(a.Seq, b.Seq))
	})
	return replies
}

// reported returns the ids as they were asked for, or else those of the replies.
func (p *poll) reported(replies []Reply) []device.RequestID {
	if len(p.asked) > 0 {
		return p.asked
	}
	var ids []device.RequestID
	for _, r := range replies {
		if !slices.Contains(ids, r.Request) {
			ids = append(ids, r.Request)
		}
	}
	return ids
}

// failure returns the error to give instead of an answer that tells nothing, or would hide that something was lost on
// the way (I8).
func (p *poll) failure(r Replies) error {
	told := len(r.Replies) > 0 || slices.ContainsFunc(r.Requests, func(s RequestState) bool {
		return s.State != device.StateUnverified && s.State != device.StateNotFound
	})
	unverified := slices.ContainsFunc(r.Requests, func(s RequestState) bool { return s.State == device.StateUnverified })
	all := len(p.asked) == 0
	lost := all && p.takeUnknown // without ids, a reply that was taken is not shown again
	blind := all && (p.brokerErr != nil || p.cacheErr != nil && p.moved)
	switch {
	case !lost && (told || !blind && !unverified):
		return nil
	case p.takeUnknown && p.brokerErr == nil:
		return device.Wrap(device.OutcomeUnknown, p.cacheErr, "replies may have been taken on the way here; ask for them by request id within the read grace")
	case p.cacheErr != nil:
		return device.Wrap(device.Unavailable, p.brokerErr, "neither broker nor cache answers; replies are kept, ask again by request id")
	default:
		return device.Wrap(device.BrokerUnavailable, p.brokerErr, "the cache has nothing and the broker does not answer")
	}
}

// foundNothing reports whether nothing of this client was found at the device.
func (p *poll) foundNothing() bool {
	return len(p.found) == 0 && !slices.ContainsFunc(p.ids, func(id device.RequestID) bool {
		return p.state(id) != device.StateNotFound
	})
}

// worthReturning reports whether a wait ends with this poll. first is the poll that the wait began with, nil for that
// poll itself.
func (p *poll) worthReturning(first *poll) bool {
	if p.fresh || len(p.ended) > 0 {
		return true
	}
	return len(p.asked) > 0 && !slices.ContainsFunc(p.asked, func(id device.RequestID) bool {
		// That its time is up is news to one who has waited for it; to one who knew, only a late reply is.
		gaveUp := p.overdue(id) && first != nil && !first.overdue(id)
		return !gaveUp && !settled(p.state(id))
	})
}

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
	case p.begun[id] > 0:
		return device.StateProgress
	case p.takeUnknown:
		return device.StateUnverified // another reply may have been lost on the way
	case p.read[id]:
		return device.StateAlreadyRead
	default:
		return otherwise
	}
}

// answeredElsewhere is the state of a request whose final reply came, but was not found.
func (p *poll) answeredElsewhere(id device.RequestID, rec device.Request) device.State {
	switch {
	case rec.Read:
		return device.StateAlreadyRead
	case p.cacheErr != nil || p.brokerErr != nil || p.partial || p.fresh:
		return device.StateAnswered // not everywhere was looked, or not all was taken at once: the next poll may find it
	case p.read[id], rec.Queued: // the queue hides what is in it, for its grace is over
		return device.StateAlreadyRead
	default:
		return device.StateGone
	}
}

// noReply is the state of a request whose time is up: "no reply" only where no reply can have been overlooked (I8).
func (p *poll) noReply(id device.RequestID, rec device.Request) device.State {
	switch {
	case p.begun[id] > 0 || rec.Replies > 0:
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

// overdue reports whether the broker says that the request's time to be answered is up.
func (p *poll) overdue(id device.RequestID) bool { return p.records[id].State == device.StateNoReply }
