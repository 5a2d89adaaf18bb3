package dispatch_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// lines is a log that can be read while it is written.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *lines) with(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.buf.String(), text)
}

func withLog(l *lines) func(*dispatch.Config) {
	return func(c *dispatch.Config) { c.Log = slog.New(slog.NewTextHandler(l, nil)) }
}

func TestBreaker_OpensAfterFiveFailuresAndClosesWithin2Seconds(t *testing.T) { // I7
	type dependency struct {
		name   string
		faults func(*system) *faults
		down   device.Kind
	}
	broker := dependency{"broker", func(s *system) *faults { return &s.broker.faults }, device.BrokerUnavailable}
	cache := dependency{"cache", func(s *system) *faults { return &s.cache.faults }, device.CacheUnavailable}
	for _, dep := range []dependency{broker, cache} {
		for name, what := range map[string]fault{
			"refuses":               outage(dep.down),
			"accepts and is silent": {hang: true},
			"cuts connections":      cutOff,
		} {
			t.Run(dep.name+" "+name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					log := &lines{}
					s := newSystem(true, withLog(log))
					s.start(t)
					synctest.Wait()
					id := s.send(t, alice, cam)
					dep.faults(s).always(what)
					out := time.Now()
					for range 5 {
						start := time.Now()
						_, _ = s.poll(alice, id)
						wantTook(t, time.Since(start), 0, 1750*time.Millisecond)
						time.Sleep(100 * time.Millisecond)
					}
					before := dep.faults(s).made("take") + dep.faults(s).made("drain")
					for range 10 {
						start := time.Now()
						_, err := s.poll(alice, id)
						wantTook(t, time.Since(start), 0, 100*time.Millisecond)
						if dep.name == "broker" {
							wantKind(t, err, device.BrokerUnavailable)
						} else {
							wantKind(t, err, device.OK)
						}
					}
					if after := dep.faults(s).made("take") + dep.faults(s).made("drain"); after != before {
						t.Error("a live call was made although the breaker is open")
					}
					got := s.Degraded(time.Now())
					if len(got) != 1 || got[0].Dependency != dep.name || got[0].Since.Sub(out) > 1500*time.Millisecond {
						t.Errorf("degraded = %v, want %s since %v", got, dep.name, out)
					}
					if s.counted.isUp(dep.name) {
						t.Error("it counts as up")
					}

					time.Sleep(time.Minute)
					dep.faults(s).always(fault{})
					time.Sleep(2 * time.Second)
					if got := s.Degraded(time.Now()); len(got) != 0 {
						t.Errorf("2 s after its return: degraded = %v", got)
					}
					got2, err := s.poll(alice, id)
					wantReplies(t, got2, err)
					wantStates(t, got2, device.StateNoReply)
					if !s.counted.isUp(dep.name) {
						t.Error("it does not count as up again")
					}
					if n, m := log.with("dependency is out"), log.with("dependency is back"); n != 1 || m != 1 {
						t.Errorf("%d lines of its going and %d of its return, want one of each", n, m)
					}
				})
			})
		}
	}
}

func TestBreaker_StaysClosedWhileTheDependencyAnswers(t *testing.T) {
	tests := map[string]fault{
		"one shard elects its leader":      brokerDown,
		"the broker refuses what is asked": {before: device.Errorf(device.DeviceNotFound, "no such device")},
		"the broker fails within":          {before: device.Errorf(device.Internal, "a fault of its own")},
		"one shard is silent":              {hang: true},
	}
	for name, what := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.start(t)
				synctest.Wait()
				s.broker.always(what, "drain")
				var polls []<-chan answer[dispatch.Replies]
				for range 20 {
					polls = append(polls, s.wait(alice, 0))
				}
				for _, p := range polls {
					<-p
				}
				if !s.counted.isUp("broker") {
					t.Error("the breaker opened")
				}
				if _, err := s.Device(t.Context(), alice, cam); err != nil {
					t.Errorf("another call: %v", err)
				}
			})
		})
	}
}

