package migrate_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
	"signaldevice/migrate"
)

// fakeBroker keeps devices in memory and fails as it is told.
type fakeBroker struct {
	mu      sync.Mutex
	there   map[device.ID]device.Device
	calls   int
	under   int // calls under way
	most    int // of those
	fail    func(call int, d device.Device) (written bool, err error)
	blocked chan struct{} // where not nil, a call waits for it
}

func (b *fakeBroker) ImportDevice(ctx context.Context, d device.Device) error {
	b.mu.Lock()
	b.calls++
	call := b.calls
	b.under++
	b.most = max(b.most, b.under)
	b.mu.Unlock()
	if b.blocked != nil {
		<-b.blocked
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.under--
	written, err := true, error(nil)
	if b.fail != nil {
		written, err = b.fail(call, d)
	}
	if _, taken := b.there[d.ID]; taken && err == nil {
		return device.Errorf(device.DeviceExists, "a device with this id exists")
	}
	if written {
		if b.there == nil {
			b.there = map[device.ID]device.Device{}
		}
		b.there[d.ID] = d
	}
	return err
}

func (b *fakeBroker) Device(_ context.Context, id device.ID) (device.Device, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d, ok := b.there[id]; ok {
		return d, nil
	}
	return device.Device{}, device.Errorf(device.DeviceNotFound, "there is no such device")
}

func (b *fakeBroker) Devices(_ context.Context, f dispatch.DeviceFilter) ([]device.Device, string, error) {
	if f.Cursor == "broken" {
		return nil, "", device.Errorf(device.BrokerUnavailable, "the broker was not reached")
	}
	pages := map[string]string{"": "2", "2": "3", "3": ""}
	return []device.Device{{ID: device.ID("page" + f.Cursor)}}, pages[f.Cursor], nil
}

func planOf(n int) *migrate.Plan {
	p := &migrate.Plan{}
	for i := range n {
		p.Moves = append(p.Moves, device.Device{ID: device.ID(fmt.Sprintf("d%04d", i)), Name: fmt.Sprintf("taxi-%04d", i)})
	}
	return p
}

func nothing(int) {}

func TestDevices_AllPages(t *testing.T) {
	all, err := migrate.Devices(t.Context(), &fakeBroker{})
	if err != nil || len(all) != 3 || all[2].ID != "page3" {
		t.Errorf("%v, %v", all, err)
	}
}

func TestRun_OutcomesOfOneDevice(t *testing.T) {
	unknown := device.Errorf(device.OutcomeUnknown, "the broker did not answer")
	down := device.Errorf(device.BrokerUnavailable, "the broker was not reached")
	first := func(n int, written bool, err error) func(int, device.Device) (bool, error) {
		return func(call int, _ device.Device) (bool, error) {
			if call <= n {
				return written, err
			}
			return true, nil
		}
	}
	always := func(err error) func(int, device.Device) (bool, error) { return first(1e9, false, err) }
	tests := map[string]struct {
		broker  *fakeBroker
		moved   int
		present int
		fault   string
		kind    device.Kind // of an error that ended the run
		calls   int
	}{
		"written":                     {&fakeBroker{}, 1, 0, "", device.OK, 1},
		"unanswered, and not written": {&fakeBroker{fail: first(1, false, unknown)}, 1, 0, "", device.OK, 2},
		"unanswered, but written":     {&fakeBroker{fail: first(1, true, unknown)}, 1, 0, "", device.OK, 2},
		"the broker restarts":         {&fakeBroker{fail: first(5, false, down)}, 1, 0, "", device.OK, 6},
		"the broker stays away":       {&fakeBroker{fail: always(down)}, 0, 0, "", device.BrokerUnavailable, 6},
		"not an operator":             {&fakeBroker{fail: always(device.Errorf(device.Forbidden, "only the role"))}, 0, 0, "", device.Forbidden, 1},
		"somebody else wrote it":      {&fakeBroker{there: map[device.ID]device.Device{"d0000": planOf(1).Moves[0]}}, 0, 1, "", device.OK, 1},
		"somebody else wrote another": {&fakeBroker{there: map[device.ID]device.Device{"d0000": {ID: "d0000", Name: "cab"}}}, 0, 0,
			"device taxi-0000 (d0000): is there, but differs in its name: it was left as it is", device.OK, 1},
		"its name was taken": {&fakeBroker{fail: always(device.Errorf(device.DeviceExists, "a device with this name exists"))}, 0, 0,
			"device taxi-0000 (d0000): its name belongs to another device there by now: run this again", device.OK, 1},
		"refused with faults": {&fakeBroker{fail: always(&device.Error{Kind: device.Invalid, Message: "x", Faults: []device.Fault{
			{Location: "name", Message: "is bad"}, {Location: "labels", Message: "must be at most 64"},
		}})}, 0, 0, "device taxi-0000 (d0000): the broker refused it: name is bad; labels must be at most 64", device.OK, 1},
		"refused": {&fakeBroker{fail: always(device.Errorf(device.CertificateInUse, "a device has this certificate"))}, 0, 0,
			"device taxi-0000 (d0000): the broker refused it: a device has this certificate", device.OK, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				settled := 0
				got, err := migrate.Run(t.Context(), tt.broker, planOf(1), func(n int) { settled = n })
				if device.KindOf(err) != tt.kind || got.Moved != tt.moved || got.Present != tt.present || tt.broker.calls != tt.calls {
					t.Errorf("%+v, %v after %d calls", got, err, tt.broker.calls)
				}
				if tt.fault != "" {
					wantLine(t, "faults", got.Faults, tt.fault)
				} else if len(got.Faults) > 0 {
					t.Errorf("faults %v", lines(got.Faults))
				}
				if want := tt.moved + tt.present + len(got.Faults); settled != want {
					t.Errorf("progress showed %d, want %d", settled, want)
				}
			})
		})
	}
}

