package iotcore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
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
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is the services on a real server with the broker's guard, over a real stream.
type world struct {
	dir      string
	addr     string
	identity *identity.Identity
	registry *registry.Registry

	mu        sync.Mutex
	presence  device.Presence
	published []string
	refuse    error
}

func start(t *testing.T, address string) *world {
	t.Helper()
	w := &world{dir: t.TempDir()}
	var err error
	if w.identity, err = identity.Open(w.dir, identity.Config{}); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	engine, err := stream.Open(t.Context(), stream.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(engine.Close)
	w.registry, err = registry.Open(t.Context(), registry.Config{JetStream: engine.JetStream(), Identity: w.identity, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.registry.Close)
	services, err := New(Config{
		Address: address, Registry: w.registry, Publisher: w,
		Presence: func(device.ID) device.Presence { w.mu.Lock(); defer w.mu.Unlock(); return w.presence },
	})
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer(rpc.ServerOptions(rpc.Guard{Identity: w.identity, Log: log})...)
	services.Register(srv)
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

// PublishCommand and PublishEvent make the world a Publisher that writes down what comes.
func (w *world) PublishCommand(_ context.Context, id device.ID, subtopic string, data []byte) error {
	return w.publish("command %s %q %s", id, subtopic, data)
}

func (w *world) PublishEvent(_ context.Context, id device.ID, topic string, data []byte) error {
	return w.publish("event %s %q %s", id, topic, data)
}

func (w *world) publish(format string, args ...any) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuse != nil {
		return w.refuse
	}
	w.published = append(w.published, fmt.Sprintf(format, args...))
	return nil
}

func (w *world) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.published
	w.published = nil
	return out
}

// dial connects with a ready client certificate of the data folder, or with none.
func (w *world) dial(t *testing.T, name string) *grpc.ClientConn {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(w.identity.CA()))
	cfg := &tls.Config{RootCAs: roots}
	if name != "" {
		c, err := tls.LoadX509KeyPair(filepath.Join(w.dir, name+".pem"), filepath.Join(w.dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		cfg.Certificates = []tls.Certificate{c}
	}
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func ctx(t *testing.T) context.Context {
	t.Helper()
	c, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return c
}

func wantCode(t *testing.T, what string, err error, want codes.Code) {
	t.Helper()
	if got := status.Code(err); got != want {
		t.Fatalf("%s: %v (%v), want %v", what, got, err, want)
	}
}
