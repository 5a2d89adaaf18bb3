package delivery_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"signaldevice/broker/delivery"
	"signaldevice/broker/mqtt"
	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/broker/stream"
	"signaldevice/device"
	"signaldevice/testserver/pki"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server.(*Server).startOutboundLoop"))
}

const (
	patience = 5 * time.Second
	camera   = device.ID("cam-1")
)

var alice = device.MailboxOf("alice")

// fleet is everything that delivery needs, for real, with one device and a clock that a test can move.
type fleet struct {
	t        *testing.T
	dir      string
	engine   *stream.Engine
	records  *requests.Store
	queue    *queue.Queue
	server   *mqtt.Server
	delivery *delivery.Delivery
	ring     *device.KeyRing

	mu     sync.Mutex
	ahead  time.Duration
	labels device.Labels
	look   func() *mqtt.Session // finds the device's session, instead of the server
	tick   func()               // called whenever delivery asks for the time
}

// setHooks takes look and tick, which may be nil.
func (f *fleet) setHooks(look func() *mqtt.Session, tick func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.look, f.tick = look, tick
}

func (f *fleet) clock() time.Time {
	f.mu.Lock()
	tick := f.tick
	f.mu.Unlock()
	if tick != nil {
		tick()
	}
	return f.now()
}

func (f *fleet) now() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Now().Add(f.ahead)
}

func (f *fleet) advance(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ahead += d
}

func (f *fleet) Labels(id device.ID) (device.Labels, bool) { return f.labels, id == camera }
func (f *fleet) Event(e mqtt.Event)                        { e.Done(nil) }
func (f *fleet) Subscribed(s *mqtt.Session)                { f.delivery.Subscribed(s.Device()) }
func (f *fleet) Unsubscribed(*mqtt.Session)                {}

func (f *fleet) Session(id device.ID) *mqtt.Session {
	f.mu.Lock()
	look := f.look
	f.mu.Unlock()
	if look != nil {
		return look()
	}
	return f.server.Session(id)
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	ring, err := device.NewKeyRing(device.NewKey(1))
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, dir: t.TempDir(), ring: ring, labels: device.Labels{"city": "riga"}}
	f.start()
	t.Cleanup(f.stop)
	return f
}

func (f *fleet) start() {
	f.t.Helper()
	ctx, log := f.t.Context(), slog.New(slog.DiscardHandler)
	check := func(err error) {
		f.t.Helper()
		if err != nil {
			f.t.Fatal(err)
		}
	}
	var err error
	f.engine, err = stream.Open(ctx, stream.Config{Dir: f.dir})
	check(err)
	f.records, err = requests.Open(ctx, requests.Config{Engine: f.engine, Clock: f.now, Log: log})
	check(err)
	f.queue, err = queue.Open(ctx, queue.Config{Engine: f.engine, Records: f.records, Clock: f.now, Log: log})
	check(err)
	f.delivery, err = delivery.Open(ctx, delivery.Config{
		Engine: f.engine, Records: f.records, Queue: f.queue, Ring: f.ring, Sessions: f, Devices: f, Clock: f.clock, Log: log,
	})
	check(err)
	f.server, err = mqtt.New(mqtt.Config{
		Addr: "127.0.0.1:0", Certificate: certificate(f.t),
		Identify: func([]byte) (device.ID, error) { return camera, nil }, Handler: f, Clock: time.Now, Log: log,
	})
	check(err)
	check(f.server.Listen())
}

func (f *fleet) stop() {
	if err := f.server.Close(); err != nil {
		f.t.Error(err)
	}
	f.delivery.Close()
	f.queue.Close()
	f.records.Close()
	f.engine.Close()
}

