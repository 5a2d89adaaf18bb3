package mqtt_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	brokerid "signaldevice/broker/identity"
	"signaldevice/broker/mqtt"
	"signaldevice/device"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// house is a server with a registry of certificates and a handler that a test steers.
type house struct {
	t      *testing.T
	server *mqtt.Server
	events chan mqtt.Event
	came   chan *mqtt.Session
	went   chan *mqtt.Session

	mu      sync.Mutex
	devices map[string]device.ID
	down    bool
}

func (h *house) Event(e mqtt.Event)           { h.events <- e }
func (h *house) Subscribed(s *mqtt.Session)   { h.came <- s }
func (h *house) Unsubscribed(s *mqtt.Session) { h.went <- s }

func (h *house) identify(der []byte) (device.ID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return "", device.Errorf(device.BrokerUnavailable, "the registry does not answer")
	}
	id, ok := h.devices[string(der)]
	if !ok {
		return "", errors.New("not registered")
	}
	return id, nil
}

func (h *house) register(id device.ID) *identity {
	cert := newIdentity(h.t, nil)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.devices[string(cert.Certificate[0])] = id
	return cert
}

func (h *house) forget(cert *identity) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.devices, string(cert.Certificate[0]))
}

func newHouse(t *testing.T, edit func(*mqtt.Config)) *house {
	t.Helper()
	h := &house{
		t: t, devices: map[string]device.ID{},
		events: make(chan mqtt.Event, 256), came: make(chan *mqtt.Session, 256), went: make(chan *mqtt.Session, 256),
	}
	cfg := mqtt.Config{
		Addr: "127.0.0.1:0", Certificate: newIdentity(t, nil), Identify: h.identify, Handler: h,
		Clock: time.Now, Log: slog.New(slog.DiscardHandler), ConnectTimeout: patience,
	}
	if edit != nil {
		edit(&cfg)
	}
	var err error
	if h.server, err = mqtt.New(cfg); err != nil {
		t.Fatal(err)
	}
	if err := h.server.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.server.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// dial makes a TLS connection and sends nothing yet.
func (h *house) dial(cert *identity, edit func(*tls.Config)) (*wire, error) {
	h.t.Helper()
	cfg := &tls.Config{InsecureSkipVerify: true}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	if edit != nil {
		edit(cfg)
	}
	raw, err := net.Dial("tcp", h.server.Addr().String())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { raw.Close() })
	c := tls.Client(raw, cfg)
	c.SetDeadline(time.Now().Add(patience))
	if err := c.Handshake(); err != nil {
		return nil, err
	}
	return &wire{h.t, c, bufio.NewReader(c)}, nil
}

