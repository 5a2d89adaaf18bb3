package faults

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"signaldevice/camera"
	"signaldevice/testserver/pki"
)

const (
	mqttTimeout = 5 * time.Second
	ackTimeout  = 20 * time.Second
	soonest     = 100 * time.Millisecond
	latest      = time.Second
	oneDay      = 24 * time.Hour
)

// registration is what the API answers to a device that was registered.
type registration struct {
	ID           string `json:"id"`
	CA           string `json:"ca"`
	Certificates []struct {
		Fingerprint string `json:"fingerprint"`
	} `json:"certificates"`
	Topics struct {
		Commands string `json:"commands"`
		Events   string `json:"events"`
	} `json:"topics"`
	cert, key    []byte // PEM
	keepsSession bool   // over connections; the broker here has no such sessions
}

// register registers a camera by a certificate of its own that is valid for some time. One that may have been registered
// by a call without an answer stays behind; its name is not used again.
func (s *system) register(ctx context.Context, name string, valid time.Duration) (r registration, err error) {
	for try := 0; ; try++ {
		own, err := pki.SelfSigned(name, valid)
		if err != nil {
			return r, err
		}
		r.cert, r.key = own.Cert, own.Key
		body := map[string]any{"name": fmt.Sprintf("%s-%d", name, try), "certificate": string(r.cert)}
		got := s.http.do(ctx, 0, s.admin, request{op: opStaff, method: http.MethodPost, path: "/v1/devices", body: body})
		if err = got.into(&r); err == nil {
			return r, nil
		}
		if !got.mayGoBetter() || try == staffTries {
			return r, fmt.Errorf("register %s: %w", name, err)
		}
		hold(ctx, retryPause)
	}
}

// remove ends a device or a certificate. That it is not there any more is no fault where an earlier try had no answer.
func (s *system) remove(ctx context.Context, path string) error {
	for try := 0; ; try++ {
		got := s.http.do(ctx, 0, s.admin, request{op: opStaff, method: http.MethodDelete, path: path})
		switch {
		case got.status == http.StatusNoContent, got.status == http.StatusNotFound && try > 0:
			return nil
		case !got.mayGoBetter() || try == staffTries:
			return fmt.Errorf("delete %s: %d %s %s", path, got.status, got.code, got.err)
		}
		hold(ctx, retryPause)
	}
}

// foreignCamera is a camera over a client that is not ours. It keeps each reply until its PUBACK, over any number of
// connections, and publishes the same bytes each time.
type foreignCamera struct {
	registration
	broker      string // host:port
	tls         *tls.Config
	journal     *journal
	brokerClock *clock
	rng         *mathrand.Rand // of the reconnecting goroutine alone

	order sync.Mutex // held while replies are published, so that those to one request keep their order

	mu       sync.Mutex
	client   mqtt.Client              // nil while it is not connected
	answered map[string]bool          // request ids: a command may come twice
	pending  map[slot]json.RawMessage // replies without PUBACK
	cut      chan struct{}            // closed when the present connection ends
	lives    int                      // how often it has connected
}

func (s *system) newForeignCamera(r registration, seed uint64) (*foreignCamera, error) {
	dial, err := pki.Pair{Cert: r.cert, Key: r.key}.ClientTLS([]byte(r.CA))
	if err != nil {
		return nil, err
	}
	return &foreignCamera{
		registration: r,
		broker:       s.toCameras.Listen,
		tls:          dial,
		journal:      s.journal,
		brokerClock:  s.brokerClock,
		rng:          mathrand.New(mathrand.NewPCG(seed, 7)),
		answered:     map[string]bool{},
		pending:      map[slot]json.RawMessage{},
	}, nil
}

// run keeps the camera connected until ctx ends.
func (c *foreignCamera) run(ctx context.Context) {
	for ctx.Err() == nil {
		if cut, err := c.connect(); err == nil {
			c.publishPending()
			select {
			case <-ctx.Done():
			case <-cut:
			}
		}
		c.disconnect()
		pause := time.NewTimer(soonest + time.Duration(c.rng.Int64N(int64(latest-soonest))))
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
		pause.Stop()
	}
}

func (c *foreignCamera) connect() (cut chan struct{}, err error) {
	cut = make(chan struct{})
	var once sync.Once
	client := mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker("ssl://" + c.broker).
		SetClientID(c.ID).
		SetCleanSession(!c.keepsSession).
		SetTLSConfig(c.tls).
		SetAutoReconnect(false).
		SetOrderMatters(false).
		SetKeepAlive(5 * time.Second).
		SetPingTimeout(2 * time.Second).
		SetConnectTimeout(mqttTimeout).
		SetWriteTimeout(mqttTimeout).
		SetConnectionLostHandler(func(mqtt.Client, error) { once.Do(func() { close(cut) }) }))
	if err := waitFor(client.Connect()); err != nil {
		client.Disconnect(0)
		return nil, err
	}
	if err := waitFor(client.Subscribe(c.Topics.Commands, 1, func(_ mqtt.Client, m mqtt.Message) { c.receive(m.Payload()) })); err != nil {
		client.Disconnect(0)
		return nil, err
	}
	c.mu.Lock()
	c.client, c.cut = client, cut
	c.lives++
	c.mu.Unlock()
	return cut, nil
}

