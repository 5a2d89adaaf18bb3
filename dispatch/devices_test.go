package dispatch_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// call is one use case, made by a caller.
type call func(*system, dispatch.Caller) error

var administration = map[string]struct {
	call       call
	permission string
}{
	"register": {func(s *system, c dispatch.Caller) error {
		_, err := s.Register(context.Background(), c, dispatch.NewDevice{Name: "new", Labels: device.Labels{"fleet": "a"}})
		return err
	}, device.PermRegister},
	"make an enrolment code": {func(s *system, c dispatch.Caller) error {
		_, err := s.CreateEnrolmentCode(context.Background(), c, dispatch.NewCode{Labels: device.Labels{"fleet": "a"}})
		return err
	}, device.PermEnrolment},
	"delete a device": {func(s *system, c dispatch.Caller) error {
		return s.DeleteDevice(context.Background(), c, cam)
	}, device.PermDelete},
	"add a certificate": {func(s *system, c dispatch.Caller) error {
		_, err := s.AddCertificate(context.Background(), c, cam, dispatch.Credential{})
		return err
	}, device.PermCertificates},
	"revoke a certificate": {func(s *system, c dispatch.Caller) error {
		return s.RevokeCertificate(context.Background(), c, cam, "f")
	}, device.PermCertificates},
	"look at a device": {func(s *system, c dispatch.Caller) error {
		_, err := s.Device(context.Background(), c, cam)
		return err
	}, ""},
}

func inFleet(name string) *system {
	s := newSystem(true, nil)
	s.broker.devices[cam] = device.Device{ID: cam, Labels: device.Labels{"fleet": name}}
	return s
}

func TestAdministration_NeedsItsPermission(t *testing.T) {
	for name, tt := range administration {
		if tt.permission == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			c := alice
			c.May = func(p string) bool { return p != tt.permission }
			s := inFleet("a")
			wantKind(t, tt.call(s, c), device.Forbidden)
			c.May = func(p string) bool { return p == tt.permission }
			wantKind(t, tt.call(s, c), device.OK)
		})
	}
}

func TestAdministration_OutsideTheLabelsNothingExists(t *testing.T) {
	for name, tt := range administration {
		t.Run(name, func(t *testing.T) {
			c := admin()
			c.Labels = device.Labels{"fleet": "a"}
			wantKind(t, tt.call(inFleet("a"), c), device.OK)
			c.Labels = device.Labels{"fleet": "b"}
			want := device.DeviceNotFound
			if tt.permission == device.PermRegister || tt.permission == device.PermEnrolment {
				want = device.Forbidden // its own device would be out of its sight
			}
			s := inFleet("a")
			wantKind(t, tt.call(s, c), want)
			if _, there := s.broker.devices[cam]; !there || len(s.broker.created) != 0 {
				t.Error("something was changed")
			}
		})
	}
}

func TestEveryCall_BrokerOutages(t *testing.T) { // I7, F2
	calls := map[string]call{
		"enrol": func(s *system, _ dispatch.Caller) error {
			_, err := s.Enrol(context.Background(), dispatch.Enrolment{})
			return err
		},
		"list devices": func(s *system, c dispatch.Caller) error {
			_, _, err := s.Devices(context.Background(), c, dispatch.DeviceFilter{})
			return err
		},
		"list requests": func(s *system, c dispatch.Caller) error {
			_, _, err := s.Requests(context.Background(), c, dispatch.RequestFilter{})
			return err
		},
		"look at a request": func(s *system, c dispatch.Caller) error {
			_, err := s.Request(context.Background(), c, someID())
			return err
		},
		"cancel": func(s *system, c dispatch.Caller) error {
			_, err := s.Cancel(context.Background(), c, someID())
			return err
		},
	}
	for name, a := range administration {
		calls[name] = a.call
	}
	changes := []string{"enrol", "cancel", "register", "make an enrolment code", "delete a device", "add a certificate", "revoke a certificate"}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := inFleet("a")
				s.cache.always(cacheDown)
				s.broker.always(brokerDown)
				wantKind(t, call(s, admin()), device.BrokerUnavailable)

				s.broker.always(fault{hang: true})
				start := time.Now()
				want := device.BrokerUnavailable // what only looks has no effect to be unsure of
				for _, c := range changes {
					if c == name {
						want = device.OutcomeUnknown
					}
				}
				wantKind(t, call(s, admin()), want)
				wantTook(t, time.Since(start), 0, 1500*time.Millisecond)

				// A device that has to be looked at first takes no longer.
				c := admin()
				c.Labels = device.Labels{"fleet": "a"}
				s.broker.set(func(op string) fault {
					if op == "device" {
						time.Sleep(time.Second)
						return fault{}
					}
					return fault{hang: true}
				})
				start = time.Now()
				_ = call(s, c)
				wantTook(t, time.Since(start), 0, 1500*time.Millisecond)
			})
		})
	}
}

func someID() device.RequestID {
	keys, err := device.NewKeyRing(device.NewKey(1))
	if err != nil {
		panic(err)
	}
	return keys.Mint(time.Now(), device.MailboxOf("admin"), cam, time.Now())
}

func TestDevices_ListsOnlyWhatTheCallerMayTouch(t *testing.T) {
	tests := map[string]struct {
		role, filter device.Labels
		want         int
	}{
		"no condition":         {nil, nil, 2},
		"the role's condition": {device.Labels{"fleet": "a"}, nil, 1},
		"a filter of its own":  {nil, device.Labels{"fleet": "a"}, 1},
		"both agree":           {device.Labels{"fleet": "a"}, device.Labels{"fleet": "a"}, 1},
		"both at odds":         {device.Labels{"fleet": "a"}, device.Labels{"fleet": "b"}, 0},
		"both have to hold":    {device.Labels{"fleet": "a"}, device.Labels{"city": "x"}, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := alice
			c.Labels = tt.role
			got, _, err := inFleet("a").Devices(t.Context(), c, dispatch.DeviceFilter{Labels: tt.filter})
			if err != nil || len(got) != tt.want {
				t.Errorf("%d devices, %v; want %d", len(got), err, tt.want)
			}
		})
	}
}

func TestLists_RefuseAWrongLimit(t *testing.T) { // I10
	for limit, want := range map[int]device.Kind{-1: device.Invalid, 0: device.OK, 1: device.OK, 1000: device.OK, 1001: device.Invalid} {
		s := newSystem(true, nil)
		_, _, err := s.Devices(t.Context(), alice, dispatch.DeviceFilter{Limit: limit})
		wantKind(t, err, want)
		_, _, err = s.Requests(t.Context(), alice, dispatch.RequestFilter{Limit: limit})
		wantKind(t, err, want)
	}
}