func TestRun_CallsAtOnceAreBounded(t *testing.T) {
	b := &fakeBroker{}
	var shown []int
	got, err := migrate.Run(t.Context(), b, planOf(500), func(n int) { shown = append(shown, n) })
	if err != nil || got.Moved != 500 || len(b.there) != 500 || b.calls != 500 {
		t.Fatalf("%+v, %v, %d calls", got, err, b.calls)
	}
	if b.most > 16 {
		t.Errorf("%d calls at once", b.most)
	}
	for i, n := range shown {
		if n != i+1 {
			t.Fatalf("progress %d after %d", n, i)
		}
	}
}

// An interruption lets the calls under way finish: what the result counts is what the broker has.
func TestRun_Interrupted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBroker{blocked: make(chan struct{})}
		ctx, interrupt := context.WithCancel(t.Context())
		go func() {
			synctest.Wait() // as many calls as there may be are under way
			interrupt()
			synctest.Wait()
			close(b.blocked)
		}()
		got, err := migrate.Run(ctx, b, planOf(100), nothing)
		if !errors.Is(err, context.Canceled) || got.Moved != 16 || len(b.there) != 16 {
			t.Errorf("%+v, %v, %d there", got, err, len(b.there))
		}
	})
}

// A broker that goes away ends the run after some seconds, not after some seconds for each device.
func TestRun_BrokerGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &fakeBroker{fail: func(call int, _ device.Device) (bool, error) {
			if call <= 50 {
				return true, nil
			}
			return false, device.Errorf(device.BrokerUnavailable, "the broker was not reached")
		}}
		started := time.Now()
		got, err := migrate.Run(t.Context(), b, planOf(1000), nothing)
		if !device.Is(err, device.BrokerUnavailable) || got.Moved != 50 || !strings.HasPrefix(err.Error(), "migrate: ") {
			t.Errorf("%+v, %v", got, err)
		}
		if took := time.Since(started); took > 10*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}
