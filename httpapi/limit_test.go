package httpapi

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"signaldevice/device"
)

func withRate(rate float64, burst int) func(*Config) {
	return func(c *Config) { c.Rate, c.Burst = rate, burst }
}

func TestRate_OfOneClient(t *testing.T) {
	h := newHarness(t, withRate(50, 100))
	for i := range 100 {
		if res := h.do(call("GET", "/v1/me", "")); res.StatusCode != 200 {
			t.Fatalf("call %d of the burst: %d", i+1, res.StatusCode)
		}
	}
	h.fails(call("GET", "/v1/me", ""), 429, device.RateLimited)
	if got := h.do(call("GET", "/v1/me", "")).Header.Get("Retry-After"); got != "1" {
		t.Errorf("Retry-After %q", got)
	}
	bob := withHeader("Authorization", "Bearer "+otherToken)
	if res := h.do(call("GET", "/v1/me", "", bob)); res.StatusCode != 200 {
		t.Errorf("another client: %d", res.StatusCode)
	}
	h.fails(call("GET", "/v1/me", "", withHeader("Authorization", "Bearer x")), 401, device.Unauthenticated)

	h.now = h.now.Add(19 * time.Millisecond) // a call is there again after 20 ms
	h.fails(call("GET", "/v1/me", ""), 429, device.RateLimited)
	h.now = h.now.Add(time.Millisecond)
	if res := h.do(call("GET", "/v1/me", "")); res.StatusCode != 200 {
		t.Errorf("after the pause: %d", res.StatusCode)
	}
	h.fails(call("GET", "/v1/me", ""), 429, device.RateLimited)
}

func TestRate_SaysHowLongToWait(t *testing.T) {
	h := newHarness(t, withRate(0.1, 1))
	h.do(call("GET", "/v1/me", ""))
	if got := h.do(call("GET", "/v1/me", "")).Header.Get("Retry-After"); got != "10" {
		t.Errorf("Retry-After %q, want 10", got)
	}
}

func TestRate_HasADefaultBurst(t *testing.T) {
	h := newHarness(t, withRate(0.001, 0))
	for range 100 {
		h.do(call("GET", "/v1/me", ""))
	}
	h.fails(call("GET", "/v1/me", ""), 429, device.RateLimited)
}

func TestRate_OfEnrolment(t *testing.T) {
	enrol := func(address string) *http.Request {
		return call("POST", "/v1/enrol", `{"code":"c","csr":"s"}`, withHeader("Authorization"),
			withHeader("X-Forwarded-For", fmt.Sprintf("10.0.0.%d", time.Now().UnixNano()%250)),
			func(r *http.Request) { r.RemoteAddr = address })
	}
	for name, tt := range map[string]struct{ first, same, other string }{
		"IPv4":             {"192.0.2.1:1000", "192.0.2.1:2000", "192.0.2.2:1000"},
		"IPv6, one /64":    {"[2001:db8::1]:1000", "[2001:db8::ffff:1]:1000", "[2001:db8:0:1::1]:1000"},
		"IPv4 inside IPv6": {"[::ffff:192.0.2.1]:1000", "192.0.2.1:1000", "[::ffff:192.0.2.9]:1000"},
		"no address":       {"@", "@", "192.0.2.1:1"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t, withRate(1000, 1000))
			for i := range 20 {
				if res := h.do(enrol(tt.first)); res.StatusCode != 201 {
					t.Fatalf("call %d of the burst: %d", i+1, res.StatusCode)
				}
			}
			h.service.called()
			h.fails(enrol(tt.same), 429, device.RateLimited)
			if res := h.do(enrol(tt.other)); res.StatusCode != 201 {
				t.Errorf("another address: %d", res.StatusCode)
			}
			h.service.called()
			h.now = h.now.Add(99 * time.Millisecond)
			h.fails(enrol(tt.first), 429, device.RateLimited)
			h.now = h.now.Add(time.Millisecond)
			if res := h.do(enrol(tt.first)); res.StatusCode != 201 {
				t.Errorf("after the pause: %d", res.StatusCode)
			}
		})
	}
}

func TestRate_ZeroIsNone(t *testing.T) {
	h := newHarness(t, withRate(0, 1))
	for range 50 {
		if res := h.do(call("GET", "/healthz", "")); res.StatusCode != 200 {
			t.Fatalf("%d", res.StatusCode)
		}
		if err := h.api.clients.take("alice", h.now); err != nil {
			t.Fatal(err)
		}
		if err := h.api.enrol.take("192.0.2.1", h.now); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRateLimiter_RemembersABoundedNumber(t *testing.T) {
	l := newRateLimiter(1, 1)
	take := func(key string) bool { return l.take(key, noon) == nil }
	for i := range maxBuckets {
		take(fmt.Sprint(i))
	}
	if take("0") {
		t.Error("a key that is remembered was let through")
	}
	take("one more") // the longest unseen is now 1, for 0 was just seen
	if got := len(l.buckets); got != maxBuckets || l.order.Len() != maxBuckets {
		t.Errorf("%d buckets, want %d", got, maxBuckets)
	}
	if take("0") {
		t.Error("a key that was seen lately was forgotten")
	}
	if !take("1") {
		t.Error("the key that was not seen for the longest is still there")
	}
}
