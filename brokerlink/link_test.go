package brokerlink_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/broker"
	"signaldevice/broker/identity"
	"signaldevice/brokerlink"
	"signaldevice/device"
	"signaldevice/dispatch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start runs a broker and returns it with what a link to it needs.
func start(t *testing.T) (*broker.Broker, brokerlink.Config) {
	t.Helper()
	b, err := broker.Start(t.Context(), broker.Config{DataDir: t.TempDir(), MQTTAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	cert, key := b.ClientCertificate(identity.RoleService)
	return b, brokerlink.Config{Addrs: []string{b.GRPCAddr().String()}, CAFile: b.CAFile(), CertFile: cert, KeyFile: key}
}

func stop(t *testing.T, b *broker.Broker) {
	t.Helper()
	if err := b.Stop(context.WithoutCancel(t.Context())); err != nil {
		t.Error(err)
	}
}

func dial(t *testing.T, cfg brokerlink.Config) *brokerlink.Link {
	t.Helper()
	l, err := brokerlink.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// dialThroughProxy starts a broker and returns a link that has reached it, and what stands between them.
func dialThroughProxy(t *testing.T) (*proxy, *brokerlink.Link) {
	t.Helper()
	b, cfg := start(t)
	t.Cleanup(func() { stop(t, b) })
	p := newProxy(t, cfg.Addrs[0])
	cfg.Addrs, cfg.Silence = []string{p.addr()}, brokerlink.Silence
	l := dial(t, cfg)
	if err := l.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p, l
}

// calls are one of each kind: a read, a write, a stream.
var calls = map[string]func(context.Context, *brokerlink.Link) error{
	"ping": func(ctx context.Context, l *brokerlink.Link) error { return l.Ping(ctx) },
	"requests": func(ctx context.Context, l *brokerlink.Link) error {
		_, err := l.Requests(ctx, device.MailboxOf("a"), []device.RequestID{"x"})
		return err
	},
	"send": func(ctx context.Context, l *brokerlink.Link) error {
		_, _, err := l.Send(ctx, dispatch.Send{
			Device: "cam-1", Mailbox: device.MailboxOf("a"), Client: "a", Payload: device.Payload{JSON: []byte(`{}`)},
			Command: device.Command{Name: "ping", DeliverWithin: time.Second, ReplyWithin: time.Second},
		})
		return err
	},
	"drain": func(ctx context.Context, l *brokerlink.Link) error {
		_, err := l.Drain(ctx, dispatch.Drain{Device: "cam-1", Limit: 1})
		return err
	},
	"enrol": func(ctx context.Context, l *brokerlink.Link) error {
		_, err := l.Enrol(ctx, dispatch.Enrolment{Code: "x", CSR: "y"})
		return err
	},
	"watch": func(ctx context.Context, l *brokerlink.Link) error {
		return l.Watch(ctx, func() {}, func(dispatch.Hint) {})
	},
}

func TestLink_TheBrokersOwnRefusals(t *testing.T) {
	b, cfg := start(t)
	defer stop(t, b)
	l := dial(t, cfg)
	want := map[string]device.Kind{"ping": device.OK, "requests": device.OK, "send": device.DeviceNotFound, "drain": device.DeviceNotFound}
	for name, kind := range want {
		if err := calls[name](t.Context(), l); device.KindOf(err) != kind {
			t.Errorf("%s: %v, want kind %q", name, err, kind)
		}
	}
	_, err := l.CreateDevice(t.Context(), dispatch.NewDevice{Name: strings.Repeat("x", 51), Credential: dispatch.Credential{CSR: "no"}})
	if device.KindOf(err) == device.Internal || err == nil {
		t.Errorf("a bad device: %v", err)
	}
}

// A broker that is not there was not reached: nothing happened, whatever the call.
func TestLink_NoBroker(t *testing.T) {
	b, cfg := start(t)
	stop(t, b)
	l := dial(t, cfg)
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		if err := call(ctx, l); !device.Is(err, device.BrokerUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

// A broker that takes the connection and says nothing: the same, within the caller's time (F2).
func TestLink_SilentBroker(t *testing.T) {
	b, cfg := start(t)
	defer stop(t, b)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cfg.Addrs = []string{silent.Addr().String()}
	l := dial(t, cfg)
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		begin := time.Now()
		if err := call(ctx, l); !device.Is(err, device.BrokerUnavailable) {
			t.Errorf("%s: %v", name, err)
		}
		if took := time.Since(begin); took > 2*time.Second {
			t.Errorf("%s took %v", name, took)
		}
		cancel()
	}
}

// A call that was on its way when the connection broke may have taken effect.
func TestLink_CutCallsAreUnknownWhereTheyChangeSomething(t *testing.T) {
	p, l := dialThroughProxy(t)
	p.freeze()
	for name, want := range map[string]device.Kind{
		"requests": device.BrokerUnavailable, "drain": device.BrokerUnavailable,
		"send": device.OutcomeUnknown, "enrol": device.OutcomeUnknown,
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := calls[name](ctx, l); !device.Is(err, want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
		cancel()
	}
}

func TestLink_ComesBackWithoutARestart(t *testing.T) {
	p, l := dialThroughProxy(t)
	p.cut()
	for deadline := time.Now().Add(5 * time.Second); l.Ping(t.Context()) != nil; {
		if time.Now().After(deadline) {
			t.Fatal("not back after 5 s")
		}
	}
}

// A connection that is open and dead, behind a middlebox that forgot it say, does not keep a link from the broker (F2).
func TestLink_GivesUpADeadConnection(t *testing.T) {
	p, l := dialThroughProxy(t)
	p.freeze()
	failed := 0
	for deadline := time.Now().Add(15 * time.Second); ; failed++ {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		err := l.Ping(ctx)
		cancel()
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not back after 15 s")
		}
	}
	if failed == 0 {
		t.Error("the connection was not dead")
	}
}

func TestDial_NamesTheFileAtFault(t *testing.T) {
	b, good := start(t)
	defer stop(t, b)
	junk := filepath.Join(t.TempDir(), "junk.pem")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		edit func(*brokerlink.Config)
		want string
	}{
		"no CA file":               {func(c *brokerlink.Config) { c.CAFile = "nowhere.pem" }, "nowhere.pem"},
		"a CA file of junk":        {func(c *brokerlink.Config) { c.CAFile = junk }, junk},
		"no certificate":           {func(c *brokerlink.Config) { c.CertFile = "nowhere.pem" }, "nowhere.pem"},
		"another key than its own": {func(c *brokerlink.Config) { _, c.KeyFile = b.ClientCertificate(identity.RoleOperator) }, "client certificate"},
		"no address":               {func(c *brokerlink.Config) { c.Addrs = nil }, "address"},
	}
	for name, tt := range tests {
		cfg := good
		tt.edit(&cfg)
		if _, err := brokerlink.Dial(cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A device's certificate, or one of another broker, is not let in.
func TestLink_WrongCertificate(t *testing.T) {
	b, cfg := start(t)
	defer stop(t, b)
	other, foreign := start(t)
	defer stop(t, other)
	mixed := cfg
	mixed.CertFile, mixed.KeyFile = foreign.CertFile, foreign.KeyFile
	if err := calls["requests"](t.Context(), dial(t, mixed)); !device.Is(err, device.Unauthenticated) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a client certificate of another broker: %v", err)
	}
	mixed = cfg
	mixed.CAFile = foreign.CAFile
	if err := calls["requests"](t.Context(), dial(t, mixed)); !device.Is(err, device.BrokerUnavailable) {
		t.Errorf("a broker of another CA: %v", err)
	}
}