func TestDegraded_NamesTheFailureThatAnAnswerMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		s.cache.set(func(op string) fault {
			if op == "take" {
				s.cache.set(nil)
				return cacheDown
			}
			return fault{}
		})
		began := time.Now()
		if _, err := s.poll(alice); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // the probe after it succeeds
		if got := s.Degraded(began); len(got) != 1 || got[0].Dependency != "cache" || got[0].Reason == "" {
			t.Errorf("degraded = %v, want the cache, and why", got)
		}
		if got := s.Degraded(time.Now()); len(got) != 0 {
			t.Errorf("for a call that begins now: degraded = %v", got)
		}
	})
}

// A call that the breaker refused may answer after the outage: it looked into less than a call that begins now.
func TestDegraded_NamesAnOutageThatEndedUnderTheCall(t *testing.T) { // I8
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		s.cache.always(cacheDown)
		time.Sleep(time.Minute)
		failed := s.cache.made("ping")
		began := time.Now()
		if _, err := s.poll(alice); err != nil { // it ends without the cache
			t.Fatal(err)
		}
		if got := s.cache.made("ping"); got != failed {
			t.Fatal("a probe failed after the call began: this proves nothing")
		}
		s.cache.always(fault{})
		time.Sleep(time.Second)
		if got := s.Degraded(began); len(got) != 1 || got[0].Dependency != "cache" {
			t.Errorf("for the call: degraded = %v, want the cache", got)
		}
		if got := s.Degraded(time.Now()); len(got) != 0 {
			t.Errorf("for a call that begins now: degraded = %v", got)
		}
	})
}

func TestDegraded_NamesAnOutageThatNobodyMet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, nil)
		s.start(t)
		synctest.Wait()
		s.broker.always(fault{hang: true})
		s.cache.always(fault{hang: true})
		time.Sleep(5 * time.Second)
		var got []string
		for _, o := range s.Degraded(time.Now()) {
			got = append(got, o.Dependency)
		}
		if !slices.Equal(got, []string{"broker", "cache"}) {
			t.Errorf("degraded = %v", got)
		}
	})
}

func TestRun_EndsWithItsContextAndWithClose(t *testing.T) {
	for name, end := range map[string]func(*system, context.CancelFunc){
		"context": func(_ *system, cancel context.CancelFunc) { cancel() },
		"close":   func(s *system, _ context.CancelFunc) { s.Close(); s.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.broker.always(fault{hang: true})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := make(chan struct{})
				go func() { defer close(ended); s.Run(ctx) }()
				time.Sleep(10 * time.Second)
				start := time.Now()
				end(s, cancel)
				<-ended
				wantTook(t, time.Since(start), 0, 0)
				s.broker.always(fault{})
				if _, err := s.cache.Records(ctx); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestLog_HoldsNoBodies(t *testing.T) {
	log := &lines{}
	s := newSystem(true, func(c *dispatch.Config) {
		c.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	s.answered(t, alice, `"canary"`)
	s.answered(t, bob, `"canary"`)
	for _, what := range []fault{cutOff, cacheDown, {before: fmt.Errorf("a fault of its own")}, {}} {
		s.cache.always(what)
		_, _ = s.poll(alice)
		s.broker.always(fault{before: fmt.Errorf("a fault of its own")}, "acknowledge")
		_, _ = s.poll(bob)
		s.broker.always(fault{})
	}
	if log.with("canary") != 0 {
		t.Error("a body is in the log")
	}
	if log.with("a fault of its own") == 0 {
		t.Error("the cause of a failure is in no log line")
	}
}

// A broker that refuses this service's own certificate is an outage for its callers, not their fault.
func TestSend_BrokerThatRefusesThisService(t *testing.T) {
	for _, kind := range []device.Kind{device.Unauthenticated, device.Forbidden} {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(true, nil)
			s.start(t)
			synctest.Wait()
			s.broker.always(fault{before: device.Errorf(kind, "the certificate is not accepted")}, "device")
			if _, err := s.Device(t.Context(), alice, cam); !device.Is(err, device.BrokerUnavailable) {
				t.Errorf("%s of the broker became %v", kind, err)
			}
		})
	}
}
