package faults

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// The kinds of violation.
const (
	lost         = "lost"                 // a reply with a PUBACK that nobody can read (I1, I2, I9)
	doubled      = "two bodies"           // one slot read with two bodies
	invented     = "invented"             // a reply that no camera published
	foreign      = "read by another"      // a client was given a reply to another one's request (I3)
	misdelivered = "at the wrong device"  // a command came to a camera that it was not sent to (I4)
	overdue      = "after its deadline"   // a command came too late (I4)
	untrue       = "false no reply"       // "no reply" told of a request whose reply had its PUBACK (I8)
	unfinished   = "without an end"       // an accepted request that ended in nothing (I5)
	unanswered   = "without its answer"   // an accepted request that ended without a reply though nothing was broken
	twice        = "sent twice"           // one command that came to its camera as two requests
	wrongAnswer  = "wrong answer"         // an answer that the table of fallbacks does not allow (I7)
	slow         = "too slow"             // an answer, of a call that does not wait, after its time (I7)
	cutCall      = "cut while under way"  // a call that an orderly stop did not answer
	noRecovery   = "no recovery"          // a fault was over and the system did not come back
	lingering    = "not cut off"          // somebody who had to be disconnected was not
	inexplicable = "no order explains it" // a history of a slot that is not linearizable (I1, I2, I3, I8)
	grown        = "grown"                // a process holds more than it needs
	died         = "ended by itself"      // a process that nobody had told to
	strange      = "harness out of order" // the harness itself could not do what it should
)

// tooManyUnread is why a client has to read before it sends again.
const tooManyUnread = "too_many_unread"

// noRecord is what is told of a request whose record is not there.
const noRecord = "request_not_found"

// deliveryTolerance is between the broker's write and the moment at which a camera's process on a busy machine looks at
// its clock.
const deliveryTolerance = 500 * time.Millisecond

// wholeExchange is how long an exchange takes at most on a busy machine where nothing is broken.
const wholeExchange = 3 * time.Second

// slowest is when a call that does not wait is answered at the latest: 2 s (I7), and what a machine that also makes the
// load may take to bring the answer.
const slowest = 3 * time.Second

// settling is how long after a fault's begin, and before its end, answers may still be those of the other time.
const settling = 2 * time.Second

// Violation is one breach of a promise.
type Violation struct {
	Kind   string
	At     time.Time // zero: no moment of its own
	Detail string
}

// Verdict is what the oracle found.
type Verdict struct {
	Sent       int // commands that clients tried to send
	Accepted   int // of those, requests
	Delivered  int // commands at cameras, repeated ones included
	Acked      int // replies with a PUBACK
	Read       int // of those, read by their client
	Emptied    int // of those, lost in a cache that was emptied by intent
	Repeated   int // replies that were given again, with the same body
	Histories  int // of slots, whose steps an order explains or not
	Unfollowed int // requests without a history, because too many have one
	AfterGrace int // replies that were asked for again when they had to be gone
	Hitches    int // times during which answers said that something was missing
	States     map[string]int
	Violations []Violation
}

// OK reports whether every promise was kept.
func (v *Verdict) OK() bool { return len(v.Violations) == 0 }

// Count returns the number of violations of a kind.
func (v *Verdict) Count(kind string) int {
	n := 0
	for _, x := range v.Violations {
		if x.Kind == kind {
			n++
		}
	}
	return n
}

func (v *Verdict) add(kind string, at time.Time, format string, args ...any) {
	v.Violations = append(v.Violations, Violation{kind, at, fmt.Sprintf(format, args...)})
}

// judge compares the journal with the promises. Nobody may write into the journal any more.
func judge(j *journal) *Verdict {
	v := &Verdict{Sent: len(j.attempts), Accepted: len(j.accepted), Delivered: len(j.delivered), States: map[string]int{}}
	v.judgeReplies(j)
	v.judgeReadings(j)
	v.judgeDeliveries(j)
	v.judgeStates(j)
	v.judgeAnswers(j)
	v.judgeHistories(j)
	v.Hitches = len(j.hitches())
	v.AfterGrace = j.afterGrace
	slices.SortStableFunc(v.Violations, func(a, b Violation) int { return a.At.Compare(b.At) })
	return v
}

