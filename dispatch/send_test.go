package dispatch_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

func TestSend_ChecksBeforeTheBrokerIsAsked(t *testing.T) { // I10
	tests := map[string]struct {
		edit func(*dispatch.Caller, *dispatch.SendInput)
		want device.Kind
	}{
		"as it should be":    {func(*dispatch.Caller, *dispatch.SendInput) {}, device.OK},
		"unknown command":    {func(_ *dispatch.Caller, in *dispatch.SendInput) { in.Command = "fly" }, device.UnknownCommand},
		"no permission":      {func(c *dispatch.Caller, _ *dispatch.SendInput) { c.May = nil }, device.Forbidden},
		"bad arguments":      {func(_ *dispatch.Caller, in *dispatch.SendInput) { in.Args = json.RawMessage(`{"bad":1}`) }, device.InvalidArguments},
		"no device id":       {func(_ *dispatch.Caller, in *dispatch.SendInput) { in.Device = "a.b" }, device.DeviceNotFound},
		"the longest key":    {func(_ *dispatch.Caller, in *dispatch.SendInput) { in.IdempotencyKey = strings.Repeat("k", 255) }, device.OK},
		"a longer key":       {func(_ *dispatch.Caller, in *dispatch.SendInput) { in.IdempotencyKey = strings.Repeat("k", 256) }, device.Invalid},
		"too long a wait":    {func(_ *dispatch.Caller, in *dispatch.SendInput) { in.Wait = time.Minute + 1 }, device.Invalid},
		"forbidden and bad":  {func(c *dispatch.Caller, in *dispatch.SendInput) { c.May, in.Args = nil, json.RawMessage(`{"bad":1}`) }, device.Forbidden},
		"forbidden, unknown": {func(c *dispatch.Caller, in *dispatch.SendInput) { c.May, in.Command = nil, "fly" }, device.UnknownCommand},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := newSystem(true, nil)
			c, in := alice, dispatch.SendInput{Device: cam, Command: "ping"}
			tt.edit(&c, &in)
			_, err := s.Send(t.Context(), c, in)
			wantKind(t, err, tt.want)
			if tt.want != device.OK && s.broker.made("send") != 0 {
				t.Error("the broker was asked")
			}
		})
	}
}

func TestSend_TellsTheBrokerWhatItNeeds(t *testing.T) {
	tests := map[string]struct {
		durable bool
		cache   fault
		want    int // unread requests that only the cache knows of
	}{
		"durable cache":                    {durable: true, want: 1},
		"the queue has the replies too":    {durable: false},
		"the cache does not answer":        {durable: true, cache: cacheDown},
		"the cache does not answer at all": {durable: true, cache: fault{hang: true}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(tt.durable, nil)
				s.answered(t, alice, `12345`)
				if _, err := s.poll(bob); err != nil {
					t.Fatal(err)
				}
				s.cache.always(tt.cache)
				c := alice
				s.broker.devices[cam] = device.Device{ID: cam, Labels: device.Labels{"fleet": "a", "city": "b"}}
				c.Labels = device.Labels{"fleet": "a"}
				start := time.Now()
				if _, err := s.Send(t.Context(), c, dispatch.SendInput{Device: cam, Command: "ping", IdempotencyKey: "k"}); err != nil {
					t.Fatal(err)
				}
				wantTook(t, time.Since(start), 0, 250*time.Millisecond)
				got := s.broker.sent[len(s.broker.sent)-1]
				if len(got.CachedUnread) != tt.want || got.CachedUnreadBytes != int64(5*tt.want) {
					t.Errorf("unread = %d requests, %d bytes", len(got.CachedUnread), got.CachedUnreadBytes)
				}
				if got.Mailbox != device.MailboxOf("alice") || got.Client != "alice" || got.IdempotencyKey != "k" ||
					got.Labels["fleet"] != "a" || got.Command.Name != "ping" || got.WaitDelivered != time.Second {
					t.Errorf("sent = %+v", got)
				}
			})
		})
	}
}

