package dispatch_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// TestUnknown_IsSaidCountedAndMayBeRepeated cuts each kind of call after it had its effect. Its caller is told that the
// outcome is unknown and what to do, the call is counted, and doing that leads to where the caller wanted to be.
func TestUnknown_IsSaidCountedAndMayBeRepeated(t *testing.T) { // I2, I8
	all := dispatch.Caller{Client: "admin", May: func(string) bool { return true }}
	type call func(ctx context.Context, s *system) error
	poll := func(ids ...device.RequestID) call {
		return func(_ context.Context, s *system) error { _, err := s.poll(all, ids...); return err }
	}
	var answered device.RequestID
	cases := map[string]struct {
		cut    string // the call to cut
		cache  bool   // it is the cache's
		call   call
		advice string
		repeat call
		want   device.Kind // of the repeated call
	}{
		"send": {
			cut: "send", advice: "same Idempotency-Key",
			call: func(ctx context.Context, s *system) error {
				_, err := s.Send(ctx, all, dispatch.SendInput{Device: cam, Command: "ping", IdempotencyKey: "k"})
				return err
			},
		},
		"poll for everything": {
			cut: "take", cache: true, call: poll(), advice: "by request id",
			repeat: func(_ context.Context, s *system) error {
				got, err := s.poll(all, answered)
				if err == nil && len(got.Replies) != 1 {
					return device.Errorf(device.Internal, "the reply was not given")
				}
				return err
			},
		},
		"enrol": {
			cut: "enrol", advice: "same code and key",
			call: func(ctx context.Context, s *system) error {
				_, err := s.Enrol(ctx, dispatch.Enrolment{Name: "new"})
				return err
			},
		},
		"make an enrolment code": {
			cut: "code", advice: "make another",
			call: func(ctx context.Context, s *system) error {
				_, err := s.CreateEnrolmentCode(ctx, all, dispatch.NewCode{})
				return err
			},
		},
		"delete a device": {
			cut: "delete", advice: "safe to repeat",
			call: func(ctx context.Context, s *system) error { return s.DeleteDevice(ctx, all, cam2) },
		},
		"revoke a certificate": {
			cut: "revoke", advice: "safe to repeat",
			call: func(ctx context.Context, s *system) error { return s.RevokeCertificate(ctx, all, cam, "f") },
		},
		"add a certificate": {
			cut: "certificate", advice: "look at the device",
			call: func(ctx context.Context, s *system) error {
				_, err := s.AddCertificate(ctx, all, cam, dispatch.Credential{})
				return err
			},
		},
		"register": {
			cut: "create", advice: "look for its name",
			call: func(ctx context.Context, s *system) error {
				_, err := s.Register(ctx, all, dispatch.NewDevice{Name: "new"})
				return err
			},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSystem(true, nil)
				answered = s.answered(t, all, `"here"`)
				calls, dependency := &s.broker.faults, "broker"
				if c.cache {
					calls, dependency = &s.cache.faults, "cache"
				}
				last := 0
				calls.set(func(op string) fault { // the last of its kind in this call: the one before may be an empty look
					if op == c.cut {
						if last++; last == 2 || !c.cache {
							return cutOff
						}
					}
					return fault{}
				})
				err := c.call(t.Context(), s)
				calls.set(nil)
				wantKind(t, err, device.OutcomeUnknown)
				if !strings.Contains(err.Error(), c.advice) {
					t.Errorf("told %q, want that it says %q", err, c.advice)
				}
				if s.counted.unknown[dependency] != 1 || len(s.counted.unknown) != 1 {
					t.Errorf("counted %v, want one call to the %s", s.counted.unknown, dependency)
				}
				if c.repeat == nil {
					c.repeat = c.call
				}
				wantKind(t, c.repeat(t.Context(), s), c.want)
			})
		})
	}
}
