// Package migrate moves devices from Yandex IoT Core into the broker, out of lists that the vendor's command line tool
// printed (docs/migration.md).
//
// Read reads the lists, NewPlan decides what becomes of each device, and Run writes the plan. A device keeps its id, name,
// description, labels and certificates, so that a camera changes only an address and a CA file. Each device is written
// whole, by one call; nothing that is there is ever changed. Any step may be repeated: what is there already is recognised,
// and a run that was interrupted is continued by the next one.
//
// The package does not reach IoT Core, and moves neither passwords nor topic aliases nor the last values of topics. Read
// and NewPlan are plain functions; Run makes calls side by side and may itself be called from anywhere.
package migrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"signaldevice/device"
	"signaldevice/dispatch"
)

const (
	parallel    = 16               // calls at once: enough to keep the broker's disk busy
	callTimeout = 15 * time.Second // of one call; the broker itself gives up after 10 s
	pageSize    = 1000
)

// patience is how long to wait before each repetition of a call that the broker did not answer.
var patience = [...]time.Duration{250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2 * time.Second, 4 * time.Second}

// Broker is what a move asks of the broker, with the errors of dispatch.Broker. It is safe for concurrent use.
type Broker interface {
	Devices(ctx context.Context, f dispatch.DeviceFilter) (items []device.Device, next string, err error)
	Device(ctx context.Context, id device.ID) (device.Device, error)
	// ImportDevice registers a device with its id and certificates, in one write. DeviceExists: its id or its name is
	// taken; CertificateInUse; Invalid and InvalidCertificate, with every fault; Forbidden: not an operator.
	ImportDevice(ctx context.Context, d device.Device) error
}

// Devices returns every device that the broker has.
func Devices(ctx context.Context, b Broker) ([]device.Device, error) {
	var all []device.Device
	for cursor := ""; ; {
		page, next, err := devices(ctx, b, cursor)
		if err != nil {
			return nil, fmt.Errorf("migrate: list the devices that are there: %w", err)
		}
		all = append(all, page...)
		if cursor = next; cursor == "" {
			return all, nil
		}
	}
}

func devices(ctx context.Context, b Broker, cursor string) (page []device.Device, next string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return b.Devices(ctx, dispatch.DeviceFilter{Limit: pageSize, Cursor: cursor})
}

// Result is what Run did.
type Result struct {
	Moved   int       // devices that it wrote
	Present int       // devices that someone else wrote meanwhile, as the plan has them
	Faults  []Finding // devices that the broker refused, in the order of their places
}

// Run writes the devices of a plan. It calls progress, one call at a time, after each device with the number of those that
// are settled. When ctx ends it finishes the calls under way and returns ctx's error; when the broker goes away for longer
// than some seconds, or gives this caller no access, it returns that. The Result is true in every case, and another run
// with a new plan goes on from there.
func Run(ctx context.Context, b Broker, plan *Plan, progress func(settled int)) (Result, error) {
	m := &mover{broker: b, progress: progress}
	group, running := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for _, d := range plan.Moves {
		if running.Err() != nil {
			break
		}
		group.Go(func() error { return m.move(running, d) })
	}
	err := cmp.Or(group.Wait(), ctx.Err())
	slices.SortFunc(m.result.Faults, func(a, b Finding) int { return strings.Compare(a.Place, b.Place) })
	if err != nil {
		return m.result, fmt.Errorf("migrate: %w", err)
	}
	return m.result, nil
}

type mover struct {
	broker   Broker
	progress func(settled int)

	mu      sync.Mutex
	settled int
	result  Result
}

// move settles one device. The error ends the whole move.
func (m *mover) move(ctx context.Context, d device.Device) error {
	unsure := false // an earlier call may have written it
	for attempt := 0; ; attempt++ {
		err := m.write(ctx, d)
		switch kind := device.KindOf(err); kind {
		case device.OK:
			m.settle(func(r *Result) { r.Moved++ })
			return nil
		case device.DeviceExists:
			return m.recognise(ctx, d, unsure)
		case device.Forbidden, device.Unauthenticated:
			return err
		case device.BrokerUnavailable, device.OutcomeUnknown:
			unsure = unsure || kind == device.OutcomeUnknown
			if attempt == len(patience) || !wait(ctx, patience[attempt]) {
				return cmp.Or(ctx.Err(), err)
			}
		default:
			m.refuse(Finding{placeOf(d.Name, d.ID), reason(err)})
			return nil
		}
	}
}

// write lets a call that is under way finish, so that its outcome is known.
func (m *mover) write(ctx context.Context, d device.Device) error {
	if err := ctx.Err(); err != nil {
		return device.Wrap(device.BrokerUnavailable, err, "the call was not made")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	return m.broker.ImportDevice(ctx, d)
}

// recognise tells whether the device that stands in the way is this one, written by an earlier call or by another run.
func (m *mover) recognise(ctx context.Context, d device.Device, unsure bool) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	there, err := m.broker.Device(ctx, d.ID)
	switch {
	case device.Is(err, device.DeviceNotFound):
		m.refuse(Finding{placeOf(d.Name, d.ID), "its name belongs to another device there by now: run this again"})
	case err != nil:
		return err
	default:
		parts := differences(there, d)
		switch {
		case len(parts) > 0:
			m.refuse(*differs(placeOf(d.Name, d.ID), parts))
		case unsure:
			m.settle(func(r *Result) { r.Moved++ })
		default:
			m.settle(func(r *Result) { r.Present++ })
		}
	}
	return nil
}

func (m *mover) refuse(f Finding) {
	m.settle(func(r *Result) { r.Faults = append(r.Faults, f) })
}

func (m *mover) settle(count func(*Result)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	count(&m.result)
	m.settled++
	m.progress(m.settled)
}

// reason is the broker's refusal, with every fault where it names any.
func reason(err error) string {
	text := err.Error()
	if known, ok := errors.AsType[*device.Error](err); ok && len(known.Faults) > 0 {
		var faults []string
		for _, f := range known.Faults {
			faults = append(faults, f.Location+" "+f.Message)
		}
		text = strings.Join(faults, "; ")
	}
	return "the broker refused it: " + text
}

// wait reports false when ctx ends first.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
