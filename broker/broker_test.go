package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"signaldevice/broker"
	"signaldevice/broker/identity"
	"signaldevice/brokerlink"
	"signaldevice/device"
	"signaldevice/dispatch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 5 * time.Second

var (
	alice = device.MailboxOf("alice")
	bob   = device.MailboxOf("bob")
)

// site is a running broker and the API's link to it.
type site struct {
	t      testing.TB
	cfg    broker.Config
	broker *broker.Broker
	link   *brokerlink.Link
}

func newSite(t testing.TB, edit func(*broker.Config)) *site {
	t.Helper()
	s := &site{t: t, cfg: broker.Config{DataDir: t.TempDir(), MQTTAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0"}}
	if edit != nil {
		edit(&s.cfg)
	}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *site) start() {
	s.t.Helper()
	var err error
	if s.broker, err = broker.Start(s.t.Context(), s.cfg); err != nil {
		s.t.Fatal(err)
	}
	cert, key := s.broker.ClientCertificate(identity.RoleService)
	s.link, err = brokerlink.Dial(brokerlink.Config{
		Addrs: []string{s.broker.GRPCAddr().String()}, CAFile: s.broker.CAFile(), CertFile: cert, KeyFile: key,
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) stop() {
	if err := s.link.Close(); err != nil {
		s.t.Error(err)
	}
	if err := s.broker.Stop(s.t.Context()); err != nil && s.t.Context().Err() == nil {
		s.t.Error(err)
	}
}

// camera is a device that answers what a test tells it to.
type camera struct {
	site     *site
	id       device.ID
	cert     tls.Certificate
	client   paho.Client
	commands chan map[string]any
	topic    string
}

func (s *site) register(name string) *camera {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		s.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, key)
	if err != nil {
		s.t.Fatal(err)
	}
	csr := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	got, err := s.link.CreateDevice(s.t.Context(), dispatch.NewDevice{Name: name, Labels: device.Labels{"fleet": "north"}, Credential: dispatch.Credential{CSR: string(csr)}})
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(got.Certificate))
	return &camera{
		site: s, id: got.Device.ID, commands: make(chan map[string]any, 1024), topic: device.TopicsOf(got.Device.ID).Events,
		cert: tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key},
	}
}

func (c *camera) options() *paho.ClientOptions {
	c.site.t.Helper()
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(c.site.broker.CAFile())
	if err != nil {
		c.site.t.Fatal(err)
	}
	pool.AppendCertsFromPEM(ca)
	return paho.NewClientOptions().AddBroker("ssl://" + c.site.broker.MQTTAddr().String()).SetClientID("camera").
		SetTLSConfig(&tls.Config{RootCAs: pool, ServerName: "localhost", Certificates: []tls.Certificate{c.cert}}).
		SetAutoReconnect(false).SetConnectTimeout(patience).SetOrderMatters(false)
}

func (c *camera) connect() {
	t := c.site.t
	t.Helper()
	c.client = paho.NewClient(c.options())
	c.wait(c.client.Connect())
	t.Cleanup(c.leave)
	c.wait(c.client.Subscribe(device.TopicsOf(c.id).Commands, 1, func(_ paho.Client, m paho.Message) {
		var command map[string]any
		if json.Unmarshal(m.Payload(), &command) == nil {
			c.commands <- command
		}
	}))
}

func (c *camera) leave() { c.client.Disconnect(0) }

func (c *camera) wait(token paho.Token) {
	c.site.t.Helper()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		c.site.t.Fatalf("device: not done within %v: %v", patience, token.Error())
	}
}

func (c *camera) publish(payload string) paho.Token {
	return c.client.Publish(c.topic, 1, false, payload)
}

func (c *camera) next() device.RequestID {
	c.site.t.Helper()
	select {
	case command := <-c.commands:
		return device.RequestID(command["request_id"].(string))
	case <-time.After(patience):
		c.site.t.Fatal("no command came")
		return ""
	}
}

func (c *camera) reply(id device.RequestID) {
	c.site.t.Helper()
	c.wait(c.publish(replyTo(id, "ok")))
}

func replyTo(id device.RequestID, result string) string {
	return fmt.Sprintf(`{"request_id":%q,"status":"ok","result":%q}`, id, result)
}

