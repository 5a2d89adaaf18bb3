package e2e

import (
	"net/http"
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

func TestSIGTERM_EndsLongPollsAndStreams(t *testing.T) {
	s := startSystem(t)
	cam := s.admin.newDevice("slow").connect()
	sent := s.alice.ping(cam.ID)
	answers := make(chan answer, 2)
	ask := func(path string) {
		ans, err := s.alice.try("GET", path, nil)
		if err != nil {
			t.Errorf("%s was cut off: %v", path, err)
		}
		answers <- ans
	}
	go ask(pollPath(cam.ID, "60", sent.RequestID))
	go ask("/v1/events")
	waitFor(t, startTimeout, "both calls to be under way", func() bool {
		return s.metric("signal_device_http_requests_in_flight") >= 2
	})

	began := time.Now()
	if code := s.terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	for range 2 {
		if ans := <-answers; ans.status != http.StatusOK {
			t.Errorf("a call in flight was answered %d: %s", ans.status, ans.body)
		}
	}
	t.Logf("stopped in %s", time.Since(began))
}
