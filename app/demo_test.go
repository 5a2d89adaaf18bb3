package app

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

func testDemo() DemoOptions {
	return DemoOptions{
		API:     APIOptions{HTTP: anyPort, Admin: anyPort},
		Broker:  BrokerOptions{MQTT: anyPort, GRPC: anyPort},
		Cameras: 2,
	}
}

func TestDemo_HasCamerasAndTokensAndLeavesNothing(t *testing.T) {
	d, err := Demo(t.Context(), testDemo())
	if err != nil {
		t.Fatal(err)
	}
	at := d.Ready()
	for _, role := range demoRoles {
		status, body := get(t, "http://"+at.HTTP+"/v1/me", at.Tokens[role])
		var me struct{ Client, Role string }
		if err := json.Unmarshal([]byte(body), &me); err != nil || status != http.StatusOK || me.Client != "demo-"+role || me.Role != role {
			t.Errorf("%s: %d %s", role, status, body)
		}
	}
	status, body := get(t, "http://"+at.HTTP+"/v1/devices/"+d.CameraID, at.Tokens["viewer"])
	if status != http.StatusOK || !strings.Contains(body, `"online":true`) {
		t.Errorf("the first camera is %d %s, want one that is online", status, body)
	}

	stop(t, d.App)
	if _, err := os.Stat(at.CA); !os.IsNotExist(err) {
		t.Errorf("the temporary data are still there: %v", err)
	}
}

func TestDemo_CanBeStartedAgainInItsFolder(t *testing.T) {
	o := testDemo()
	o.Broker.Data = t.TempDir()
	for range 2 {
		d, err := Demo(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		_, body := get(t, "http://"+d.Ready().HTTP+"/v1/devices", d.Ready().Tokens["viewer"])
		if n := strings.Count(body, `"name":"camera-`); n != o.Cameras {
			t.Errorf("there are %d cameras, want %d: %s", n, o.Cameras, body)
		}
		stop(t, d.App)
	}
}

func TestDemoOptions_Validate(t *testing.T) {
	tests := map[string]struct {
		edit func(*DemoOptions)
		want string // in the error; "": none
	}{
		"as built":              {func(*DemoOptions) {}, ""},
		"localhost":             {func(o *DemoOptions) { o.API.HTTP = "localhost:0" }, ""},
		"IPv6 loopback":         {func(o *DemoOptions) { o.API.HTTP = "[::1]:0" }, ""},
		"another loopback":      {func(o *DemoOptions) { o.API.HTTP = "127.9.9.9:0" }, ""},
		"http everywhere":       {func(o *DemoOptions) { o.API.HTTP = ":8080" }, "http: "},
		"admin everywhere":      {func(o *DemoOptions) { o.API.Admin = "0.0.0.0:0" }, "admin: "},
		"mqtt on IPv6":          {func(o *DemoOptions) { o.Broker.MQTT = "[::]:0" }, "mqtt: "},
		"grpc on a real one":    {func(o *DemoOptions) { o.Broker.GRPC = "192.0.2.1:0" }, "grpc: "},
		"a name":                {func(o *DemoOptions) { o.API.HTTP = "example.org:0" }, "http: "},
		"no port":               {func(o *DemoOptions) { o.API.HTTP = "127.0.0.1" }, "http: "},
		"no cameras":            {func(o *DemoOptions) { o.Cameras = 0 }, ""},
		"fewer than none":       {func(o *DemoOptions) { o.Cameras = -1 }, "cameras: "},
		"cameras at the limit":  {func(o *DemoOptions) { o.Cameras = maxDemoCameras }, ""},
		"one camera over":       {func(o *DemoOptions) { o.Cameras = maxDemoCameras + 1 }, "cameras: "},
		"a name of this prefix": {func(o *DemoOptions) { o.API.HTTP = "localhost.example.org:0" }, "http: "},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			o := testDemo()
			tt.edit(&o)
			err := o.Validate()
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestOnlyLoopbackHosts(t *testing.T) {
	h := onlyLoopbackHosts(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }))
	tests := map[string]int{
		"127.0.0.1":             http.StatusNoContent,
		"127.0.0.1:8080":        http.StatusNoContent,
		"localhost":             http.StatusNoContent,
		"localhost:8080":        http.StatusNoContent,
		"[::1]:8080":            http.StatusNoContent,
		"[::1]":                 http.StatusNoContent,
		"evil.example":          http.StatusMisdirectedRequest,
		"evil.example:8080":     http.StatusMisdirectedRequest,
		"localhost.evil:80":     http.StatusMisdirectedRequest,
		"127.0.0.1.evil:80":     http.StatusMisdirectedRequest,
		"192.0.2.1:8080":        http.StatusMisdirectedRequest,
		"":                      http.StatusMisdirectedRequest,
		"localhost@evil.com:80": http.StatusMisdirectedRequest,
	}
	for host, want := range tests {
		t.Run(host, func(t *testing.T) {
			r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "/v1/me", nil)
			r.Host = host
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != want {
				t.Errorf("answered %d, want %d", w.Code, want)
			}
			if want != http.StatusNoContent && !json.Valid(w.Body.Bytes()) {
				t.Errorf("the problem is no JSON: %s", w.Body)
			}
		})
	}
}