func (s *site) send(c *camera, m device.Mailbox) device.Request {
	s.t.Helper()
	r, _, err := s.link.Send(s.t.Context(), sending(c, m))
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

func sending(c *camera, m device.Mailbox) dispatch.Send {
	return dispatch.Send{
		Device: c.id, Mailbox: m, Client: "someone", Payload: device.Payload{JSON: []byte(`{}`)},
		Command:       device.Command{Name: "ping", DeliverWithin: 10 * time.Second, ReplyWithin: 30 * time.Second},
		WaitDelivered: patience,
	}
}

func (s *site) drain(c *camera) []dispatch.DrainedReply {
	s.t.Helper()
	page, err := s.link.Drain(s.t.Context(), dispatch.Drain{Device: c.id, Limit: 1000})
	if err != nil {
		s.t.Fatal(err)
	}
	return page.Replies
}

func (s *site) acknowledge(c *camera, rs []dispatch.DrainedReply) {
	s.t.Helper()
	var positions [][]byte
	for _, r := range rs {
		positions = append(positions, r.Position)
	}
	if err := s.link.Acknowledge(s.t.Context(), c.id, positions, 0); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) state(m device.Mailbox, id device.RequestID) device.Request {
	s.t.Helper()
	rs, err := s.link.Requests(s.t.Context(), m, []device.RequestID{id})
	if err != nil {
		s.t.Fatal(err)
	}
	return rs[0]
}

func TestBroker_OneExchange(t *testing.T) {
	s := newSite(t, nil)
	c := s.register("cam-1")
	if _, _, err := s.link.Send(t.Context(), sending(c, alice)); !device.Is(err, device.DeviceOffline) {
		t.Fatalf("before it connects: %v", err)
	}
	c.connect()
	sent := s.send(c, alice)
	if sent.State != device.StateDelivered {
		t.Errorf("state is %s", sent.State)
	}
	id := c.next()
	c.reply(id)
	rs := s.drain(c)
	if len(rs) != 1 || rs[0].Request != sent.ID || rs[0].Mailbox != alice || rs[0].Command != "ping" || !rs[0].Final || rs[0].Late {
		t.Fatalf("drained %+v", rs)
	}
	if r := s.state(alice, id); r.State != device.StateAnswered || !r.Queued {
		t.Errorf("state %s, queued %v", r.State, r.Queued)
	}
	if r := s.state(bob, id); r.State != device.StateNotFound {
		t.Errorf("another client sees %s", r.State)
	}
	s.acknowledge(c, rs)
	if rest := s.drain(c); len(rest) != 0 {
		t.Errorf("%d replies are left", len(rest))
	}
	if r := s.state(alice, id); r.State != device.StateAnswered || r.Queued {
		t.Errorf("state %s, queued %v", r.State, r.Queued)
	}
}

// What is listed stands as record and queue tell together, and each part of the filter counts.
func TestBroker_ListRequests(t *testing.T) {
	s := newSite(t, nil)
	c := s.register("cam-1")
	c.connect()
	send := func(m device.Mailbox) device.Request {
		r := s.send(c, m)
		for time.Now().UnixMilli() == r.CreatedAt.UnixMilli() { // the next one is of another moment
		}
		return r
	}
	answered, open, other := send(alice), send(alice), send(bob)
	c.reply(answered.ID)
	if rs := s.drain(c); len(rs) != 1 {
		t.Fatalf("%d replies are in the queue", len(rs))
	}
	all := []device.RequestID{other.ID, open.ID, answered.ID}
	tests := map[string]struct {
		filter dispatch.RequestFilter
		want   []device.RequestID
		kind   device.Kind
	}{
		"all":                      {filter: dispatch.RequestFilter{}, want: all},
		"answered":                 {filter: dispatch.RequestFilter{States: []device.State{device.StateAnswered}}, want: all[2:]},
		"delivered":                {filter: dispatch.RequestFilter{States: []device.State{device.StateDelivered}}, want: all[:2]},
		"either":                   {filter: dispatch.RequestFilter{States: []device.State{device.StateDelivered, device.StateAnswered}}, want: all},
		"neither":                  {filter: dispatch.RequestFilter{States: []device.State{device.StateHeld}}},
		"any state":                {filter: dispatch.RequestFilter{States: device.RecordStates()}, want: all},
		"delivered, one client's":  {filter: dispatch.RequestFilter{Mailbox: alice, States: []device.State{device.StateDelivered}}, want: all[1:2]},
		"a command":                {filter: dispatch.RequestFilter{Command: "ping"}, want: all},
		"another command":          {filter: dispatch.RequestFilter{Command: "reboot"}},
		"a command of 65 bytes":    {filter: dispatch.RequestFilter{Command: strings.Repeat("x", 65)}, kind: device.Invalid},
		"since one of them":        {filter: dispatch.RequestFilter{Since: open.CreatedAt}, want: all[:2]},
		"until one of them":        {filter: dispatch.RequestFilter{Until: open.CreatedAt}, want: all[2:]},
		"since one until the next": {filter: dispatch.RequestFilter{Since: open.CreatedAt, Until: other.CreatedAt}, want: all[1:2]},
		"until not after since":    {filter: dispatch.RequestFilter{Since: open.CreatedAt, Until: open.CreatedAt}, kind: device.Invalid},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.filter.Limit = 10
			items, next, err := s.link.ListRequests(t.Context(), tt.filter)
			if device.KindOf(err) != tt.kind || next != "" {
				t.Fatalf("%v, want kind %q; next page %q", err, tt.kind, next)
			}
			var got []device.RequestID
			for _, r := range items {
				got = append(got, r.ID)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%d requests, want %d", len(got), len(tt.want))
			}
		})
	}
}

