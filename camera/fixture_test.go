package camera

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"signaldevice/testserver"
	"signaldevice/testserver/pki"
)

const patience = 10 * time.Second // for what should take milliseconds

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// must returns the value, or ends the test.
func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// site is somebody else's broker that wants client certificates, with an observer that stands for the rest of the system.
type site struct {
	t         testing.TB
	authority *pki.Authority
	broker    *testserver.MosquittoServer
	observer  mqtt.Client
	events    chan event
}

// event is one message that the observer saw.
type event struct {
	topic string
	body  []byte
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{t: t, authority: must(pki.NewAuthority())(t), events: make(chan event, 10_000)}
	dir := t.TempDir()
	if _, _, err := s.issue("broker").Write(dir, "broker"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), s.authority.PEM, 0o600); err != nil {
		t.Fatal(err)
	}
	s.broker = testserver.Mosquitto(t, fmt.Sprintf(
		"cafile %[1]s/ca.pem\ncertfile %[1]s/broker.pem\nkeyfile %[1]s/broker.key\nrequire_certificate true\n", dir))
	s.observe()
	return s
}

// observe connects the observer and subscribes it to everything that cameras publish.
func (s *site) observe() {
	s.t.Helper()
	options := mqtt.NewClientOptions().AddBroker(s.url()).SetClientID("observer").SetAutoReconnect(false).
		SetTLSConfig(must(s.issue("observer").ClientTLS(s.authority.PEM))(s.t))
	s.observer = mqtt.NewClient(options)
	await(s.t, s.observer.Connect())
	await(s.t, s.observer.Subscribe("$devices/+/events", 1, func(_ mqtt.Client, m mqtt.Message) {
		s.events <- event{m.Topic(), m.Payload()}
	}))
	s.t.Cleanup(func() { s.observer.Disconnect(0) })
}

// issue returns a new key with its certificate, for either side of a connection.
func (s *site) issue(name string) pki.Pair {
	s.t.Helper()
	return must(s.authority.Issue(name))(s.t)
}

func (s *site) url() string { return "ssl://" + s.broker.Addr }

// identity returns one as a camera has it that was registered elsewhere.
func (s *site) identity(id string) *Identity {
	own := s.issue(id)
	return &Identity{ID: id, Broker: s.url(), Certificate: own.Cert, Key: own.Key, CA: s.authority.PEM}
}

// start runs a camera of the site until the test ends, and returns it once it is ready.
func (s *site) start(cfg Config) *Camera {
	s.t.Helper()
	if cfg.Identity == nil && cfg.API == "" {
		cfg.Identity = s.identity("cam1")
	}
	if cfg.Pace == 0 {
		cfg.Pace = time.Millisecond
	}
	c := must(New(cfg))(s.t)
	run(s.t, c.Run)
	s.waitFor("the camera to be ready", c.Ready())
	return c
}

// run calls a Run until the test ends, or until the returned function is called, and wants a clean stop.
func run(t testing.TB, Run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

func (s *site) waitFor(what string, done <-chan struct{}) {
	s.t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		s.t.Fatalf("waited too long for %s", what)
	}
}

// send publishes a command to a camera.
func (s *site) send(id, requestID, name, args string) {
	s.t.Helper()
	if args == "" {
		args = "{}"
	}
	s.sendRaw(id, fmt.Sprintf(`{"request_id":%q,"command":%q,"args":%s,"sent_at":"2026-11-24T08:00:00Z","expires_at":"2026-11-24T08:00:10Z","expires_in":10}`,
		requestID, name, args))
}

func (s *site) sendRaw(id, body string) {
	s.t.Helper()
	await(s.t, s.observer.Publish("$devices/"+id+"/commands", 1, false, body))
}

// seen is a reply as the other side reads it.
type seen struct {
	RequestID string          `json:"request_id"`
	Status    string          `json:"status"`
	Result    json.RawMessage `json:"result"`
	Error     *replyError     `json:"error"`
	Seq       *int            `json:"seq"`
	Final     *bool           `json:"final"`

	topic string
	body  string
}

// next returns the next event.
func (s *site) next() event {
	s.t.Helper()
	select {
	case e := <-s.events:
		return e
	case <-time.After(patience):
		s.t.Fatal("waited too long for an event")
		return event{}
	}
}

// reply returns the next event, which must be a reply.
func (s *site) reply() seen {
	s.t.Helper()
	e := s.next()
	r := seen{topic: e.topic, body: string(e.body)}
	if err := json.Unmarshal(e.body, &r); err != nil {
		s.t.Fatalf("an event that is no reply: %v: %q", err, e.body)
	}
	return r
}

// replies returns the replies to one request up to the final one, and checks what holds for every series of replies.
func (s *site) replies(requestID string) []seen {
	s.t.Helper()
	var all []seen
	for {
		r := s.reply()
		if r.RequestID != requestID || r.Seq == nil || r.Final == nil {
			s.t.Fatalf("got %s; want a reply to %s with seq and final", r.body, requestID)
		}
		if *r.Seq != len(all) {
			s.t.Fatalf("seq %d, want %d", *r.Seq, len(all))
		}
		if *r.Final == (r.Status == statusProgress) {
			s.t.Fatalf("status %q with final %t", r.Status, *r.Final)
		}
		all = append(all, r)
		if *r.Final {
			return all
		}
	}
}

// noEvent wants that nothing has been published so far: an answered ping goes after whatever the camera had to say.
func (s *site) noEvent(id string) {
	s.t.Helper()
	s.send(id, "fence", "ping", "")
	if got := s.replies("fence"); len(got) != 1 {
		s.t.Fatalf("%d replies to a ping", len(got))
	}
}

func await(t testing.TB, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(patience) {
		t.Fatal("waited too long for the observer's own connection")
	}
	if err := token.Error(); err != nil {
		t.Fatal(err)
	}
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited too long: %s", what)
		}
	}
}