func certificate(t *testing.T) *tls.Certificate {
	pair, err := pki.SelfSigned("localhost", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	c, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// cam is a device that acknowledges only what a test tells it to.
type cam struct {
	client   paho.Client
	commands chan paho.Message
}

func (f *fleet) connect(qos byte) *cam {
	f.t.Helper()
	c := &cam{commands: make(chan paho.Message, 64)}
	o := paho.NewClientOptions().AddBroker("ssl://" + f.server.Addr().String()).SetClientID("c").
		SetTLSConfig(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{*certificate(f.t)}}).
		SetAutoReconnect(false).SetAutoAckDisabled(true).SetConnectTimeout(patience)
	c.client = paho.NewClient(o)
	wait := func(token paho.Token) {
		f.t.Helper()
		if !token.WaitTimeout(patience) || token.Error() != nil {
			f.t.Fatalf("device: %v", token.Error())
		}
	}
	wait(c.client.Connect())
	f.t.Cleanup(func() { c.client.Disconnect(0) })
	wait(c.client.Subscribe("$devices/cam-1/commands", qos, func(_ paho.Client, m paho.Message) { c.commands <- m }))
	f.until("the device can receive", func() bool { return f.server.Session(camera) != nil })
	return c
}

func (f *fleet) leave(c *cam) {
	f.t.Helper()
	c.client.Disconnect(0)
	f.until("the device is gone", func() bool { return f.server.Session(camera) == nil })
}

func (f *fleet) until(what string, is func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(patience); !is(); {
		if time.Now().After(deadline) {
			f.t.Fatalf("it did not come true that %s", what)
		}
	}
}

func (f *fleet) next(c *cam) (paho.Message, map[string]any) {
	f.t.Helper()
	select {
	case m := <-c.commands:
		var body map[string]any
		if err := json.Unmarshal(m.Payload(), &body); err != nil {
			body = nil
		}
		return m, body
	case <-time.After(patience):
		f.t.Fatal("no command came")
		return nil, nil
	}
}

func command() delivery.Command {
	return delivery.Command{
		Device: camera, Mailbox: alice, Client: "alice", Name: "ping", Payload: device.Payload{JSON: []byte(`{"a":1}`)},
		DeliverWithin: 10 * time.Second, ReplyWithin: 30 * time.Second, WaitDelivered: patience,
	}
}

func (f *fleet) state(id device.RequestID) device.State {
	f.t.Helper()
	claims, err := id.Claims()
	if err != nil {
		f.t.Fatal(err)
	}
	rec, ok, err := f.records.Get(f.t.Context(), claims)
	if err != nil || !ok {
		f.t.Fatalf("record: %v, %v", ok, err)
	}
	s, _ := rec.State(f.now())
	return s
}

func (f *fleet) send(c delivery.Command) requests.Record {
	f.t.Helper()
	rec, _, err := f.delivery.Send(f.t.Context(), c)
	if err != nil {
		f.t.Fatal(err)
	}
	return rec
}

func TestSend_DeliveredAtTheDevicesOwnPuback(t *testing.T) {
	f := newFleet(t)
	c := f.connect(1)
	done := make(chan requests.Record, 1)
	go func() {
		rec, _, err := f.delivery.Send(t.Context(), command())
		if err != nil {
			t.Error(err)
		}
		done <- rec
	}()
	m, body := f.next(c)
	select {
	case <-done:
		t.Fatal("delivered before the device acknowledged")
	default:
	}
	m.Ack()
	rec := <-done
	if s, _ := rec.State(f.now()); s != device.StateDelivered {
		t.Errorf("state is %s", s)
	}
	if body["request_id"] != string(rec.ID) || body["command"] != "ping" || body["expires_in"] != 10.0 {
		t.Errorf("the device got %v", body)
	}
	if args, _ := json.Marshal(body["args"]); string(args) != `{"a":1}` {
		t.Errorf("args are %s", args)
	}
	for _, field := range []string{"sent_at", "expires_at"} {
		if _, err := time.Parse(time.RFC3339, body[field].(string)); err != nil {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestSend_WithoutPubackIsSentAndLaterNoReply(t *testing.T) {
	f := newFleet(t)
	f.connect(1)
	c := command()
	c.WaitDelivered = 50 * time.Millisecond
	rec := f.send(c)
	if s := f.state(rec.ID); s != device.StateSent {
		t.Errorf("state is %s", s)
	}
	f.advance(c.ReplyWithin - 10*time.Second)
	if s := f.state(rec.ID); s != device.StateSent {
		t.Errorf("before the deadline the state is %s", s)
	}
	f.advance(10 * time.Second)
	if s := f.state(rec.ID); s != device.StateNoReply {
		t.Errorf("after the deadline the state is %s", s)
	}
}

func TestSend_ToAQoS0SubscriberIsNeverDelivered(t *testing.T) {
	f := newFleet(t)
	c := f.connect(0)
	rec := f.send(command()) // would wait five seconds for a PUBACK
	f.next(c)
	if s := f.state(rec.ID); s != device.StateSent {
		t.Errorf("state is %s", s)
	}
}

func TestSend_Refused(t *testing.T) {
	tests := map[string]struct {
		edit    func(*delivery.Command)
		offline bool
		want    device.Kind
	}{
		"as built":               {func(*delivery.Command) {}, false, device.OK},
		"an unknown device":      {func(c *delivery.Command) { c.Device = "cam-2" }, false, device.DeviceNotFound},
		"labels that it has":     {func(c *delivery.Command) { c.Labels = device.Labels{"city": "riga"} }, false, device.OK},
		"labels that it has not": {func(c *delivery.Command) { c.Labels = device.Labels{"city": "oslo"} }, false, device.DeviceNotFound},
		"an offline device":      {func(*delivery.Command) {}, true, device.DeviceOffline},
		"49 unread requests":     {func(c *delivery.Command) { c.CachedUnread = fiftyIDs(c.Mailbox)[:49] }, false, device.OK},
		"50 unread requests":     {func(c *delivery.Command) { c.CachedUnread = fiftyIDs(c.Mailbox) }, false, device.TooManyUnread},
		"almost 4 MB unread":     {func(c *delivery.Command) { c.CachedUnreadBytes = device.MaxUnreadBytes - 1 }, false, device.OK},
		"4 MB unread":            {func(c *delivery.Command) { c.CachedUnreadBytes = device.MaxUnreadBytes }, false, device.TooManyUnread},
		"a text of the largest size": {func(c *delivery.Command) {
			c.Payload = device.Payload{Text: bytes.Repeat([]byte("x"), device.MaxPayload)}
		}, false, device.OK},
		"a text one byte over": {func(c *delivery.Command) {
			c.Payload = device.Payload{Text: bytes.Repeat([]byte("x"), device.MaxPayload+1)}
		}, false, device.PayloadTooLarge},
	}
	f := newFleet(t)
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f.t = t
			if !tt.offline {
				c := f.connect(0)
				defer f.leave(c)
			}
			c := command()
			tt.edit(&c)
			before := f.recorded()
			_, _, err := f.delivery.Send(t.Context(), c)
			if got := device.KindOf(err); got != tt.want {
				t.Errorf("got %q (%v), want %q", got, err, tt.want)
			}
			if tt.want != device.OK && f.recorded() != before { // I10
				t.Error("a refused command was recorded")
			}
		})
	}
}

func (f *fleet) recorded() int {
	f.t.Helper()
	records, _, err := f.records.List(f.t.Context(), requests.Filter{Mailbox: alice}, 100, "")
	if err != nil {
		f.t.Fatal(err)
	}
	return len(records)
}

// fiftyIDs returns 50 ids of different requests.
func fiftyIDs(m device.Mailbox) []device.RequestID {
	ring, err := device.NewKeyRing(device.NewKey(9))
	if err != nil {
		panic(err)
	}
	ids := make([]device.RequestID, 50)
	for i := range ids {
		ids[i] = ring.Mint(time.Now(), m, camera, time.Now())
	}
	return ids
}

func TestSend_OfflineIsRefusedAtOnceAndNothingIsRecorded(t *testing.T) {
	f := newFleet(t)
	begin := time.Now()
	if _, _, err := f.delivery.Send(t.Context(), command()); !device.Is(err, device.DeviceOffline) {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("took %v", took)
	}
	if n := f.recorded(); n != 0 {
		t.Errorf("%d records", n)
	}
}

// only returns the one record that there is, once it is durable.
func (f *fleet) only() (rec requests.Record) {
	f.t.Helper()
	f.until("there is one record", func() bool {
		records, _, err := f.records.List(f.t.Context(), requests.Filter{Mailbox: alice}, 100, "")
		if err != nil || len(records) > 1 {
			f.t.Fatalf("%d records, %v", len(records), err)
		}
		if len(records) == 1 {
			rec = records[0]
		}
		return len(records) == 1
	})
	return rec
}

// I5: a request whose record came too late for its call was not sent, and says so.
func TestSend_RecordedTooLateIsNotSent(t *testing.T) {
	for name, cmd := range map[string]delivery.Command{"at once": command(), "held": hold()} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			c := f.connect(1)
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if _, _, err := f.delivery.Send(ctx, cmd); !device.Is(err, device.OutcomeUnknown) {
				t.Fatalf("error is %v", err)
			}
			rec := f.only()
			for _, later := range []time.Duration{0, time.Minute} {
				f.advance(later)
				if state, cause := rec.State(f.now()); state != device.StateExpired || !strings.Contains(cause, "not recorded in time") {
					t.Errorf("after %v it is %s: %s", later, state, cause)
				}
			}
			if len(c.commands) != 0 {
				t.Error("it was sent")
			}
		})
	}
}