// judgeReplies: what has a PUBACK was read by its client. Everything was drained before, so that nothing is still on its
// way.
func (v *Verdict) judgeReplies(j *journal) {
	for s, p := range j.replies {
		if p.acked.IsZero() {
			continue
		}
		v.Acked++
		readByOwner := slices.ContainsFunc(j.read[s], func(r reading) bool { return r.client == j.owner(s.request) && r.hash == p.hash })
		switch {
		case readByOwner:
			v.Read++
		case j.dropped[s]:
			v.Emptied++
		default:
			v.add(lost, p.acked, "%s of %s at device %s has its PUBACK and was never read; what its client was told: %s", s, j.owner(s.request), p.device, tell(j.steps(s, nil)))
		}
	}
}

func (v *Verdict) judgeReadings(j *journal) {
	for s, readings := range j.read {
		v.Repeated += len(readings) - 1
		for _, r := range readings {
			if owner := j.owner(s.request); r.client != owner {
				v.add(foreign, r.at, "%s of %q was given to %s", s, owner, r.client)
			}
			if r.hash != readings[0].hash {
				v.add(doubled, r.at, "%s was given with two bodies", s)
			}
		}
		if p, known := j.replies[s]; readings[0].hash != p.hash && (known || !j.own[j.device(s.request)]) {
			v.add(invented, readings[0].at, "%s was given with a body that its camera did not publish", s)
		}
	}
}

func (v *Verdict) judgeDeliveries(j *journal) {
	requests := map[string]string{} // by nonce
	for _, d := range j.delivered {
		if first, again := requests[d.nonce]; again && first != d.request {
			v.add(twice, d.at, "one command of %q came to %s as %s and as %s", j.attempts[d.nonce].client, d.device, first, d.request)
		}
		requests[d.nonce] = d.request
		sent, known := j.attempts[d.nonce]
		if !known || sent.device != d.device {
			v.add(misdelivered, d.at, "%s for device %q came to %s", d.request, sent.device, d.device)
		}
		if late := d.at.Sub(d.expiresAt); late > deliveryTolerance {
			v.add(overdue, d.at, "%s came to %s %s after its deadline", d.request, d.device, late)
		}
	}
}

// finalAck returns when the final reply of each request had its PUBACK.
func finalAck(j *journal) map[string]time.Time {
	at := map[string]time.Time{}
	for s, p := range j.replies {
		if p.final && !p.acked.IsZero() {
			at[s.request] = p.acked
		}
	}
	return at
}

func (v *Verdict) judgeStates(j *journal) {
	acked := finalAck(j)
	ended := map[string]bool{}
	dropped := recordsMayBeDropped(j)
	broken := j.broken()
	for _, t := range j.told {
		at, has := acked[t.request]
		if (t.state == "no_reply" || t.state == "expired") && has && at.Before(t.asked) {
			v.add(untrue, t.asked, "%s was told as %s %s after its final reply had its PUBACK", t.request, t.state, t.asked.Sub(at))
		}
		if !t.lastly {
			continue
		}
		ended[t.request] = true
		v.States[t.state]++
		if t.state == noRecord && j.accepted[t.request].at.Before(dropped) {
			continue
		}
		switch t.state {
		case "answered":
		case "no_reply", "expired":
			if at := j.accepted[t.request].at; !j.later[t.request] && !touched(broken, span{at, at.Add(wholeExchange)}) {
				v.add(unanswered, at, "%s was accepted while nothing was broken, and ended as %s: %s", t.request, t.state, t.cause)
			}
			if t.cause == "" {
				v.add(unfinished, t.asked, "%s ended in %s without a cause", t.request, t.state)
			}
		default:
			if _, answered := acked[t.request]; !answered && j.later[t.request] {
				continue
			}
			v.add(unfinished, t.asked, "%s is still %q after everything", t.request, t.state)
		}
	}
	for id, a := range j.accepted {
		if !ended[id] {
			v.add(unfinished, a.at, "nothing could be learned of %s in the end", id)
		}
	}
}

// touched reports whether one of the spans has a moment in common with another.
func touched(spans []span, by span) bool { return slices.ContainsFunc(spans, by.touches) }

