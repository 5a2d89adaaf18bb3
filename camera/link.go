package camera

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

const (
	keepAlive    = 30 * time.Second
	pingEvery    = 20 * time.Second // well inside keepAlive
	silenceLimit = 45 * time.Second // a broker that says nothing for so long is gone
	dialTimeout  = 10 * time.Second // TCP, TLS and CONNACK together
	writeTimeout = 5 * time.Second

	// readBuffer is small because there is one for each idle camera; a larger packet is read past it.
	readBuffer = 512

	// maxPacket leaves room for topic and packet id around a payload.
	maxPacket = maxPayload + 1_024

	subscribeID = 1 // packet id of the one SUBSCRIBE; publishes use the others
)

// link is one MQTT 3.1.1 connection: packets in and out, with time limits. One goroutine may read while others write;
// every packet is one Write, which TLS connections serialise.
type link struct {
	conn net.Conn
	in   *bufio.Reader
}

// dial opens a connection to the broker and introduces the client with a clean session.
func dial(ctx context.Context, addr string, tlsConfig *tls.Config, clientID string) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := (&tls.Dialer{Config: tlsConfig}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l := newLink(conn)
	if err := l.connect(clientID); err != nil {
		conn.Close()
		return nil, errors.Join(err, context.Cause(ctx))
	}
	return l, nil
}

func newLink(conn net.Conn) *link {
	return &link{conn: conn, in: bufio.NewReaderSize(conn, readBuffer)}
}

func (l *link) connect(clientID string) error {
	p := packets.NewControlPacket(packets.Connect).(*packets.ConnectPacket)
	p.ProtocolName, p.ProtocolVersion = "MQTT", 4 // [MQTT-3.1.2-1]
	p.CleanSession = true
	p.ClientIdentifier = clientID
	p.Keepalive = uint16(keepAlive / time.Second)
	if err := l.write(p); err != nil {
		return err
	}
	answer, err := l.read()
	if err != nil {
		return fmt.Errorf("connack: %w", err)
	}
	ack, ok := answer.(*packets.ConnackPacket) // [MQTT-3.2.0-1]
	if !ok {
		return fmt.Errorf("connack: the broker sent %T first", answer)
	}
	if ack.ReturnCode != packets.Accepted {
		return fmt.Errorf("connack: refused with code %d", ack.ReturnCode)
	}
	return nil
}

// subscribe asks for the topic with QoS 1. The SUBACK comes through read, perhaps after the first PUBLISH.
func (l *link) subscribe(topic string) error {
	p := packets.NewControlPacket(packets.Subscribe).(*packets.SubscribePacket)
	p.MessageID = subscribeID
	p.Topics, p.Qoss = []string{topic}, []byte{qosAtLeastOne}
	return l.write(p)
}

// publish sends the payload with QoS 1 under the packet id.
func (l *link) publish(id uint16, topic string, payload []byte) error {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.MessageID, p.TopicName, p.Payload, p.Qos = id, topic, payload, qosAtLeastOne
	return l.write(p)
}

// acknowledge sends the PUBACK of a received PUBLISH.
func (l *link) acknowledge(id uint16) error {
	p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	p.MessageID = id
	return l.write(p)
}

func (l *link) ping() error { return l.write(packets.NewControlPacket(packets.Pingreq)) }

func (l *link) write(p packets.ControlPacket) error {
	if err := l.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if err := p.Write(l.conn); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// read returns the next packet. It fails once the broker has been silent for silenceLimit.
func (l *link) read() (packets.ControlPacket, error) {
	if err := l.conn.SetReadDeadline(time.Now().Add(silenceLimit)); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	if err := l.checkSize(); err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	p, err := packets.ReadPacket(l.in)
	if err != nil {
		return nil, fmt.Errorf("read: %w", err)
	}
	return p, nil
}

// checkSize looks at the fixed header before the codec makes a buffer of the size that it declares (MQTT 3.1.1,
// section 2.2.3: up to four bytes of seven bits, the lowest first).
func (l *link) checkSize() error {
	size := 0
	for i := range 4 {
		header, err := l.in.Peek(i + 2)
		if err != nil {
			return err
		}
		last := header[i+1]
		size |= int(last&0x7f) << (7 * i)
		if last < 0x80 {
			break
		}
		if i == 3 {
			return errors.New("the packet's length is malformed")
		}
	}
	if size > maxPacket {
		return fmt.Errorf("a packet of %d bytes is over the limit", size)
	}
	return nil
}

// close ends the connection as a client should, with a DISCONNECT [MQTT-3.14.4-1].
func (l *link) close() {
	_ = l.write(packets.NewControlPacket(packets.Disconnect)) // the connection may be gone already
	l.conn.Close()
}

// cut ends the connection as a lost radio link does: no DISCONNECT, no TLS closure, only a TCP reset.
func (l *link) cut() {
	conn := l.conn
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	if t, ok := conn.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // a failure only makes the end politer
	}
	conn.Close()
}