func TestSend_RefusedWhileTooManyRecordsWait(t *testing.T) {
	f := newFleet(t)
	f.records.Close() // nothing more is written
	refused := error(nil)
	for range 10_000 {
		now := f.now()
		rec := requests.Record{ID: f.ring.Mint(now, alice, camera, now), Device: camera}
		if refused = f.records.Create(t.Context(), rec); device.Is(refused, device.BrokerUnavailable) {
			break
		}
	}
	if _, _, err := f.delivery.Send(t.Context(), hold()); !device.Is(err, device.BrokerUnavailable) || err.Error() != refused.Error() {
		t.Errorf("error is %v, want %v", err, refused)
	}
}

func TestSend_TextGetsItsRequestID(t *testing.T) {
	f := newFleet(t)
	c := f.connect(0)
	cmd := command()
	cmd.Payload = device.Payload{Text: []byte("PING {request_id} now {request_id}")}
	rec := f.send(cmd)
	m, _ := f.next(c)
	if want := strings.ReplaceAll("PING @ now @", "@", string(rec.ID)); string(m.Payload()) != want {
		t.Errorf("the device got %q", m.Payload())
	}
}

func TestIdempotency(t *testing.T) {
	f := newFleet(t)
	c := f.connect(0)
	cmd := command()
	cmd.Key = "key-1"
	first := f.send(cmd)
	f.next(c)

	again, repeated, err := f.delivery.Send(t.Context(), cmd)
	if err != nil || !repeated || again.ID != first.ID {
		t.Errorf("the same call again: %v, repeated %v, same id %v", err, repeated, again.ID == first.ID)
	}
	other := cmd
	other.Payload = device.Payload{JSON: []byte(`{"a":2}`)}
	if _, _, err := f.delivery.Send(t.Context(), other); !device.Is(err, device.IdempotencyReused) {
		t.Errorf("another body: %v", err)
	}
	foreign := cmd
	foreign.Mailbox = device.MailboxOf("bob")
	if rec := f.send(foreign); rec.ID == first.ID {
		t.Error("another client got the first client's request")
	}
	f.next(c)
	f.leave(c)
	if again, _, err := f.delivery.Send(t.Context(), cmd); err != nil || again.ID != first.ID {
		t.Errorf("while the device is offline: %v", err)
	}
	if len(c.commands) != 0 {
		t.Error("a repeated call was sent to the device again")
	}
}