// recordsMayBeDropped returns a moment: the records of the requests before it may have made room for newer ones. Records go
// in the order of their last changes, so only half of the number that is kept is sure to be of the newest requests.
func recordsMayBeDropped(j *journal) (before time.Time) {
	sure := j.records / 2
	if sure == 0 || len(j.accepted) <= sure {
		return time.Time{}
	}
	var at []time.Time
	for _, a := range j.accepted {
		at = append(at, a.at)
	}
	slices.SortFunc(at, time.Time.Compare)
	return at[len(at)-sure]
}

func (v *Verdict) judgeAnswers(j *journal) {
	for _, a := range j.answers {
		call := span{a.began, a.began.Add(a.took)}
		if a.status == 0 {
			v.judgeSilence(j, a, call)
			continue
		}
		if a.op != opWait && a.took > slowest {
			v.add(slow, a.began, "%s at API %d took %s", a.op, a.api, a.took.Round(time.Millisecond))
		}
		if wrong := wrongAtAnyTime(a); wrong != "" {
			v.add(wrongAnswer, a.began, "%s at API %d: %s", a.op, a.api, wrong)
			continue
		}
		for _, f := range j.faults {
			inside := a.began.After(f.from.Add(settling)) && call.to.Before(f.to.Add(-settling/4))
			if f.fault.allows == nil || a.op == opHealth || !inside {
				continue
			}
			if wrong := f.fault.allows(a); wrong != "" {
				v.add(wrongAnswer, a.began, "%s at API %d during %s: %s", a.op, a.api, f.fault.ID, wrong)
			}
		}
	}
}

// judgeSilence: a call without an answer needs an API that was away, and one that ended in order answers what it had
// begun.
func (v *Verdict) judgeSilence(j *journal, a answer, call span) {
	const justBefore = 50 * time.Millisecond // a call that began so late may not have come to the API yet
	for _, o := range j.outages {
		if o.api != a.api || !o.touches(call) {
			continue
		}
		if o.orderly && a.began.Before(o.from.Add(-justBefore)) {
			v.add(cutCall, a.began, "%s at API %d began %s before SIGTERM: %s", a.op, a.api, o.from.Sub(a.began), a.err)
		}
		return
	}
	v.add(wrongAnswer, a.began, "%s at API %d, which was up, had no answer after %s: %s", a.op, a.api, a.took, a.err)
}

// wrongAtAnyTime says what is wrong with an answer whatever is broken.
func wrongAtAnyTime(a answer) string {
	switch {
	case a.status >= 500 && a.status != 503:
		return fmt.Sprintf("%d %s", a.status, a.code)
	case a.status == 503 && !a.retryAfter:
		return "503 without Retry-After"
	case a.status == 503 && !strings.Contains("broker_unavailable cache_unavailable cache_full unavailable outcome_unknown", cmp.Or(a.code, "none")):
		return "503 " + a.code
	case a.status/100 == 4 && !strings.Contains(refusals[a.op], cmp.Or(a.code, "none")):
		return fmt.Sprintf("%d %s", a.status, a.code)
	}
	return ""
}

// refusals are what a good call may be refused for, by what it does: a camera that a fault has cut off, replies that nobody
// could read meanwhile, a record that made room for newer ones.
var refusals = map[string]string{
	opSend:  "device_offline " + tooManyUnread,
	opWait:  "device_offline " + tooManyUnread, // a send that waits
	opState: noRecord,
	opStaff: "device_not_found certificate_not_found", // the first try to remove it had no answer
}

// latencies returns how long the answered calls without wait took that began in the span, in order.
func latencies(j *journal, within span) []time.Duration {
	var took []time.Duration
	for _, a := range j.answers {
		if a.status != 0 && a.op != opWait && !a.began.Before(within.from) && a.began.Before(within.to) {
			took = append(took, a.took)
		}
	}
	slices.Sort(took)
	return took
}

// quantile of sorted values; 0 of none.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(q*float64(len(sorted))))]
}

// kinds returns the kinds of the violations with their numbers, for people.
func (v *Verdict) kinds() string {
	count := map[string]int{}
	for _, x := range v.Violations {
		count[x.Kind]++
	}
	var parts []string
	for _, kind := range slices.Sorted(maps.Keys(count)) {
		parts = append(parts, fmt.Sprintf("%d × %s", count[kind], kind))
	}
	return strings.Join(parts, ", ")
}
