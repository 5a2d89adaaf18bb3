package bench

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
	"golang.org/x/sync/errgroup"
)

const (
	connecting    = 16 // cameras that connect at the same time
	dialTimeout   = 10 * time.Second
	writeTimeout  = 5 * time.Second
	keepAlive     = 60 * time.Second
	pingEvery     = 20 * time.Second
	silenceLimit  = 90 * time.Second
	cameraBuffer  = 512 // bytes; a larger packet is read past it
	subscriptions = 1   // packet id of the SUBSCRIBE; replies use those above
)

// place is where a camera finds its broker, and who it is there.
type place struct {
	addr             string // host:port
	tls              *tls.Config
	id               string // the device id
	commands, events string // topics
}

// fleet is the cameras of one system. They answer each command at once with a reply of a given size, and say in it when
// they had the command: so the time of delivery is known for each exchange, by the same clock as all other times. They
// cost as little as they can, since they share the machine with what is measured; package camera holds cameras that
// behave like real ones. A camera that loses its connection does not come back: the report counts it.
type fleet struct {
	epoch   time.Time
	padding string
	cameras []*camera
	lost    atomic.Int64
	closing atomic.Bool
	running sync.WaitGroup
	stop    context.CancelFunc // of the pings
}

// connectFleet connects a camera at each place and returns when every one is subscribed to its commands. payload is the
// number of bytes that pad each reply.
func connectFleet(ctx context.Context, places []place, payload int) (*fleet, error) {
	f := &fleet{epoch: time.Now(), padding: strings.Repeat("x", payload), cameras: make([]*camera, len(places))}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(connecting)
	for i, p := range places {
		group.Go(func() (err error) {
			f.cameras[i], err = f.connect(groupCtx, p)
			return err
		})
	}
	pings, stop := context.WithCancel(context.WithoutCancel(ctx))
	f.stop = stop
	if err := group.Wait(); err != nil {
		f.close()
		return nil, fmt.Errorf("cameras: %w", err)
	}
	f.running.Go(func() { f.ping(pings) })
	return f, nil
}

// close disconnects all cameras.
func (f *fleet) close() {
	f.closing.Store(true)
	f.stop()
	for _, c := range f.cameras {
		if c != nil {
			_ = c.write(packets.NewControlPacket(packets.Disconnect)) // it may be gone already
			c.conn.Close()
		}
	}
	f.running.Wait()
}

// ping keeps all connections alive.
func (f *fleet) ping(ctx context.Context) {
	tick := time.NewTicker(pingEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, c := range f.cameras {
				_ = c.write(packets.NewControlPacket(packets.Pingreq)) // its reader finds what is wrong
			}
		}
	}
}

// camera is one connection of one camera.
type camera struct {
	fleet  *fleet
	events string
	conn   net.Conn
	in     *bufio.Reader
	lastID uint16
}

// connect opens the connection of one camera, and serves it until it ends.
func (f *fleet) connect(ctx context.Context, p place) (*camera, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: p.tls}).DialContext(ctx, "tcp", p.addr)
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", p.id, err)
	}
	c := &camera{fleet: f, events: p.events, conn: conn, in: bufio.NewReaderSize(conn, cameraBuffer), lastID: subscriptions}
	if err := c.introduce(p); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect %s: %w", p.id, err)
	}
	f.running.Go(func() {
		c.serve()
		if !f.closing.Load() {
			f.lost.Add(1)
		}
		conn.Close()
	})
	return c, nil
}

// introduce connects and subscribes, as MQTT 3.1.1 has it.
func (c *camera) introduce(p place) error {
	connect := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	connect.ProtocolName, connect.ProtocolVersion = "MQTT", 4 // [MQTT-3.1.2-1]
	connect.ClientIdentifier, connect.CleanSession = p.id, true
	connect.Keepalive = uint16(keepAlive / time.Second)
	if err := c.write(connect); err != nil {
		return err
	}
	answer, err := c.read()
	if err != nil {
		return err
	}
	if ack, ok := answer.(*packets.ConnackPacket); !ok || ack.ReturnCode != packets.Accepted {
		return fmt.Errorf("refused with %v", answer)
	}
	subscribe := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	subscribe.MessageID, subscribe.Topics, subscribe.Qoss = subscriptions, []string{p.commands}, []byte{1}
	if err := c.write(subscribe); err != nil {
		return err
	}
	if answer, err = c.read(); err != nil {
		return err
	}
	if ack, ok := answer.(*packets.SubackPacket); !ok || len(ack.ReturnCodes) != 1 || ack.ReturnCodes[0] > 1 {
		return fmt.Errorf("the subscription to %s was refused with %v", p.commands, answer)
	}
	return nil
}

// serve answers commands until the connection ends.
func (c *camera) serve() {
	for {
		p, err := c.read()
		if err != nil {
			return
		}
		if command, ok := p.(*packets.PublishPacket); ok {
			if err := c.answer(command); err != nil {
				return
			}
		} // a PUBACK or PINGRESP needs no answer
	}
}

// cameraReply is what a camera of the bench publishes.
type cameraReply struct {
	RequestID string       `json:"request_id"`
	Status    string       `json:"status"`
	Result    cameraResult `json:"result"`
}

type cameraResult struct {
	At      int64  `json:"at"` // when the camera had the command: nanoseconds by the fleet's clock
	Padding string `json:"padding"`
}

// answer acknowledges a command and publishes its reply.
func (c *camera) answer(command *packets.PublishPacket) error {
	if command.Qos > 0 {
		ack := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
		ack.MessageID = command.MessageID
		if err := c.write(ack); err != nil {
			return err
		}
	}
	at := time.Since(c.fleet.epoch)
	var asked struct {
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal(command.Payload, &asked); err != nil || asked.RequestID == "" {
		return errors.New("a command without a request id")
	}
	body, err := json.Marshal(cameraReply{
		RequestID: asked.RequestID,
		Status:    "ok",
		Result:    cameraResult{At: int64(at), Padding: c.fleet.padding},
	})
	if err != nil {
		return err
	}
	reply := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	reply.MessageID, reply.TopicName, reply.Payload, reply.Qos = c.nextID(), c.events, body, 1
	return c.write(reply)
}

// nextID returns a packet id other than 0 and the SUBSCRIBE's [MQTT-2.3.1-1].
func (c *camera) nextID() uint16 {
	c.lastID++
	if c.lastID <= subscriptions {
		c.lastID = subscriptions + 1
	}
	return c.lastID
}

// write sends one packet, by one Write: pings come from another goroutine.
func (c *camera) write(p packets.ControlPacket) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return p.Write(c.conn)
}

func (c *camera) read() (packets.ControlPacket, error) {
	if err := c.conn.SetReadDeadline(time.Now().Add(silenceLimit)); err != nil {
		return nil, err
	}
	return packets.ReadPacket(c.in)
}

// deliveredAt returns when a camera had the command that it answered with this result.
func (f *fleet) deliveredAt(r cameraResult) time.Time { return f.epoch.Add(time.Duration(r.At)) }
