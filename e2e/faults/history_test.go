package faults

import (
	"slices"
	"testing"
	"time"
)

// plant is a run with one reply, put between 10 and 20 ms, to which things happen. Times are in milliseconds.
type plant struct {
	*journal
	began time.Time
}

func newPlant() *plant {
	p := &plant{newJournal(), time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	p.accepted["r1"] = acceptance{"alice", "cam-1", p.at(1)}
	p.replies[slot{"r1", 0}] = published{device: "cam-1", hash: hashOf([]byte("1")), final: true, made: p.at(10), acked: p.at(20)}
	return p
}

func (p *plant) at(ms int) time.Time { return p.began.Add(time.Duration(ms) * time.Millisecond) }

// poll is a call from one time to another, with its answer; body "": the state stands alone.
func (p *plant) poll(who string, from, to int, body, state string) {
	r := result{answer: answer{op: opPoll, status: 200, began: p.at(from), took: time.Duration(to-from) * time.Millisecond}}
	var got replies
	if body != "" {
		got.Replies = append(got.Replies, reply{RequestID: "r1", Final: true, Result: []byte(body)})
	}
	got.Requests = append(got.Requests, requestState{RequestID: "r1", State: state})
	p.history.saw(client{name: who}, "cam-1", []string{"r1"}, r, &got)
}

func (p *plant) given(from, to int)          { p.poll("alice", from, to, "1", "answered") }
func (p *plant) none(from, to int, s string) { p.poll("alice", from, to, "", s) }

// cut is a poll, by the request's id or for all there is, that has no answer.
func (p *plant) cut(from, to int, ids ...string) {
	r := result{answer: answer{op: opPoll, began: p.at(from), took: time.Duration(to-from) * time.Millisecond}}
	p.history.saw(client{name: "alice"}, "cam-1", ids, r, &replies{})
}

// empty is a cache that is emptied, with the reply in it.
func (p *plant) empty(at int) {
	p.emptied, p.dropped[slot{"r1", 0}] = append(p.emptied, p.at(at)), true
}

func (p *plant) fault(from, to int) {
	p.faults = append(p.faults, faultSpan{span: span{p.at(from), p.at(to)}})
}

// hitch is an answer that says that something is missing.
func (p *plant) hitch(from, to int) {
	p.answers = append(p.answers, answer{degraded: "cache", began: p.at(from), took: time.Duration(to-from) * time.Millisecond})
}

// TestHistories_WhatNoOrderExplains plants what must never happen, and what may (I1, I2, I3, I8).
func TestHistories_WhatNoOrderExplains(t *testing.T) {
	const hour = 3_600_000
	cases := map[string]struct {
		happens func(p *plant)
		wrong   bool
	}{
		"read once":                                 {func(p *plant) { p.given(30, 40) }, false},
		"read while it is put":                      {func(p *plant) { p.given(5, 15) }, false},
		"read before it was put":                    {func(p *plant) { p.given(1, 9) }, true},
		"nothing before it was put":                 {func(p *plant) { p.none(1, 15, "delivered"); p.given(30, 40) }, false},
		"nothing after it was put":                  {func(p *plant) { p.none(25, 30, "delivered"); p.given(30, 40) }, true},
		"nothing after a read before its PUBACK":    {func(p *plant) { p.given(12, 14); p.none(15, 16, "delivered") }, true},
		"nothing after it was put, but not sure":    {func(p *plant) { p.none(25, 30, "unverified"); p.given(30, 40) }, false},
		"no reply, told after it was put":           {func(p *plant) { p.none(25, 30, "no_reply") }, true},
		"gone, and nobody had read it":              {func(p *plant) { p.none(25, 30, "gone") }, true},
		"gone when nobody had read it for an hour":  {func(p *plant) { p.none(hour, hour+10, "gone") }, false},
		"gone before the hour was over":             {func(p *plant) { p.none(hour-5_000, hour-4_990, "gone") }, true},
		"gone with the cache's content":             {func(p *plant) { p.empty(22); p.none(25, 30, "gone") }, false},
		"gone with a cache that had others":         {func(p *plant) { p.empty(22); p.dropped = nil; p.none(25, 30, "gone") }, true},
		"gone before the cache was emptied":         {func(p *plant) { p.none(25, 30, "gone"); p.empty(5000) }, true},
		"back from a cache that was emptied":        {func(p *plant) { p.none(25, 30, "gone"); p.empty(22); p.given(40, 50) }, true},
		"with another body":                         {func(p *plant) { p.poll("alice", 30, 40, "2", "answered") }, true},
		"first with one body, then another":         {func(p *plant) { p.given(30, 40); p.poll("alice", 50, 60, "2", "answered") }, true},
		"read by another client":                    {func(p *plant) { p.poll("bob", 30, 40, "1", "answered") }, true},
		"read by two":                               {func(p *plant) { p.given(30, 40); p.poll("bob", 50, 60, "1", "answered") }, true},
		"another client finds nothing":              {func(p *plant) { p.poll("bob", 30, 40, "", "not_found"); p.given(50, 60) }, false},
		"again within the grace":                    {func(p *plant) { p.given(30, 40); p.given(29_000, 29_010) }, false},
		"nothing within the grace":                  {func(p *plant) { p.given(30, 40); p.none(5_000, 5_010, "already_read") }, true},
		"nothing after the grace":                   {func(p *plant) { p.given(30, 40); p.none(31_000, 31_010, "already_read") }, false},
		"again after the grace":                     {func(p *plant) { p.given(30, 40); p.given(33_000, 33_010) }, true},
		"re-reads do not extend the grace":          {func(p *plant) { p.given(30, 40); p.given(20_000, 20_010); p.given(40_000, 40_010) }, true},
		"again after the grace, a fault before":     {func(p *plant) { p.fault(15, 25); p.given(30, 40); p.given(hour, hour+10) }, false},
		"again after the grace, a fault just after": {func(p *plant) { p.given(30, 40); p.fault(1_000, 2_000); p.given(hour, hour+10) }, false},
		"again after the grace, a fault long after": {func(p *plant) { p.given(30, 40); p.fault(10_000, 12_000); p.given(hour, hour+10) }, true},
		"a fault long before excuses nothing":       {func(p *plant) { p.fault(-60_000, -50_000); p.given(30, 40); p.given(hour, hour+10) }, true},
		"again after the grace, a hitch before":     {func(p *plant) { p.hitch(15, 25); p.hitch(20, 24); p.given(30, 40); p.given(hour, hour+10) }, false},
		"already read, the first answer was cut":    {func(p *plant) { p.cut(30, 40, "r1"); p.none(31_000, 31_010, "already_read") }, false},
		"and then it comes all the same":            {func(p *plant) { p.cut(30, 40, "r1"); p.none(31_000, 31_010, "already_read"); p.given(32_000, 32_010) }, false},
		"already read at once after a cut answer":   {func(p *plant) { p.cut(30, 40, "r1"); p.none(1_000, 1_010, "already_read") }, true},
		"read long after a cut answer":              {func(p *plant) { p.cut(30, 40, "r1"); p.given(hour, hour+10) }, false},
		"again long after a cut answer and a read":  {func(p *plant) { p.cut(30, 40, "r1"); p.given(50, 60); p.given(hour, hour+10) }, true},
		"cut when it asked for everything":          {func(p *plant) { p.cut(30, 40); p.none(31_000, 31_010, "already_read") }, false},
		"cut long before the put":                   {func(p *plant) { p.cut(-60_000, -50_000); p.none(31_000, 31_010, "already_read") }, true},
		"hitches before and long after are two": {func(p *plant) {
			p.hitch(-60_000, -50_000)
			p.hitch(10_000, 12_000)
			p.given(30, 40)
			p.given(hour, hour+10)
		}, true},
		"without PUBACK, seen and then not": {func(p *plant) {
			s := slot{"r1", 0}
			unacked := p.replies[s]
			unacked.acked = time.Time{}
			p.replies[s] = unacked
			p.none(5_000, 5_010, "delivered")
			p.given(6_000, 6_010)
		}, false},
		"given, and no camera made it": {func(p *plant) { delete(p.replies, slot{"r1", 0}); p.given(30, 40) }, true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPlant()
			c.happens(p)
			v := &Verdict{}
			v.judgeHistories(p.journal)
			if found := v.Count(inexplicable) > 0; found != c.wrong || v.Histories != 1 {
				t.Errorf("%d histories, found %v, want a violation: %t", v.Histories, v.Violations, c.wrong)
			}
		})
	}
}

// TestHistories_PutTwice: the first body of a slot stays, a second one cannot be put.
func TestHistories_PutTwice(t *testing.T) {
	s := slotState{}.after(step{kind: put, client: "alice", hash: "h1"})[0]
	if next := s.after(step{kind: put, client: "alice", hash: "h2"}); len(next) != 0 {
		t.Errorf("a second put leads to %v", next)
	}
}

// TestHistories_AreBounded: a run without end follows so many requests and no more.
func TestHistories_AreBounded(t *testing.T) {
	h := newHistory()
	h.requests = make(map[string][]glimpse, maxFollowed)
	for i := range maxFollowed {
		h.requests[slot{"r", i}.String()] = nil
	}
	h.add("one more", glimpse{})
	h.add(slot{"r", 7}.String(), glimpse{})
	if len(h.requests) != maxFollowed || len(h.requests[slot{"r", 7}.String()]) != 1 {
		t.Errorf("%d requests are followed, want %d, and those to the end", len(h.requests), maxFollowed)
	}
	if slices.Contains([]glimpseKind{claim("delivered", true), claim("unverified", false), claim("answered", false)}, all) {
		t.Error("a state that tells nothing of what was not found counts as if it did")
	}
}
