package e2e

import (
	"cmp"
	"net/http"
	"testing"
	"time"

	"signaldevice/testserver"
)

// The broker and the cache die and come back under an API that keeps running. Each answer tells the truth or says that
// it cannot (I7, I8), and nothing needs a restart.

const (
	answerWithin  = 2 * time.Second        // any call without wait, whatever is down
	openWithin    = 100 * time.Millisecond // once it is known to be down
	noticeWithin  = 5 * time.Second        // without a call that needs it: the next probe
	recoverWithin = 3 * time.Second        // the contract says 2 s; a busy machine under the race detector gets one more
)

func TestDegraded(t *testing.T) {
	b := startBroker(t)
	redis := testserver.Redis(t)
	tok := newTokens(t, b.data)
	p := start(t, b.serve("--tokens", tok.file, "--redis", redis.URL)...)
	admin, alice, bob := tok.admin.at(p), tok.alice.at(p), tok.bob.at(p)
	dev := admin.newDevice("cam")
	cam := dev.connect()
	commands := "/v1/devices/" + cam.ID + "/commands"

	// Alice's poll brings the replies of bob into the cache, two of three.
	var ofBob []string
	for range 3 {
		ofBob = append(ofBob, bob.ping(cam.ID).RequestID)
	}
	cam.answer(ofBob[0], `"first"`)
	cam.answer(ofBob[1], `"second"`)
	alice.poll(cam.ID, "")

	t.Run("broker down", func(t *testing.T) {
		b.kill()
		expectDegraded(t, admin, "broker", noticeWithin)
		r := alice.on(t, p).call("POST", commands, `{"command":"ping"}`)
		r.refused(http.StatusServiceUnavailable, "broker_unavailable")
		if r.header.Get("Retry-After") == "" || r.took > openWithin {
			t.Errorf("refused after %s with Retry-After %q, want at once and when to come again", r.took, r.header.Get("Retry-After"))
		}
		admin.on(t, p).call("GET", "/v1/devices", nil).refused(http.StatusServiceUnavailable, "broker_unavailable")
		alice.on(t, p).call("GET", pollPath(cam.ID, ""), nil).refused(http.StatusServiceUnavailable, "broker_unavailable")
		alice.on(t, p).call("GET", "/v1/me", nil).into(http.StatusOK, nil)

		var got replies
		bob.on(t, p).call("GET", pollPath(cam.ID, "", ofBob[0], ofBob[2]), nil).into(http.StatusOK, &got).degraded("broker")
		if len(got.Replies) != 1 || got.Source != "cache" || got.state(ofBob[0]) != "answered" || got.state(ofBob[2]) != "unverified" {
			t.Errorf("bob read %+v, want his cached reply, and that the other request cannot be verified", got)
		}
	})
	t.Run("broker and cache down", func(t *testing.T) {
		redis.Kill()
		expectDegraded(t, admin, "broker, cache", noticeWithin)
		r := bob.on(t, p).call("GET", pollPath(cam.ID, "", ofBob[1]), nil)
		r.degraded("broker, cache").refused(http.StatusServiceUnavailable, "unavailable")
		alice.on(t, p).call("POST", commands, `{"command":"ping"}`).refused(http.StatusServiceUnavailable, "broker_unavailable")
	})
	t.Run("cache down", func(t *testing.T) {
		b.restart()
		expectDegraded(t, admin, "cache", recoverWithin)
		cam := dev.connect()
		sent := alice.on(t, p).ping(cam.ID)
		cam.answer(sent.RequestID, `"without a cache"`)
		cam.answer(ofBob[2], `"third"`)
		got := alice.on(t, p).poll(cam.ID, "5", sent.RequestID)
		expectOneReply(t, got, sent.RequestID, `"without a cache"`)
		if got.Source != "broker" {
			t.Errorf("the reply came from the %s, want the broker", got.Source)
		}
		// Alice's drain left bob's where it was.
		expectOneReply(t, bob.on(t, p).poll(cam.ID, "", ofBob[2]), ofBob[2], `"third"`)
	})
	t.Run("all is well again", func(t *testing.T) {
		redis.Restart()
		expectDegraded(t, admin, "", recoverWithin)
		expectOneReply(t, bob.on(t, p).poll(cam.ID, "", ofBob[1]), ofBob[1], `"second"`)
	})
}

// expectDegraded waits until the API says which dependencies it misses; "": none.
func expectDegraded(t *testing.T, a api, want string, within time.Duration) {
	t.Helper()
	a.t = t
	waitFor(t, within, "the API to miss "+cmp.Or(want, "nothing"), func() bool {
		r := a.call("GET", "/v1/me", nil)
		r.quick()
		return r.header.Get("Signal-Device-Degraded") == want
	})
}

// degraded expects the header that names what is missing, on an answer that came in time.
func (r answer) degraded(want string) answer {
	r.t.Helper()
	r.quick()
	if got := r.header.Get("Signal-Device-Degraded"); got != want {
		r.t.Errorf("Signal-Device-Degraded is %q, want %q", got, want)
	}
	return r
}

func (r answer) quick() {
	r.t.Helper()
	if r.took > answerWithin {
		r.t.Errorf("answered after %s, want at most %s", r.took, answerWithin)
	}
}
