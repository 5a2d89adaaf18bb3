package camera

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.mqtt.golang/packets"
)

// scriptedBroker is the other end of one session, for what a real broker does not do: keep quiet, or break rules.
type scriptedBroker struct {
	t     *testing.T
	cam   *Camera
	conn  net.Conn
	in    *bufio.Reader
	ended chan error // why the session ended
}

// newScriptedBroker starts a session and takes its SUBSCRIBE.
func newScriptedBroker(t *testing.T, cfg Config) *scriptedBroker {
	t.Helper()
	cam := idle(t, cfg)
	mine, theirs := net.Pipe()
	b := &scriptedBroker{t: t, cam: cam, conn: mine, in: bufio.NewReader(mine), ended: make(chan error, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{
		cam: cam, link: newLink(theirs), topics: Topics{"commands", "events"},
		start: func(task task) { cam.tasks.Go(func() { cam.execute(ctx, task) }) },
	}
	go func() {
		b.ended <- s.run(ctx)
		close(b.ended)
	}()
	t.Cleanup(func() {
		cancel()
		mine.Close()
		for range b.ended {
		}
		cam.tasks.Wait()
	})
	sub, ok := b.read().(*packets.SubscribePacket)
	if !ok || len(sub.Topics) != 1 || sub.Topics[0] != "commands" || sub.Qoss[0] != 1 {
		t.Fatalf("first packet %v, want SUBSCRIBE", sub)
	}
	return b
}

func (b *scriptedBroker) read() packets.ControlPacket {
	b.t.Helper()
	p, err := packets.ReadPacket(b.in)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

func (b *scriptedBroker) write(p packets.ControlPacket) {
	b.t.Helper()
	if err := p.Write(b.conn); err != nil {
		b.t.Fatal(err)
	}
}

func (b *scriptedBroker) publish(id uint16, body string) {
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.MessageID, p.TopicName, p.Payload, p.Qos = id, "commands", []byte(body), 1
	b.write(p)
}

// ignore reads what the session still writes, so that it does not block.
func (b *scriptedBroker) ignore() { _, _ = io.Copy(io.Discard, b.in) }

// readPublish returns the next packet, which must be an event.
func (b *scriptedBroker) readPublish() *packets.PublishPacket {
	b.t.Helper()
	p, ok := b.read().(*packets.PublishPacket)
	if !ok || p.TopicName != "events" || p.Qos != 1 {
		b.t.Fatalf("got %v, want an event", p)
	}
	return p
}

func (b *scriptedBroker) acknowledge(id uint16) {
	p := packets.NewControlPacket(packets.Puback).(*packets.PubackPacket)
	p.MessageID = id
	b.write(p)
}

// wantClosed wants that nothing but the end follows.
func (b *scriptedBroker) wantClosed() {
	b.t.Helper()
	if p, err := packets.ReadPacket(b.in); err == nil {
		b.t.Fatalf("got %v, want the end of the connection", p)
	}
}

func (b *scriptedBroker) wantReplyWaiting(requestID string) {
	b.t.Helper()
	eventually(b.t, "a reply to "+requestID+" in the outbox", func() bool {
		m, ok := b.cam.outbox.first()
		return ok && m.reply != nil && m.reply.RequestID == requestID
	})
}

func TestSession_AcknowledgesThenReplies(t *testing.T) {
	b := newScriptedBroker(t, Config{})
	b.publish(9, `{"request_id":"r1","command":"ping"}`) // before the SUBACK, as a broker may [MQTT-3.8.4-1]
	if ack, ok := b.read().(*packets.PubackPacket); !ok || ack.MessageID != 9 {
		t.Fatalf("got %v, want the PUBACK of 9", ack)
	}
	p := b.readPublish()
	if p.MessageID <= subscribeID || !strings.Contains(string(p.Payload), `"r1"`) {
		t.Errorf("event %d: %s", p.MessageID, p.Payload)
	}
	b.wantReplyWaiting("r1")
	b.acknowledge(p.MessageID + 1) // of nothing
	b.acknowledge(p.MessageID)
	eventually(t, "the reply is done with", func() bool { _, waits := b.cam.outbox.first(); return !waits })
}

func TestSession_QoS0CommandIsAnsweredWithoutPUBACK(t *testing.T) {
	b := newScriptedBroker(t, Config{})
	p := packets.NewControlPacket(packets.Publish).(*packets.PublishPacket)
	p.TopicName, p.Payload = "commands", []byte(`{"request_id":"r1","command":"ping"}`)
	b.write(p)
	b.readPublish()
}

func TestSession_PingsAndGivesUpASilentBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScriptedBroker(t, Config{})
		began := time.Now()
		for _, at := range []time.Duration{pingEvery, 2 * pingEvery} {
			if _, ok := b.read().(*packets.PingreqPacket); !ok || time.Since(began) != at {
				t.Fatalf("no PINGREQ after %s", at)
			}
		}
		go b.ignore()
		if err := <-b.ended; err == nil {
			t.Error("ended without a cause")
		}
		if got := time.Since(began); got < silenceLimit || got > silenceLimit+writeTimeout {
			t.Errorf("the session ended after %s, want %s", got, silenceLimit)
		}
	})
}

func TestSession_AnAnsweredPingKeepsItAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScriptedBroker(t, Config{})
		for range 10 {
			if _, ok := b.read().(*packets.PingreqPacket); !ok {
				t.Fatal("no PINGREQ")
			}
			b.write(packets.NewControlPacket(packets.Pingresp))
		}
		select {
		case err := <-b.ended:
			t.Errorf("the session ended: %v", err)
		default:
		}
	})
}

func TestSession_AMissingPUBACKCostsTheConnectionNotTheReply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newScriptedBroker(t, Config{AckTimeout: 7 * time.Second})
		began := time.Now()
		b.publish(9, `{"request_id":"r1","command":"ping"}`)
		b.read() // PUBACK
		b.readPublish()
		go b.ignore()
		if err := <-b.ended; err == nil || !strings.Contains(err.Error(), "no PUBACK") {
			t.Errorf("ended with %v", err)
		}
		if got := time.Since(began); got != 7*time.Second {
			t.Errorf("after %s", got)
		}
		b.wantReplyWaiting("r1")
	})
}

func TestSession_EndsOnABrokenRule(t *testing.T) {
	tests := map[string]struct {
		bytes string
		want  string
	}{
		"subscription refused":        {"\x90\x03\x00\x01\x80", "was refused"},
		"QoS 2 granted":               {"\x90\x03\x00\x01\x02", "was refused"},
		"a packet for brokers":        {"\xc0\x00", "PingreqPacket"},
		"an unknown packet":           {"\xf0\x00", "unsupported packet"},
		"a packet over the limit":     {"\x30\xff\xff\xff\x7f", "over the limit"},
		"a length of five bytes":      {"\x30\xff\xff\xff\xff\x01", "malformed"},
		"a second CONNACK":            {"\x20\x02\x00\x00", "ConnackPacket"},
		"a topic longer than all":     {"\x30\x04\x00\xff\x00\x01", "payload length"},
		"the end of the connection":   {"", "EOF"},
		"the end within a packet":     {"\x32\x10\x00", "EOF"},
		"the end within fixed header": {"\x32", "EOF"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b := newScriptedBroker(t, Config{})
			go func() {
				_, _ = io.WriteString(b.conn, tt.bytes) // the session may end before the last byte
				if tt.want == "EOF" {
					b.conn.Close()
				} else {
					b.ignore()
				}
			}()
			select {
			case err := <-b.ended:
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("ended with %v, want %q", err, tt.want)
				}
			case <-time.After(patience):
				t.Error("the session goes on")
			}
		})
	}
}

func TestSession_StopsPolitely(t *testing.T) {
	cam := idle(t, Config{})
	mine, theirs := net.Pipe()
	defer mine.Close()
	ctx, cancel := context.WithCancel(t.Context())
	s := &session{cam: cam, link: newLink(theirs), topics: Topics{"commands", "events"}}
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx) }()
	if _, err := packets.ReadPacket(mine); err != nil { // SUBSCRIBE
		t.Fatal(err)
	}
	cancel()
	if p, err := packets.ReadPacket(mine); err != nil {
		t.Fatal(err)
	} else if _, ok := p.(*packets.DisconnectPacket); !ok {
		t.Errorf("got %v, want DISCONNECT", p)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ended with %v", err)
	}
}

func TestSession_PacketIDsAvoidZeroAndTheSubscription(t *testing.T) {
	s := session{lastID: 65_534}
	for _, want := range []uint16{65_535, 2, 3} {
		if got := s.nextID(); got != want {
			t.Errorf("packet id %d, want %d", got, want)
		}
	}
}
