// Package broker is the message broker: MQTT over mutual TLS towards the devices, gRPC over mutual TLS towards the API
// and IoT Core's clients, and a durable, acknowledged output queue for each device between them.
//
// This file only ties its parts together. identity holds the certificate authorities, registry the devices, stream the
// durable engine, requests what became of every command, queue the replies that wait, delivery brings commands to
// devices, mqtt speaks to them, rpc and iotcore serve the callers, presence and watch tell who is there.
package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"signaldevice/broker/delivery"
	"signaldevice/broker/identity"
	"signaldevice/broker/mqtt"
	"signaldevice/broker/presence"
	"signaldevice/broker/queue"
	"signaldevice/broker/registry"
	"signaldevice/broker/requests"
	"signaldevice/broker/rpc"
	"signaldevice/broker/stream"
	"signaldevice/broker/watch"
	"signaldevice/device"
)

// Config says where the broker listens and what it keeps. The zero value of a limit means its default.
type Config struct {
	DataDir        string        // certificates, keys and the store
	MQTTAddr       string        // host:port for devices
	GRPCAddr       string        // host:port for the API and for IoT Core's clients
	Hosts          []string      // further names and addresses for the server certificate; the first is told to devices
	TLS12          bool          // let devices use TLS 1.2 too
	MaxReplies     int           // unread replies a device may have in its queue; default 1,000
	MaxBytes       int64         // of those; default 16 MiB
	Retention      time.Duration // of unread replies; default 24 h
	KeepRequests   time.Duration // request records, since their last change; default 30 days
	MaxRequests    int64         // request records, the oldest finished ones go first; default 500,000
	MaxStore       int64         // bytes on disk; default 16 GiB
	IoTCoreToken   string        // bearer token for IoT Core's services, for clients without a certificate; "": none
	MaxConnections int           // of devices; default 20,000
	ConnectRate    int           // devices let in a second; default 100 for each processor
	NoSync         bool          // leave fsync to the operating system: only for measuring what it costs
	Clock          func() time.Time
	Log            *slog.Logger
}

const movedAtOnce = 100 // requests in one hint; about 150 bytes each

// Broker is a running broker. It is safe for concurrent use.
type Broker struct {
	cfg      Config
	identity *identity.Identity
	engine   *stream.Engine
	registry *registry.Registry
	records  *requests.Store
	queue    *queue.Queue
	delivery *delivery.Delivery
	presence *presence.Book
	hub      *watch.Hub
	mqtt     *mqtt.Server
	grpc     *grpc.Server
	health   *health.Server
	listener net.Listener
	events   *events
	metrics  *prometheus.Registry

	stopping chan struct{}
	running  sync.WaitGroup
	failed   chan error
	closers  []func() // in the order of the start
	came     sync.Mutex
}

// Start opens the data folder and listens. A failed start leaves nothing running. Stop ends it.
func Start(ctx context.Context, cfg Config) (*Broker, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("broker: %w", err)
	}
	cfg = cfg.withDefaults()
	b := &Broker{cfg: cfg, hub: &watch.Hub{}, stopping: make(chan struct{}), failed: make(chan error, 1)}
	for _, part := range []struct {
		name  string
		start func(context.Context) error
	}{
		{"certificates", b.openIdentity},
		{"device server", b.newMQTT},
		{"store", b.openStore},
		{"device registry", b.openRegistry},
		{"device listener", b.listenMQTT},
		{"gRPC listener", b.listenGRPC},
	} {
		if err := part.start(ctx); err != nil {
			b.close()
			return nil, fmt.Errorf("broker: %s: %w", part.name, err)
		}
	}
	return b, nil
}

func (b *Broker) onClose(f func()) { b.closers = append(b.closers, f) }

func (b *Broker) close() {
	for _, closePart := range slices.Backward(b.closers) {
		closePart()
	}
	b.closers = nil
}

func (b *Broker) openIdentity(context.Context) (err error) {
	b.identity, err = identity.Open(b.cfg.DataDir, identity.Config{Hosts: b.cfg.Hosts, Clock: b.cfg.Clock})
	return err
}