func TestIdempotency_RefusedCallDoesNotUseTheKey(t *testing.T) {
	f := newFleet(t)
	cmd := command()
	cmd.Key = "key-1"
	if _, _, err := f.delivery.Send(t.Context(), cmd); !device.Is(err, device.DeviceOffline) {
		t.Fatal(err)
	}
	f.connect(0)
	if _, repeated, err := f.delivery.Send(t.Context(), cmd); err != nil || repeated {
		t.Errorf("repeated %v, %v", repeated, err)
	}
}

func TestIdempotency_OfManyCallsAtOnceOneIsSent(t *testing.T) {
	f := newFleet(t)
	c := f.connect(0)
	cmd := command()
	cmd.Key = "key-1"
	var wg sync.WaitGroup
	ids := make(chan device.RequestID, 20)
	for range 20 {
		wg.Go(func() {
			rec, _, err := f.delivery.Send(t.Context(), cmd)
			if err != nil {
				t.Error(err)
			}
			ids <- rec.ID
		})
	}
	wg.Wait()
	f.next(c)
	first := <-ids
	for range 19 {
		if id := <-ids; id != first {
			t.Error("two requests for one key")
		}
	}
	if len(c.commands) != 0 {
		t.Errorf("%d more commands came", len(c.commands))
	}
}

