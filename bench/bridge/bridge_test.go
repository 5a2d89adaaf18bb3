package bridge_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"go.uber.org/goleak"

	"signaldevice/bench/bridge"
	"signaldevice/testserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// world is a bridge between real servers, and a camera.
type world struct {
	t         *testing.T
	mosquitto *testserver.MosquittoServer
	redis     *testserver.RedisServer
	bridge    *bridge.Server
	camera    mqtt.Client
	commands  chan command
}

type command struct {
	RequestID string          `json:"request_id"`
	Command   string          `json:"command"`
	Args      json.RawMessage `json:"args"`
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, mosquitto: testserver.Mosquitto(t, ""), redis: testserver.Redis(t), commands: make(chan command, 10)}
	w.start()
	t.Cleanup(func() { w.stop() })
	w.camera = mqtt.NewClient(mqtt.NewClientOptions().AddBroker("tcp://" + w.mosquitto.Addr).SetClientID("camera"))
	w.done(w.camera.Connect())
	t.Cleanup(func() { w.camera.Disconnect(100) })
	w.done(w.camera.Subscribe("devices/cam/commands", 1, func(_ mqtt.Client, m mqtt.Message) {
		var c command
		if err := json.Unmarshal(m.Payload(), &c); err != nil {
			t.Errorf("the camera received %s: %v", m.Payload(), err)
		}
		w.commands <- c
	}))
	return w
}

func (w *world) start() {
	w.t.Helper()
	var err error
	w.bridge, err = bridge.Start(w.t.Context(), bridge.Config{
		HTTP: "127.0.0.1:0", Mosquitto: "tcp://" + w.mosquitto.Addr, Redis: w.redis.URL,
		Tokens: map[string]string{"a": "alice", "b": "bob"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) stop() {
	if err := w.bridge.Stop(context.WithoutCancel(w.t.Context())); err != nil {
		w.t.Error(err)
	}
}

func (w *world) done(token mqtt.Token) {
	w.t.Helper()
	if !token.WaitTimeout(patience) || token.Error() != nil {
		w.t.Fatalf("mqtt: %v", token.Error())
	}
}

// call makes a call with a token and returns status and body.
func (w *world) call(token, method, path, body string) (int, string) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.bridge.Addr()+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(data)
}

// send sends a command as alice and returns it as the camera received it.
func (w *world) send() command {
	w.t.Helper()
	status, body := w.call("a", "POST", "/v1/devices/cam/commands", `{"command":"ping","args":{"n":1}}`)
	var sent struct {
		RequestID string `json:"request_id"`
	}
	if err := json.Unmarshal([]byte(body), &sent); err != nil || status != http.StatusAccepted {
		w.t.Fatalf("%d %s", status, body)
	}
	select {
	case got := <-w.commands:
		if got.RequestID != sent.RequestID || got.Command != "ping" || string(got.Args) != `{"n":1}` {
			w.t.Fatalf("the camera received %+v, want the request %s", got, sent.RequestID)
		}
		return got
	case <-time.After(patience):
		w.t.Fatal("the camera received nothing")
		return command{}
	}
}

func (w *world) reply(c command) {
	w.t.Helper()
	w.done(w.camera.Publish("devices/cam/events", 1, false, fmt.Sprintf(`{"request_id":%q,"status":"ok"}`, c.RequestID)))
}

// poll returns how many replies a client reads.
func (w *world) poll(token, requestID string, wait int) int {
	w.t.Helper()
	status, body := w.call(token, "GET", fmt.Sprintf("/v1/devices/cam/replies?request_id=%s&wait=%d", requestID, wait), "")
	var polled struct {
		Replies  []json.RawMessage `json:"replies"`
		Answered bool              `json:"answered"`
	}
	if err := json.Unmarshal([]byte(body), &polled); err != nil || status != http.StatusOK {
		w.t.Fatalf("%d %s", status, body)
	}
	if polled.Answered != (len(polled.Replies) > 0) {
		w.t.Errorf("answered is %v with %d replies", polled.Answered, len(polled.Replies))
	}
	return len(polled.Replies)
}

func TestBridge_GivesAReplyToItsClientOnce(t *testing.T) {
	w := newWorld(t)
	c := w.send()
	if got := w.poll("a", c.RequestID, 0); got != 0 {
		t.Fatalf("%d replies before the camera's", got)
	}
	w.reply(c)
	if got := w.poll("b", c.RequestID, 1); got != 0 {
		t.Errorf("bob reads %d replies to alice", got)
	}
	if got := w.poll("a", c.RequestID, 20); got != 1 {
		t.Errorf("alice reads %d replies, want 1", got)
	}
	if got := w.poll("a", c.RequestID, 0); got != 0 {
		t.Errorf("alice reads %d replies again", got)
	}
}

// A reply that was published while the bridge was down waits in its persistent session.
func TestBridge_ReceivesWhatWasSaidWhileItWasDown(t *testing.T) {
	w := newWorld(t)
	c := w.send()
	w.stop()
	w.reply(c)
	w.start()
	if got := w.poll("a", c.RequestID, 20); got != 1 {
		t.Errorf("%d replies, want the one of before", got)
	}
}

// A reply that Redis did not take is not acknowledged, and comes again.
func TestBridge_AcknowledgesAfterRedis(t *testing.T) {
	w := newWorld(t)
	c := w.send()
	w.redis.Kill()
	w.reply(c)
	w.stop()
	w.redis.Restart()
	w.start()
	if got := w.poll("a", c.RequestID, 20); got != 1 {
		t.Errorf("%d replies, want the one that Redis was not there for", got)
	}
}

func TestBridge_Refuses(t *testing.T) {
	w := newWorld(t)
	tests := map[string]struct {
		token, method, path, body string
		status                    int
		code                      string
	}{
		"no token":           {"", "POST", "/v1/devices/cam/commands", `{"command":"ping"}`, 401, "unauthenticated"},
		"an unknown token":   {"c", "GET", "/v1/devices/cam/replies", "", 401, "unauthenticated"},
		"no JSON":            {"a", "POST", "/v1/devices/cam/commands", "ping", 400, "malformed_json"},
		"no command":         {"a", "POST", "/v1/devices/cam/commands", "{}", 400, "malformed_json"},
		"a body too large":   {"a", "POST", "/v1/devices/cam/commands", `{"command":"` + strings.Repeat("x", 64<<10) + `"}`, 400, "malformed_json"},
		"every device":       {"a", "POST", "/v1/devices/+/commands", `{"command":"ping"}`, 404, "device_not_found"},
		"another topic":      {"a", "POST", "/v1/devices/cam%2Fx/commands", `{"command":"ping"}`, 404, "device_not_found"},
		"a wait in words":    {"a", "GET", "/v1/devices/cam/replies?wait=long", "", 422, "invalid_request"},
		"a wait too long":    {"a", "GET", "/v1/devices/cam/replies?wait=61", "", 422, "invalid_request"},
		"a wait before zero": {"a", "GET", "/v1/devices/cam/replies?wait=-1", "", 422, "invalid_request"},
	}
	for name, tt := range tests {
		status, body := w.call(tt.token, tt.method, tt.path, tt.body)
		if status != tt.status || !strings.Contains(body, `"code":"`+tt.code+`"`) {
			t.Errorf("%s: %d %s, want %d %s", name, status, body, tt.status, tt.code)
		}
	}
}
