package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"signaldevice/testserver"
)

// Instances behind a load balancer are replaced one by one, and no caller notices. Programs may start in any order.

func TestRollingRestart_NoCallFails(t *testing.T) { // I6
	b := startBroker(t)
	tok := newTokens(t, b.data)
	redis := testserver.Redis(t)
	addrs := []string{freeAddr(t), freeAddr(t)}
	begin := func(i int) *process {
		return start(t, b.serve("--http", addrs[i], "--tokens", tok.file, "--redis", redis.URL, "--drain-delay", "1500ms")...)
	}
	instances := []*process{begin(0), begin(1)}
	balancer := testserver.HAProxy(t, addrs...)
	through := func(a api) api { a.base = balancer.URL; return a }
	admin, alice, bob := through(tok.admin), through(tok.alice), through(tok.bob)
	var code struct{ Code string }
	admin.call("POST", "/v1/enrolment-codes", `{"name":"busy"}`).into(http.StatusCreated, &code)
	runCamera(t, "--server", balancer.URL, "--code", code.Code)
	busy := onlyDevice(t, admin, "name=busy")
	admin.waitOnline(busy)
	quiet := admin.newDevice("quiet").connect()
	asked := bob.ping(quiet.ID).RequestID

	var load sync.WaitGroup
	var over atomic.Bool
	var exchanges, waits atomic.Int64
	for range 6 {
		load.Go(func() {
			for !over.Load() && alice.exchange(busy) {
				exchanges.Add(1)
			}
		})
		load.Go(func() {
			for !over.Load() && bob.longPoll(quiet.ID, asked) {
				waits.Add(1)
			}
		})
	}
	for i, p := range instances {
		before := exchanges.Load()
		waitFor(t, startTimeout, "calls to go through", func() bool { return exchanges.Load() > before+20 || t.Failed() })
		if code := p.terminate(); code != 0 {
			t.Errorf("exit code %d, want 0", code)
		}
		begin(i)
		waitFor(t, startTimeout, "the load balancer to see the new instance", func() bool {
			stats := api{t: t, base: balancer.URL}.call("GET", "/stats;csv", nil)
			return isUp(string(stats.body), fmt.Sprintf("apis,s%d,", i))
		})
	}
	over.Store(true)
	quiet.answer(asked, `"at last"`) // ends the long polls
	load.Wait()
	t.Logf("%d exchanges and %d long polls", exchanges.Load(), waits.Load())
	if waits.Load() < 2 {
		t.Error("no long poll met a stop")
	}
}

// exchange sends a ping and reads its reply. It reports whether no call failed.
func (a api) exchange(device string) bool {
	sent, err := a.try("POST", "/v1/devices/"+device+"/commands", `{"command":"ping"}`)
	if err != nil || sent.status != http.StatusAccepted {
		a.t.Errorf("a send failed: %d %s %v", sent.status, sent.body, err)
		return false
	}
	var acc accepted
	sent.into(http.StatusAccepted, &acc)
	for { // a long poll that meets a stop answers with the state
		got, err := a.try("GET", pollPath(device, "10", acc.RequestID), nil)
		if err != nil || got.status != http.StatusOK {
			a.t.Errorf("a poll failed: %d %s %v", got.status, got.body, err)
			return false
		}
		var r replies
		got.into(http.StatusOK, &r)
		switch state := r.state(acc.RequestID); {
		case len(r.Replies) == 1 && r.Answered:
			return true
		case state != "sent" && state != "delivered":
			a.t.Errorf("a poll was told %q and given %d replies", state, len(r.Replies))
			return false
		}
	}
}

// longPoll waits for a reply that does not come. It reports whether the call was answered as it should be.
func (a api) longPoll(device, id string) bool {
	got, err := a.try("GET", pollPath(device, "30", id), nil)
	if err != nil || got.status != http.StatusOK {
		a.t.Errorf("a long poll failed: %d %s %v", got.status, got.body, err)
		return false
	}
	return true
}

func isUp(stats, server string) bool {
	for line := range strings.Lines(stats) {
		if strings.HasPrefix(line, server) {
			return strings.Contains(line, ",UP,")
		}
	}
	return false
}

// TestDrainDelay: both listeners say that the instance stops, while it takes calls as ever, and long polls go on.
func TestDrainDelay(t *testing.T) {
	const delay = 2 * time.Second
	s := startSystem(t, "--drain-delay", delay.String())
	cam := s.admin.newDevice("cam").connect()
	sent := s.alice.ping(cam.ID)
	waiting := make(chan answer, 1)
	go func() {
		ans, err := s.alice.try("GET", pollPath(cam.ID, "60", sent.RequestID), nil)
		if err != nil {
			t.Errorf("a long poll was cut off: %v", err)
		}
		waiting <- ans
	}()
	waitFor(t, startTimeout, "the long poll to be under way", func() bool {
		return s.metric("signal_device_http_requests_in_flight") == 1
	})
	began := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	atAdmin := api{t: t, base: "http://" + s.Admin}
	waitFor(t, delay, "/readyz to say it", func() bool { return atAdmin.call("GET", "/readyz", nil).status != http.StatusOK })
	for _, listener := range []api{s.alice, atAdmin} {
		listener.call("GET", "/readyz", nil).refused(http.StatusServiceUnavailable, "stopping")
		listener.call("GET", "/healthz", nil).into(http.StatusOK, nil)
	}
	s.alice.ping(cam.ID)
	cam.answer(sent.RequestID, `"in time"`)
	var got replies
	(<-waiting).into(http.StatusOK, &got)
	expectOneReply(t, got, sent.RequestID, `"in time"`)
	select {
	case <-s.done:
	case <-time.After(delay + stopTimeout):
		t.Fatal("it does not stop")
	}
	if code, took := s.cmd.ProcessState.ExitCode(), time.Since(began); code != 0 || took < delay {
		t.Errorf("ended with %d after %s, want 0 and not before %s", code, took, delay)
	}
}

// TestStartOrder: each program takes up what comes after it, without a restart.
func TestStartOrder(t *testing.T) {
	for _, order := range []string{"api broker redis", "api redis broker", "broker api redis", "redis api broker"} {
		t.Run(order, func(t *testing.T) {
			b := startBroker(t) // makes the certificates that the API needs
			tok := newTokens(t, b.data)
			redis := testserver.Redis(t)
			b.kill()
			redis.Kill()
			var p *process
			for part := range strings.FieldsSeq(order) {
				switch part {
				case "api":
					p = start(t, b.serve("--tokens", tok.file, "--redis", redis.URL)...)
				case "broker":
					b.restart()
				case "redis":
					redis.Restart()
				}
			}
			admin, alice := tok.admin.on(t, p), tok.alice.on(t, p)
			expectDegraded(t, admin, "", recoverWithin)
			cam := admin.newDevice("cam").connect()
			sent := alice.ping(cam.ID)
			cam.answer(sent.RequestID, `"here"`)
			got := alice.poll(cam.ID, "5", sent.RequestID)
			expectOneReply(t, got, sent.RequestID, `"here"`)
		})
	}
}