func (c *foreignCamera) disconnect() {
	c.mu.Lock()
	client := c.client
	c.client = nil
	c.mu.Unlock()
	if client != nil {
		client.Disconnect(0)
	}
}

// connected returns a channel that is closed when the present connection ends; nil where there is none.
func (c *foreignCamera) connected() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.client == nil {
		return nil
	}
	return c.cut
}

// waitFor waits for an MQTT exchange to be acknowledged.
func waitFor(token mqtt.Token) error {
	if !token.WaitTimeout(mqttTimeout) {
		return errors.New("no acknowledgement in time")
	}
	return token.Error()
}

// command is what a camera receives.
type command struct {
	RequestID string    `json:"request_id"`
	ExpiresAt time.Time `json:"expires_at"`
	Args      struct {
		Nonce    string `json:"nonce"`
		DelayMS  int    `json:"delay_ms"`
		Progress bool   `json:"progress"`
	} `json:"args"`
}

func (c *foreignCamera) receive(payload []byte) {
	now := time.Now()
	var cmd command
	if err := json.Unmarshal(payload, &cmd); err != nil {
		return // it shows as a command without a reply
	}
	c.journal.deliver(c.ID, cmd, c.brokerClock.at(now))
	c.mu.Lock()
	repeated := c.answered[cmd.RequestID]
	c.answered[cmd.RequestID] = true
	c.mu.Unlock()
	if repeated {
		return
	}
	last := 0
	if cmd.Args.Progress {
		c.reply(cmd, 0, false)
		last = 1
	}
	time.AfterFunc(time.Duration(cmd.Args.DelayMS)*time.Millisecond, func() { c.reply(cmd, last, true) })
}

// reply makes a reply, notes it and publishes it.
func (c *foreignCamera) reply(cmd command, seq int, final bool) {
	s := slot{cmd.RequestID, seq}
	result, _ := json.Marshal(map[string]any{"nonce": cmd.Args.Nonce, "seq": seq, "drawn": mathrand.Uint64() >> 12}) // such a map has a JSON form
	status := "ok"
	if !final {
		status = "progress"
	}
	body, _ := json.Marshal(map[string]any{
		"request_id": cmd.RequestID, "status": status, "seq": seq, "final": final, "result": json.RawMessage(result),
	})
	c.journal.publish(s, published{device: c.ID, hash: hashOf(result), final: final, made: time.Now()})
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	c.pending[s] = body
	client := c.client
	c.mu.Unlock()
	if client != nil {
		c.publish(client, s, body)
	}
}

// publish publishes a reply and does not wait for its PUBACK. Without one, the next connection publishes it again. The
// caller holds order.
func (c *foreignCamera) publish(client mqtt.Client, s slot, body json.RawMessage) {
	token := client.Publish(c.Topics.Events, 1, false, []byte(body))
	go func() {
		if !token.WaitTimeout(ackTimeout) || token.Error() != nil { // a lost connection ends it with an error
			return
		}
		c.journal.ack(s, time.Now())
		c.mu.Lock()
		delete(c.pending, s)
		c.mu.Unlock()
	}()
}

// publishPending publishes what has no PUBACK yet, by seq: what comes after a final reply is none any more.
func (c *foreignCamera) publishPending() {
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	client := c.client
	waiting := maps.Clone(c.pending)
	c.mu.Unlock()
	for _, s := range slices.SortedFunc(maps.Keys(waiting), func(a, b slot) int { return a.seq - b.seq }) {
		c.publish(client, s, waiting[s])
	}
}

// unacknowledged returns how many replies wait for their PUBACK.
func (c *foreignCamera) unacknowledged() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}

// newOwnCamera makes one of the simulated cameras. Its clock is wrong.
func (s *system) newOwnCamera(r registration, seed uint64, wrongBy time.Duration) (*camera.Camera, error) {
	var received sync.Map // request id → when it came for the first time: no reply to it is older
	return camera.New(camera.Config{
		Identity: &camera.Identity{
			ID: r.ID, Broker: "ssl://" + s.toCameras.Listen, Certificate: r.cert, Key: r.key, CA: []byte(r.CA),
			Topics: camera.Topics{Commands: r.Topics.Commands, Events: r.Topics.Events},
		},
		Seed:  seed,
		Clock: func() time.Time { return time.Now().Add(wrongBy) },
		OnCommand: func(body []byte) {
			var cmd command
			if json.Unmarshal(body, &cmd) == nil { // else it shows as a command without a reply
				received.LoadOrStore(cmd.RequestID, time.Now())
				s.journal.deliver(r.ID, cmd, s.brokerClock.at(time.Now()))
			}
		},
		OnPuback: func(body []byte) {
			answered := reply{Result: json.RawMessage("null")} // what a reply without a result is given as
			if json.Unmarshal(body, &answered) != nil {
				return // the camera writes JSON
			}
			at := slot{answered.RequestID, answered.Seq}
			made, _ := received.Load(answered.RequestID)
			since, _ := made.(time.Time) // there is one: it answers what it received
			s.journal.publish(at, published{device: r.ID, hash: hashOf(answered.Result), final: answered.Final, made: since})
			s.journal.ack(at, time.Now())
		},
	})
}
