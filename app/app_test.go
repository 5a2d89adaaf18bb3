package app

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"signaldevice/access"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const anyPort = "127.0.0.1:0"

func testOptions(t *testing.T) (APIOptions, BrokerOptions) {
	return APIOptions{HTTP: anyPort, Admin: anyPort}, BrokerOptions{Data: filepath.Join(t.TempDir(), "data"), MQTT: anyPort, GRPC: anyPort, Admin: anyPort}
}

// stop ends a program, which must take less than its time and leave its address free.
func stop(t *testing.T, a *App) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), StopWithin)
	defer cancel()
	if err := a.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	select {
	case err := <-a.Failed():
		t.Errorf("a part failed: %v", err)
	default:
	}
}

// get calls the program and returns status and body.
func get(t *testing.T, url, token string) (int, string) {
	t.Helper()
	return httpCall(t, http.MethodGet, url, token, nil)
}

// post calls the program with a body of JSON.
func post(t *testing.T, url, token, body string) (int, string) {
	t.Helper()
	return httpCall(t, http.MethodPost, url, token, strings.NewReader(body))
}

func httpCall(t *testing.T, method, url, token string, body io.Reader) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	req.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(answer)
}

func TestStandalone_ListensEverywhereAndLetsGo(t *testing.T) {
	api, broker := testOptions(t)
	a, err := Standalone(t.Context(), api, broker)
	if err != nil {
		t.Fatal(err)
	}
	at := a.Ready()
	addrs := map[string]string{"http": at.HTTP, "admin": at.Admin, "mqtt": at.MQTT, "grpc": at.GRPC}
	for name, addr := range addrs {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		conn.Close()
	}
	for _, file := range []string{at.CA, at.Service.Cert, at.Service.Key, at.Operator.Cert, at.Operator.Key} {
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		}
	}

	// The API reaches the broker by the same way as in production.
	token, err := access.CreateToken(filepath.Join(broker.Data, tokensFile), "test", "admin", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	if status, body := get(t, "http://"+at.HTTP+"/v1/devices", token); status != http.StatusOK {
		t.Errorf("the list of devices is %d: %s", status, body)
	}
	if status, body := get(t, "http://"+at.Admin+"/metrics", ""); status != http.StatusOK ||
		!strings.Contains(body, "signal_device_devices_online") || !strings.Contains(body, `signal_device_dependency_up{dependency="broker"} 1`) ||
		!strings.Contains(body, "go_goroutines") {
		t.Errorf("the metrics are %d and lack those of broker, API or process: %s", status, body)
	}

	stop(t, a)
	for name, addr := range addrs {
		if conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr); err == nil {
			conn.Close()
			t.Errorf("%s still listens", name)
		}
	}
}

func TestServe_StartsWithoutItsBroker(t *testing.T) {
	api, broker := testOptions(t)
	b, err := Broker(t.Context(), broker)
	if err != nil {
		t.Fatal(err)
	}
	at := b.Ready()
	stop(t, b)
	api.Tokens = filepath.Join(broker.Data, tokensFile)

	a, err := Serve(t.Context(), api, BrokerAccess{Addrs: []string{at.GRPC}, CA: at.CA, Cert: at.Service.Cert, Key: at.Service.Key})
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, a)

	var ready struct{ Status string }
	deadline := time.NewTimer(5 * time.Second)
	defer deadline.Stop()
	for ready.Status != "degraded" {
		select {
		case <-deadline.C:
			t.Fatal("the broker is down, and the API does not say that it is degraded")
		case <-time.After(10 * time.Millisecond):
		}
		_, body := get(t, "http://"+a.Ready().HTTP+"/readyz", "")
		if err := json.Unmarshal([]byte(body), &ready); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStart_ThatFailsLeavesNothing(t *testing.T) {
	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := taken.Addr().String()
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("commands: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		edit func(*APIOptions, *BrokerOptions)
		want string // in the error
	}{
		"http is taken":   {func(a *APIOptions, _ *BrokerOptions) { a.HTTP = busy }, busy},
		"admin is taken":  {func(a *APIOptions, _ *BrokerOptions) { a.Admin = busy }, busy},
		"mqtt is taken":   {func(_ *APIOptions, b *BrokerOptions) { b.MQTT = busy }, busy},
		"grpc is taken":   {func(_ *APIOptions, b *BrokerOptions) { b.GRPC = busy }, busy},
		"no data folder":  {func(_ *APIOptions, b *BrokerOptions) { b.Data = "" }, "data folder"},
		"bad catalogue":   {func(a *APIOptions, _ *BrokerOptions) { a.Catalogue = bad }, bad},
		"no Redis there":  {func(a *APIOptions, _ *BrokerOptions) { a.Redis = "no URL" }, "redis"},
		"negative rate":   {func(a *APIOptions, _ *BrokerOptions) { a.Rate = -1 }, "Rate"},
		"missing catalog": {func(a *APIOptions, _ *BrokerOptions) { a.Catalogue = bad + ".not" }, bad + ".not"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			api, broker := testOptions(t)
			tt.edit(&api, &broker)
			a, err := Standalone(t.Context(), api, broker)
			if err == nil {
				stop(t, a)
				t.Fatal("it started")
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error %q does not say %q", err, tt.want)
			}
			// What was started is stopped: goleak looks at the end, and the data folder can be used again.
			if broker.Data == "" {
				return
			}
			api, again := testOptions(t)
			again.Data = broker.Data
			a, err = Standalone(t.Context(), api, again)
			if err != nil {
				t.Fatalf("the next good start: %v", err)
			}
			stop(t, a)
		})
	}
}

func TestStandalone_KeepsTheFilesOfItsDataFolder(t *testing.T) {
	api, broker := testOptions(t)
	if err := os.MkdirAll(broker.Data, 0o700); err != nil {
		t.Fatal(err)
	}
	commands := filepath.Join(broker.Data, commandsFile)
	const own = "commands:\n  - {name: beep, permission: commands.status}\n"
	if err := os.WriteFile(commands, []byte(own), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := Standalone(t.Context(), api, broker)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, a)
	if got, err := os.ReadFile(commands); err != nil || string(got) != own {
		t.Errorf("the commands are now %q, %v", got, err)
	}
	if got, err := os.ReadFile(filepath.Join(broker.Data, rolesFile)); err != nil || string(got) != string(access.DefaultRoles()) {
		t.Errorf("the roles are %q, %v; want the default ones", got, err)
	}

	token, err := access.CreateToken(filepath.Join(broker.Data, tokensFile), "test", "admin", 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	url := "http://" + a.Ready().HTTP + "/v1/commands"
	if _, body := get(t, url, token); !strings.Contains(body, `"beep"`) {
		t.Errorf("the commands are %s, want those of the file", body)
	}

	// A bad version keeps the one before, and a metric says so.
	const metric = `signal_device_config_last_reload_successful{file="catalogue"} `
	if _, body := get(t, "http://"+a.Ready().Admin+"/metrics", ""); !strings.Contains(body, metric+"1") {
		t.Errorf("the catalogue is good, and the metrics do not say so")
	}
	if err := os.WriteFile(commands, []byte("commands: 5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(); err == nil {
		t.Error("a bad file was taken")
	}
	if _, body := get(t, url, token); !strings.Contains(body, `"beep"`) {
		t.Errorf("after a bad version the commands are %s, want those before it", body)
	}
	if _, body := get(t, "http://"+a.Ready().Admin+"/metrics", ""); !strings.Contains(body, metric+"0") {
		t.Errorf("the catalogue is bad, and the metrics do not say so")
	}
}
