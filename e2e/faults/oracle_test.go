package faults

import (
	"maps"
	"slices"
	"testing"
	"time"
)

// kept returns a journal in which every promise was kept: one request, accepted, delivered, answered and read.
func kept() *journal {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(ms int) time.Time { return began.Add(time.Duration(ms) * time.Millisecond) }
	j := newJournal()
	j.attempts["n1"] = attempt{"alice", "cam-1", at(0)}
	j.accepted["r1"] = acceptance{"alice", "cam-1", at(1)}
	j.delivered = []delivery{{"cam-1", "r1", "n1", at(5), at(5000)}}
	j.nonces["r1"] = "n1"
	j.replies[slot{"r1", 0}] = published{device: "cam-1", hash: "h1", final: true, acked: at(10)}
	j.read[slot{"r1", 0}] = []reading{{"alice", "h1", at(20)}, {"alice", "h1", at(30)}}
	j.told = []telling{{"alice", "r1", "answered", "", at(9000), true}}
	j.answers = []answer{{op: opSend, began: at(0), took: 2 * time.Millisecond, status: 202}}
	return j
}

func TestJudge_EveryBreachIsSeen(t *testing.T) {
	s := slot{"r1", 0}
	down := answer{op: opPoll, began: kept().attempts["n1"].at, took: time.Second}
	outageFrom := func(delay time.Duration, orderly bool) *outage {
		return &outage{orderly: orderly, span: span{down.began.Add(delay), down.began.Add(time.Hour)}}
	}
	broken := func(j *journal, after time.Duration) {
		from := j.accepted["r1"].at.Add(after)
		j.faults = []faultSpan{{fault: &Fault{}, span: span{from, from}}}
	}
	expire := func(j *journal, cause string) {
		delete(j.replies, s)
		delete(j.read, s)
		j.told[0].state, j.told[0].cause = "expired", cause
	}
	cases := map[string]struct {
		change func(j *journal)
		want   []string
	}{
		"all is well":                        {func(*journal) {}, nil},
		"nobody read it":                     {func(j *journal) { delete(j.read, s) }, []string{lost}},
		"nobody read it, without PUBACK":     {func(j *journal) { delete(j.read, s); j.replies[s] = published{hash: "h1"} }, nil},
		"it was in a cache that was emptied": {func(j *journal) { delete(j.read, s); j.dropped[s] = true }, nil},
		"another was in the emptied cache":   {func(j *journal) { delete(j.read, s); j.dropped[slot{"r1", 1}] = true }, []string{lost}},
		"read by somebody else too":          {func(j *journal) { j.read[s][1].client = "bob" }, []string{foreign}},
		"read by somebody else only":         {func(j *journal) { j.read[s] = []reading{{"bob", "h1", time.Time{}}} }, []string{foreign, lost}},
		"read with two bodies":               {func(j *journal) { j.read[s][1].hash = "h2" }, []string{doubled}},
		"read with a body of nobody":         {func(j *journal) { j.read[s] = []reading{{"alice", "h2", time.Time{}}} }, []string{invented, lost}},
		"at another device":                  {func(j *journal) { j.delivered[0].device = "cam-2" }, []string{misdelivered}},
		"a command that nobody sent":         {func(j *journal) { j.delivered[0].nonce = "n2" }, []string{misdelivered}},
		"just within the deadline": {func(j *journal) {
			j.delivered[0].at = j.delivered[0].expiresAt.Add(deliveryTolerance)
		}, nil},
		"after the deadline": {func(j *journal) {
			j.delivered[0].at = j.delivered[0].expiresAt.Add(deliveryTolerance + 1)
		}, []string{overdue}},
		"no reply, asked after the PUBACK": {func(j *journal) {
			j.told = append(j.told, telling{"alice", "r1", "no_reply", "", j.replies[s].acked.Add(1), false})
		}, []string{untrue}},
		"no reply, asked before the PUBACK": {func(j *journal) {
			j.told = append(j.told, telling{"alice", "r1", "no_reply", "", j.replies[s].acked.Add(-1), false})
		}, nil},
		"never ended": {func(j *journal) { j.told[0].state = "delivered" }, []string{unfinished}},
		"its deadlines are still to come": {func(j *journal) {
			expire(j, "")
			j.told[0].state, j.later["r1"] = "delivered", true
		}, nil},
		"answered, and its deadlines are still to come": {func(j *journal) {
			j.told[0].state, j.later["r1"] = "delivered", true
		}, []string{unfinished}},
		"its record made room for newer ones": {func(j *journal) {
			j.told[0].state, j.records = noRecord, 2
			j.accepted["r2"] = acceptance{"alice", "cam-1", j.accepted["r1"].at.Add(1)}
			j.told = append(j.told, telling{"alice", "r2", "answered", "", j.told[0].asked, true})
		}, nil},
		"the record of the newest request is not there": {func(j *journal) { j.told[0].state, j.records = noRecord, 2 }, []string{unfinished}},

		"no state at all":          {func(j *journal) { j.told = nil }, []string{unfinished}},
		"expired without a cause":  {func(j *journal) { broken(j, 0); expire(j, "") }, []string{unfinished}},
		"expired with a cause":     {func(j *journal) { broken(j, 0); expire(j, "so") }, nil},
		"expired, nothing broken":  {func(j *journal) { expire(j, "so") }, []string{unanswered}},
		"broken soon after":        {func(j *journal) { broken(j, wholeExchange); expire(j, "so") }, nil},
		"broken long after":        {func(j *journal) { broken(j, wholeExchange+2*time.Millisecond); expire(j, "so") }, []string{unanswered}},
		"as two requests":          {func(j *journal) { j.delivered = append(j.delivered, j.delivered[0]); j.delivered[1].request = "r2" }, []string{twice}},
		"one request, twice":       {func(j *journal) { j.delivered = append(j.delivered, j.delivered[0]) }, nil},
		"a reply that nobody made": {func(j *journal) { j.read[slot{"r1", 1}] = []reading{{"alice", "h2", time.Time{}}} }, []string{invented}},
		"one of our own cameras": {func(j *journal) {
			j.own["cam-1"] = true
			j.read[slot{"r1", 1}] = []reading{{"alice", "h2", time.Time{}}}
		}, nil},
		"in time":                   {func(j *journal) { j.answers[0].took = slowest }, nil},
		"too late":                  {func(j *journal) { j.answers[0].took = slowest + 1 }, []string{slow}},
		"a wait takes longer":       {func(j *journal) { j.answers[0].op, j.answers[0].took = opWait, slowest+1 }, nil},
		"a camera is away":          {func(j *journal) { j.answers[0].status, j.answers[0].code = 409, "device_offline" }, nil},
		"no such device":            {func(j *journal) { j.answers[0].status, j.answers[0].code = 404, "device_not_found" }, []string{wrongAnswer}},
		"an internal error":         {func(j *journal) { j.answers[0].status = 500 }, []string{wrongAnswer}},
		"503 without Retry-After":   {func(j *journal) { j.answers[0].status, j.answers[0].code = 503, "unavailable" }, []string{wrongAnswer}},
		"503 for no known reason":   {func(j *journal) { j.answers[0].status, j.answers[0].retryAfter = 503, true }, []string{wrongAnswer}},
		"503 as it should be":       {func(j *journal) { j.answers[0] = answer{status: 503, code: "unavailable", retryAfter: true} }, nil},
		"no answer, nothing broken": {func(j *journal) { j.answers = []answer{down} }, []string{wrongAnswer}},
		"no answer, killed": {func(j *journal) {
			j.answers = []answer{down}
			j.outages = []*outage{outageFrom(500*time.Millisecond, false)}
		}, nil},
		"no answer, another one killed": {func(j *journal) {
			j.answers = []answer{down}
			j.outages = []*outage{{api: 1, span: outageFrom(0, false).span}}
		}, []string{wrongAnswer}},
		"cut by an orderly stop": {func(j *journal) {
			j.answers = []answer{down}
			j.outages = []*outage{outageFrom(500*time.Millisecond, true)}
		}, []string{cutCall}},
		"begun after an orderly stop": {func(j *journal) { j.answers = []answer{down}; j.outages = []*outage{outageFrom(-time.Second, true)} }, nil},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			j := kept()
			c.change(j)
			got := map[string]bool{}
			for _, v := range judge(j).Violations {
				got[v.Kind] = true
			}
			if kinds := slices.Sorted(maps.Keys(got)); !slices.Equal(kinds, slices.Sorted(slices.Values(c.want))) {
				t.Errorf("found %q, want %q", kinds, c.want)
			}
		})
	}
}