func (b *Broker) openStore(ctx context.Context) (err error) {
	ring, err := openKeyRing(b.cfg.DataDir)
	if err != nil {
		return err
	}
	b.engine, err = stream.Open(ctx, stream.Config{
		Dir: filepath.Join(b.cfg.DataDir, "store"), MaxStore: b.cfg.MaxStore, NoSync: b.cfg.NoSync, Log: b.cfg.Log,
	})
	if err != nil {
		return err
	}
	b.onClose(b.engine.Close)
	share := sharesOf(b.cfg.MaxStore)
	if b.presence, err = presence.Open(ctx, presence.Config{Engine: b.engine, MaxStore: share.presence, Clock: b.cfg.Clock, Log: b.cfg.Log}); err != nil {
		return err
	}
	b.onClose(b.presence.Close)
	if b.records, err = requests.Open(ctx, requests.Config{
		MaxRecords: b.cfg.MaxRequests, Keep: b.cfg.KeepRequests, KeysStore: share.keys,
		Engine: b.engine, Clock: b.cfg.Clock, Log: b.cfg.Log,
	}); err != nil {
		return err
	}
	b.onClose(b.records.Close)
	b.queue, err = queue.Open(ctx, queue.Config{
		MaxReplies: b.cfg.MaxReplies, MaxBytes: b.cfg.MaxBytes, Retention: b.cfg.Retention, MaxStore: share.queue,
		Engine: b.engine, Records: b.records, Arrived: b.arrived, Clock: b.cfg.Clock, Log: b.cfg.Log,
	})
	if err != nil {
		return err
	}
	b.onClose(b.queue.Close)
	b.events = newEvents(ring, b.queue, b.cfg)
	b.delivery, err = delivery.Open(ctx, delivery.Config{
		MaxStore: share.held, Engine: b.engine, Records: b.records, Queue: b.queue, Ring: ring, Sessions: (*sessions)(b), Devices: (*devices)(b),
		Clock: b.cfg.Clock, Log: b.cfg.Log,
	})
	if err != nil {
		return err
	}
	b.onClose(b.delivery.Close)
	return nil
}

func (b *Broker) openRegistry(ctx context.Context) (err error) {
	b.registry, err = registry.Open(ctx, registry.Config{
		Replicas: b.engine.Replicas(), JetStream: b.engine.JetStream(), Identity: b.identity, Clock: b.cfg.Clock, Logger: b.cfg.Log,
	})
	if err != nil {
		return err
	}
	b.onClose(b.registry.Close)
	b.registry.OnChange(b.registryChanged)
	return nil
}

// newMQTT makes the server of devices, which nobody reaches before listenMQTT: the store asks it for sessions earlier.
func (b *Broker) newMQTT(context.Context) (err error) {
	cert := b.identity.ServerCertificate()
	connections := b.cfg.connections(openFiles())
	if connections < b.cfg.MaxConnections {
		b.cfg.Log.Info("fewer devices than configured may connect: the process may not have enough files open (ulimit -n)",
			"files", openFiles(), "devices", connections, "configured", b.cfg.MaxConnections)
	}
	b.mqtt, err = mqtt.New(mqtt.Config{
		Addr: b.cfg.MQTTAddr, Certificate: &cert, TLS12: b.cfg.TLS12, MaxConnections: connections, ConnectRate: b.cfg.ConnectRate,
		Identify: func(der []byte) (device.ID, error) { return b.registry.ByCertificate(der) },
		Handler:  (*deviceHandler)(b), Clock: b.cfg.Clock, Log: b.cfg.Log,
	})
	return err
}

func (b *Broker) listenMQTT(context.Context) error {
	if err := b.mqtt.Listen(); err != nil {
		return err
	}
	b.onClose(func() {
		if err := b.mqtt.Close(); err != nil {
			b.cfg.Log.Warn("device listener not closed well", "error", err)
		}
	})
	return nil
}

func (b *Broker) listenGRPC(ctx context.Context) (err error) {
	if b.listener, err = listenForCallers(ctx, b.cfg.GRPCAddr); err != nil {
		return err
	}
	b.onClose(func() { b.listener.Close() })
	b.records.Tell(b.requestsMoved)
	b.metrics = b.newMetrics()
	if b.grpc, err = b.newGRPC(); err != nil {
		return err
	}
	ctx, stopWatching := context.WithCancel(context.WithoutCancel(ctx))
	b.running.Go(func() { b.watchStore(ctx) })
	b.running.Go(func() {
		if err := b.grpc.Serve(b.listener); err != nil {
			b.fail(fmt.Errorf("broker: gRPC listener: %w", err))
		}
	})
	b.onClose(func() {
		b.grpc.Stop()
		stopWatching()
		b.running.Wait()
	})
	return nil
}

// fail tells that the broker can no longer serve.
func (b *Broker) fail(err error) {
	select {
	case b.failed <- err:
	default: // it has been told before
	}
}

// Stop ends the broker: waiting calls are ended, calls in flight answered, devices cut, everything written. What is still
// running when ctx ends is cut off.
func (b *Broker) Stop(ctx context.Context) error {
	close(b.stopping)
	b.hub.Close()
	done := make(chan struct{})
	go func() {
		b.grpc.GracefulStop()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = errors.New("broker: calls were cut off at the end of the time to stop")
		b.grpc.Stop()
		<-done
	}
	b.close()
	return err
}

// Failed receives an error when the broker can no longer serve.
func (b *Broker) Failed() <-chan error { return b.failed }

// MQTTAddr is the address that devices connect to.
func (b *Broker) MQTTAddr() net.Addr { return b.mqtt.Addr() }