// I3: what is not a reply to a request of this device reaches nobody.
func TestBroker_OrphansReachNobody(t *testing.T) {
	s := newSite(t, nil)
	a, b := s.register("cam-a"), s.register("cam-b")
	a.connect()
	b.connect()
	s.send(a, alice)
	foreign := a.next()
	s.send(b, bob)
	mine := b.next()
	bent := []byte(mine)
	bent[40]++
	for _, payload := range []string{
		replyTo(foreign, "of another camera"), replyTo(device.RequestID(bent), "bent"), "no id at all", "", "{}",
		`{"request_id":7}`, strings.Repeat("x", 1100) + string(mine),
	} {
		b.wait(b.publish(payload)) // acknowledged all the same
	}
	if rs := s.drain(b); len(rs) != 0 {
		t.Errorf("%d replies in the queue", len(rs))
	}
	if rs := s.drain(a); len(rs) != 0 {
		t.Errorf("%d replies in the other queue", len(rs))
	}
	b.reply(mine) // I10
	if rs := s.drain(b); len(rs) != 1 {
		t.Errorf("%d replies after a good one", len(rs))
	}
}

// I1: how long a reply may be on its way counts from when it is due, for a held command waits longer than replies are kept.
func TestBroker_TakesTheReplyToACommandThatWaitedLong(t *testing.T) {
	var ahead atomic.Int64
	s := newSite(t, func(cfg *broker.Config) {
		cfg.Retention = time.Hour
		cfg.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	for name, tt := range map[string]struct {
		after time.Duration // since the command
		taken int
	}{
		"before it is due":                {3 * time.Hour, 1},
		"late, but not by the retention":  {5*time.Hour + 59*time.Minute, 1},
		"later than replies are kept for": {6*time.Hour + time.Minute, 0},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			ahead.Store(0)
			c := s.register(strings.NewReplacer(" ", "-", ",", "").Replace(name))
			c.connect()
			cmd := sending(c, alice)
			cmd.Command.DeliverWithin, cmd.Command.ReplyWithin = 4*time.Hour, 5*time.Hour
			if _, _, err := s.link.Send(t.Context(), cmd); err != nil {
				t.Fatal(err)
			}
			id := c.next()
			ahead.Store(int64(tt.after))
			c.reply(id)
			if rs := s.drain(c); len(rs) != tt.taken {
				t.Errorf("%d replies in the queue, want %d", len(rs), tt.taken)
			}
		})
	}
}

func TestBroker_RevocationCutsWithinASecond(t *testing.T) {
	s := newSite(t, nil)
	for name, revoke := range map[string]func(*camera) error{
		"certificate revoked": func(c *camera) error {
			return s.link.RevokeCertificate(t.Context(), c.id, identity.Fingerprint(c.cert.Certificate[0]))
		},
		"device deleted": func(c *camera) error { return s.link.DeleteDevice(t.Context(), c.id) },
	} {
		t.Run(name, func(t *testing.T) {
			c := s.register("cam-" + strings.NewReplacer(" ", "-", ",", "").Replace(name))
			c.connect()
			begin := time.Now()
			if err := revoke(c); err != nil {
				t.Fatal(err)
			}
			for c.client.IsConnectionOpen() {
				if time.Since(begin) > time.Second {
					t.Fatal("still connected after a second")
				}
			}
		})
	}
}

