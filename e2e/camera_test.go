package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"signaldevice/testserver/pki"
)

// registration is what the API answers to a device that was registered or enrolled.
type registration struct {
	ID          string `json:"id"`
	Name        string `json:"name"`
	Certificate string `json:"certificate"`
	CA          string `json:"ca"`
	MQTT        string `json:"mqtt"`
	Topics      struct {
		Commands string `json:"commands"`
		Events   string `json:"events"`
	} `json:"topics"`
}

// device is a registered camera with its key; connect makes it live.
type device struct {
	registration
	t    *testing.T
	cert tls.Certificate
}

// newDevice registers a camera by a certificate that it made itself.
func (a api) newDevice(name string) *device {
	a.t.Helper()
	d := &device{t: a.t, cert: selfSigned(a.t, name)}
	a.call("POST", "/v1/devices", map[string]any{"name": name, "certificate": toPEM("CERTIFICATE", d.cert.Certificate[0])}).
		into(http.StatusCreated, &d.registration)
	return d
}

// command is what a camera receives.
type command struct {
	RequestID string          `json:"request_id"`
	Command   string          `json:"command"`
	Args      json.RawMessage `json:"args"`
}

// connection is one MQTT connection of a camera.
type connection struct {
	*device
	client   mqtt.Client
	Commands chan command
}

// connect subscribes to the camera's commands, each of which arrives in Commands.
func (d *device) connect() *connection {
	d.t.Helper()
	c := &connection{device: d, client: d.dial(), Commands: make(chan command, 1000)}
	done(d.t, "subscribe", c.client.Subscribe(d.Topics.Commands, 1, func(_ mqtt.Client, m mqtt.Message) {
		var cmd command
		if err := json.Unmarshal(m.Payload(), &cmd); err != nil {
			d.t.Errorf("a command that is no JSON: %v", err)
		}
		c.Commands <- cmd
	}))
	return c
}

// dial opens an MQTT connection that subscribes to nothing yet.
func (d *device) dial() mqtt.Client {
	d.t.Helper()
	client := d.client()
	done(d.t, "connect", client.Connect())
	d.t.Cleanup(func() { client.Disconnect(0) })
	return client
}

// client returns an MQTT client that is not connected yet.
func (d *device) client() mqtt.Client {
	d.t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(d.CA)) {
		d.t.Fatalf("no CA in %q", d.CA)
	}
	return mqtt.NewClient(mqtt.NewClientOptions().
		AddBroker(d.MQTT).
		SetClientID("e2e").
		SetTLSConfig(&tls.Config{RootCAs: pool, Certificates: []tls.Certificate{d.cert}}).
		SetAutoReconnect(false).
		SetConnectTimeout(startTimeout).
		SetWriteTimeout(stopTimeout))
}

// next returns the next command.
func (c *connection) next() command {
	c.t.Helper()
	select {
	case cmd := <-c.Commands:
		return cmd
	case <-time.After(stopTimeout):
		c.t.Fatal("no command came")
		return command{}
	}
}

// publish returns once the broker has sent its PUBACK: from then on the reply must not be lost (I1).
func (c *connection) publish(payload string) {
	c.t.Helper()
	done(c.t, "publish", c.client.Publish(c.Topics.Events, 1, false, payload))
}

// answer publishes a final reply.
func (c *connection) answer(requestID, result string) {
	c.t.Helper()
	c.publish(replyTo(requestID, 0, true, result))
}

func replyTo(requestID string, seq int, final bool, result string) string {
	status := "ok"
	if !final {
		status = "progress"
	}
	return fmt.Sprintf(`{"request_id":%q,"status":%q,"seq":%d,"final":%t,"result":%s}`, requestID, status, seq, final, result)
}

// done waits for an MQTT exchange to be acknowledged.
func done(t *testing.T, what string, token mqtt.Token) {
	t.Helper()
	if !token.WaitTimeout(startTimeout) {
		t.Fatalf("%s: no acknowledgement within %s", what, startTimeout)
	}
	if err := token.Error(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// selfSigned makes a certificate as a camera's factory would.
func selfSigned(t *testing.T, name string) tls.Certificate {
	t.Helper()
	pair, err := pki.SelfSigned(name, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// newCSR makes a certificate request with a fresh key.
func newCSR(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return toPEM("CERTIFICATE REQUEST", der)
}

func toPEM(kind string, der []byte) string {
	return strings.TrimSpace(string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))) + "\n"
}
