// Package registry knows the devices: their names, labels, certificates, and the codes they enrol with.
//
// Everything is in one JetStream stream, DEVICES, which keeps the last message of each subject. `d.<device id>` is the
// whole device as JSON, or its tombstone; `e.<hash>` is an enrolment code, of which only the hash is kept. Every node
// holds the whole registry in memory and builds it by following the stream. A write is checked against that memory and
// published on condition that the stream's last sequence is the one the memory stands at. So all writes of all nodes are
// in one order, each was checked against everything before it, and a change is always one message: a kill leaves the
// old state or the new one. A code is spent by the device record that carries its hash, not by a message of its own.
//
// What the package does not do: it opens no connections and cuts none (OnChange tells when), and it does not know
// whether a device is online. Reads are answered from memory and may be some milliseconds behind another node's writes;
// a refused write never is, since a refusal is first confirmed with the stream's leader.
//
// A Registry is safe for concurrent use. Errors are device.Errors.
package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/broker/identity"
	"signaldevice/device"
)

// Stream is the name of the registry's stream.
const Stream = "DEVICES"

// DefaultID names the one registry and the one folder that exist from the start.
const DefaultID = "default"

// MaxCertificates is how many certificates one device may have: the one in use, the next one, and some to spare.
const MaxCertificates = 10

// Config says how a Registry works. Zero values choose the default in brackets.
type Config struct {
	Replicas   int           // of the stream [1]
	MaxDevices int           // [100,000]
	MaxCodes   int           // enrolment codes that have not expired [10,000]
	CheckEvery time.Duration // how often the memory is compared with the stream's leader [1 s]
	FreshFor   time.Duration // how long after a successful comparison devices are admitted [5 s]
	OpenWithin time.Duration // how long Open tries [1 min]

	JetStream jetstream.JetStream
	Identity  *identity.Identity
	Clock     func() time.Time // [time.Now]
	Logger    *slog.Logger     // [slog.Default()]
}

// Registry is the registry as one node holds it.
type Registry struct {
	cfg Config
	js  jetstream.JetStream

	writing chan struct{} // held by this node's one writer
	telling sync.Mutex    // held from a change of the table until all observers know it

	mu        sync.RWMutex
	table     *table
	announced uint64        // the last sequence that observers know
	moved     chan struct{} // closed and replaced when announced moves
	freshAt   time.Time     // when the leader was asked for the last sequence that the table has reached
	created   time.Time     // when the stream was made: another time is another stream
	refollow  func()        // makes the follower start again after the table's last sequence
	observers []func(Change)
	awaited   string // the id of this node's write that is under way
	arrived   bool   // the table has it

	stop func()
	done sync.WaitGroup
}

// Change tells that certificates which admitted a device no longer do.
type Change struct {
	Device       device.ID
	Deleted      bool     // the device is gone, with all its certificates
	Fingerprints []string // the removed certificates (identity.Fingerprint)
}

// Open makes the stream where it is missing, reads it and returns once the memory is as new as the stream. It tries for
// a while, for a cluster may have no leader yet, and not for ever: a stream whose writes have failed takes none before the
// store is opened anew. Close ends it.
func Open(ctx context.Context, cfg Config) (*Registry, error) {
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, cfg.OpenWithin)
	defer cancel()
	r := &Registry{
		cfg:      cfg,
		js:       cfg.JetStream,
		writing:  make(chan struct{}, 1),
		table:    newTable(cfg.Clock),
		moved:    make(chan struct{}),
		refollow: func() {},
	}
	if err := r.persist(ctx, "make the stream", r.makeStream); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.Background())
	r.stop = stop
	r.done.Go(func() { r.run(running) })
	if err := r.persist(ctx, "read the stream", r.settle); err != nil {
		r.Close()
		return nil, err
	}
	r.done.Go(func() { r.keepChecking(running) })
	return r, nil
}

// persist tries until it works or ctx ends. A cluster without a leader gives no answer at all, so each attempt has its own
// end; the follower goes on between them.
func (r *Registry) persist(ctx context.Context, what string, try func(context.Context) error) error {
	for told := false; ; told = true {
		trying, cancel := context.WithTimeout(ctx, checkTimeout)
		err := try(trying)
		cancel()
		if err == nil {
			return nil
		}
		if !told {
			r.cfg.Logger.Warn("device registry waits for its stream", "to", what, "error", err)
		}
		if pause(ctx, retryAfter) != nil {
			return fmt.Errorf("registry: %s: %w", what, err)
		}
	}
}