func TestSend_Outages(t *testing.T) {
	tests := map[string]struct {
		broker  fault
		key     string
		want    device.Kind
		advice  string
		within  time.Duration
		outcome string
	}{
		"broker down":                 {broker: brokerDown, want: device.BrokerUnavailable, outcome: "ping broker_unavailable"},
		"cut off, with a key":         {broker: cutOff, key: "k", want: device.OutcomeUnknown, advice: "same Idempotency-Key", outcome: "ping outcome_unknown"},
		"cut off, without a key":      {broker: cutOff, want: device.OutcomeUnknown, advice: "GET /v1/requests", outcome: "ping outcome_unknown"},
		"blackholed":                  {broker: fault{hang: true}, want: device.OutcomeUnknown, within: 1500 * time.Millisecond, outcome: "ping outcome_unknown"},
		"the device is not there":     {broker: fault{before: device.Errorf(device.DeviceOffline, "offline")}, want: device.DeviceOffline, outcome: "ping device_offline"},
		"the broker itself fails":     {broker: fault{before: context.DeadlineExceeded}, want: device.OutcomeUnknown, outcome: "ping outcome_unknown"},
		"too much unread, as it says": {broker: fault{before: device.Errorf(device.TooManyUnread, "too many")}, want: device.TooManyUnread, outcome: "ping too_many_unread"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.broker.always(tt.broker, "send")
				start := time.Now()
				_, err := s.Send(t.Context(), alice, dispatch.SendInput{Device: cam, Command: "ping", IdempotencyKey: tt.key})
				wantKind(t, err, tt.want)
				wantTook(t, time.Since(start), 0, tt.within)
				if !strings.Contains(err.Error(), tt.advice) {
					t.Errorf("error %q does not say %q", err, tt.advice)
				}
				if s.counted.sent[tt.outcome] != 1 {
					t.Errorf("counted = %v, want %q", s.counted.sent, tt.outcome)
				}
			})
		})
	}
}

func TestSend_RepeatedGivesTheRequestAsItStands(t *testing.T) {
	s := newSystem(true, nil)
	in := dispatch.SendInput{Device: cam, Command: "ping", IdempotencyKey: "k"}
	first, err := s.Send(t.Context(), alice, in)
	if err != nil {
		t.Fatal(err)
	}
	s.broker.arrive(first.Request.ID, 0, false, `1`)
	again, err := s.Send(t.Context(), alice, in)
	if err != nil || again.Request.ID != first.Request.ID || again.Request.State != device.StateProgress {
		t.Errorf("again = %+v, %v", again.Request, err)
	}
	if s.counted.sent["ping repeated"] != 1 || s.counted.sent["ping delivered"] != 1 {
		t.Errorf("counted = %v", s.counted.sent)
	}
}

func (s *system) sendAndWait(wait time.Duration) <-chan answer[dispatch.SendResult] {
	return inBackground(func() (dispatch.SendResult, error) {
		return s.Send(context.Background(), alice, dispatch.SendInput{Device: cam, Command: "ping", IdempotencyKey: "k", Wait: wait})
	})
}

// pending returns the request that was sent last, once it was.
func (s *system) pending() device.RequestID {
	synctest.Wait()
	s.broker.mu.Lock()
	defer s.broker.mu.Unlock()
	return s.broker.byKey["k"]
}

