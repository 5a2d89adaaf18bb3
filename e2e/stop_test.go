package e2e

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// SIGTERM drains and exits 0 within 10 s, whatever is under way.

func TestSIGTERM(t *testing.T) {
	broker := startBroker(t)
	tests := map[string]func() *process{
		"broker":     func() *process { return startBroker(t).process },
		"serve":      func() *process { return start(t, broker.serve("--tokens", newTokens(t, broker.data).file)...) },
		"standalone": func() *process { return startSystem(t).process },
	}
	for name, begin := range tests {
		t.Run(name, func(t *testing.T) {
			if code := begin().terminate(); code != 0 {
				t.Errorf("exit code %d, want 0", code)
			}
		})
	}
}

func TestSIGTERM_AnswersThoseWhoWait(t *testing.T) {
	s := startSystem(t)
	cam := s.admin.newDevice("slow").connect()
	sent := s.alice.ping(cam.ID)
	const waiting = 20
	answers := make(chan answer, waiting)
	for range waiting {
		go func() {
			ans, err := s.alice.try("GET", pollPath(cam.ID, "60", sent.RequestID), nil)
			if err != nil {
				t.Errorf("a call was cut off: %v", err)
			}
			answers <- ans
		}()
	}
	waitFor(t, startTimeout, "the calls to be under way", func() bool {
		return s.metric("signal_device_http_requests_in_flight") == waiting
	})

	began := time.Now()
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	t.Logf("stopped in %s", time.Since(began))
	for range waiting {
		var got replies
		(<-answers).into(http.StatusOK, &got)
		if len(got.Replies) != 0 || got.state(sent.RequestID) != "delivered" {
			t.Errorf("a call that waited was answered %+v, want the state and no reply", got)
		}
	}
}

// The broker ends under exchanges, and then the API that misses it; both come back, and what was under way is told as it
// is.
func TestSIGTERM_OfBothUnderLoad(t *testing.T) {
	b := startBroker(t)
	tok := newTokens(t, b.data)
	serve := b.serve("--tokens", tok.file)
	p := start(t, serve...)
	var code struct{ Code string }
	tok.admin.at(p).call("POST", "/v1/enrolment-codes", `{"name":"busy"}`).into(http.StatusCreated, &code)
	runCamera(t, "--server", "http://"+p.HTTP, "--code", code.Code)
	busy := onlyDevice(t, tok.admin.at(p), "name=busy")
	tok.admin.at(p).waitOnline(busy)

	var load sync.WaitGroup
	var exchanges atomic.Int64
	alice := tok.alice.at(p)
	for range 8 {
		load.Go(func() {
			for {
				ans, err := alice.try("POST", "/v1/devices/"+busy+"/commands", `{"command":"ping"}`, "Prefer: wait=5")
				switch {
				case err != nil:
					return // the API has ended
				case ans.status == http.StatusOK:
					exchanges.Add(1)
				case ans.status != http.StatusAccepted && ans.status != http.StatusServiceUnavailable && ans.status != http.StatusConflict:
					t.Errorf("answered %d %s", ans.status, ans.body)
				}
			}
		})
	}
	underWay := func() {
		t.Helper()
		before := exchanges.Load()
		waitFor(t, startTimeout, "exchanges to be under way", func() bool { return exchanges.Load() > before+20 })
	}
	underWay()
	if code := b.terminate(); code != 0 {
		t.Errorf("the broker ended with exit code %d, want 0", code)
	}
	b.restart()
	underWay()
	if code := p.terminate(); code != 0 {
		t.Errorf("the API ended with exit code %d, want 0", code)
	}
	load.Wait()
	p = start(t, serve...)
	tok.admin.at(p).waitOnline(busy)
	if !tok.alice.at(p).exchange(busy) {
		t.Error("no exchange after the restart")
	}
}

func TestSIGTERM_WhileCamerasComeAndGo(t *testing.T) {
	s := startSystem(t)
	const cameras = 20
	var busy sync.WaitGroup
	came := make(chan struct{}, cameras)
	for i := range cameras {
		dev := s.admin.newDevice(fmt.Sprintf("cam-%d", i))
		busy.Go(func() {
			for n := 0; ; n++ {
				client := dev.client()
				if token := client.Connect(); !token.WaitTimeout(startTimeout) || token.Error() != nil {
					return // the broker has gone
				}
				if n == 1 {
					came <- struct{}{}
				}
				client.Disconnect(0)
			}
		})
	}
	for range cameras {
		<-came
	}

	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	busy.Wait()
}