func (c Config) withDefaults() Config {
	c.Replicas = cmp.Or(c.Replicas, 1)
	c.MaxDevices = cmp.Or(c.MaxDevices, 100_000)
	c.MaxCodes = cmp.Or(c.MaxCodes, 10_000)
	c.CheckEvery = cmp.Or(c.CheckEvery, time.Second)
	c.FreshFor = cmp.Or(c.FreshFor, 5*time.Second)
	c.OpenWithin = cmp.Or(c.OpenWithin, time.Minute)
	if c.Clock == nil {
		c.Clock = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (r *Registry) makeStream(ctx context.Context) error {
	stream, err := r.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:              Stream,
		Subjects:          []string{deviceSubject("*"), codeSubject("*"), barrierSubject},
		Storage:           jetstream.FileStorage,
		Replicas:          r.cfg.Replicas,
		MaxMsgsPerSubject: 1,
		AllowMsgTTL:       true,
	})
	if err != nil {
		return err
	}
	r.created = stream.CachedInfo().Created
	return nil
}

// Close stops following the stream. The memory stays readable, and Ready soon says that it is stale.
func (r *Registry) Close() {
	r.stop()
	r.done.Wait()
}

// Ready reports whether this node knows the current certificates: its memory was as new as the stream's leader a moment
// ago. BrokerUnavailable: it was not.
func (r *Registry) Ready() error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.ready()
}

func (r *Registry) ready() error {
	// By the wall clock: a monotonic one stands still while a machine is suspended.
	if age := r.cfg.Clock().Round(0).Sub(r.freshAt.Round(0)); age.Abs() > r.cfg.FreshFor {
		return device.Errorf(device.BrokerUnavailable, "this node does not know the devices now")
	}
	return nil
}

// ByCertificate returns the device that has exactly this certificate, given as DER. Unauthenticated: no device has it,
// or it has expired. BrokerUnavailable: this node cannot know, and nobody new may be admitted.
//
// A certificate may be removed between this call and the moment when its session can be found by an OnChange function.
// Whoever admits a session must therefore ask once more after that moment.
func (r *Registry) ByCertificate(der []byte) (device.ID, error) {
	hash := sha256.Sum256(der)
	r.mu.RLock()
	defer r.mu.RUnlock()
	if err := r.ready(); err != nil {
		return "", err
	}
	held, ok := r.table.certs[hash]
	if !ok {
		return "", device.Errorf(device.Unauthenticated, "no device has this certificate")
	}
	if r.cfg.Clock().After(held.notAfter) {
		return "", device.Errorf(device.Unauthenticated, "the certificate has expired")
	}
	return held.device, nil
}

// Device returns a device as memory has it. The snapshot is shared: it must not be changed.
func (r *Registry) Device(id device.ID) (*Snapshot, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, ok := r.table.devices[id]
	return s, ok
}

// GetByName returns the device of that name in the registry, as memory has it.
func (r *Registry) GetByName(registryID, name string) (*Snapshot, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	s, ok := r.table.devices[r.table.names[nameKey{registryID, name}]]
	return s, ok
}

// Find is Device for those who would report that there is none: before it says DeviceNotFound it makes sure with the
// stream's leader. BrokerUnavailable: it cannot.
func (r *Registry) Find(ctx context.Context, id device.ID) (*Snapshot, error) {
	return r.find(ctx, func() (*Snapshot, bool) { return r.Device(id) })
}

// FindByName is GetByName with the certainty of Find.
func (r *Registry) FindByName(ctx context.Context, registryID, name string) (*Snapshot, error) {
	return r.find(ctx, func() (*Snapshot, bool) { return r.GetByName(registryID, name) })
}

func (r *Registry) find(ctx context.Context, look func() (*Snapshot, bool)) (*Snapshot, error) {
	if s, ok := look(); ok && r.Ready() == nil {
		return s, nil
	}
	if err := r.CatchUp(ctx); err != nil {
		return nil, err
	}
	if s, ok := look(); ok {
		return s, nil
	}
	return nil, errNoDevice()
}

// Count returns the number of devices.
func (r *Registry) Count() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.table.devices)
}

// Created returns when the stream was made, and so the registry.
func (r *Registry) Created() time.Time {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.created
}

// OnChange has fn called for every removed device and certificate from now on, one call at a time and in the order of
// the writes; a write on this node returns after its call. fn must not block, and must not write to the registry.
func (r *Registry) OnChange(fn func(Change)) {
	r.telling.Lock()
	defer r.telling.Unlock()
	r.observers = append(r.observers, fn)
}

func errNoDevice() error {
	return device.Errorf(device.DeviceNotFound, "there is no such device")
}

func errUnavailable(cause error) error {
	if _, known := errors.AsType[*device.Error](cause); known {
		return cause
	}
	return device.Wrap(device.BrokerUnavailable, cause, "the device registry does not answer, nothing was changed")
}

// pause waits, or returns the error of a context that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