// GRPCAddr is the address that the API connects to.
func (b *Broker) GRPCAddr() net.Addr { return b.listener.Addr() }

// CAFile is the PEM file of the CA that clients and devices trust.
func (b *Broker) CAFile() string { return filepath.Join(b.cfg.DataDir, "ca.pem") }

// ClientCertificate returns the PEM files of the ready client certificate of a role and of its key.
func (b *Broker) ClientCertificate(role identity.Role) (cert, key string) {
	base := filepath.Join(b.cfg.DataDir, string(role))
	return base + ".pem", base + ".key"
}

// Metrics gathers the broker's own metrics.
func (b *Broker) Metrics() prometheus.Gatherer { return b.metrics }

// connection is what devices are told about how to connect.
func (b *Broker) connection() rpc.Connection {
	host, port, _ := net.SplitHostPort(b.mqtt.Addr().String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	if len(b.cfg.Hosts) > 0 {
		host = b.cfg.Hosts[0]
	}
	return rpc.Connection{CA: b.identity.CA(), MQTT: "ssl://" + net.JoinHostPort(host, port)}
}

// sessions and devices are the Broker as package delivery sees it.
type (
	sessions Broker
	devices  Broker
)

func (s *sessions) Session(id device.ID) *mqtt.Session {
	return s.mqtt.Session(id)
}

func (d *devices) Labels(id device.ID) (device.Labels, bool) {
	snapshot, ok := d.registry.Device(id)
	if !ok {
		return nil, false
	}
	return snapshot.Labels, true
}

// arrived tells those who watch that a reply is in its device's queue.
func (b *Broker) arrived(r queue.Reply) {
	b.hub.Publish(watch.Event{Reply: &watch.Reply{
		Device: r.Device, Mailbox: r.Claims.Mailbox, Request: r.ID, Seq: r.Seq, Final: r.Final,
	}})
}

// requestsMoved tells those who watch where requests stand. It looks once more while no reply can be told of, so that
// none stands earlier after its reply than before.
func (b *Broker) requestsMoved(records []requests.Record) {
	for part := range slices.Chunk(records, movedAtOnce) {
		b.hub.PublishSeen(func() watch.Event { return b.standing(part) })
	}
}

// standing tells where requests stand now, from record and queue together, but for those that are answered.
func (b *Broker) standing(records []requests.Record) (e watch.Event) {
	now := b.cfg.Clock()
	for _, rec := range records {
		claims, err := rec.ID.Claims()
		if err != nil {
			continue
		}
		if newer, ok := b.records.Cached(claims.UUID); ok {
			rec = newer
		}
		b.queue.Complete(&rec)
		if state, _ := rec.State(now); state != device.StateAnswered {
			e.Requests = append(e.Requests, watch.Request{Device: rec.Device, Mailbox: claims.Mailbox, Request: rec.ID, State: state})
		}
	}
	return e
}

// registryChanged cuts the connections that are no longer admitted, then cleans up behind a deleted device.
func (b *Broker) registryChanged(c registry.Change) {
	if !c.Deleted {
		b.mqtt.CutCertificates(c.Device, c.Fingerprints)
		return
	}
	b.mqtt.CutDevice(c.Device)
	go func() { // the registry waits for this function
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		b.presence.Forget(c.Device)
		err := errors.Join(b.queue.Forget(ctx, c.Device), b.delivery.Forget(ctx, c.Device))
		if err != nil {
			b.cfg.Log.Warn("what a deleted device left behind is not all removed, it ages out", "device", c.Device, "error", err)
		}
	}()
}

// deviceHandler is the Broker as package mqtt sees it.
type deviceHandler Broker

func (h *deviceHandler) Event(e mqtt.Event)           { h.events.take(e) }
func (h *deviceHandler) Unsubscribed(s *mqtt.Session) { (*Broker)(h).presenceChanged(s.Device()) }
func (h *deviceHandler) Subscribed(s *mqtt.Session) {
	(*Broker)(h).presenceChanged(s.Device())
	h.delivery.Subscribed(s.Device())
}

// presenceChanged brings presence in line with the connections there are. Calls for one device may come in any order:
// each looks for itself.
func (b *Broker) presenceChanged(id device.ID) {
	b.came.Lock()
	defer b.came.Unlock()
	now := b.cfg.Clock()
	session := b.mqtt.Session(id)
	was := b.presence.Of(id).Online
	switch {
	case session != nil:
		b.presence.Came(id, session.Since(), session.LastSeen)
	case was:
		b.presence.Went(id, now)
	}
	if online := session != nil; online != was {
		labels, _ := (*devices)(b).Labels(id)
		b.hub.Publish(watch.Event{Presence: &watch.Presence{Device: id, Labels: labels, Online: online, Since: now}})
	}
}
