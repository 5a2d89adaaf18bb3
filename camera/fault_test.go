package camera

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestFaults_SilentExecutesAndNeverReplies(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{Faults: Faults{Silent: true}})
	s.send("cam1", "r1", "set_volume", `{"volume":5}`)
	s.send("cam1", "r1", "set_volume", `{"volume":5}`)
	s.send("cam1", "r2", "reboot", "")
	eventually(t, "the restart", func() bool { return c.Stats().Reconnects == 1 })
	if got := c.Stats(); got.CommandsExecuted != 2 || got.CommandsDuplicate != 1 || got.RepliesPublished != 0 {
		t.Errorf("%+v", got)
	}
	if v := c.unit.view().Volume; v != 5 {
		t.Errorf("volume %d", v)
	}
}

func TestFaults_ReplyDelayHoldsTheFirstReplyBack(t *testing.T) {
	const delay = 150 * time.Millisecond
	s := newSite(t)
	s.start(Config{Faults: Faults{ReplyDelay: delay}})
	began := time.Now()
	s.send("cam1", "r1", "record_clip", `{"duration":1}`)
	first := s.reply()
	if waited := time.Since(began); waited < delay {
		t.Errorf("the first reply came after %s", waited)
	}
	if first.Status != statusProgress {
		t.Errorf("first reply: %s", first.body)
	}
	for s.reply().Status == statusProgress {
	}
	if whole := time.Since(began); whole > 3*delay {
		t.Errorf("every reply was delayed: %s in all", whole)
	}
}

func TestFaults_DuplicateSendsEachReplyTwice(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{Faults: Faults{Duplicate: true}})
	s.send("cam1", "r1", "run_diagnostics", `{"tests":["lens"]}`)
	for seq := range 2 {
		one, two := s.reply(), s.reply()
		if one.body != two.body || *one.Seq != seq {
			t.Errorf("seq %d: %s, then %s", seq, one.body, two.body)
		}
	}
	eventually(t, "both replies are acknowledged", func() bool { return c.Stats().RepliesAcked == 2 })
	if got := c.Stats().RepliesPublished; got != 4 {
		t.Errorf("%d replies published", got)
	}
}

func TestFaults_DropConnectionCutsAndThenReplies(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{Faults: Faults{DropConnection: 1}, Seed: 1})
	for i := range 6 {
		id := fmt.Sprint("r", i)
		s.send("cam1", id, "ping", "")
		if r := s.replies(id)[0]; r.Status != statusOK {
			t.Errorf("reply: %s", r.body)
		}
		eventually(t, "a new connection and a reply done with", func() bool {
			got := c.Stats()
			return got.Reconnects == int64(i+1) && got.RepliesAcked == int64(i+1)
		})
	}
	if got := c.Stats(); got.CommandsExecuted != 6 || got.CommandsDuplicate != 0 {
		t.Errorf("%+v", got)
	}
}

// A camera that cuts before its PUBACK has not told the broker that it has the command.
func TestFaults_DropConnectionBeforeThePUBACK(t *testing.T) {
	seed := seedWhere(t, func(f fate) bool { return f.cutOnReceipt })
	b := newScriptedBroker(t, Config{Faults: Faults{DropConnection: 1}, Seed: seed})
	b.publish(9, `{"request_id":"r1","command":"ping"}`)
	b.wantClosed()
	b.wantReplyWaiting("r1")
}

// seedWhere returns a seed whose first fate is as wanted.
func seedWhere(t *testing.T, wanted func(fate) bool) uint64 {
	t.Helper()
	for seed := range uint64(100) {
		c := idle(t, Config{Seed: seed, Faults: Faults{DropConnection: 1, Garbage: 1}})
		if wanted(c.dice.throw("r1", "foreign")) {
			return seed
		}
	}
	t.Fatal("no seed out of 100")
	return 0
}