// Nothing that was acknowledged to a device is lost over a restart, and positions of before still work.
func TestBroker_Restart(t *testing.T) {
	s := newSite(t, nil)
	c := s.register("cam-1")
	c.connect()
	var ids []device.RequestID
	for range 20 {
		s.send(c, alice)
		id := c.next()
		c.reply(id)
		ids = append(ids, id)
	}
	before := s.drain(c)
	s.stop()
	s.start()
	rs := s.drain(c)
	if len(rs) != len(ids) {
		t.Fatalf("%d replies, want %d", len(rs), len(ids))
	}
	for i, r := range rs {
		if r.Request != ids[i] {
			t.Errorf("reply %d is of another request", i)
		}
		if got := s.state(alice, r.Request); got.State != device.StateAnswered {
			t.Errorf("state is %s", got.State)
		}
	}
	s.acknowledge(c, before)
	if rest := s.drain(c); len(rest) != 0 {
		t.Errorf("%d replies are left", len(rest))
	}
	d, err := s.link.Device(t.Context(), c.id)
	if err != nil || d.Presence.Online || d.Presence.LastSeen.IsZero() {
		t.Errorf("presence after the restart: %+v, %v", d.Presence, err)
	}
	c.connect()
	s.send(c, alice)
}

// Devices that try without a pause come in while the broker starts, and find all of it there (F10).
func TestBroker_StartsUnderDevicesThatKnock(t *testing.T) {
	const devices, starts = 4, 8
	s := newSite(t, nil)
	s.cfg.MQTTAddr = s.broker.MQTTAddr().String()
	subscribed := make(chan device.ID, devices*starts)
	for i := range devices {
		c := s.register(fmt.Sprintf("cam-%d", i))
		o := c.options().SetAutoReconnect(true).SetMaxReconnectInterval(time.Millisecond)
		o.SetOnConnectHandler(func(client paho.Client) {
			if token := client.Subscribe(device.TopicsOf(c.id).Commands, 1, nil); token.WaitTimeout(patience) && token.Error() == nil {
				subscribed <- c.id
			}
		})
		c.client = paho.NewClient(o)
		c.wait(c.client.Connect())
		t.Cleanup(c.leave)
	}
	for range starts {
		timeout := time.After(2 * patience)
		for here := map[device.ID]bool{}; len(here) < devices; {
			select {
			case id := <-subscribed:
				here[id] = true
			case <-timeout:
				t.Fatalf("%d of %d devices came back", len(here), devices)
			}
		}
		s.stop()
		s.start()
	}
}

// watch watches the broker until the test ends; hint waits for the next hint. It passes over that a request was sent,
// which may be told or be overtaken.
func (s *site) watch() (hint func() dispatch.Hint, ended <-chan error) {
	s.t.Helper()
	hints := make(chan dispatch.Hint, 64)
	ready := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- s.link.Watch(s.t.Context(), func() { close(ready) }, func(h dispatch.Hint) { hints <- h })
	}()
	<-ready
	return func() dispatch.Hint {
		s.t.Helper()
		timeout := time.After(10 * time.Second)
		for {
			select {
			case h := <-hints:
				if h.Request == nil || h.Request.State != device.StateSent {
					return h
				}
			case <-timeout:
				s.t.Fatal("no hint in 10 s")
			}
		}
	}, done
}

func TestBroker_WatchTellsOfPresenceRequestsAndReplies(t *testing.T) {
	s := newSite(t, nil)
	c := s.register("cam-1")
	hint, ended := s.watch()
	c.connect()
	if h := hint(); h.Presence == nil || h.Presence.Device != c.id || !h.Presence.Online || h.Presence.Labels["fleet"] != "north" {
		t.Errorf("hint %+v, want that it came, with its labels", h.Presence)
	}
	sent := s.send(c, alice)
	if h := hint(); h.Request == nil || *h.Request != (dispatch.RequestHint{Device: c.id, Mailbox: alice, Request: sent.ID, State: device.StateDelivered}) {
		t.Errorf("hint %+v, want that the request is delivered", h.Request)
	}
	c.reply(c.next())
	if h := hint(); h.Reply == nil || h.Reply.Request != sent.ID || h.Reply.Mailbox != alice || !h.Reply.Final {
		t.Errorf("hint %+v", h)
	}
	c.leave()
	if h := hint(); h.Presence == nil || h.Presence.Online {
		t.Errorf("hint %+v", h)
	}
	s.stop()
	if err := <-ended; err == nil {
		t.Error("the watch ended without an error")
	}
	s.start()
}

