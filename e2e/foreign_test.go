package e2e

import (
	"encoding/json"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A camera that is not ours: a key made by openssl, enrolled with curl, connected with somebody else's MQTT client.

// foreignCamera is the files that such a camera holds, and where it connects.
type foreignCamera struct {
	registration
	host, port    string
	ca, cert, key string
}

// enrolForeign makes a key and a CSR with openssl and registers them with curl and a one-time code, which is made with
// more flags.
func enrolForeign(t *testing.T, s *system, name string, flags ...string) foreignCamera {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	cam := foreignCamera{ca: file("ca.pem"), cert: file("cert.pem"), key: file("key.pem")}

	code := strings.TrimSpace(run(t, "signal-device", append([]string{"enrol-code",
		"--server", s.admin.base, "--token", s.admin.token, "--name", name}, flags...)...))
	run(t, "openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", cam.key)
	csr := run(t, "openssl", "req", "-new", "-key", cam.key, "-subj", "/CN=any name will do")
	body, err := json.Marshal(map[string]string{"code": code, "csr": csr})
	if err != nil {
		t.Fatal(err)
	}
	out := runIn(t, string(body), "curl", "-sS", "--fail-with-body", "-H", "Content-Type: application/json",
		"--data-binary", "@-", s.admin.base+"/v1/enrol")
	if err := json.Unmarshal([]byte(out), &cam.registration); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	if cam.Name != name {
		t.Errorf("enrolled as %q, want the name of the code, %q", cam.Name, name)
	}
	write(t, cam.cert, cam.Certificate)
	write(t, cam.ca, cam.CA)
	at, err := url.Parse(cam.MQTT)
	if err != nil || at.Scheme != "ssl" {
		t.Fatalf("mqtt is %q, want ssl://host:port", cam.MQTT)
	}
	cam.host, cam.port = at.Hostname(), at.Port()
	return cam
}

// mosquitto returns the options with which mosquitto's clients connect as this camera.
func (c foreignCamera) mosquitto(more ...string) []string {
	return append([]string{
		"-h", c.host, "-p", c.port, "-V", "mqttv311", "-q", "1",
		"--cafile", c.ca, "--cert", c.cert, "--key", c.key,
	}, more...)
}

func TestCameraThatIsNotOurs_Mosquitto(t *testing.T) {
	s := startSystem(t)
	cam := enrolForeign(t, s, "mosquitto-1")
	var payload strings.Builder
	sub := exec.CommandContext(t.Context(), "mosquitto_sub", cam.mosquitto("-t", cam.Topics.Commands, "-C", "1")...)
	sub.Stdout = &payload
	if err := sub.Start(); err != nil {
		t.Fatal(err)
	}
	s.alice.waitOnline(cam.ID)

	var sent accepted
	curl(t, s.alice, &sent, "-d", `{"command":"ping"}`, "/v1/devices/"+cam.ID+"/commands")

	if err := sub.Wait(); err != nil {
		t.Fatalf("mosquitto_sub: %v", err)
	}
	var cmd command
	if err := json.Unmarshal([]byte(payload.String()), &cmd); err != nil || cmd.RequestID != sent.RequestID || cmd.Command != "ping" {
		t.Fatalf("the camera received %s (%v), want ping with request id %s", payload.String(), err, sent.RequestID)
	}
	run(t, "mosquitto_pub", cam.mosquitto("-t", cam.Topics.Events, "-m", replyTo(cmd.RequestID, 0, true, `"pong from mosquitto"`))...)
	var got replies
	curl(t, s.alice, &got, pollPath(cam.ID, "5", sent.RequestID))
	expectOneReply(t, got, sent.RequestID, `"pong from mosquitto"`)
}

func TestCameraThatIsNotOurs_MQTTjs(t *testing.T) {
	s := startSystem(t)
	cam := enrolForeign(t, s, "mqtt-js-1")
	js := exec.CommandContext(t.Context(), "node", "mqttjs-camera.mjs",
		cam.MQTT, cam.ca, cam.cert, cam.key, cam.Topics.Commands, cam.Topics.Events)
	var said strings.Builder
	js.Stdout, js.Stderr = &said, &said
	if err := js.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the test's context is over, and so is the process
		_ = js.Wait()
		if t.Failed() {
			t.Logf("the camera said: %s", said.String())
		}
	})
	s.alice.waitOnline(cam.ID)

	var sent accepted
	curl(t, s.alice, &sent, "-d", `{"command":"ping"}`, "/v1/devices/"+cam.ID+"/commands")
	var got replies
	curl(t, s.alice, &got, pollPath(cam.ID, "5", sent.RequestID))

	expectOneReply(t, got, sent.RequestID, `"ping by MQTT.js"`)
	if err := js.Wait(); err != nil {
		t.Errorf("the camera: %v", err)
	}
}

// curl calls the API as this client with curl. The last argument is a path.
func curl(t *testing.T, a api, into any, args ...string) {
	t.Helper()
	last := len(args) - 1
	args = append([]string{"-sS", "--fail-with-body", "-H", "Authorization: Bearer " + a.token, "-H", "Content-Type: application/json"},
		append(args[:last:last], a.base+args[last])...)
	out := run(t, "curl", args...)
	if err := json.Unmarshal([]byte(out), into); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
}

func expectOneReply(t *testing.T, got replies, id, result string) {
	t.Helper()
	if len(got.Replies) != 1 || got.Replies[0].RequestID != id || string(got.Replies[0].Result) != result {
		t.Fatalf("read %+v, want one reply to %s with result %s", got, id, result)
	}
	if r := got.Replies[0]; !got.Answered || got.state(id) != "answered" || r.Status != "ok" || !r.Final {
		t.Errorf("read %+v, want an answered request with one final reply", got)
	}
}