// enter connects a device and waits for its CONNACK.
func (h *house) enter(cert *identity, clientID string) *wire {
	h.t.Helper()
	w, err := h.dial(cert, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	w.write(connect(clientID))
	if ack := w.expect(2); ack.body[1] != 0 {
		h.t.Fatalf("CONNACK says %d", ack.body[1])
	}
	return w
}

// awaitConnections waits until the server counts no more than n connections: the others have ended, and all that follows
// from their end is done.
func (h *house) awaitConnections(n int) {
	h.t.Helper()
	for deadline := time.Now().Add(patience); h.server.Connections() > n; {
		if time.Now().After(deadline) {
			h.t.Fatalf("%d connections are counted, want %d", h.server.Connections(), n)
		}
	}
}

func await[T any](t *testing.T, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// camera enters and subscribes to its commands with QoS 1.
func (h *house) camera(id device.ID) (*wire, *mqtt.Session, *identity) {
	h.t.Helper()
	cert := h.register(id)
	w := h.enter(cert, string(id))
	w.write(subscribe(1, "$devices/"+string(id)+"/commands", 1))
	w.expect(9)
	return w, await(h.t, h.came), cert
}

func TestServer_WhoIsLetIn(t *testing.T) {
	h := newHouse(t, nil)
	good := h.register("cam-1")
	expired := newIdentity(t, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })
	h.devices[string(expired.Certificate[0])] = "cam-2"
	early := newIdentity(t, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(30 * time.Minute) })
	h.devices[string(early.Certificate[0])] = "cam-3"

	tests := map[string]struct {
		cert    *identity
		edit    func(*tls.Config)
		connect []byte
		down    bool
		tls     bool // refused in the handshake
		code    byte
	}{
		"a registered certificate":           {cert: good, connect: connect("cam-1"), code: 0},
		"any client id":                      {cert: good, connect: connect("some other camera"), code: 0},
		"no client id":                       {cert: good, connect: connect(""), code: 0},
		"a will on its own topic":            {cert: good, connect: connectWithWill("$devices/cam-1/events"), code: 0},
		"a certificate that nobody knows":    {cert: newIdentity(t, nil), connect: connect("cam-1"), code: 5},
		"while the registry does not answer": {cert: good, connect: connect("cam-1"), down: true, code: 3},
		"a will on another device's topic":   {cert: good, connect: connectWithWill("$devices/cam-2/events"), code: 5},
		"a will on a command topic":          {cert: good, connect: connectWithWill("$devices/cam-1/commands"), code: 5},
		"MQTT 3.1":                           {cert: good, connect: frame(0x10, text("MQIsdp"), []byte{3, 2}, num(30), text("c")), code: 1},
		"no certificate":                     {cert: nil, tls: true},
		"an expired certificate":             {cert: expired, tls: true},
		"a certificate of tomorrow":          {cert: early, tls: true},
		"TLS 1.2 where it is not allowed":    {cert: good, edit: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, tls: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h.mu.Lock()
			h.down = tt.down
			h.mu.Unlock()
			w, err := h.dial(tt.cert, tt.edit)
			if err == nil && tt.tls { // with TLS 1.3 a client hears of its refusal on its first read
				_, err = w.read()
			}
			if tt.tls {
				if err == nil {
					t.Fatal("was let in")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			w.t = t
			w.write(tt.connect)
			if ack := w.expect(2); ack.body[1] != tt.code {
				t.Errorf("CONNACK says %d, want %d", ack.body[1], tt.code)
			}
			if tt.code != 0 {
				w.expectEnd()
			}
		})
	}
}

func TestServer_TLS12ByOption(t *testing.T) {
	h := newHouse(t, func(c *mqtt.Config) { c.TLS12 = true })
	w, err := h.dial(h.register("cam-1"), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	if err != nil {
		t.Fatal(err)
	}
	w.write(connect("c"))
	if ack := w.expect(2); ack.body[1] != 0 {
		t.Errorf("CONNACK says %d", ack.body[1])
	}
}

func TestServer_WhatCutsAConnection(t *testing.T) {
	big := strings.Repeat("x", device.MaxPayload)
	tests := map[string][]byte{
		"a publish to another device's events":        publish(7, "$devices/cam-2/events", "x", 1),
		"the same with QoS 0":                         publish(0, "$devices/cam-2/events", "x", 0),
		"a publish to its own commands":               publish(7, "$devices/cam-1/commands", "x", 1),
		"a publish to a registry's topic":             publish(7, "$registries/default/events", "x", 1),
		"a publish to $SYS":                           publish(0, "$SYS/broker", "x", 0),
		"a topic that only begins like its own":       publish(7, "$devices/cam-1/eventsX", "x", 1),
		"a device whose name begins like its own":     publish(7, "$devices/cam-10/events", "x", 1),
		"a # in a publish":                            publish(7, "$devices/cam-1/events/#", "x", 1),
		"a + in a publish":                            publish(7, "$devices/cam-1/events/+", "x", 1),
		"a NUL in a topic":                            publish(7, "$devices/cam-1/events/\x00", "x", 1),
		"invalid UTF-8 in a topic":                    publish(7, "$devices/cam-1/events/\xff", "x", 1),
		"an empty topic":                              publish(7, "", "x", 1),
		"a topic of 1,025 bytes":                      publish(7, "$devices/cam-1/events/"+strings.Repeat("a", 1025-22), "x", 1),
		"a topic of 65,535 bytes":                     publish(7, strings.Repeat("a", 65535), "x", 1),
		"a payload one byte over the limit":           publish(7, "$devices/cam-1/events", big+"x", 1),
		"packet id 0":                                 publish(0, "$devices/cam-1/events", "x", 1),
		"QoS 2":                                       publish(7, "$devices/cam-1/events", "x", 2),
		"QoS 3":                                       publish(7, "$devices/cam-1/events", "x", 3),
		"a retained message":                          frame(0x33, text("$devices/cam-1/events"), num(7), []byte("x")),
		"a second CONNECT":                            connect("again"),
		"a length that never ends":                    {0x30, 0xff, 0xff, 0xff, 0xff, 0xff},
		"a packet far over the limit, announced only": {0x32, 0xff, 0xff, 0xff, 0x7f},
		"a reserved packet type":                      {0x00, 0x00},
		"a publish that ends inside its topic":        frame(0x32, num(500), []byte("$dev")),
	}
	for name, bytes := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			w := h.enter(h.register("cam-1"), "c")
			w.write(bytes)
			w.expectEnd()
			if len(h.events) != 0 {
				t.Error("the message was handed on")
			}
			other := h.enter(h.register("cam-9"), "c") // I10: the next good one still works
			other.write(publish(3, "$devices/cam-9/events", "fine", 1))
			await(t, h.events).Done(nil)
			other.expect(4)
		})
	}
}