func TestFaults_GarbageGoesBeforeTheTrueReply(t *testing.T) {
	s := newSite(t)
	c := s.start(Config{Faults: Faults{Garbage: 1}, Seed: 3})
	const id = "sdr1_abcdefghijklmnopqrstuvwxyz"
	kinds := map[string]bool{}
	for i := range 12 {
		request := fmt.Sprint(id, i)
		s.send("cam1", request, "ping", "")
		garbage := s.next().body
		var r seen
		switch err := json.Unmarshal(garbage, &r); {
		case err != nil:
			kinds["not json"] = true
		case r.RequestID == request:
			t.Errorf("garbage with the true id: %s", garbage)
		case len(r.RequestID) == len(request) && strings.HasPrefix(r.RequestID, "sdr1_"):
			kinds["bent"] = true
		default:
			t.Errorf("garbage of no kind: %s", garbage)
		}
		if r := s.replies(request)[0]; r.Status != statusOK {
			t.Errorf("reply: %s", r.body)
		}
	}
	if len(kinds) != 2 {
		t.Errorf("kinds of garbage: %v", kinds)
	}
	if got := c.Stats(); got.GarbagePublished != 12 || got.RepliesPublished != 12 {
		t.Errorf("%+v", got)
	}
}

func TestFaults_GarbageOfAFleetUsesAnothersID(t *testing.T) {
	seed := seedWhere(t, func(f fate) bool { return strings.Contains(string(f.garbage), "stolen") })
	s := newSite(t)
	f := must(NewFleet(FleetConfig{Cameras: []Config{
		{Identity: s.identity("cam1")},
		{Identity: s.identity("cam2"), Seed: seed, Faults: Faults{Garbage: 1}},
	}}))(t)
	run(t, f.Run)
	s.waitFor("the fleet", f.Ready())
	s.send("cam1", "first", "ping", "")
	s.replies("first")
	s.send("cam2", "second", "ping", "")
	if r := s.reply(); r.topic != "$devices/cam2/events" || r.RequestID != "first" || string(r.Result) != `"stolen"` {
		t.Errorf("garbage: %s on %s", r.body, r.topic)
	}
	s.replies("second")
}

func TestFaults_SameSeedSameFates(t *testing.T) {
	throw := func(seed uint64, f Faults) []fate {
		d := &dice{rng: rand.New(rand.NewPCG(seed, 2)), faults: f}
		var all []fate
		for i := range 200 {
			all = append(all, d.throw(fmt.Sprint("request-", i), "foreign"))
		}
		return all
	}
	faults := Faults{DropConnection: 0.3, Garbage: 0.3}
	if !reflect.DeepEqual(throw(1, faults), throw(1, faults)) {
		t.Error("one seed gives two series")
	}
	if reflect.DeepEqual(throw(1, faults), throw(2, faults)) {
		t.Error("two seeds give one series")
	}
	var cuts, garbage int
	quiet := throw(1, Faults{DropConnection: 0.3})
	for i, f := range throw(1, faults) {
		if f.cutOnReceipt || f.cutBeforeReply {
			cuts++
		}
		if f.garbage != nil {
			garbage++
		}
		if quiet[i].cutOnReceipt != f.cutOnReceipt || quiet[i].garbage != nil {
			t.Errorf("fate %d: garbage shifts the cuts", i)
		}
	}
	if cuts < 35 || cuts > 85 || garbage < 35 || garbage > 85 {
		t.Errorf("%d cuts and %d times garbage in 200, want about 60 each", cuts, garbage)
	}
}

func TestBend_ChangesOneCharacter(t *testing.T) {
	for _, id := range []string{"A", "AB", "abcdefg", "sdr1_" + strings.Repeat("A", 68)} {
		for noise := range uint64(100) {
			bent, changed := bend(id, noise), 0
			for i := range id {
				if id[i] != bent[i] {
					changed++
				}
			}
			if len(bent) != len(id) || changed != 1 {
				t.Fatalf("%s became %s", id, bent)
			}
		}
	}
}