// A call that died after its record was written and before the command was: the next one with the same key drives it on.
// Past the deadline nothing is sent, and the request has an end that can be asked for (I4).
func TestIdempotency_DrivesOnWhatWasLeft(t *testing.T) {
	for name, left := range map[string]struct {
		recorded, late bool
		end            device.State // where late
	}{
		"record written":                        {recorded: true},
		"only the key written":                  {},
		"record written, deadline passed":       {recorded: true, late: true, end: device.StateNoReply},
		"only the key written, deadline passed": {late: true, end: device.StateExpired},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			cmd := command()
			cmd.Key = "key-1"
			c := f.connect(0)
			hash := f.send(cmd).Hash
			f.next(c)

			// What a process leaves that dies on the way, under another key.
			cmd.Key = "key-2"
			now := f.now()
			rec := requests.Record{
				ID: f.ring.Mint(now, alice, camera, now.Add(time.Minute)), Device: camera, Client: "alice", Command: "ping", Hash: hash,
				Key: cmd.Key, Created: requests.At(now), DeliverBy: requests.At(now.Add(10 * time.Second)), ReplyBy: requests.At(now.Add(time.Minute)),
			}
			if left.recorded {
				if err := f.records.Create(t.Context(), rec); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := f.records.Reserve(t.Context(), alice, cmd.Key, requests.Reservation{
				ID: rec.ID, Hash: hash, Created: rec.Created, DeliverBy: rec.DeliverBy, ReplyBy: rec.ReplyBy,
			}); err != nil {
				t.Fatal(err)
			}
			if left.late {
				f.advance(11 * time.Second)
			}
			if again := f.send(cmd); again.ID != rec.ID {
				t.Errorf("sent %v, want %v", again.ID, rec.ID)
			}
			if !left.late {
				if _, body := f.next(c); body["request_id"] != string(rec.ID) {
					t.Errorf("the device got %v, want %v", body["request_id"], rec.ID)
				}
				return
			}
			if len(c.commands) != 0 {
				t.Error("sent after its deadline")
			}
			f.advance(time.Minute)
			if s := f.state(rec.ID); s != left.end {
				t.Errorf("it ended as %s, want %s", s, left.end)
			}
		})
	}
}

func hold() delivery.Command {
	c := command()
	c.Hold = true
	return c
}

func TestHold_WaitsForTheDevice(t *testing.T) {
	f := newFleet(t)
	first := f.send(hold())
	second := f.send(hold())
	if s := f.state(first.ID); s != device.StateHeld {
		t.Fatalf("state is %s", s)
	}
	c := f.connect(1)
	m, body := f.next(c)
	if body["request_id"] != string(first.ID) {
		t.Error("not the first one first")
	}
	if len(c.commands) != 0 {
		t.Error("a second command before the first was acknowledged")
	}
	m.Ack()
	m, body = f.next(c)
	if body["request_id"] != string(second.ID) {
		t.Error("not the second one second")
	}
	m.Ack()
	f.until("both are delivered", func() bool {
		return f.state(first.ID) == device.StateDelivered && f.state(second.ID) == device.StateDelivered
	})
	f.leave(c)
	c = f.connect(1)
	third := f.send(command0(hold()))
	if _, body := f.next(c); body["request_id"] != string(third.ID) {
		t.Error("a delivered command was written again")
	}
}

func command0(c delivery.Command) delivery.Command {
	c.WaitDelivered = 0
	return c
}

func TestHold_WrittenAgainUntilAcknowledged(t *testing.T) {
	f := newFleet(t)
	c := f.connect(1)
	rec := f.send(command0(hold()))
	f.next(c) // no acknowledgement
	f.leave(c)
	c = f.connect(1)
	m, body := f.next(c)
	if body["request_id"] != string(rec.ID) {
		t.Error("another command came")
	}
	m.Ack()
	f.until("it is delivered", func() bool { return f.state(rec.ID) == device.StateDelivered })
}

// Who sends a held command to a connected device and leaves before its PUBACK must not take the PUBACK with it.
func TestHold_AcknowledgedAfterItsSenderLeft(t *testing.T) {
	f := newFleet(t)
	c := f.connect(1)
	cmd := hold()
	cmd.WaitDelivered = 50 * time.Millisecond
	first := f.send(cmd)
	m, _ := f.next(c)
	m.Ack()
	second := f.send(command0(hold()))
	if _, body := f.next(c); body["request_id"] != string(second.ID) {
		t.Errorf("after the PUBACK of %s came %v", first.ID, body)
	}
}

// A newer connection gets what the one before has not acknowledged, and the rest behind it.
func TestHold_KeepsItsOrderOverATakeover(t *testing.T) {
	f := newFleet(t)
	before := f.connect(1)
	first := f.send(command0(hold()))
	f.next(before) // no acknowledgement
	second := f.send(command0(hold()))
	c := f.connect(1)
	for _, want := range []device.RequestID{first.ID, second.ID} {
		m, body := f.next(c)
		if body["request_id"] != string(want) {
			t.Fatalf("%v came, want %s", body, want)
		}
		m.Ack()
	}
}

