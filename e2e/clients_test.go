package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// Several clients talk to one camera, and each gets its own replies and nobody else's (I3).

func TestTwoClientsOfOneCamera(t *testing.T) {
	s := startSystem(t)
	cam := s.admin.newDevice("shared").connect()
	ofAlice := s.alice.ping(cam.ID)
	ofBob := s.bob.ping(cam.ID)
	cam.answer(ofAlice.RequestID, `"for alice"`)
	cam.answer(ofBob.RequestID, `"for bob"`)

	// The first poll drains the replies of both, and shows its own client's.
	got := s.alice.poll(cam.ID, "")
	expectOneReply(t, got, ofAlice.RequestID, `"for alice"`)
	if got.Source != "broker" {
		t.Errorf("alice's came from the %s, want the broker", got.Source)
	}

	// Alice cannot read Bob's, whatever she tries; an id that is not hers is like one that does not exist.
	stranger := "/v1/requests/" + ofBob.RequestID
	for _, headers := range [][]string{nil, {"Client: bob"}, {"X-Client-Id: bob"}, {"X-Forwarded-User: bob"}} {
		var stolen replies
		s.alice.call("GET", pollPath(cam.ID, "", ofBob.RequestID), nil, headers...).into(http.StatusOK, &stolen)
		if len(stolen.Replies) != 0 || stolen.state(ofBob.RequestID) != "not_found" {
			t.Errorf("with %q alice read %+v", headers, stolen)
		}
		s.alice.call("GET", stranger, nil, headers...).refused(http.StatusNotFound, "request_not_found")
		s.alice.call("DELETE", stranger, nil, headers...).refused(http.StatusNotFound, "request_not_found")
	}
	s.alice.call("GET", pollPath(cam.ID, "", ofBob.RequestID)+"&client=bob", nil).refused(http.StatusUnprocessableEntity, "invalid_request")
	if more := s.alice.poll(cam.ID, ""); len(more.Replies) != 0 {
		t.Errorf("a second poll gave alice %v", more.results())
	}

	// Bob's waits for him where the first drain put it.
	got = s.bob.poll(cam.ID, "")
	expectOneReply(t, got, ofBob.RequestID, `"for bob"`)
	if got.Source != "cache" {
		t.Errorf("bob's came from the %s, want the cache", got.Source)
	}
}

func TestReadingIsRepeatableByIDWithinTheGrace(t *testing.T) {
	s := startSystem(t, "--reply-grace", "2s")
	cam := s.admin.newDevice("grace").connect()
	sent := s.alice.ping(cam.ID)
	cam.answer(sent.RequestID, `1`)

	for range 2 {
		expectOneReply(t, s.alice.poll(cam.ID, "5", sent.RequestID), sent.RequestID, `1`)
	}
	if got := s.alice.poll(cam.ID, ""); len(got.Replies) != 0 {
		t.Errorf("a poll without ids shows again %v", got.results())
	}
	waitFor(t, 10*time.Second, "the grace to end", func() bool {
		got := s.alice.poll(cam.ID, "", sent.RequestID)
		return len(got.Replies) == 0 && got.state(sent.RequestID) == "already_read"
	})
}

func TestRequestIDsThatAreForgedOrForeignReachNobody(t *testing.T) {
	s := startSystem(t)
	honest, liar := s.admin.newDevice("honest").connect(), s.admin.newDevice("liar").connect()
	sent := s.alice.ping(honest.ID)
	id := honest.next().RequestID
	if id != sent.RequestID {
		t.Fatalf("the camera got %s, the client %s", id, sent.RequestID)
	}
	orphans := s.metric("signal_device_orphan_events_total")

	bent := []byte(id)
	bent[len(bent)-20] ^= 1 // another digit of the same alphabet, in the signed part
	forged := []string{
		replyTo(id, 0, true, `"another camera's"`),
		replyTo(string(bent), 0, true, `"bent"`),
		replyTo(id[:len(id)-1], 0, true, `"cut"`),
		replyTo("", 0, true, `"none"`),
		"no envelope, only " + id,
	}
	for _, payload := range forged {
		liar.publish(payload)
	}
	honest.publish(replyTo(string(bent), 0, true, `"bent by its own camera"`))

	waitFor(t, stopTimeout, "the orphans to be counted", func() bool {
		return s.metric("signal_device_orphan_events_total") == orphans+float64(len(forged)+1)
	})
	for _, a := range []api{s.alice, s.bob, s.admin} {
		for _, dev := range []string{honest.ID, liar.ID} {
			if got := a.poll(dev, ""); len(got.Replies) != 0 {
				t.Errorf("somebody read %v", got.results())
			}
		}
	}
	honest.answer(id, `"the true one"`)
	expectOneReply(t, s.alice.poll(honest.ID, "5", id), id, `"the true one"`)
}

