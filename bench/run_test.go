package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signaldevice/access"
	"signaldevice/app"
	"signaldevice/testserver"
)

// testConfig is small and valid.
func testConfig(t *testing.T) Config {
	t.Helper()
	binary, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Cameras: 3, Clients: 2, Rate: 20, Duration: time.Second, Warmup: 100 * time.Millisecond, Rounds: 1,
		Timeout: 20 * time.Second, Command: "ping", Payload: 100, Binary: binary, Data: t.TempDir(), Seed: 1,
		FindLimit: false, P99: 50 * time.Millisecond, Probe: time.Second, Budget: time.Minute,
	}
}

func TestConfig_Validate(t *testing.T) {
	tests := map[string]struct {
		edit func(*Config)
		want string // what the error names; "": none
	}{
		"as built":                        {func(*Config) {}, ""},
		"no cameras":                      {func(c *Config) { c.Cameras = 0 }, "cameras"},
		"as many cameras as a broker has": {func(c *Config) { c.Cameras = maxCameras }, ""},
		"one more":                        {func(c *Config) { c.Cameras = maxCameras + 1 }, "cameras"},
		"no clients":                      {func(c *Config) { c.Clients = 0 }, "clients"},
		"the lowest rate":                 {func(c *Config) { c.Rate = lowestRate }, ""},
		"a lower one":                     {func(c *Config) { c.Rate = lowestRate / 2 }, "rate"},
		"too fast":                        {func(c *Config) { c.Rate = highestRate + 1 }, "rate"},
		"no time":                         {func(c *Config) { c.Duration = time.Second - 1 }, "duration"},
		"a warm-up before the start":      {func(c *Config) { c.Warmup = -1 }, "warmup"},
		"no round":                        {func(c *Config) { c.Rounds = 0 }, "rounds"},
		"too many rounds":                 {func(c *Config) { c.Rounds = maxRounds + 1 }, "rounds"},
		"no patience":                     {func(c *Config) { c.Timeout = 0 }, "timeout"},
		"the largest reply":               {func(c *Config) { c.Payload = maxPayload }, ""},
		"a larger one":                    {func(c *Config) { c.Payload = maxPayload + 1 }, "payload"},
		"no command":                      {func(c *Config) { c.Command = "" }, "command"},
		"beside all others":               {func(c *Config) { c.Against = []string{Floor, Bridge} }, ""},
		"beside something unknown":        {func(c *Config) { c.Against = []string{"kafka"} }, "against"},
		"a limit without a bound":         {func(c *Config) { c.FindLimit, c.P99 = true, 0 }, "p99"},
		"a limit without time":            {func(c *Config) { c.FindLimit, c.Budget = true, 0 }, "budget"},
		"negative idle cameras":           {func(c *Config) { c.Idle = -1 }, "idle"},
		"a running API":                   {func(c *Config) { c.Server, c.Tokens = "http://127.0.0.1:1", []string{"t"} }, ""},
		"one without a token":             {func(c *Config) { c.Server = "http://127.0.0.1:1" }, "token"},
		"one that is no URL":              {func(c *Config) { c.Server, c.Tokens = "127.0.0.1:1", []string{"t"} }, "server"},
		"one with a cache of ours":        {func(c *Config) { c.Server, c.Tokens, c.Redis = "http://a", []string{"t"}, "start" }, "redis"},
	}
	for name, tt := range tests {
		c := testConfig(t)
		tt.edit(&c)
		err := c.Validate()
		switch {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
			t.Errorf("%s: %v, want an error that names %s", name, err, tt.want)
		}
	}
}