func TestSend_WaitsForTheFinalReply(t *testing.T) {
	for name, prepare := range map[string]func(*system){
		"durable cache":             func(*system) {},
		"cache that is not durable": func(s *system) { s.cache.durable = false },
		"no cache":                  func(s *system) { s.cache.always(cacheDown) },
		"full cache":                func(s *system) { s.cache.setLimit(1) },
		"another client polls between": func(s *system) {
			s.broker.arrived = func() { _, _ = s.poll(bob) }
		},
		"no hints": func(s *system) { s.broker.always(brokerDown, "watch") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				prepare(s)
				s.start(t)
				synctest.Wait()
				waiting := s.sendAndWait(30 * time.Second)
				id := s.pending()
				time.Sleep(2 * time.Second)
				s.broker.arrive(id, 0, false, `"half"`)
				time.Sleep(3 * time.Second)
				s.broker.arrive(id, 1, true, `"all"`)
				out := <-waiting
				if out.err != nil || out.got.Request.State != device.StateAnswered || out.got.Request.ID != id {
					t.Fatalf("result = %+v, %v", out.got.Request, out.err)
				}
				if have := bodies(out.got.Replies); !slices.Equal(have, []string{`"half"`, `"all"`}) {
					t.Fatalf("replies = %q", have)
				}
				wantTook(t, out.took, 5*time.Second, 7*time.Second)
				got, err := s.poll(alice) // they count as read
				wantReplies(t, got, err)
			})
		})
	}
}

func TestSend_WhatIsNotReturnedStaysUnread(t *testing.T) { // I2
	bothCaches(t, func(t *testing.T, durable bool) {
		synctest.Test(t, func(t *testing.T) {
			s := newSystem(durable, func(c *dispatch.Config) { c.ReplyGrace = 0 }) // nothing can be read twice
			s.start(t)
			synctest.Wait()
			waiting := s.sendAndWait(10 * time.Second)
			id := s.pending()
			time.Sleep(2 * time.Second)
			s.broker.arrive(id, 0, false, `"half"`)
			out := <-waiting
			if out.err != nil || len(out.got.Replies) != 0 || out.got.Request.State != device.StateProgress {
				t.Fatalf("result = %+v, %v", out.got, out.err)
			}
			wantTook(t, out.took, 10*time.Second, 10*time.Second)
			got, err := s.poll(alice)
			wantReplies(t, got, err, `"half"`)
		})
	})
}

func TestSend_BrokerLostWhenTheFinalReplyIsDueTakesNothing(t *testing.T) { // I2
	synctest.Test(t, func(t *testing.T) {
		s := newSystem(true, func(c *dispatch.Config) { c.ReplyGrace = 0 })
		s.start(t)
		synctest.Wait()
		waiting := s.sendAndWait(10 * time.Second)
		id := s.pending()
		s.broker.arrive(id, 0, false, `"half"`)
		if _, err := s.poll(bob); err != nil { // moves it into the cache
			t.Fatal(err)
		}
		s.broker.always(brokerDown, "drain", "requests")
		s.broker.arrive(id, 1, true, `"all"`)
		out := <-waiting
		if out.err != nil || len(out.got.Replies) != 0 {
			t.Fatalf("result = %+v, %v", out.got, out.err)
		}
		s.broker.always(fault{})
		time.Sleep(2 * time.Second)
		got, err := s.poll(alice, id)
		wantReplies(t, got, err, `"half"`, `"all"`)
	})
}

func TestSend_WaitEndsEarly(t *testing.T) {
	tests := map[string]struct {
		prepare func(*testing.T, *system)
		then    func(*system, device.RequestID)
		want    device.State
		low     time.Duration
		high    time.Duration
	}{
		"the device stays silent": {nil, nil, device.StateNoReply, 30 * time.Second, 37 * time.Second},
		"the request was answered and read before": {func(t *testing.T, s *system) {
			out := <-s.sendAndWait(0)
			s.broker.arrive(out.got.Request.ID, 0, true, `1`)
			_, _ = s.poll(alice)
			time.Sleep(31 * time.Second)
		}, nil, device.StateAnswered, 0, 0},
		"the program stops": {nil, func(s *system, _ device.RequestID) { time.Sleep(time.Second); s.Close() }, device.StateDelivered, time.Second, time.Second},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.start(t)
				synctest.Wait()
				if tt.prepare != nil {
					tt.prepare(t, s)
				}
				waiting := s.sendAndWait(time.Minute)
				if tt.then != nil {
					tt.then(s, s.pending())
				}
				out := <-waiting
				if out.err != nil || len(out.got.Replies) != 0 || out.got.Request.State != tt.want {
					t.Fatalf("result = %+v, %v", out.got, out.err)
				}
				wantTook(t, out.took, tt.low, tt.high)
			})
		})
	}
}