func TestServer_SubscriptionsOfItsOwnOnly(t *testing.T) {
	tests := map[string]struct {
		filter string
		want   byte
	}{
		"its commands":                     {"$devices/cam-1/commands", 1},
		"below its commands":               {"$devices/cam-1/commands/#", 1},
		"one level below":                  {"$devices/cam-1/commands/+", 1},
		"its config":                       {"$devices/cam-1/config", 1},
		"by the short name":                {"$me/device/commands", 1},
		"its own events":                   {"$devices/cam-1/events", 0x80},
		"another device's commands":        {"$devices/cam-2/commands", 0x80},
		"every device's":                   {"$devices/+/commands", 0x80},
		"everything":                       {"#", 0x80},
		"everything of its own":            {"$devices/cam-1/#", 0x80},
		"one level up":                     {"+/cam-1/commands", 0x80},
		"$SYS":                             {"$SYS/#", 0x80},
		"a shared subscription":            {"$share/g/$devices/cam-1/commands", 0x80},
		"a registry's":                     {"$registries/default/commands", 0x80},
		"a device that begins like itself": {"$devices/cam-10/commands", 0x80},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			w := h.enter(h.register("cam-1"), "c")
			w.write(subscribe(5, tt.filter, 1))
			if ack := w.expect(9); ack.body[2] != tt.want {
				t.Errorf("SUBACK says %#x, want %#x", ack.body[2], tt.want)
			}
		})
	}
}