// The floor and the bridge carry every exchange through real servers, and tell each of its steps in order.
func TestSystems_CarryExchanges(t *testing.T) {
	for _, name := range []string{Floor, Bridge} {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig(t)
			s, err := startSystem(t.Context(), cfg, name, cfg.Data)
			if err != nil {
				t.Fatal(err)
			}
			defer s.stop()
			for n := range 2 * cfg.Cameras * cfg.Clients { // each camera by each client, twice
				ctx, cancel := context.WithTimeout(t.Context(), cfg.Timeout)
				began := time.Now()
				got, err := s.exchange(ctx, n)
				cancel()
				if err != nil {
					t.Fatalf("exchange %d: %v", n, err)
				}
				if got.sent.Before(began) || got.delivered.Before(began) || got.done.Before(got.sent) || got.done.Before(got.delivered) {
					t.Errorf("exchange %d: sent %v, delivered %v, done %v", n,
						got.sent.Sub(began), got.delivered.Sub(began), got.done.Sub(began))
				}
			}
			if lost := s.cameras.lost.Load(); lost != 0 {
				t.Errorf("%d cameras lost their connection", lost)
			}
		})
	}
}

// A camera that is gone makes an exchange fail in time, with a kind.
func TestSystems_ACameraThatIsGoneIsAFailure(t *testing.T) {
	cfg := testConfig(t)
	s, err := startSystem(t.Context(), cfg, Floor, cfg.Data)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	s.cameras.close()
	samples := load{
		schedule: slices.Values([]time.Duration{0}), exchange: s.exchange, timeout: 200 * time.Millisecond, nap: nap,
	}.run(t.Context())
	if len(samples) != 1 || samples[0].failure != failedTimeout {
		t.Errorf("%+v, want a timeout", samples)
	}
}

// startAPI starts the whole program in this process and returns its URL and a token that may do everything.
func startAPI(t *testing.T, redis string) (base, token string) {
	t.Helper()
	data := filepath.Join(t.TempDir(), "data")
	api := app.APIOptions{HTTP: anyPort, Admin: anyPort, ReplyGrace: 30 * time.Second, Redis: redis}
	a, err := app.Standalone(t.Context(), api, app.BrokerOptions{Data: data, MQTT: anyPort, GRPC: anyPort, Admin: anyPort})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if token, err = access.CreateToken(filepath.Join(data, "tokens.yaml"), "bench", admin, 0); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	return "http://" + a.Ready().HTTP, token
}

// A running API is measured with no exchange lost, and is left as it was found.
func TestRun_MeasuresARunningAPI(t *testing.T) {
	base, token := startAPI(t, testserver.Redis(t).URL)
	cfg := testConfig(t)
	cfg.Server, cfg.Tokens, cfg.PIDs = base, []string{token}, map[string]int{"standalone": os.Getpid()}
	cfg.Duration, cfg.Poisson = 3*time.Second, true
	var mu sync.Mutex
	var stages []string
	cfg.Progress = func(s Status) {
		mu.Lock()
		defer mu.Unlock()
		if len(stages) == 0 || stages[len(stages)-1] != s.Stage {
			stages = append(stages, s.Stage)
		}
	}

	report, err := Run(t.Context(), cfg)

	if err != nil {
		t.Fatal(err)
	}
	l := report.Systems[0].Load
	if l.Completed == 0 || l.Completed != l.Scheduled || len(l.Errors) != 0 || l.CamerasLost != 0 {
		t.Errorf("%d of %d exchanges, errors %v, %d cameras lost", l.Completed, l.Scheduled, l.Errors, l.CamerasLost)
	}
	if l.Sent.Count != l.Completed || l.Delivered.Count != l.Completed || l.Done.P50 < l.Sent.P50 {
		t.Errorf("steps %+v, %+v, %+v", l.Sent, l.Delivered, l.Done)
	}
	if len(l.Processes) != 2 || l.Processes[0].Name != "standalone" || l.Processes[0].RSS == 0 {
		t.Errorf("processes %+v", l.Processes)
	}
	if want := []string{"looking at the machine", "signal-device: starting, with 3 cameras", Ours, "stopping"}; !slices.Equal(stages, want) {
		t.Errorf("stages %q, want %q", stages, want)
	}
	left := devices(t, base, token)
	if left != 0 {
		t.Errorf("%d devices are left behind", left)
	}
	if files, err := os.ReadDir(cfg.Data); err != nil || len(files) != 0 {
		t.Errorf("files are left behind: %v, %v", files, err)
	}
}

