package faults

import (
	"fmt"
	"time"

	"github.com/anishathalye/porcupine"
)

// Bounds of what the model must allow for.
const (
	readGrace  = 30 * time.Second // what an API has unless told otherwise
	recordLife = time.Hour        // of a cache's record, likewise
	clockSlack = time.Second      // between a client's look at its clock and the service's
	ackTail    = 5 * time.Second  // until a reply that was read has certainly left the queue, where nothing is broken
)

// step is an operation on a slot, the place of one reply.
type step struct {
	kind   stepKind
	client string // put: whose request it answers; get: who was given it
	hash   string // of the body
	told   string // get, getNone: of the request
	span          // when it began and ended, as its maker saw it
}

type stepKind int

const (
	put     stepKind = iota // a camera published the reply, up to its PUBACK
	get                     // a client was given it
	getNone                 // its client asked and was told that there is nothing to read
	getLost                 // its client asked and does not know what came of it
	disturb                 // a fault
	empty                   // the cache lost its content
)

func (s step) String() string {
	names := [...]string{"put", "get", "none", "lost answer", "fault", "cache emptied"}
	return fmt.Sprintf("%s %s %s %s %s", names[s.kind], s.client, s.hash, s.told, s.span)
}

// slotState is what a slot can be in. It is comparable.
type slotState struct {
	there     bool
	owner     string
	hash      string
	since     time.Time // it was not put before
	read      bool
	earliest  time.Time // the first read was not before
	latest    time.Time // and not after; zero: it may still be under way
	disturbed bool      // a fault came before the reply had certainly left the queue
	lost      bool      // with the content of the cache
}

// slotModel is what a slot promises, as porcupine checks it: the steps, each put somewhere between its begin and its
// end, can be told as one row in which
//
//   - the slot is put once, with one body;
//   - whoever is given the reply is the client whose request it answers, and gets that body (I3);
//   - nobody is given it before it was put, or after the read grace, counted from the end of the call that read it first;
//   - its client is told that there is nothing only before the put, or when the grace is over, counted from the begin
//     of the first call that may have read it, or when the reply is older than a cache keeps it, or after the cache lost
//     its content (I1, I2, I8).
//
// It is as weak as the promises are, and no weaker:
//
//   - a call whose answer was lost, or said that it did not know, may have read the reply at any time since its begin;
//   - a reply may be given again after the grace where a fault, or an answer which says that something is missing, came
//     between its put and its first read, or within ackTail after that: then a copy can be left which nobody knows was
//     read. What came later excuses nothing;
//   - an emptied cache may have taken a reply with it that was in it;
//   - an answer which gives the final reply says nothing of progress that it does not give: who has the end needs no
//     more. The caller leaves such steps out.
//
// Not seen here: that a reply is read at all (judgeReplies), and commands.
func slotModel() porcupine.Model {
	nondeterministic := porcupine.NondeterministicModel{
		Init: func() []any { return []any{slotState{}} },
		Step: func(state, input, _ any) []any {
			var next []any
			for _, s := range state.(slotState).after(input.(step)) {
				next = append(next, s)
			}
			return next
		},
		DescribeOperation: func(input, _ any) string { return input.(step).String() },
	}
	return nondeterministic.ToModel()
}

// after returns the states that a step may lead to; none: the step cannot happen here.
func (s slotState) after(x step) []slotState {
	switch x.kind {
	case put:
		if s.there {
			return nil
		}
		s.there, s.owner, s.hash, s.since = true, x.client, x.hash, x.from
		return []slotState{s}
	case get:
		return s.afterGet(x)
	case getNone:
		over := s.read && !x.to.Before(s.earliest.Add(readGrace-clockSlack))
		expired := !x.to.Before(s.since.Add(recordLife - clockSlack))
		if s.there && !s.lost && !over && !expired {
			return nil
		}
		return []slotState{s}
	case getLost:
		if !s.there || s.read || s.lost {
			return []slotState{s}
		}
		read := s
		read.read, read.earliest = true, x.from
		return []slotState{s, read}
	case disturb:
		if !s.read || s.latest.IsZero() || x.from.Before(s.latest.Add(ackTail)) {
			s.disturbed = true
		}
		return []slotState{s}
	default: // empty
		lost := s
		lost.lost = s.there
		return []slotState{s, lost}
	}
}

func (s slotState) afterGet(x step) []slotState {
	late := s.read && !s.latest.IsZero() && x.from.After(s.latest.Add(readGrace+clockSlack))
	if !s.there || s.lost || x.client != s.owner || x.hash != s.hash || late && !s.disturbed {
		return nil
	}
	if !s.read {
		s.read, s.earliest = true, x.from
	}
	if s.latest.IsZero() || x.to.Before(s.latest) {
		s.latest = x.to
	}
	return []slotState{s}
}