// Requests stand later and later: none is told to be delivered after its reply was.
func TestBroker_NothingIsToldOfARequestAfterItsReply(t *testing.T) {
	s := newSite(t, nil)
	hint, _ := s.watch()
	const cameras, each = 4, 50
	for i := range cameras {
		c := s.register(fmt.Sprintf("cam-%d", i))
		c.connect()
		for n := range each {
			s.send(c, alice)
			id := c.next()
			time.AfterFunc(time.Duration(n)*time.Millisecond, func() { c.publish(replyTo(id, "ok")) }) // anywhere in a turn
		}
	}
	answered := map[device.RequestID]bool{}
	for len(answered) < cameras*each {
		switch h := hint(); {
		case h.Reply != nil:
			answered[h.Reply.Request] = true
		case h.Request != nil && answered[h.Request.Request]:
			t.Errorf("a request is told to be %s after its reply", h.Request.State)
		}
	}
}

// A request without a reply ends in "no reply", and whoever watches is told when: I5.
func TestBroker_WatchTellsOfDeadlines(t *testing.T) {
	s := newSite(t, nil)
	c := s.register("cam-1")
	hint, _ := s.watch()
	silent := sending(c, alice)
	silent.Command.Hold, silent.Command.DeliverWithin, silent.Command.ReplyWithin = true, time.Second, time.Second
	sent, _, err := s.link.Send(t.Context(), silent)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []device.State{device.StateHeld, device.StateExpired} {
		if h := hint(); h.Request == nil || h.Request.Request != sent.ID || h.Request.State != want {
			t.Errorf("hint %+v, want %s", h.Request, want)
		}
	}
}

func BenchmarkExchange(b *testing.B) {
	for _, workers := range []int{1, 16, 64} {
		b.Run(fmt.Sprintf("workers=%d", workers), func(b *testing.B) {
			s := newSite(b, nil)
			cams := make([]*camera, workers)
			for i := range cams {
				c := s.register(fmt.Sprintf("cam-%d", i))
				c.connect()
				go func() {
					for command := range c.commands {
						c.publish(replyTo(device.RequestID(command["request_id"].(string)), strings.Repeat("x", 900)))
					}
				}()
				b.Cleanup(func() { close(c.commands) })
				cams[i] = c
			}
			b.ResetTimer()
			var wg sync.WaitGroup
			var mu sync.Mutex
			left := b.N
			for _, c := range cams {
				wg.Go(func() {
					for {
						mu.Lock()
						if left == 0 {
							mu.Unlock()
							return
						}
						left--
						mu.Unlock()
						s.send(c, alice)
						for {
							if rs := s.drain(c); len(rs) > 0 {
								s.acknowledge(c, rs)
								break
							}
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "exchanges/s")
		})
	}
}

// A device over its quota gets no PUBACK, and still gets its commands; others do not notice; with room again its reply
// is taken.
func TestBroker_OverTheQuotaRepliesWaitAndCommandsFlow(t *testing.T) {
	s := newSite(t, func(c *broker.Config) { c.MaxReplies = 1 })
	c, other := s.register("cam-1"), s.register("cam-2")
	c.connect()
	other.connect()
	s.send(c, alice)
	c.reply(c.next())
	s.send(c, alice)
	over := c.publish(replyTo(c.next(), "over the quota"))
	for range 3 {
		if r := s.send(c, alice); r.State != device.StateDelivered {
			t.Errorf("a command while its reply waits is %s", r.State)
		}
		c.next()
	}
	s.send(other, alice)
	other.reply(other.next())
	if len(s.drain(other)) != 1 {
		t.Error("another device's reply was not stored")
	}
	select {
	case <-over.Done():
		t.Fatal("acknowledged over the quota")
	default:
	}
	first := s.drain(c)
	if len(first) != 1 {
		t.Fatalf("%d replies in the queue, want 1", len(first))
	}
	s.acknowledge(c, first)
	c.wait(over)
	if rs := s.drain(c); len(rs) != 1 || rs[0].Request == first[0].Request {
		t.Errorf("%d replies after room was made", len(rs))
	}
}