// Idle cameras are connected, looked at and gone before the load begins.
func TestRun_LooksAtMemoryWithIdleCameras(t *testing.T) {
	base, token := startAPI(t, "")
	cfg := testConfig(t)
	cfg.Server, cfg.Tokens, cfg.PIDs = base, []string{token}, map[string]int{"standalone": os.Getpid()}
	cfg.Idle, cfg.Rest = 20, time.Millisecond
	report, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	idle := report.Idle
	if idle.Cameras != 20 || idle.Connect <= 0 || len(idle.Processes) != 1 {
		t.Fatalf("%+v", idle)
	}
	if p := idle.Processes[0]; p.Process != "standalone" || p.Before <= 0 || p.Peak < p.After {
		t.Errorf("%+v", p)
	}
	if left := devices(t, base, token); left != 0 {
		t.Errorf("%d devices are left behind", left)
	}
}

// The search runs against the real program too; what it finds depends on the machine, that it finds something does not.
func TestRun_FindsALimit(t *testing.T) {
	base, token := startAPI(t, "")
	cfg := testConfig(t)
	cfg.Server, cfg.Tokens = base, []string{token}
	cfg.FindLimit, cfg.P99, cfg.Budget = true, time.Minute, time.Second // one probe, under a bound that is always kept
	report, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if l := report.Systems[0].Limit; l == nil || l.Rate != cfg.Rate || len(l.Probes) != 1 || !l.Probes[0].Kept {
		t.Errorf("%+v, want the first rate kept", l)
	}
}

// An API that refuses tells why, and nothing is measured.
func TestRun_TellsWhyAnAPIRefuses(t *testing.T) {
	base, token := startAPI(t, "")
	tests := map[string]struct {
		edit func(*Config)
		want string
	}{
		"a wrong token":   {func(c *Config) { c.Tokens = []string{"sdt_wrong"} }, "unauthenticated"},
		"nobody is there": {func(c *Config) { c.Server = "http://127.0.0.1:1" }, "connection refused"},
	}
	for name, tt := range tests {
		cfg := testConfig(t)
		cfg.Server, cfg.Tokens = base, []string{token}
		tt.edit(&cfg)
		if _, err := Run(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %s", name, err, tt.want)
		}
	}
}

// An unknown command fails exchange by exchange, and the report says with which code.
func TestRun_CountsFailuresByKind(t *testing.T) {
	base, token := startAPI(t, "")
	cfg := testConfig(t)
	cfg.Server, cfg.Tokens, cfg.Command = base, []string{token}, "fly"
	report, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	l := report.Systems[0].Load
	if l.Completed != 0 || l.Errors["unknown_command"] != l.Scheduled || l.Scheduled == 0 {
		t.Errorf("%d of %d exchanges, errors %v", l.Completed, l.Scheduled, l.Errors)
	}
	var page bytes.Buffer
	if err := report.WriteHTML(&page); err != nil {
		t.Error(err)
	}
}

// A run that is stopped stops, says so, and leaves nothing behind.
func TestRun_StopsWhenItIsTold(t *testing.T) {
	base, token := startAPI(t, "")
	cfg := testConfig(t)
	cfg.Server, cfg.Tokens, cfg.Duration = base, []string{token}, time.Hour
	ctx, stop := context.WithCancelCause(t.Context())
	enough := errors.New("enough")
	cfg.Progress = func(s Status) {
		if s.Stage == Ours {
			stop(enough)
		}
	}
	if _, err := Run(ctx, cfg); !errors.Is(err, enough) {
		t.Errorf("%v, want that it was stopped", err)
	}
	if left := devices(t, base, token); left != 0 {
		t.Errorf("%d devices are left behind", left)
	}
}

// devices counts the registered devices.
func devices(t *testing.T, base, token string) int {
	t.Helper()
	c := newHTTPClient(base, []string{token})
	defer c.close()
	var page struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := c.call(t.Context(), token, http.MethodGet, "/v1/devices", nil, &page); err != nil {
		t.Fatal(err)
	}
	return len(page.Items)
}
