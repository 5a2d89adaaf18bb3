package faults

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	lateEffect  = 15 * time.Second // a call that was cut may have its effect so much later: a frozen cache obeys when it thaws
	decideTime  = 5 * time.Second  // of one slot; they need microseconds
	endless     = 1 << 62          // the end of a step that may still happen
	longestStep = 60               // of steps in a violation's text
)

// judgeHistories looks for a slot whose history no order of its steps explains.
func (v *Verdict) judgeHistories(j *journal) {
	j.history.mu.Lock()
	defer j.history.mu.Unlock()
	v.Unfollowed = len(j.history.without)
	model, broken := slotModel(), j.broken()
	for s := range j.followed() {
		steps := j.steps(s, broken)
		if len(steps) == 0 {
			continue
		}
		v.Histories++
		switch porcupine.CheckOperationsTimeout(model, operations(steps), decideTime) {
		case porcupine.Illegal:
			v.add(inexplicable, j.replies[s].made, "%s: %s", s, tell(steps))
		case porcupine.Unknown:
			v.add(strange, steps[0].from, "%s: its history could not be judged in %s", s, decideTime)
		}
	}
}

// followed returns the slots that were put or given to somebody, as far as their requests have a history.
func (j *journal) followed() map[slot]bool {
	slots := map[slot]bool{}
	for s := range j.replies {
		if len(j.history.requests[s.request]) > 0 {
			slots[s] = true
		}
	}
	for id, glimpses := range j.history.requests {
		for _, g := range glimpses {
			for _, one := range g.given {
				slots[slot{id, one.seq}] = true
			}
		}
	}
	return slots
}

// steps returns the history of one slot; none where it is not known who sent the request. Of calls with a lost answer it
// has only the first: it allows whatever the others do.
func (j *journal) steps(s slot, broken []span) (steps []step) {
	owner := j.owner(s.request)
	if owner == "" {
		return nil
	}
	made, told := j.replies[s]
	if told {
		steps = append(steps, step{kind: put, client: owner, hash: made.hash, span: span{made.made, made.acked}})
	}
	var lost, firstRead time.Time
	mayHaveRead := func(at span) {
		if from := later(at.from, made.made); at.to.Add(lateEffect).After(made.made) && (lost.IsZero() || from.Before(lost)) {
			lost = from
		}
	}
	for _, g := range j.history.requests[s.request] {
		i := slices.IndexFunc(g.given, func(one given) bool { return one.seq == s.seq })
		switch {
		case i >= 0:
			steps = append(steps, step{get, g.client, g.given[i].hash, g.told, g.span})
			if firstRead.IsZero() || g.to.Before(firstRead) {
				firstRead = g.to
			}
		case g.client != owner:
		case g.kind == blind:
			mayHaveRead(g.span)
		case g.kind == all && (made.final || !g.final):
			steps = append(steps, step{kind: getNone, client: g.client, told: g.told, span: g.span})
		}
	}
	for _, at := range j.history.blind[place{owner, made.device}] {
		mayHaveRead(at)
	}
	if !lost.IsZero() {
		steps = append(steps, step{kind: getLost, client: owner, span: span{from: lost}})
	}
	return append(steps, j.disturbances(s, broken, made.made, firstRead)...)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// broken returns when a fault, its end or a hitch may have had an effect.
func (j *journal) broken() []span {
	list := j.hitches()
	for _, f := range j.faults {
		list = append(list, span{f.from, f.until()})
	}
	return list
}

// disturbances returns the faults, hitches and losses of the cache that can touch a slot which was put then and first read
// then; zero: never.
func (j *journal) disturbances(s slot, broken []span, from, firstRead time.Time) (steps []step) {
	soon := firstRead.Add(ackTail)
	disturbed := func(at span) {
		if at.to.After(from) && (firstRead.IsZero() || at.from.Before(soon)) {
			steps = append(steps, step{kind: disturb, span: at})
		}
	}
	for _, at := range broken {
		disturbed(at)
	}
	for _, at := range j.emptied {
		if j.dropped[s] && at.After(from) {
			steps = append(steps, step{kind: empty, span: span{at.Add(-clockSlack), at.Add(clockSlack)}})
		}
	}
	return steps
}

// hitches returns when answers said that something was missing: a busy machine is a fault that nobody made. Those that
// overlap are one.
func (j *journal) hitches() (list []span) {
	for _, a := range j.answers {
		if a.degraded != "" {
			list = append(list, span{a.began, a.began.Add(a.took + settling)})
		}
	}
	slices.SortFunc(list, func(a, b span) int { return a.from.Compare(b.from) })
	merged := list[:0]
	for _, at := range list {
		if n := len(merged); n > 0 && merged[n-1].touches(at) {
			merged[n-1].to = later(merged[n-1].to, at.to)
		} else {
			merged = append(merged, at)
		}
	}
	return merged
}

// operations puts steps into porcupine's form. What never ended may still happen.
func operations(steps []step) []porcupine.Operation {
	base := steps[0].from
	list := make([]porcupine.Operation, 0, len(steps))
	for i, x := range steps {
		end := int64(endless)
		if !x.to.IsZero() {
			end = int64(x.to.Sub(base))
		}
		list = append(list, porcupine.Operation{ClientId: i, Input: x, Call: int64(x.from.Sub(base)), Return: end})
	}
	return list
}

// tell returns the steps in the order of their begin, for people.
func tell(steps []step) string {
	slices.SortFunc(steps, func(a, b step) int { return a.from.Compare(b.from) })
	var parts []string
	for _, x := range steps[:min(len(steps), longestStep)] {
		parts = append(parts, x.String())
	}
	if more := len(steps) - longestStep; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(parts, "; ")
}