// A device that has answered has the command, also where its PUBACK was lost.
func TestHold_NotWrittenAgainOnceAnswered(t *testing.T) {
	f := newFleet(t)
	c := f.connect(1)
	rec := f.send(command0(hold()))
	f.next(c) // no acknowledgement
	claims, err := rec.ID.Claims()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.records.Update(t.Context(), claims, func(r *requests.Record) bool {
		return r.AddReply(0, 2, true, requests.At(f.now()))
	}); err != nil {
		t.Fatal(err)
	}
	f.leave(c)
	c = f.connect(1)
	next := f.send(command0(hold()))
	if _, body := f.next(c); body["request_id"] != string(next.ID) {
		t.Errorf("%v came, want %s", body, next.ID)
	}
}

// With QoS 0 nobody knows what arrived: each connection gets each held command, and gets it once.
func TestHold_ToAQoS0SubscriberOnceForEachConnection(t *testing.T) {
	f := newFleet(t)
	first := f.send(command0(hold()))
	for range 2 {
		c := f.connect(0)
		if _, body := f.next(c); body["request_id"] != string(first.ID) {
			t.Errorf("%v came, want %s", body, first.ID)
		}
		f.leave(c)
	}
	c := f.connect(0)
	f.next(c)
	for range 3 {
		next := f.send(command0(hold()))
		if _, body := f.next(c); body["request_id"] != string(next.ID) {
			t.Errorf("%v came, want %s", body, next.ID)
		}
	}
}

// I4: a command is never written after its deadline.
func TestHold_NotWrittenAfterItsDeadline(t *testing.T) {
	f := newFleet(t)
	late := f.send(hold())
	f.advance(10*time.Second + 5*time.Millisecond)
	good := f.send(hold())
	c := f.connect(1)
	m, body := f.next(c)
	if body["request_id"] != string(good.ID) {
		t.Error("the late command was written")
	}
	m.Ack()
	if s := f.state(late.ID); s != device.StateExpired {
		t.Errorf("the late command is %s", s)
	}
}

// I5: what cannot be held is not told as held. With an idempotency key the same call again holds it.
func TestHold_NoRoom(t *testing.T) {
	for name, key := range map[string]string{"without a key": "", "with a key": "key-1"} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			room := f.roomForHeld(1)
			cmd := hold()
			cmd.Key = key
			_, _, err := f.delivery.Send(t.Context(), cmd)
			f.roomForHeld(room)
			if key != "" {
				if !device.Is(err, device.OutcomeUnknown) {
					t.Errorf("error is %v", err)
				}
				rec := f.send(cmd)
				if _, body := f.next(f.connect(1)); body["request_id"] != string(rec.ID) {
					t.Errorf("%v came, want %s", body, rec.ID)
				}
				return
			}
			if !device.Is(err, device.BrokerUnavailable) {
				t.Errorf("error is %v", err)
			}
			rec := f.only()
			if state, cause := rec.State(f.now()); state != device.StateExpired || !strings.Contains(cause, "could not be stored") {
				t.Errorf("it is %s: %s", state, cause)
			}
			good := f.send(hold())
			if _, body := f.next(f.connect(1)); body["request_id"] != string(good.ID) {
				t.Errorf("%v came, want %s", body, good.ID)
			}
		})
	}
}

// roomForHeld sets how many bytes of held commands are stored, and returns how many were.
func (f *fleet) roomForHeld(bytes int64) (before int64) {
	f.t.Helper()
	js := f.engine.JetStream()
	held, err := js.Stream(f.t.Context(), "HELD")
	if err != nil {
		f.t.Fatal(err)
	}
	cfg := held.CachedInfo().Config
	before, cfg.MaxBytes = cfg.MaxBytes, bytes
	if _, err := js.UpdateStream(f.t.Context(), cfg); err != nil {
		f.t.Fatal(err)
	}
	return before
}

