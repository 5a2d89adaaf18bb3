// Package bridge is what a team would build in a week instead of this program: an HTTP server in front of Mosquitto that
// writes each reply to Redis. The bench measures it beside ours, so it is written with care, and speaks as much of the
// same HTTP API as an exchange needs.
//
// What it does: commands go out with QoS 1 and are answered with 202 once Mosquitto has them. Redis knows which client
// each request belongs to, for an hour. Replies come in on a persistent session with QoS 1, and are acknowledged after
// Redis has them, so that a bridge that is killed gets them again. A client reads a reply once (GETDEL), and may wait for
// it. Requests of other clients are not found.
//
// What it does not do, among other things: it does not know whether a camera is online, nor whether a command reached it;
// a command has no deadline and waits for as long as Mosquitto keeps the session; there is no permission but "has a
// token", no check of arguments, no idempotency, no state of a request, no time line, no cancelling, no limit for one
// client's unread replies. A reply is as durable as Mosquitto's memory and Redis's last second of append-only file: a
// machine that loses power loses both. A reply whose HTTP response is lost on its way is gone. Any camera may answer any
// request whose id it knows. One instance alone may run, because waiting clients are woken in its memory. Registering
// cameras, revoking their certificates and metrics are left to others.
//
// A Server is safe for concurrent use.
package bridge

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/redis/rueidis"
)

const (
	clientID     = "bridge"
	keep         = time.Hour // how long Redis knows a request, and holds a reply
	redisWithin  = time.Second
	retryAfter   = 100 * time.Millisecond
	mqttWithin   = 5 * time.Second
	stopWithin   = 5 * time.Second
	disconnectMS = 250
)

// Config tells a bridge where everything is.
type Config struct {
	HTTP      string            // address to listen on
	Mosquitto string            // ssl://host:port
	TLS       *tls.Config       // who the bridge is to Mosquitto
	Redis     string            // redis://host:port
	Tokens    map[string]string // bearer token → client
	Log       *slog.Logger      // nil: silence
}

// Server is a running bridge.
type Server struct {
	cfg     Config
	log     *slog.Logger
	redis   rueidis.Client
	mqtt    mqtt.Client
	waiters waiters
	http    *http.Server
	addr    string
	served  chan struct{}
}

// Start connects to Redis and Mosquitto and listens.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, log: cfg.Log, served: make(chan struct{})}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if err := s.connect(ctx); err != nil {
		s.disconnect()
		return nil, fmt.Errorf("bridge: %w", err)
	}
	return s, nil
}

func (s *Server) connect(ctx context.Context) error {
	options, err := rueidis.ParseURL(s.cfg.Redis)
	if err != nil {
		return err
	}
	options.DisableCache = true // nothing is read twice
	if s.redis, err = rueidis.NewClient(options); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if err := s.connectMQTT(); err != nil {
		return fmt.Errorf("mosquitto: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.cfg.HTTP)
	if err != nil {
		return err
	}
	s.addr = l.Addr().String()
	s.http = &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("http server ended", "error", err)
		}
	}()
	return nil
}

// connectMQTT opens the persistent session. A reply is handled as soon as it is there; replies of before the subscription
// come without a route, and to the same handler. Each connection subscribes: a Mosquitto that was killed may have forgotten.
func (s *Server) connectMQTT() error {
	subscribed := make(chan error, 1)
	options := mqtt.NewClientOptions().
		AddBroker(s.cfg.Mosquitto).SetTLSConfig(s.cfg.TLS).
		SetClientID(clientID).SetCleanSession(false).SetResumeSubs(true).
		SetAutoAckDisabled(true).SetOrderMatters(false).
		SetConnectTimeout(mqttWithin).SetWriteTimeout(mqttWithin).SetMaxReconnectInterval(time.Second).
		SetDefaultPublishHandler(s.receive).
		SetOnConnectHandler(func(c mqtt.Client) {
			err := wait(c.Subscribe("devices/+/events", 1, s.receive))
			if err != nil {
				s.log.Error("not subscribed", "error", err)
			}
			select {
			case subscribed <- err:
			default: // only Start waits for it
			}
		})
	s.mqtt = mqtt.NewClient(options)
	if err := wait(s.mqtt.Connect()); err != nil {
		return err
	}
	return <-subscribed
}

// wait waits for an acknowledgement.
func wait(token mqtt.Token) error {
	if !token.WaitTimeout(mqttWithin) {
		return errors.New("no acknowledgement in time")
	}
	return token.Error()
}

// Addr returns where the bridge listens, host:port.
func (s *Server) Addr() string { return s.addr }

// Stop ends the bridge.
func (s *Server) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopWithin)
	defer cancel()
	err := s.http.Shutdown(ctx)
	<-s.served
	s.disconnect()
	return err
}

func (s *Server) disconnect() {
	if s.mqtt != nil {
		s.mqtt.Disconnect(disconnectMS)
	}
	if s.redis != nil {
		s.redis.Close()
	}
}

// The keys in Redis.
func ownerKey(requestID string) string { return "owner:" + requestID }
func replyKey(client, requestID string) string {
	return "reply:" + client + ":" + requestID
}

// receive takes a camera's reply. It is acknowledged once Redis has it, or where nobody asked for it; while Redis is away
// it is tried again, for as long as the connection lives. Mosquitto sends it again to the next one.
func (s *Server) receive(connection mqtt.Client, m mqtt.Message) {
	var reply struct {
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(m.Payload(), &reply); err != nil || reply.RequestID == "" {
		m.Ack()
		return
	}
	for {
		err := s.store(reply.RequestID, m.Payload())
		if err == nil {
			m.Ack()
			s.waiters.wake(reply.RequestID)
			return
		}
		s.log.Error("reply not stored", "error", err)
		time.Sleep(retryAfter)
		if !connection.IsConnectionOpen() {
			return
		}
	}
}

// store keeps a reply for its client; one that nobody asked for is dropped.
func (s *Server) store(requestID string, body []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), redisWithin)
	defer cancel()
	client, err := s.redis.Do(ctx, s.redis.B().Get().Key(ownerKey(requestID)).Build()).ToString()
	if rueidis.IsRedisNil(err) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.redis.Do(ctx, s.redis.B().Set().Key(replyKey(client, requestID)).Value(rueidis.BinaryString(body)).Ex(keep).Build()).Error()
}

// topic returns where a device's commands go. The id is a part of it, and must not be more.
func topic(device string) (string, bool) {
	return "devices/" + device + "/commands", device != "" && !strings.ContainsAny(device, "/+#\x00")
}

// waiters wakes clients that wait for a reply.
type waiters struct {
	mu       sync.Mutex
	channels map[string]chan struct{} // by request id; closed by wake
}

// wait returns a channel that is closed when the reply is stored. Look for the reply after this, and then wait.
func (w *waiters) wait(requestID string) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.channels == nil {
		w.channels = map[string]chan struct{}{}
	}
	c, ok := w.channels[requestID]
	if !ok {
		c = make(chan struct{})
		w.channels[requestID] = c
	}
	return c
}

func (w *waiters) wake(requestID string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c, ok := w.channels[requestID]; ok {
		close(c)
		delete(w.channels, requestID)
	}
}

// forget ends a wait that nobody wakes any more. Another client that waits for the same reply then polls again.
func (w *waiters) forget(requestID string) { w.wake(requestID) }
