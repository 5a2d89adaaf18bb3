package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"sync"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

const (
	driverName = "driver" // of the client that sends commands, in its certificate
	ackWithin  = 10 * time.Second
	hangUpMS   = 250
)

// startFloor measures the least that an exchange can be: one MQTT client sends commands through a bare Mosquitto and
// receives the replies. Nothing is stored, nobody is asked who may do what, and a reply goes to whoever is there.
func (s *system) startFloor(ctx context.Context, cfg Config, dir string) error {
	m, err := s.startMosquitto(dir, "")
	if err != nil {
		return err
	}
	places, err := m.places(cfg.Cameras)
	if err != nil {
		return err
	}
	if err := s.useCameras(ctx, places, cfg.Payload); err != nil {
		return err
	}
	driver := &mqttDriver{cameras: s.cameras, ids: ids(places), command: cfg.Command}
	if err := driver.connect(m); err != nil {
		return err
	}
	s.onStop(driver.close)
	s.exchange = driver.exchange
	return nil
}

// mqttDriver is a client that sends commands over MQTT and waits for each reply. It is safe for concurrent use.
type mqttDriver struct {
	client  mqtt.Client
	cameras *fleet
	ids     []string
	command string
	pending sync.Map // request id → chan cameraReply
}

func (d *mqttDriver) connect(m *mosquitto) error {
	own, err := m.authority.Issue(driverName)
	if err != nil {
		return err
	}
	config, err := own.ClientTLS(m.authority.PEM)
	if err != nil {
		return err
	}
	d.client = mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker("ssl://" + m.process.Addr()).SetTLSConfig(config).SetClientID(driverName).
		SetAutoReconnect(false).SetConnectTimeout(dialTimeout).SetWriteTimeout(writeTimeout))
	if err := acknowledged(d.client.Connect()); err != nil {
		return err
	}
	return acknowledged(d.client.Subscribe("devices/+/events", 1, d.receive))
}

func acknowledged(token mqtt.Token) error {
	if !token.WaitTimeout(ackWithin) {
		return errors.New("mqtt: no acknowledgement in time")
	}
	return token.Error()
}

func (d *mqttDriver) close() { d.client.Disconnect(hangUpMS) }

// receive hands a reply to the exchange that waits for it.
func (d *mqttDriver) receive(_ mqtt.Client, m mqtt.Message) {
	var reply cameraReply
	if json.Unmarshal(m.Payload(), &reply) != nil {
		return
	}
	if waiting, ok := d.pending.Load(reply.RequestID); ok {
		select {
		case waiting.(chan cameraReply) <- reply:
		default: // QoS 1 delivers twice at times
		}
	}
}

func (d *mqttDriver) exchange(ctx context.Context, n int) (trace, error) {
	id, replies := rand.Text(), make(chan cameraReply, 1)
	d.pending.Store(id, replies)
	defer d.pending.Delete(id)
	message, err := json.Marshal(map[string]string{"request_id": id, "command": d.command})
	if err != nil {
		return trace{}, err
	}
	var t trace
	taken := d.client.Publish("devices/"+d.ids[n%len(d.ids)]+"/commands", 1, false, message)
	select {
	case <-taken.Done():
		t.sent = time.Now() // QoS 1: the PUBACK
		if err := taken.Error(); err != nil {
			return trace{}, err
		}
	case <-ctx.Done():
		return trace{}, ctx.Err()
	}
	select {
	case reply := <-replies:
		t.done, t.delivered = time.Now(), d.cameras.deliveredAt(reply.Result)
		return t, nil
	case <-ctx.Done():
		return trace{}, ctx.Err()
	}
}