func TestServer_NoConnectInTime(t *testing.T) {
	h := newHouse(t, func(c *mqtt.Config) { c.ConnectTimeout = 200 * time.Millisecond })
	t.Run("after the handshake", func(t *testing.T) {
		w, err := h.dial(h.register("cam-1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		w.t = t
		w.expectEnd()
	})
	t.Run("before the handshake", func(t *testing.T) {
		raw, err := net.Dial("tcp", h.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		(&wire{t, raw, bufio.NewReader(raw)}).expectEnd()
	})
}

func TestServer_BoundsConnections(t *testing.T) {
	h := newHouse(t, func(c *mqtt.Config) { c.MaxConnections = 2 })
	cert := h.register("cam-1")
	first := h.enter(cert, "a")
	h.enter(cert, "b")
	if w, err := h.dial(cert, nil); err == nil {
		w.expectEnd()
	}
	first.conn.Close()
	h.awaitConnections(1)
	h.enter(cert, "c")
}

// F16: a connection that would wait too long for its turn is closed at once, without a handshake.
func TestServer_TurnsAwayWhoWouldWaitTooLong(t *testing.T) {
	h := newHouse(t, func(c *mqtt.Config) { c.ConnectRate, c.ConnectTimeout = 1, time.Hour })
	cert := h.register("cam-1")
	h.enter(cert, "first")
	var last net.Conn
	for range 30 { // five seconds' worth may wait
		c, err := net.Dial("tcp", h.server.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		last = c
	}
	(&wire{t, last, bufio.NewReader(last)}).expectEnd()
	if h.server.Refused() == 0 {
		t.Error("nobody counts as refused")
	}
	if waiting := h.server.Waiting(); waiting > 5 {
		t.Errorf("%d wait", waiting)
	}
}

// A device that is lost while it is let in leaves nothing behind in the protocol layer.
func TestServer_ForgetsWhoNeverGotItsConnack(t *testing.T) {
	tests := map[string]func(*wire) error{ // what happens between the session's start and the CONNACK
		"the device resets the connection": func(w *wire) error {
			c := w.conn.(*tls.Conn).NetConn().(*net.TCPConn)
			if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
				t.Error(err)
			}
			return nil
		},
		"its certificate is removed": func(*wire) error { return errors.New("not registered") },
	}
	for name, lose := range tests {
		t.Run(name, func(t *testing.T) {
			var looks atomic.Int64
			entering := make(chan *wire, 1)
			h := newHouse(t, func(c *mqtt.Config) {
				look := c.Identify
				c.Identify = func(der []byte) (device.ID, error) {
					if looks.Add(1)%2 == 0 { // each device is looked up before and after its session starts
						if err := lose(<-entering); err != nil {
							return "", err
						}
					}
					return look(der)
				}
			})
			cert := h.register("cam-1")
			const devices = 10
			for range devices {
				w, err := h.dial(cert, nil)
				if err != nil {
					t.Fatal(err)
				}
				entering <- w
				w.write(connect("c"))
				h.awaitConnections(0)
			}
			if n := looks.Load(); n != 2*devices {
				t.Errorf("the certificate was looked up %d times, want %d", n, 2*devices)
			}
			if n := len(h.server.Keepalives()); n != 0 {
				t.Errorf("the protocol layer still holds %d clients", n)
			}
		})
	}
}

// The protocol layer counts one and a half times the keepalive in 16 bits.
func TestServer_LongKeepalive(t *testing.T) {
	tests := map[string]struct{ asked, kept uint16 }{
		"none":                            {0, 0},
		"the longest that does not wrap":  {43_690, 43_690},
		"one more: would be cut at once":  {43_691, 43_690},
		"the longest: would be cut early": {65_535, 43_690},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			w, err := h.dial(h.register("cam-1"), nil)
			if err != nil {
				t.Fatal(err)
			}
			w.write(frame(0x10, text("MQTT"), []byte{4, 2}, num(tt.asked), text("c")))
			w.expect(2)
			w.write(frame(0xc0))
			w.expect(13)
			if got := h.server.Keepalives(); !slices.Equal(got, []uint16{tt.kept}) {
				t.Errorf("keepalives are %d, want %d", got, tt.kept)
			}
		})
	}
}

// I1: a PUBACK comes only after the event's Done, and in packet order.
func TestEvents_PubackInOrderAfterDone(t *testing.T) {
	h := newHouse(t, nil)
	w := h.enter(h.register("cam-1"), "c")
	var events []mqtt.Event
	for id := uint16(1); id <= 3; id++ {
		w.write(publish(id, "$me/device/events/sub", strconv.Itoa(int(id)), 1))
		events = append(events, await(t, h.events))
	}
	if got := events[0].Topic; got != "$devices/cam-1/events/sub" {
		t.Errorf("topic is %q", got)
	}
	events[2].Done(nil)
	events[1].Done(nil)
	w.write(frame(0xc0)) // PINGREQ: its answer shows that no PUBACK came before
	w.expect(13)
	events[0].Done(nil)
	for id := uint16(1); id <= 3; id++ {
		if got := w.expect(4).id(); got != id {
			t.Errorf("PUBACK of %d, want %d", got, id)
		}
	}
}

func TestEvents_FailedOneCutsTheConnection(t *testing.T) {
	h := newHouse(t, nil)
	w := h.enter(h.register("cam-1"), "c")
	w.write(publish(1, "$devices/cam-1/events", "a", 1))
	w.write(publish(2, "$devices/cam-1/events", "b", 1))
	first, second := await(t, h.events), await(t, h.events)
	second.Done(nil)
	first.Done(errors.New("not stored"))
	w.expectEnd() // and no PUBACK of the second, which would have overtaken the first
	await(t, first.Gone)
}

// I1, MQTT-4.6.0-2: a small event that would fit is not taken behind one that was dropped or refused. Those before it are
// acknowledged, and then the device has to connect anew.
func TestEvents_NothingIsTakenBehindOneThatWasNot(t *testing.T) {
	const topic = "$devices/cam-1/events"
	big := strings.Repeat("x", 200<<10)
	tests := map[string]func(h *house, w *wire) (taken []mqtt.Event){
		"dropped for its size": func(h *house, w *wire) (taken []mqtt.Event) {
			for id := uint16(1); id <= 5; id++ { // 1,000 KiB of the 1,024 that may be unacknowledged
				w.write(publish(id, topic, big, 1))
				taken = append(taken, await(h.t, h.events))
			}
			taken[0].Parked()
			w.write(publish(6, topic, big, 1))
			return taken
		},
		"refused": func(h *house, w *wire) []mqtt.Event {
			w.write(publish(1, topic, "waits", 1))
			first := await(h.t, h.events)
			first.Parked()
			w.write(publish(6, topic, big, 1))
			await(h.t, h.events).Done(errors.New("the queue is full"))
			return []mqtt.Event{first}
		},
		"refused while the next one waits for room": func(h *house, w *wire) (taken []mqtt.Event) {
			for id := uint16(1); id <= 5; id++ {
				w.write(publish(id, topic, big, 1))
				taken = append(taken, await(h.t, h.events))
			}
			w.write(publish(6, topic, big, 1))
			taken[4].Done(errors.New("the queue is full"))
			return taken[:4]
		},
	}
	for name, lose := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			w := h.enter(h.register("cam-1"), "c")
			taken := lose(h, w)
			w.write(publish(7, topic, "small", 1))
			w.write(publish(0, topic, "small, QoS 0", 0))
			w.write(frame(0xc0)) // PINGREQ: its answer shows that both have been looked at
			w.expect(13)
			if len(h.events) != 0 {
				t.Error("a later event was taken")
			}
			for i, e := range taken {
				e.Done(nil)
				if got := w.expect(4).id(); got != uint16(i+1) {
					t.Errorf("PUBACK of %d, want %d", got, i+1)
				}
			}
			if p, err := w.read(); err == nil {
				t.Errorf("packet of type %d came, want the connection's end", p.kind())
			}
			w.expectEnd()
		})
	}
}

