package registry

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"signaldevice/broker/identity"
	"signaldevice/device"
	"signaldevice/testserver/pki"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startServer starts an embedded server on the folder.
func startServer(t testing.TB, dir string) *server.Server {
	t.Helper()
	return runServer(t, &server.Options{DontListen: true, StoreDir: dir})
}

func newServer(t testing.TB, opts *server.Options) *server.Server {
	t.Helper()
	opts.JetStream, opts.SyncAlways, opts.NoLog, opts.NoSigs = true, true, true, true
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stopServer(srv) })
	return srv
}

func runServer(t testing.TB, opts *server.Options) *server.Server {
	t.Helper()
	srv := newServer(t, opts)
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the embedded server does not start")
	}
	return srv
}

func stopServer(srv *server.Server) {
	srv.Shutdown()
	srv.WaitForShutdown()
}

// connect opens a connection of its own, as each node has one.
func connect(t testing.TB, srv *server.Server, opts ...nats.Option) jetstream.JetStream {
	t.Helper()
	nc, err := nats.Connect(srv.ClientURL(), append(opts, nats.InProcessServer(srv))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func openIdentity(t testing.TB) *identity.Identity {
	t.Helper()
	id, err := identity.Open(t.TempDir(), identity.Config{})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// node opens a registry on the configuration; what is not set is chosen for tests.
func node(t testing.TB, cfg Config) *Registry {
	t.Helper()
	if cfg.Identity == nil {
		cfg.Identity = openIdentity(t)
	}
	cfg.Logger = slog.New(slog.DiscardHandler)
	r, err := Open(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

// alone opens a registry of one node on a server of its own.
func alone(t testing.TB) *Registry {
	t.Helper()
	return node(t, Config{JetStream: connect(t, startServer(t, t.TempDir()))})
}

func ctx(t testing.TB) context.Context {
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

// within waits for a condition.
func within(t testing.TB, d time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			t.Fatalf("not within %v: %s", d, what)
		case <-poll.C:
		}
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// newCert makes a self-signed certificate, as a camera's factory may.
func newCert(t testing.TB) string {
	t.Helper()
	return certUntil(t, time.Now().Add(time.Hour))
}

func certUntil(t testing.TB, notAfter time.Time) string {
	t.Helper()
	pair, err := pki.SelfSigned("cam", time.Until(notAfter))
	if err != nil {
		t.Fatal(err)
	}
	return string(pair.Cert)
}

func newCSR(t testing.TB, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func der(t testing.TB, text string) []byte {
	t.Helper()
	b, err := derOf(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func create(t testing.TB, r *Registry, d NewDevice) *Snapshot {
	t.Helper()
	got, err := r.Create(ctx(t), d)
	if err != nil {
		t.Fatal(err)
	}
	return got.Device
}

func wantKind(t testing.TB, what string, err error, kind device.Kind) {
	t.Helper()
	if got := device.KindOf(err); got != kind {
		t.Fatalf("%s: kind %q (%v), want %q", what, got, err, kind)
	}
}

// admits reports whether the certificate admits the device.
func admits(t testing.TB, r *Registry, certificate string, want device.ID) bool {
	t.Helper()
	id, err := r.ByCertificate(der(t, certificate))
	if err == nil && id != want {
		t.Fatalf("the certificate admits %s, want %s", id, want)
	}
	return err == nil
}

func TestByCertificate_AdmitsExactlyTheRegisteredOnes(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	r := node(t, Config{
		JetStream: connect(t, startServer(t, t.TempDir())), Clock: clock, FreshFor: 24 * time.Hour, CheckEvery: time.Hour,
	})
	cert, stranger := newCert(t), newCert(t)
	dev := create(t, r, NewDevice{Name: "cam", Certificates: []string{cert}})
	if !admits(t, r, cert, dev.ID) {
		t.Error("the registered certificate is refused")
	}
	_, err := r.ByCertificate(der(t, stranger))
	wantKind(t, "another certificate", err, device.Unauthenticated)
	_, err = r.ByCertificate(append(der(t, cert), 0))
	wantKind(t, "one byte more", err, device.Unauthenticated)

	mu.Lock()
	now = dev.Certificates[0].NotAfter.Add(time.Second)
	mu.Unlock()
	_, err = r.ByCertificate(der(t, cert))
	wantKind(t, "after its expiry", err, device.Unauthenticated)
}

// I9: everything that a write returned for is there after a restart, also when the stream's last message aged out.
func TestOpen_AfterARestart(t *testing.T) {
	dir := t.TempDir()
	srv := startServer(t, dir)
	js := connect(t, srv)
	id := openIdentity(t)
	r := node(t, Config{JetStream: js, Identity: id})
	kept := create(t, r, NewDevice{Name: "kept", Description: "a camera", Labels: device.Labels{"depot": "north"}, Certificates: []string{newCert(t), newCert(t)}})
	gone := create(t, r, NewDevice{Name: "gone", Certificates: []string{newCert(t)}})
	if err := r.Delete(ctx(t), gone.ID); err != nil {
		t.Fatal(err)
	}
	code, _, err := r.CreateCode(ctx(t), NewCode{Name: "coded"})
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	enrolled, err := r.Enrol(ctx(t), code, newCSR(t, key), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.CreateCode(ctx(t), NewCode{ExpiresIn: time.Second}); err != nil {
		t.Fatal(err)
	}
	messages := func() uint64 {
		s, err := js.Stream(ctx(t), Stream)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State.Msgs
	}
	const remaining = 5 // barrier, kept, gone's tombstone, code, coded
	within(t, 10*time.Second, "the unused code ages out of the stream", func() bool { return messages() == remaining })
	r.Close()
	js.Conn().Close()
	stopServer(srv)

	r = node(t, Config{JetStream: connect(t, startServer(t, dir)), Identity: id})
	got, ok := r.Device(kept.ID)
	if !ok || got.Name != "kept" || got.Description != "a camera" || got.Labels["depot"] != "north" ||
		!got.CreatedAt.Equal(kept.CreatedAt) || len(got.Certificates) != 2 || got.Certificates[1] != kept.Certificates[1] {
		t.Errorf("after the restart: %+v, want %+v", got, kept)
	}
	for _, c := range kept.Certificates {
		if !admits(t, r, c.PEM, kept.ID) {
			t.Error("a certificate is refused after the restart")
		}
	}
	if _, ok := r.Device(gone.ID); ok || admits(t, r, gone.Certificates[0].PEM, gone.ID) {
		t.Error("the deleted device is back")
	}
	again, err := r.Enrol(ctx(t), code, newCSR(t, key), "")
	if err != nil || !again.Repeated || again.Device.ID != enrolled.Device.ID || again.Certificate != enrolled.Certificate {
		t.Errorf("the same code and key after the restart: %+v, %v", again, err)
	}
	create(t, r, NewDevice{Name: "gone", Certificates: []string{gone.Certificates[0].PEM}})
	if r.Count() != 3 {
		t.Errorf("%d devices, want 3", r.Count())
	}
}

// A node that cannot know the current certificates admits nobody new, refuses writes in time, and recovers alone.
func TestReady_WithoutTheStream(t *testing.T) {
	dir := t.TempDir()
	opts := func(port int) *server.Options {
		return &server.Options{Host: "127.0.0.1", Port: port, StoreDir: dir}
	}
	srv := runServer(t, opts(server.RANDOM_PORT))
	nc, err := nats.Connect(srv.ClientURL(), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	r := node(t, Config{JetStream: js, CheckEvery: 20 * time.Millisecond, FreshFor: 300 * time.Millisecond})
	cert := newCert(t)
	dev := create(t, r, NewDevice{Name: "cam", Certificates: []string{cert}})
	port := srv.Addr().String()
	stopServer(srv)

	within(t, 5*time.Second, "the node says that it does not know", func() bool { return r.Ready() != nil })
	_, err = r.ByCertificate(der(t, cert))
	wantKind(t, "ByCertificate", err, device.BrokerUnavailable)
	_, err = r.Find(ctx(t), dev.ID)
	wantKind(t, "Find", err, device.BrokerUnavailable)
	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begun := time.Now()
	_, err = r.Create(short, NewDevice{Name: "late"})
	if kind := device.KindOf(err); kind != device.BrokerUnavailable && kind != device.OutcomeUnknown {
		t.Errorf("Create: %v", err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("Create took %v with a deadline of 300 ms", took)
	}
	if _, ok := r.Device(dev.ID); !ok {
		t.Error("memory is lost")
	}

	runServer(t, opts(portOf(t, port)))
	within(t, 10*time.Second, "the node is ready again", func() bool { return r.Ready() == nil })
	if !admits(t, r, cert, dev.ID) {
		t.Error("the certificate is refused after the stream came back")
	}
	create(t, r, NewDevice{Name: "new"})
}

// F17: a stream that takes no write before the store is opened anew must not hold the start up for ever, which is what opens
// it anew.
func TestOpen_GivesUpOnAStreamThatTakesNoWrites(t *testing.T) {
	dir := t.TempDir()
	srv := startServer(t, dir)
	js := connect(t, srv)
	if err := (&Registry{cfg: Config{}.withDefaults(), js: js}).makeStream(ctx(t)); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Join(dir, "jetstream", "$G", "streams", Stream, "msgs")
	if err := errors.Join(os.Rename(folder, folder+".away"), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for err, i := error(nil), 0; err == nil; i++ {
		if i == 100 {
			t.Fatal("every write worked")
		}
		writing, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		_, err = js.Publish(writing, codeSubject("not-ours"), make([]byte, 512<<10))
		cancel()
	}
	cfg := Config{JetStream: js, Identity: openIdentity(t), OpenWithin: 300 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)}
	patient := ctx(t)
	if _, err := Open(patient, cfg); err == nil || patient.Err() != nil {
		t.Errorf("opened on a stream that takes no writes: %v", err)
	}
	if err := errors.Join(os.Remove(folder), os.Rename(folder+".away", folder)); err != nil {
		t.Fatal(err)
	}
	stopServer(srv)
	cfg.JetStream, cfg.OpenWithin = connect(t, startServer(t, dir)), 0
	r, err := Open(ctx(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

// A message that cannot be read takes nobody along, and its device is not admitted.
func TestFollow_AnUnreadableRecord(t *testing.T) {
	r := alone(t)
	cert, other := newCert(t), newCert(t)
	bad := create(t, r, NewDevice{Name: "bad", Certificates: []string{cert}})
	good := create(t, r, NewDevice{Name: "good", Certificates: []string{other}})
	for _, data := range []string{`{`, `{"name":"bad","certificates":[{"pem":"none"}]}`} {
		if _, err := r.js.Publish(ctx(t), deviceSubject(bad.ID), []byte(data)); err != nil {
			t.Fatal(err)
		}
		if err := r.CatchUp(ctx(t)); err != nil {
			t.Fatal(err)
		}
		if admits(t, r, cert, bad.ID) || !admits(t, r, other, good.ID) {
			t.Fatalf("after %s: bad is admitted or good is not", data)
		}
	}
	create(t, r, NewDevice{ID: bad.ID, Name: "bad", Certificates: []string{cert}})
}
