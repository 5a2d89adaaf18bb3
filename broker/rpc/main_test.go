package rpc_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"signaldevice/broker/identity"
	"signaldevice/broker/registry"
	"signaldevice/broker/rpc"
	"signaldevice/broker/stream"
	"signaldevice/device"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a broker's gRPC side, on a real listener and a real stream.
type world struct {
	dir      string
	identity *identity.Identity
	registry *registry.Registry
	addr     string

	mu     sync.Mutex
	online map[device.ID]device.Presence
}

// start serves the device service and whatever register adds.
func start(t *testing.T, guard rpc.Guard, register func(grpc.ServiceRegistrar)) *world {
	t.Helper()
	w := &world{dir: t.TempDir(), online: map[device.ID]device.Presence{}}
	var err error
	if w.identity, err = identity.Open(w.dir, identity.Config{}); err != nil {
		t.Fatal(err)
	}
	engine, err := stream.Open(t.Context(), stream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	w.registry, err = registry.Open(t.Context(), registry.Config{
		JetStream: engine.JetStream(), Identity: w.identity, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.registry.Close)

	guard.Identity = w.identity
	if guard.Log == nil {
		guard.Log = slog.New(slog.DiscardHandler)
	}
	srv := grpc.NewServer(rpc.ServerOptions(guard)...)
	brokerv1.RegisterDeviceServiceServer(srv, rpc.NewDeviceServer(rpc.DeviceConfig{
		Connection: rpc.Connection{CA: w.identity.CA(), MQTT: "ssl://broker.example:8883"},
		Registry:   w.registry, Presence: w.presence,
	}))
	if register != nil {
		register(srv)
	}
	ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = ln.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() { _ = srv.Serve(ln) })
	t.Cleanup(func() { srv.Stop(); serving.Wait() })
	return w
}

func (w *world) presence(id device.ID) device.Presence {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.online[id]
}

// ready loads a ready client certificate of the data folder.
func (w *world) ready(t *testing.T, name string) *tls.Certificate {
	t.Helper()
	c, err := tls.LoadX509KeyPair(filepath.Join(w.dir, name+".pem"), filepath.Join(w.dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// dial connects with a client certificate, or with none.
func (w *world) dial(t *testing.T, cert *tls.Certificate) *grpc.ClientConn {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(w.identity.CA()))
	cfg := &tls.Config{RootCAs: roots}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (w *world) devices(t *testing.T) brokerv1.DeviceServiceClient {
	t.Helper()
	return brokerv1.NewDeviceServiceClient(w.dial(t, w.ready(t, "service")))
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// newCert makes a certificate of another broker's device CA: whoever signed it, it is a device's own.
func newCert(t *testing.T) string {
	t.Helper()
	other, err := identity.Open(t.TempDir(), identity.Config{})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := identity.ParseCSR(newCSR(t, newKey(t)))
	if err != nil {
		t.Fatal(err)
	}
	c, err := other.SignCSR(csr, "factory")
	if err != nil {
		t.Fatal(err)
	}
	return c.PEM
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Fatalf("%s: %v (%v), want %v", what, got, err, want)
	}
}