func TestEvents_PayloadAtTheLimit(t *testing.T) {
	h := newHouse(t, nil)
	w := h.enter(h.register("cam-1"), "c")
	w.write(publish(1, "$devices/cam-1/events", strings.Repeat("x", device.MaxPayload), 1))
	if e := await(t, h.events); len(e.Payload) != device.MaxPayload {
		t.Errorf("%d bytes came", len(e.Payload))
	} else {
		e.Done(nil)
	}
	w.expect(4)
}

func TestEvents_QoS0IsHandedOnWithoutPuback(t *testing.T) {
	h := newHouse(t, nil)
	w := h.enter(h.register("cam-1"), "c")
	w.write(publish(0, "$devices/cam-1/events", "x", 0))
	await(t, h.events).Done(nil)
	w.write(frame(0xc0))
	w.expect(13)
}

// A device's packet ids are its own: they may be those of the commands that it has not acknowledged yet.
func TestSend_PacketIDsMayClash(t *testing.T) {
	h := newHouse(t, nil)
	w, s, _ := h.camera("cam-1")
	for round := range 20 {
		acked := make(chan struct{})
		if _, err := s.Send("", []byte("command"), time.Time{}, func() { close(acked) }); err != nil {
			t.Fatal(err)
		}
		id := w.expect(3).id()
		w.write(publish(id, "$devices/cam-1/events", "reply", 1))
		await(t, h.events).Done(nil)
		if got := w.expect(4).id(); got != id {
			t.Fatalf("PUBACK of %d, want %d", got, id)
		}
		select {
		case <-acked:
			t.Fatalf("round %d: the device's own publish counted as its acknowledgement", round)
		default:
		}
		w.write(puback(id))
		await(t, acked)
	}
}

// A camera whose replies cannot be stored still gets its commands, and its acknowledgements of them are read.
func TestSend_WhileEventsCannotBeStored(t *testing.T) {
	h := newHouse(t, nil)
	w, s, _ := h.camera("cam-1")
	w.write(publish(1, "$devices/cam-1/events", "waits", 1))
	first := await(t, h.events)
	first.Parked()
	for id := uint16(2); id <= 200; id++ { // far more than the window
		w.write(publish(id, "$devices/cam-1/events", "waits too", 1))
	}
	acked := make(chan struct{})
	if _, err := s.Send("", []byte("command"), time.Time{}, func() { close(acked) }); err != nil {
		t.Fatal(err)
	}
	w.write(puback(w.expect(3).id()))
	await(t, acked)

	// With room again the window is acknowledged; what did not fit was not, and the device has to connect anew for it.
	first.Done(nil)
	w.expect(4)
	for range 63 {
		await(t, h.events).Done(nil)
		w.expect(4)
	}
	w.expectEnd()
}