func TestWaitingForTheReply(t *testing.T) {
	s := startSystem(t)
	cam := s.admin.newDevice("waiting").connect()

	t.Run("comes in time", func(t *testing.T) {
		go func() { // answers once the command is there
			cmd := <-cam.Commands
			cam.client.Publish(cam.Topics.Events, 1, false, replyTo(cmd.RequestID, 0, true, `"now"`))
		}()
		got := s.alice.ping(cam.ID, "Prefer: wait=10")
		if got.State != "answered" || len(got.Replies) != 1 || string(got.Replies[0].Result) != `"now"` {
			t.Errorf("answered %+v, want the reply", got)
		}
	})
	t.Run("does not come in time", func(t *testing.T) {
		began := time.Now()
		got := s.alice.ping(cam.ID, "Prefer: wait=1")
		if took := time.Since(began); got.State != "delivered" || got.Replies != nil || took < time.Second {
			t.Errorf("after %s answered %+v, want the state delivered after one second", took, got)
		}
	})
	t.Run("a long poll is woken by the reply", func(t *testing.T) {
		got := s.alice.ping(cam.ID)
		answered := make(chan replies, 1)
		go func() {
			var out replies
			ans, err := s.alice.try("GET", pollPath(cam.ID, "30", got.RequestID), nil)
			if err == nil && ans.status == http.StatusOK {
				ans.into(http.StatusOK, &out)
			}
			answered <- out
		}()
		cam.answer(got.RequestID, `"later"`)
		select {
		case out := <-answered:
			expectOneReply(t, out, got.RequestID, `"later"`)
		case <-time.After(stopTimeout):
			t.Fatal("the long poll still waits")
		}
	})
}

func TestIdempotencyKey(t *testing.T) {
	s := startSystem(t)
	cam := s.admin.newDevice("idempotent").connect()
	const key = "Idempotency-Key: 6f1c"

	first := s.alice.ping(cam.ID, key)
	again := s.alice.ping(cam.ID, key)
	if first.RequestID != again.RequestID {
		t.Errorf("the same key made two requests, %s and %s", first.RequestID, again.RequestID)
	}
	s.alice.call("POST", "/v1/devices/"+cam.ID+"/commands", `{"command":"get_status"}`, key).
		refused(http.StatusConflict, "idempotency_conflict")
	if other := s.bob.ping(cam.ID, key); other.RequestID == first.RequestID {
		t.Error("the key of one client named the request of another")
	}

	var seen []string
	for range 2 {
		seen = append(seen, cam.next().RequestID)
	}
	fresh := s.alice.ping(cam.ID)
	if next := cam.next(); next.RequestID != fresh.RequestID || slices.Contains(seen, next.RequestID) {
		t.Errorf("the camera received %s, want each request once: %v", next.RequestID, seen)
	}
}

// metric reads one value of the admin listener's metrics, summed over its labels.
func (s *system) metric(name string) float64 {
	s.t.Helper()
	page := api{t: s.t, base: "http://" + s.Admin}.call("GET", "/metrics", nil).into(http.StatusOK, nil)
	sum, found := 0.0, false
	for line := range strings.Lines(string(page.body)) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			var v float64
			if _, err := fmt.Sscan(rest[strings.LastIndexByte(rest, ' ')+1:], &v); err != nil {
				s.t.Fatalf("%v in %q", err, line)
			}
			sum, found = sum+v, true
		}
	}
	if !found {
		s.t.Fatalf("there is no metric %s", name)
	}
	return sum
}
