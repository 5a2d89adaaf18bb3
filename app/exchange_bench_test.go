package app

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"signaldevice/access"
	"signaldevice/camera"
	"signaldevice/testserver"
)

// BenchmarkExchange measures whole exchanges through everything that is real: an HTTP client sends a command with
// `Prefer: wait`, the API puts it in the broker over gRPC with mTLS, a simulated camera answers over MQTT with mTLS, the
// reply is stored with fsync, drained, cached, acknowledged and returned. Clients and cameras run in the same process, so
// the CPU figure holds theirs too. cpu-ms/exchange is user and system time of this process; redis-server's own comes on
// top.
func BenchmarkExchange(b *testing.B) {
	for _, cache := range []string{"memory", "redis"} {
		for _, workers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("cache=%s/workers=%d", cache, workers), func(b *testing.B) { benchmarkExchange(b, cache, workers) })
		}
	}
}

func benchmarkExchange(b *testing.B, cache string, workers int) {
	api := APIOptions{HTTP: anyPort, Admin: anyPort, ReplyGrace: 30 * time.Second}
	if cache == "redis" {
		api.Redis = testserver.Redis(b).URL
	}
	bo := BrokerOptions{Data: filepath.Join(b.TempDir(), "data"), MQTT: anyPort, GRPC: anyPort, Admin: anyPort}
	a, err := Standalone(b.Context(), api, bo)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Stop(context.WithoutCancel(b.Context())); err != nil {
			b.Error(err)
		}
	})
	token, err := access.CreateToken(filepath.Join(bo.Data, tokensFile), "bench", "admin", 0)
	if err != nil {
		b.Fatal(err)
	}
	if err := a.Reload(); err != nil {
		b.Fatal(err)
	}
	c := &caller{b: b, base: "http://" + a.Ready().HTTP, token: token, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}}
	b.Cleanup(c.http.CloseIdleConnections)
	ids := startCameras(b, c, workers)

	latency := make([][]time.Duration, workers)
	var left atomic.Int64
	left.Store(int64(b.N))
	b.ResetTimer()
	before := cpu(b)
	var wg sync.WaitGroup
	for i, id := range ids {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				begin := time.Now()
				c.exchange(id)
				latency[i] = append(latency[i], time.Since(begin))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "exchanges/s")
	b.ReportMetric((cpu(b)-before).Seconds()*1000/float64(b.N), "cpu-ms/exchange")
	reportPercentiles(b, latency)
}

// caller is an HTTP client with a token.
type caller struct {
	b     *testing.B
	base  string
	token string
	http  *http.Client
}

func (c *caller) post(path string, header http.Header, body, answer any) int {
	data, err := json.Marshal(body)
	if err != nil {
		c.b.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.b.Context(), http.MethodPost, c.base+path, bytes.NewReader(data))
	if err != nil {
		c.b.Fatal(err)
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", "application/json")
	res, err := c.http.Do(req)
	if err != nil {
		c.b.Error(err)
		return 0
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || res.StatusCode >= 300 || json.Unmarshal(got, answer) != nil {
		c.b.Errorf("%s: %d %s %v", path, res.StatusCode, got, err)
	}
	return res.StatusCode
}

func (c *caller) exchange(id string) {
	var answer struct {
		Replies []json.RawMessage `json:"replies"`
	}
	c.post("/v1/devices/"+id+"/commands", http.Header{"Prefer": {"wait=10"}}, map[string]any{"command": "ping"}, &answer)
	if len(answer.Replies) != 1 {
		c.b.Errorf("%d replies", len(answer.Replies))
	}
}

// startCameras registers and starts simulated cameras, and returns their device ids.
func startCameras(b *testing.B, c *caller, n int) []string {
	cameras := make([]camera.Config, n)
	for i := range cameras {
		var code struct {
			Code string `json:"code"`
		}
		c.post("/v1/enrolment-codes", nil, map[string]any{}, &code)
		cameras[i] = camera.Config{Name: fmt.Sprintf("bench-%d", i), API: c.base, Code: code.Code, Seed: uint64(i)}
	}
	fleet, err := camera.NewFleet(camera.FleetConfig{Cameras: cameras})
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- fleet.Run(ctx) }()
	b.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	select {
	case <-fleet.Ready():
	case err := <-ended:
		b.Fatal(err)
	}
	ids := make([]string, n)
	for i, cam := range fleet.Cameras() {
		ids[i] = cam.ID()
	}
	return ids
}

// cpu is the user and system time that this process has used.
func cpu(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func reportPercentiles(b *testing.B, parts [][]time.Duration) {
	all := slices.Concat(parts...)
	slices.Sort(all)
	for name, q := range map[string]float64{"p50-ms": 0.50, "p99-ms": 0.99} {
		b.ReportMetric(all[int(float64(len(all)-1)*q)].Seconds()*1000, name)
	}
}