func TestSend_OnTheTopicThatTheDeviceNamed(t *testing.T) {
	tests := map[string]struct {
		filter   string
		qos      byte
		subtopic string
		topic    string
		err      error
	}{
		"full":                                   {"$devices/cam-1/commands", 1, "", "$devices/cam-1/commands", nil},
		"short":                                  {"$me/device/commands", 1, "", "$me/device/commands", nil},
		"QoS 0":                                  {"$devices/cam-1/commands", 0, "", "$devices/cam-1/commands", nil},
		"asked for QoS 2, given 1":               {"$devices/cam-1/commands", 2, "", "$devices/cam-1/commands", nil},
		"everything below":                       {"$devices/cam-1/commands/#", 1, "", "$devices/cam-1/commands", nil},
		"a subtopic of everything below":         {"$devices/cam-1/commands/#", 1, "a/b", "$devices/cam-1/commands/a/b", nil},
		"a subtopic that was not subscribed":     {"$devices/cam-1/commands", 1, "a", "", mqtt.ErrNotSubscribed},
		"a subtopic two levels down, one wanted": {"$me/device/commands/#", 1, "a", "$me/device/commands/a", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			w := h.enter(h.register("cam-1"), "c")
			w.write(subscribe(1, tt.filter, tt.qos))
			w.expect(9)
			s := await(t, h.came)
			acked := make(chan struct{})
			qos, err := s.Send(tt.subtopic, []byte("x"), time.Time{}, func() { close(acked) })
			if !errors.Is(err, tt.err) {
				t.Fatalf("error is %v, want %v", err, tt.err)
			}
			if err != nil {
				return
			}
			p := w.expect(3)
			if p.topic() != tt.topic || qos != min(tt.qos, 1) || p.first>>1&3 != qos {
				t.Errorf("topic %q, QoS %d, flags %#x", p.topic(), qos, p.first)
			}
			if qos == 1 {
				w.write(puback(p.id()))
				await(t, acked)
			}
		})
	}
}

func TestSend_BoundsWhatIsUnacknowledged(t *testing.T) {
	h := newHouse(t, nil)
	w, s, _ := h.camera("cam-1")
	var last uint16
	for range 256 {
		if _, err := s.Send("", []byte("x"), time.Time{}, func() {}); err != nil {
			t.Fatal(err)
		}
		last = w.expect(3).id()
	}
	if _, err := s.Send("", []byte("x"), time.Time{}, func() {}); !errors.Is(err, mqtt.ErrBusy) {
		t.Fatalf("error is %v, want ErrBusy", err)
	}
	acked := make(chan struct{})
	w.write(puback(last))
	w.write(frame(0xc0))
	w.expect(13)
	if _, err := s.Send("", []byte("x"), time.Time{}, func() { close(acked) }); err != nil {
		t.Fatal(err)
	}
	w.write(puback(w.expect(3).id()))
	await(t, acked)
}

func TestSend_ToAConnectionThatEnded(t *testing.T) {
	h := newHouse(t, nil)
	w, s, _ := h.camera("cam-1")
	w.conn.Close()
	await(t, s.Gone())
	if _, err := s.Send("", []byte("x"), time.Time{}, func() { t.Error("acknowledged") }); !errors.Is(err, mqtt.ErrGone) {
		t.Errorf("error is %v, want ErrGone", err)
	}
}

func TestSessions_NewestSubscriberWins(t *testing.T) {
	h := newHouse(t, nil)
	w, s, cert := h.camera("cam-1")
	second := h.enter(cert, "cam-1") // the same client id: cuts nothing
	second.write(publish(1, "$devices/cam-1/events", "both may publish", 1))
	await(t, h.events).Done(nil)
	second.expect(4)
	w.write(frame(0xc0))
	w.expect(13)

	second.write(subscribe(2, "$devices/cam-1/commands", 1))
	second.expect(9)
	newer := await(t, h.came)
	w.expectEnd()
	await(t, s.Gone())
	if h.server.Session("cam-1") != newer {
		t.Fatal("commands go to another connection")
	}
	if len(h.went) != 0 {
		t.Error("the device was said to be gone")
	}
	second.write(frame(0xa2, num(3), text("$devices/cam-1/commands"))) // UNSUBSCRIBE
	second.expect(11)
	if await(t, h.went) != newer || h.server.Session("cam-1") != nil {
		t.Error("the device still receives commands")
	}
}