// I4: the deadline may pass between claiming a command and writing it. Then it is not written, and the connection lives on.
func TestHold_TheDeadlinePassesWhileItIsClaimed(t *testing.T) {
	f := newFleet(t)
	late := f.send(hold())
	claims, err := late.ID.Claims()
	if err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	f.setHooks(nil, func() {
		rec, _ := f.records.Cached(claims.UUID)
		if state, _ := rec.State(f.now()); state != device.StateHeld { // it is claimed
			once.Do(func() { f.advance(11 * time.Second) })
		}
	})
	c := f.connect(1)
	session := f.server.Session(camera)
	f.until("it has expired", func() bool { return f.state(late.ID) == device.StateExpired })
	good := f.send(command0(hold()))
	m, body := f.next(c)
	if body["request_id"] != string(good.ID) {
		t.Errorf("%v came, want %s", body, good.ID)
	}
	m.Ack()
	f.until("the good one is delivered", func() bool { return f.state(good.ID) == device.StateDelivered })
	if f.server.Session(camera) != session {
		t.Error("the connection was cut")
	}
	f.advance(time.Minute)
	if s := f.state(late.ID); s != device.StateExpired {
		t.Errorf("the late command is %s", s)
	}
}

// A command of which nothing was written is still held. Where an earlier process may have written it nobody can say that.
func TestHold_NothingWritten(t *testing.T) {
	tests := map[string]struct {
		facts func(*requests.Record) // noted by an earlier process
		state device.State
		end   device.State
		cause string
	}{
		"for the first time":               {nil, device.StateHeld, device.StateExpired, "could not be delivered"},
		"an earlier process gave up":       {func(r *requests.Record) { r.Claimed, r.Released = 7, 7 }, device.StateHeld, device.StateExpired, "could not be delivered"},
		"an earlier process was killed":    {func(r *requests.Record) { r.Claimed = 7 }, device.StateSent, device.StateNoReply, "it is not known whether"},
		"written before":                   {func(r *requests.Record) { r.Claimed, r.Sent = 7, 8 }, device.StateSent, device.StateNoReply, "never acknowledged"},
		"written before there was a claim": {func(r *requests.Record) { r.Sent = 8 }, device.StateSent, device.StateNoReply, "never acknowledged"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t)
			rec := f.send(hold())
			claims, err := rec.ID.Claims()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.records.UpdateNow(t.Context(), claims, func(r *requests.Record) bool {
				if tt.facts != nil {
					tt.facts(r)
				}
				return tt.facts != nil
			}); err != nil {
				t.Fatal(err)
			}
			f.writeToNobody()
			if s := f.state(rec.ID); s != tt.state {
				t.Errorf("it is %s, want %s", s, tt.state)
			}
			f.stop()
			f.start()
			if s := f.state(rec.ID); s != tt.state {
				t.Errorf("after a restart it is %s, want %s", s, tt.state)
			}
			end, _, err := f.records.Get(t.Context(), claims)
			if err != nil {
				t.Fatal(err)
			}
			if s, cause := end.State(f.now().Add(time.Hour)); s != tt.end || !strings.Contains(cause, tt.cause) {
				t.Errorf("it ends as %s: %s", s, cause)
			}
			_, err = f.delivery.Cancel(t.Context(), alice, rec.ID)
			if held := tt.state == device.StateHeld; held && err != nil || !held && !device.Is(err, device.AlreadyDelivered) {
				t.Errorf("cancelled: %v", err)
			}
		})
	}
}

// writeToNobody has the held commands written to a session that receives no more, and returns when that has failed.
func (f *fleet) writeToNobody() {
	f.t.Helper()
	f.setHooks(func() *mqtt.Session { return nil }, nil)
	c := f.connect(1)
	session := f.server.Session(camera)
	if token := c.client.Unsubscribe("$devices/cam-1/commands"); !token.WaitTimeout(patience) || token.Error() != nil {
		f.t.Fatalf("device: %v", token.Error())
	}
	var looks atomic.Int64
	f.setHooks(func() *mqtt.Session {
		if looks.Add(1) <= 3 {
			return session
		}
		return nil // the command was tried
	}, nil)
	f.delivery.Subscribed(camera) // looks once, and the write once
	f.until("the write is tried", func() bool { return looks.Load() >= 2 })
	f.delivery.Subscribed(camera) // so that it is looked again after the write
	f.until("the write has failed", func() bool { return looks.Load() >= 4 })
	f.setHooks(nil, nil)
}