// TestJudge_AFaultSaysWhatItAllows: the table of fallbacks is asked for calls that lie wholly within a fault.
func TestJudge_AFaultSaysWhatItAllows(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	refused := answer{op: opSend, status: 503, code: "broker_unavailable", degraded: "broker", retryAfter: true}
	cases := map[string]struct {
		fault string
		a     answer
		after time.Duration
		wrong bool
	}{
		"F1: a send is refused":                 {"F1", refused, 5 * time.Second, false},
		"F1: a send is accepted":                {"F1", answer{op: opSend, status: 202, degraded: "broker"}, 5 * time.Second, true},
		"F1: a send is accepted at the begin":   {"F1", answer{op: opSend, status: 202}, time.Second, false},
		"F1: a cached reply":                    {"F1", answer{op: opPoll, status: 200, degraded: "broker"}, 5 * time.Second, false},
		"F1: an answer that tells of no outage": {"F1", answer{op: opPoll, status: 200}, 5 * time.Second, true},
		"F3: a send is accepted":                {"F3", answer{op: opSend, status: 202, degraded: "cache"}, 5 * time.Second, false},
		"F3: a send is refused":                 {"F3", refused, 5 * time.Second, true},
		"F5: an empty 200":                      {"F5", answer{op: opPoll, status: 200}, 5 * time.Second, true},
		"F12: the API that was killed":          {"F12", refused, 5 * time.Second, false},
		"F12: the other one":                    {"F12", answer{api: 1, op: opSend, status: 503, code: "unavailable", retryAfter: true}, 5 * time.Second, true},
		"F5: a sign of life":                    {"F5", answer{op: opMe, status: 200}, 5 * time.Second, false},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f, err := Find(c.fault)
			if err != nil {
				t.Fatal(err)
			}
			j := newJournal()
			j.faults = []faultSpan{{fault: f, span: span{began, began.Add(10 * time.Second)}}}
			c.a.began = began.Add(c.after)
			j.answers = []answer{c.a}
			if v := judge(j); v.OK() == c.wrong {
				t.Errorf("found %v, want a violation: %t", v.Violations, c.wrong)
			}
		})
	}
}
