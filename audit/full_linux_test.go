package audit

import (
	"testing"

	"signaldevice/device"
)

func TestService_RefusesOnAFullDisk(t *testing.T) {
	called := false
	s := newService(&fakeService{before: func() { called = true }}, open(t, "/dev/full"))
	if err := s.DeleteDevice(t.Context(), panel, cam); !device.Is(err, device.AuditUnavailable) || called {
		t.Errorf("got %v, called %v", err, called)
	}
}