func TestHold_SurvivesARestart(t *testing.T) {
	f := newFleet(t)
	rec := f.send(hold())
	f.stop()
	f.start()
	if s := f.state(rec.ID); s != device.StateHeld {
		t.Errorf("state is %s", s)
	}
	c := f.connect(1)
	m, body := f.next(c)
	if body["request_id"] != string(rec.ID) {
		t.Error("another command came")
	}
	m.Ack()
	f.until("it is delivered", func() bool { return f.state(rec.ID) == device.StateDelivered })
}

// I9: a held command leaves only once its PUBACK is noted durably, or its record would tell that there was none.
func TestHold_KeptUntilItsPubackIsNoted(t *testing.T) {
	f := newFleet(t)
	c := f.connect(1)
	rec := f.send(command0(hold()))
	m, _ := f.next(c)
	f.records.Close() // nothing more is written
	m.Ack()
	f.published(c) // behind the PUBACK, which has been taken then
	f.stop()
	f.start()
	c = f.connect(1)
	m, body := f.next(c)
	if body["request_id"] != string(rec.ID) {
		t.Errorf("%v came, want %s", body, rec.ID)
	}
	m.Ack()
	f.until("it is delivered", func() bool { return f.state(rec.ID) == device.StateDelivered })
}

// published returns once the server has read all that the device has sent.
func (f *fleet) published(c *cam) {
	f.t.Helper()
	if token := c.client.Publish("$devices/cam-1/events", 1, false, "x"); !token.WaitTimeout(patience) || token.Error() != nil {
		f.t.Fatalf("device: %v", token.Error())
	}
}

func TestHold_RacesWithConnecting(t *testing.T) {
	f := newFleet(t)
	for range 20 {
		sent := make(chan requests.Record, 1)
		go func() { sent <- f.send(command0(hold())) }()
		c := f.connect(1)
		m, body := f.next(c)
		m.Ack()
		rec := <-sent
		if body["request_id"] != string(rec.ID) {
			t.Fatal("another command came")
		}
		f.until("it is delivered", func() bool { return f.state(rec.ID) == device.StateDelivered })
		f.leave(c)
	}
}

func TestCancel(t *testing.T) {
	f := newFleet(t)
	rec := f.send(hold())
	tests := []struct {
		name string
		m    device.Mailbox
		id   device.RequestID
		want device.Kind
	}{
		{"by another client", device.MailboxOf("bob"), rec.ID, device.RequestNotFound},
		{"no request id", alice, "x", device.RequestNotFound},
		{"a bent id", alice, rec.ID[:len(rec.ID)-1] + "A", device.RequestNotFound},
		{"held", alice, rec.ID, device.OK},
		{"again", alice, rec.ID, device.OK},
	}
	for _, tt := range tests {
		if tt.id != rec.ID && strings.HasSuffix(string(rec.ID), "A") {
			tt.id = rec.ID[:len(rec.ID)-1] + "B"
		}
		if _, err := f.delivery.Cancel(t.Context(), tt.m, tt.id); device.KindOf(err) != tt.want {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
	}
	if s := f.state(rec.ID); s != device.StateCancelled {
		t.Errorf("state is %s", s)
	}
	good := f.send(hold())
	c := f.connect(1)
	m, body := f.next(c)
	if body["request_id"] != string(good.ID) {
		t.Error("the cancelled command was written")
	}
	m.Ack()
	f.until("it is delivered", func() bool { return f.state(good.ID) == device.StateDelivered })
	if _, err := f.delivery.Cancel(t.Context(), alice, good.ID); !device.Is(err, device.AlreadyDelivered) {
		t.Errorf("a delivered one: %v", err)
	}
}

// Either the command is cancelled or it is written, never both.
func TestCancel_RacesWithWriting(t *testing.T) {
	f := newFleet(t)
	for range 20 {
		rec := f.send(hold())
		cancelled := make(chan bool, 1)
		go func() {
			_, err := f.delivery.Cancel(context.WithoutCancel(t.Context()), alice, rec.ID)
			cancelled <- err == nil
		}()
		c := f.connect(1)
		if <-cancelled {
			mark := f.send(command0(hold()))
			m, body := f.next(c)
			if body["request_id"] != string(mark.ID) {
				t.Fatal("a cancelled command was written")
			}
			m.Ack()
			f.until("the mark is delivered", func() bool { return f.state(mark.ID) == device.StateDelivered })
		} else {
			m, _ := f.next(c)
			m.Ack()
			f.until("it is delivered", func() bool { return f.state(rec.ID) == device.StateDelivered })
		}
		f.leave(c)
	}
}