func TestCommands_SayWhatTheCallerMaySend(t *testing.T) {
	c := alice
	c.May = func(p string) bool { return p == "commands.ping" }
	for _, v := range newSystem(true, nil).Commands(c) {
		if v.Allowed != (v.Name == "ping") {
			t.Errorf("%s: allowed = %v", v.Name, v.Allowed)
		}
	}
}

func TestSend_AsksForLabelsWhereDevicesDiffer(t *testing.T) {
	const slow = 300 * time.Millisecond
	tests := map[string]struct {
		edit  func(*dispatch.Caller, *dispatch.SendInput)
		model string
		label fault // what comes of the look-up
		want  device.Kind
		asked int
		wait  time.Duration // what the broker may wait for the PUBACK
	}{
		"the device has it":                    {model: "zoom", asked: 1, wait: time.Second},
		"the look-up takes a while":            {model: "zoom", label: fault{then: func() { time.Sleep(slow) }}, asked: 1, wait: time.Second - slow},
		"a client who waits for the reply":     {model: "zoom", edit: func(_ *dispatch.Caller, in *dispatch.SendInput) { in.Wait = time.Second }, asked: 1},
		"the device has not":                   {model: "old", want: device.UnknownCommand, asked: 1},
		"a command that all have":              {edit: func(_ *dispatch.Caller, in *dispatch.SendInput) { in.Command = "ping" }, wait: time.Second},
		"bad arguments":                        {edit: func(_ *dispatch.Caller, in *dispatch.SendInput) { in.Args = json.RawMessage(`{"bad":1}`) }, want: device.InvalidArguments},
		"a device outside the caller's labels": {model: "zoom", edit: func(c *dispatch.Caller, _ *dispatch.SendInput) { c.Labels = device.Labels{"fleet": "b"} }, want: device.DeviceNotFound, asked: 1},
		"the broker does not answer":           {label: brokerDown, want: device.BrokerUnavailable, asked: 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				s.broker.devices[cam] = device.Device{ID: cam, Labels: device.Labels{"model": tt.model}}
				s.broker.always(tt.label, "device")
				c, in := alice, dispatch.SendInput{Device: cam, Command: "zoom"}
				c.May = func(string) bool { return true }
				if tt.edit != nil {
					tt.edit(&c, &in)
				}
				_, err := s.Send(t.Context(), c, in)
				wantKind(t, err, tt.want)
				if got := s.broker.made("device"); got != tt.asked {
					t.Errorf("asked for the device %d times, want %d", got, tt.asked)
				}
				if sent := s.broker.made("send"); sent > 0 != (tt.want == device.OK) {
					t.Fatalf("sent %d times", sent)
				} else if sent > 0 && s.broker.sent[0].WaitDelivered != tt.wait {
					t.Errorf("waits %s for the PUBACK, want %s", s.broker.sent[0].WaitDelivered, tt.wait)
				}
			})
		})
	}
}

func TestCommandsOf_AreThoseOfTheDevice(t *testing.T) {
	s := newSystem(true, nil)
	s.broker.devices[cam] = device.Device{ID: cam, Labels: device.Labels{"model": "old"}}
	c := alice
	c.May = func(p string) bool { return p == "commands.ping" }
	got, err := s.CommandsOf(t.Context(), c, cam)
	if err != nil || len(got) != 2 || !got[0].Allowed || got[1].Allowed {
		t.Errorf("got %+v and %v", got, err)
	}
	c.Labels = device.Labels{"fleet": "b"}
	_, err = s.CommandsOf(t.Context(), c, cam)
	wantKind(t, err, device.DeviceNotFound)
	_, err = s.CommandsOf(t.Context(), alice, "a.b")
	wantKind(t, err, device.DeviceNotFound)
}
