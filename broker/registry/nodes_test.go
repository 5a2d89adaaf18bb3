package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"signaldevice/device"
)

// twoNodes are two registries that follow one stream, each over a connection of its own.
func twoNodes(t *testing.T) (a, b *Registry) {
	t.Helper()
	srv := startServer(t, t.TempDir())
	id := openIdentity(t)
	return node(t, Config{JetStream: connect(t, srv), Identity: id}), node(t, Config{JetStream: connect(t, srv), Identity: id})
}

// race runs the same on several nodes at once and returns their errors.
func race(nodes []*Registry, fn func(i int, r *Registry) error) []error {
	errs := make([]error, len(nodes))
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i, r := range nodes {
		wg.Go(func() {
			<-start
			errs[i] = fn(i, r)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// Whatever several nodes do at the same time, exactly one wins and the others are told why.
func TestNodes_ExactlyOneWins(t *testing.T) {
	a, b := twoNodes(t)
	nodes := []*Registry{a, b, a, b}
	tests := map[string]struct {
		loses device.Kind
		race  func(t *testing.T, round int) func(i int, r *Registry) error
	}{
		"a name": {device.DeviceExists, func(t *testing.T, round int) func(int, *Registry) error {
			name := fmt.Sprintf("name-%d", round)
			return func(_ int, r *Registry) error {
				_, err := r.Create(t.Context(), NewDevice{Name: name})
				return err
			}
		}},
		"an id": {device.DeviceExists, func(t *testing.T, round int) func(int, *Registry) error {
			id := device.ID(fmt.Sprintf("id-%d", round))
			return func(i int, r *Registry) error {
				_, err := r.Create(t.Context(), NewDevice{ID: id, Name: fmt.Sprintf("%s-%d", id, i)})
				return err
			}
		}},
		"a certificate": {device.CertificateInUse, func(t *testing.T, round int) func(int, *Registry) error {
			cert := newCert(t)
			return func(i int, r *Registry) error {
				_, err := r.Create(t.Context(), NewDevice{Name: fmt.Sprintf("cert-%d-%d", round, i), Certificates: []string{cert}})
				return err
			}
		}},
		"a certificate, added": {device.CertificateInUse, func(t *testing.T, round int) func(int, *Registry) error {
			cert := newCert(t)
			var ids [4]device.ID
			for i := range ids {
				ids[i] = create(t, a, NewDevice{Name: fmt.Sprintf("add-%d-%d", round, i)}).ID
			}
			return func(i int, r *Registry) error {
				_, err := r.AddCertificate(t.Context(), ids[i], cert, "")
				return err
			}
		}},
		"a code": {device.InvalidCode, func(t *testing.T, round int) func(int, *Registry) error {
			code := newTestCode(t, a, NewCode{})
			csrs := []string{newCSR(t, newKey(t)), newCSR(t, newKey(t)), newCSR(t, newKey(t)), newCSR(t, newKey(t))}
			return func(i int, r *Registry) error {
				_, err := r.Enrol(t.Context(), code, csrs[i], "")
				return err
			}
		}},
		"a deletion": {device.DeviceNotFound, func(t *testing.T, round int) func(int, *Registry) error {
			id := create(t, a, NewDevice{Name: fmt.Sprintf("del-%d", round)}).ID
			return func(_ int, r *Registry) error { return r.Delete(t.Context(), id) }
		}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for round := range 10 {
				won := 0
				for _, err := range race(nodes, tt.race(t, round)) {
					if err == nil {
						won++
						continue
					}
					wantKind(t, "a loser", err, tt.loses)
				}
				if won != 1 {
					t.Fatalf("round %d: %d won", round, won)
				}
			}
			sameOnBoth(t, a, b)
		})
	}
}

// The same code and key on several nodes at once are one device.
func TestNodes_OneCodeAndKeyIsOneDevice(t *testing.T) {
	a, b := twoNodes(t)
	for range 10 {
		code, csr := newTestCode(t, a, NewCode{}), newCSR(t, newKey(t))
		var mu sync.Mutex
		var got []Registration
		for _, err := range race([]*Registry{a, b, a, b}, func(_ int, r *Registry) error {
			g, err := r.Enrol(t.Context(), code, csr, "")
			mu.Lock()
			defer mu.Unlock()
			got = append(got, g)
			return err
		}) {
			if err != nil {
				t.Fatal(err)
			}
		}
		first := 0
		for _, g := range got {
			if g.Device.ID != got[0].Device.ID || g.Certificate != got[0].Certificate {
				t.Fatal("two devices or certificates for one code")
			}
			if !g.Repeated {
				first++
			}
		}
		if first != 1 {
			t.Fatalf("%d of 4 were the first", first)
		}
	}
}

func sameOnBoth(t *testing.T, a, b *Registry) {
	t.Helper()
	for _, r := range []*Registry{a, b} {
		if err := r.CatchUp(ctx(t)); err != nil {
			t.Fatal(err)
		}
	}
	list := func(r *Registry) []string {
		page, _, err := r.List(Filter{Limit: 10_000})
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, s := range page {
			line := string(s.ID) + " " + s.Name
			for _, c := range s.Certificates {
				line += " " + c.Fingerprint
			}
			out = append(out, line)
		}
		return out
	}
	if la, lb := list(a), list(b); !slices.Equal(la, lb) {
		t.Errorf("the nodes differ:\n%v\n%v", la, lb)
	}
	certsA, namesA, devicesA := sizes(a)
	if certsB, _, _ := sizes(b); certsA != certsB || namesA != devicesA {
		t.Errorf("%d and %d certificates, %d names of %d devices", certsA, certsB, namesA, devicesA)
	}
}

// sizes counts what a node's memory holds, which its follower may be reading anew.
func sizes(r *Registry) (certs, names, devices int) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.table.certs), len(r.table.names), len(r.table.devices)
}

// recorder gathers changes.
type recorder struct {
	mu   sync.Mutex
	seen []Change
}

func (r *recorder) add(c Change) { r.mu.Lock(); defer r.mu.Unlock(); r.seen = append(r.seen, c) }
func (r *recorder) take() []Change {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

// A revoked certificate and a deleted device are known on every node within a second, in order, and on the node that
// wrote before the write returns.
func TestOnChange_TellsEveryNode(t *testing.T) {
	a, b := twoNodes(t)
	var onA, onB recorder
	a.OnChange(onA.add)
	b.OnChange(onB.add)
	one, two := newCert(t), newCert(t)
	dev := create(t, a, NewDevice{Name: "cam", Certificates: []string{one, two}})
	name := "new"
	if _, err := b.Update(ctx(t), dev.ID, Patch{Name: &name}); err != nil {
		t.Fatal(err)
	}
	if err := a.RemoveCertificate(ctx(t), dev.ID, dev.Certificates[0].Fingerprint); err != nil {
		t.Fatal(err)
	}
	if err := a.Delete(ctx(t), dev.ID); err != nil {
		t.Fatal(err)
	}
	want := []Change{
		{Device: dev.ID, Fingerprints: []string{dev.Certificates[0].Fingerprint}},
		{Device: dev.ID, Deleted: true, Fingerprints: []string{dev.Certificates[1].Fingerprint}},
	}
	equal := func(got []Change) bool {
		return slices.EqualFunc(got, want, func(x, y Change) bool {
			return x.Device == y.Device && x.Deleted == y.Deleted && slices.Equal(x.Fingerprints, y.Fingerprints)
		})
	}
	if got := onA.take(); !equal(got) {
		t.Errorf("on the writing node: %+v, want %+v", got, want)
	}
	within(t, time.Second, "the other node knows", func() bool { _, ok := b.Device(dev.ID); return !ok })
	within(t, time.Second, "the other node was told", func() bool { onB.mu.Lock(); defer onB.mu.Unlock(); return len(onB.seen) == 2 })
	if got := onB.take(); !equal(got) {
		t.Errorf("on the other node: %+v, want %+v", got, want)
	}
	if admits(t, b, two, dev.ID) {
		t.Error("the other node admits a deleted device")
	}
}

// What one node has written is found on another at once.
func TestFind_SeesOtherNodesWrites(t *testing.T) {
	a, b := twoNodes(t)
	for i := range 30 {
		dev := create(t, a, NewDevice{Name: fmt.Sprintf("cam-%d", i)})
		if _, err := b.Find(ctx(t), dev.ID); err != nil {
			t.Fatalf("by id: %v", err)
		}
		dev = create(t, a, NewDevice{Name: fmt.Sprintf("cam-%d-b", i)})
		if _, err := b.FindByName(ctx(t), DefaultID, dev.Name); err != nil {
			t.Fatalf("by name: %v", err)
		}
	}
	_, err := b.Find(ctx(t), "nobody")
	wantKind(t, "nobody", err, device.DeviceNotFound)
}

// faulty is a JetStream whose publishes fail in chosen ways. Barriers are let through.
type faulty struct {
	jetstream.JetStream
	fault atomic.Pointer[func(publish func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error)]
}

func (f *faulty) PublishMsg(ctx context.Context, m *nats.Msg, opts ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	publish := func() (*jetstream.PubAck, error) { return f.JetStream.PublishMsg(ctx, m, opts...) }
	if fault := f.fault.Load(); fault != nil && m.Subject != barrierSubject {
		return (*fault)(publish)
	}
	return publish()
}

// silent answers nothing the first time, as a cluster does that has no leader yet.
type silent struct {
	jetstream.JetStream
	asked atomic.Int32
}

func (s *silent) CreateOrUpdateStream(ctx context.Context, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	if s.asked.Add(1) == 1 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return s.JetStream.CreateOrUpdateStream(ctx, cfg)
}

func TestOpen_AsksAgainWhereNobodyAnswers(t *testing.T) {
	js := &silent{JetStream: connect(t, startServer(t, t.TempDir()))}
	create(t, node(t, Config{JetStream: js}), NewDevice{Name: "cam"})
	if n := js.asked.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

func TestOpen_EndsWithItsContext(t *testing.T) {
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := Open(short, Config{JetStream: &silent{}, Logger: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Open: %v", err)
	}
}

// I9, I10: a write whose answer is lost is done once, whether it was stored or not.
func TestWrite_TheAnswerIsLost(t *testing.T) {
	lost := errors.New("connection lost")
	tests := map[string]func(publish func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error){
		"after it was stored": func(publish func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
			_, _ = publish()
			return nil, lost
		},
		"before it was sent": func(func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) { return nil, lost },
	}
	for name, fault := range tests {
		t.Run(name, func(t *testing.T) {
			js := &faulty{JetStream: connect(t, startServer(t, t.TempDir()))}
			r := node(t, Config{JetStream: js})
			var calls atomic.Int32
			once := func(publish func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
				if calls.Add(1) == 1 {
					return fault(publish)
				}
				return publish()
			}
			js.fault.Store(&once)
			dev := create(t, r, NewDevice{Name: "cam", Certificates: []string{newCert(t)}})
			if s, ok := r.GetByName(DefaultID, "cam"); !ok || s.ID != dev.ID || r.Count() != 1 {
				t.Fatalf("%d devices, %+v", r.Count(), s)
			}
			calls.Store(0)
			code := newTestCode(t, r, NewCode{})
			calls.Store(0)
			got, err := r.Enrol(ctx(t), code, newCSR(t, newKey(t)), "")
			if err != nil || got.Repeated || r.Count() != 2 {
				t.Errorf("Enrol: %+v, %v, %d devices", got, err, r.Count())
			}
			calls.Store(0)
			if err := r.Delete(ctx(t), dev.ID); err != nil {
				t.Errorf("Delete: %v", err)
			}
		})
	}
}

// A late write cannot get through after its caller was told that nothing is known, once a barrier has passed.
func TestWrite_ALateOneLosesItsPlace(t *testing.T) {
	js := &faulty{JetStream: connect(t, startServer(t, t.TempDir()))}
	r := node(t, Config{JetStream: js})
	var late func() (*jetstream.PubAck, error)
	hold := func(publish func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		if late == nil {
			late = publish
			return nil, context.DeadlineExceeded
		}
		return publish()
	}
	js.fault.Store(&hold)
	dev := create(t, r, NewDevice{Name: "cam"})
	if err := r.Delete(ctx(t), dev.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := late(); err == nil {
		t.Error("the late write was stored")
	}
	if err := r.CatchUp(ctx(t)); err != nil || r.Count() != 0 {
		t.Errorf("%d devices, %v", r.Count(), err)
	}
}

func TestWrite_NoAnswerAtAll(t *testing.T) {
	js := &faulty{JetStream: connect(t, startServer(t, t.TempDir()))}
	r := node(t, Config{JetStream: js})
	never := func(func() (*jetstream.PubAck, error)) (*jetstream.PubAck, error) {
		return nil, context.DeadlineExceeded
	}
	js.fault.Store(&never)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := r.Create(short, NewDevice{Name: "cam"})
	wantKind(t, "Create", err, device.OutcomeUnknown)
	js.fault.Store(nil)
	create(t, r, NewDevice{Name: "cam"})
}

// A node that was cut off for so long that it may have missed a tombstone reads everything again.
func TestFollow_StartsOverAfterALongCut(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	r := node(t, Config{JetStream: connect(t, startServer(t, t.TempDir())), Clock: clock, CheckEvery: 20 * time.Millisecond, FreshFor: time.Second})
	var seen recorder
	r.OnChange(seen.add)
	cert := newCert(t)
	kept := create(t, r, NewDevice{Name: "kept", Certificates: []string{certUntil(t, time.Now().Add(1000*time.Hour))}})
	gone := create(t, r, NewDevice{Name: "gone", Certificates: []string{cert}})
	code, key := newTestCode(t, r, NewCode{ExpiresIn: 20 * 24 * time.Hour}), newKey(t)
	first, err := r.Enrol(ctx(t), code, newCSR(t, key), "")
	if err != nil {
		t.Fatal(err)
	}
	stream, err := r.js.Stream(ctx(t), Stream)
	if err != nil {
		t.Fatal(err)
	}
	// As if its tombstone had come and aged out meanwhile.
	if err := stream.Purge(ctx(t), jetstream.WithPurgeSubject(deviceSubject(gone.ID))); err != nil {
		t.Fatal(err)
	}
	if err := r.CatchUp(ctx(t)); err != nil {
		t.Fatal(err)
	}
	if _, ok := r.Device(gone.ID); !ok {
		t.Fatal("the device is gone already: this test shows nothing")
	}
	mu.Lock()
	now = now.Add(tombstoneTTL/2 + time.Minute)
	mu.Unlock()
	within(t, 5*time.Second, "the device is gone", func() bool { _, ok := r.Device(gone.ID); return !ok })
	within(t, 5*time.Second, "the node is ready", func() bool { return r.Ready() == nil })
	if got := seen.take(); len(got) != 1 || got[0].Device != gone.ID || !got[0].Deleted {
		t.Errorf("told %+v", got)
	}
	if !admits(t, r, kept.Certificates[0].PEM, kept.ID) {
		t.Error("the other device is refused")
	}
	if got, err := r.Enrol(ctx(t), code, newCSR(t, key), ""); err != nil || got.Device.ID != first.Device.ID {
		t.Errorf("the code's device: %+v, %v", got, err)
	}
	create(t, r, NewDevice{Name: "gone", Certificates: []string{cert}})
}

func TestFollow_AnotherStreamOfTheSameName(t *testing.T) {
	srv := startServer(t, t.TempDir())
	id := openIdentity(t)
	a := node(t, Config{JetStream: connect(t, srv), Identity: id, CheckEvery: 20 * time.Millisecond})
	old := create(t, a, NewDevice{Name: "cam", Certificates: []string{newCert(t)}})
	if err := a.js.DeleteStream(ctx(t), Stream); err != nil {
		t.Fatal(err)
	}
	b := node(t, Config{JetStream: connect(t, srv), Identity: id})
	for i := range 5 { // its sequence passes the old one's
		create(t, b, NewDevice{Name: fmt.Sprintf("new-%d", i)})
	}
	within(t, 10*time.Second, "the old device is gone", func() bool { _, ok := a.Device(old.ID); return !ok })
	within(t, 10*time.Second, "the first node is ready", func() bool { return a.Ready() == nil })
	create(t, a, NewDevice{Name: "cam", Certificates: []string{old.Certificates[0].PEM}})
	sameOnBoth(t, a, b)
}

// A follower that never gets the last message, since it aged out first, does not wait for it for ever.
func TestCatchUp_TheLastMessageAgedOut(t *testing.T) {
	r := alone(t)
	r.mu.Lock()
	r.announced-- // as if the last one had not come
	r.mu.Unlock()
	if err := r.CatchUp(ctx(t)); err != nil {
		t.Fatal(err)
	}
	create(t, r, NewDevice{Name: "cam"})
}
