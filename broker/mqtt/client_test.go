package mqtt_test

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

// packet is one MQTT control packet as it stands on the wire.
type packet struct {
	first byte // type and flags
	body  []byte
}

func (p packet) kind() byte { return p.first >> 4 }

// id is the packet id of a PUBACK, SUBACK or, with QoS 1, PUBLISH.
func (p packet) id() uint16 {
	if p.kind() == 3 {
		n := binary.BigEndian.Uint16(p.body)
		return binary.BigEndian.Uint16(p.body[2+n:])
	}
	return binary.BigEndian.Uint16(p.body)
}

func (p packet) topic() string { return string(p.body[2 : 2+binary.BigEndian.Uint16(p.body)]) }

// wire is a client that says exactly what a test tells it to.
type wire struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

const patience = 5 * time.Second

func (w *wire) write(b []byte) {
	w.t.Helper()
	if _, err := w.conn.Write(b); err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

func (w *wire) read() (packet, error) {
	w.conn.SetReadDeadline(time.Now().Add(patience))
	first, err := w.r.ReadByte()
	if err != nil {
		return packet{}, err
	}
	n, err := binary.ReadUvarint(w.r) // the same encoding as MQTT's, for these lengths
	if err != nil {
		return packet{}, err
	}
	body := make([]byte, n)
	_, err = io.ReadFull(w.r, body)
	return packet{first, body}, err
}

func (w *wire) expect(kind byte) packet {
	w.t.Helper()
	p, err := w.read()
	if err != nil {
		w.t.Fatalf("packet of type %d did not come: %v", kind, err)
	}
	if p.kind() != kind {
		w.t.Fatalf("got packet of type %d, want %d", p.kind(), kind)
	}
	return p
}

// expectEnd waits until the server has closed the connection.
func (w *wire) expectEnd() {
	w.t.Helper()
	for {
		_, err := w.read()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			w.t.Fatal("the connection was not cut")
		}
		if err != nil {
			return
		}
	}
}

func frame(first byte, parts ...[]byte) []byte {
	var body []byte
	for _, p := range parts {
		body = append(body, p...)
	}
	return append(binary.AppendUvarint([]byte{first}, uint64(len(body))), body...)
}

func text(s string) []byte { return append(binary.BigEndian.AppendUint16(nil, uint16(len(s))), s...) }

func num(n uint16) []byte { return binary.BigEndian.AppendUint16(nil, n) }

func connect(clientID string) []byte {
	return frame(0x10, text("MQTT"), []byte{4, 2}, num(30), text(clientID))
}

func connectWithWill(topic string) []byte {
	return frame(0x10, text("MQTT"), []byte{4, 2 | 4}, num(30), text("c"), text(topic), text("gone"))
}

func subscribe(id uint16, filter string, qos byte) []byte {
	return frame(0x82, num(id), text(filter), []byte{qos})
}

func publish(id uint16, topic, payload string, qos byte) []byte {
	if qos == 0 {
		return frame(0x30, text(topic), []byte(payload))
	}
	return frame(0x30|qos<<1, text(topic), num(id), []byte(payload))
}

func puback(id uint16) []byte { return frame(0x40, num(id)) }

// identity is a certificate with its key.
type identity = tls.Certificate

func newIdentity(t *testing.T, edit func(*x509.Certificate)) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return selfSigned(t, key, &key.PublicKey, edit)
}

func selfSigned(t *testing.T, key, public any, edit func(*x509.Certificate)) *identity {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "whoever"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	if edit != nil {
		edit(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &identity{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}