func TestSessions_Cut(t *testing.T) {
	tests := map[string]struct {
		cut  func(*house, *identity)
		gone bool
	}{
		"the device is deleted":         {func(h *house, _ *identity) { h.server.CutDevice("cam-1") }, true},
		"another device is deleted":     {func(h *house, _ *identity) { h.server.CutDevice("cam-2") }, false},
		"its certificate is revoked":    {func(h *house, c *identity) { h.server.CutCertificates("cam-1", []string{fingerprint(c)}) }, true},
		"another certificate of its is": {func(h *house, _ *identity) { h.server.CutCertificates("cam-1", []string{"00"}) }, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, nil)
			w, s, cert := h.camera("cam-1")
			tt.cut(h, cert)
			if tt.gone {
				w.expectEnd()
				await(t, s.Gone())
				return
			}
			w.write(frame(0xc0))
			w.expect(13)
		})
	}
}

func fingerprint(c *identity) string { return brokerid.Fingerprint(c.Certificate[0]) }

// A certificate that is removed between the look-up and the session's start admits nobody.
func TestSessions_RevokedWhileConnecting(t *testing.T) {
	h := newHouse(t, nil)
	var once sync.Once
	var cert *identity
	look := h.identify
	h2 := newHouse(t, func(c *mqtt.Config) {
		c.Identify = func(der []byte) (device.ID, error) {
			id, err := look(der)
			once.Do(func() { h.forget(cert) })
			return id, err
		}
	})
	cert = h.register("cam-1")
	w, err := h2.dial(cert, nil)
	if err != nil {
		t.Fatal(err)
	}
	w.write(connect("c"))
	w.expectEnd()
}

// A device that says goodbye closes its connection itself; until then nothing is reset under it.
func TestSessions_DisconnectLetsTheDeviceCloseFirst(t *testing.T) {
	h := newHouse(t, nil)
	w, s, _ := h.camera("cam-1")
	w.write(frame(0xe0))
	await(t, s.Gone())
	if await(t, h.went) != s {
		t.Error("another session went")
	}
	for range 100 { // a client that is still sending meets no reset
		if _, err := w.conn.Write(frame(0xc0)); err != nil {
			t.Fatalf("after DISCONNECT: %v", err)
		}
	}
	w.expectEnd() // and one that never closes is closed
}

// I4: a command is not written after its deadline, and one that is stuck in a connection is cut off at it.
func TestSend_KeepsToTheDeadline(t *testing.T) {
	t.Run("passed before the write", func(t *testing.T) {
		h := newHouse(t, nil)
		w, s, _ := h.camera("cam-1")
		if _, err := s.Send("", []byte("late"), time.Now(), func() { t.Error("acknowledged") }); !errors.Is(err, mqtt.ErrLate) {
			t.Errorf("error is %v, want ErrLate", err)
		}
		w.write(frame(0xc0)) // the connection is none the worse for it
		w.expect(13)
	})
	t.Run("passes while the device reads nothing", func(t *testing.T) {
		h := newHouse(t, nil)
		_, s, _ := h.camera("cam-1")
		big := make([]byte, device.MaxPayload)
		until := time.Now().Add(500 * time.Millisecond)
		for { // until the buffers between the two are full
			if _, err := s.Send("", big, until, func() {}); err != nil {
				break
			}
		}
		if over := time.Since(until); over > patience/2 {
			t.Errorf("the write went on for %v after the deadline", over)
		}
		await(t, s.Gone())
	})
	t.Run("ahead", func(t *testing.T) {
		h := newHouse(t, nil)
		w, s, _ := h.camera("cam-1")
		if _, err := s.Send("", []byte("good"), time.Now().Add(time.Minute), func() {}); err != nil {
			t.Fatal(err)
		}
		w.expect(3)
	})
}
