package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The demonstration is the first thing that a newcomer starts: what it prints must work when it is pasted.

func TestDemoPrintsCommandsThatWork(t *testing.T) {
	began := time.Now()
	p := start(t, "demo", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
	var script []string
	waitFor(t, startTimeout, "the commands to try", func() bool {
		script = pasted(read(t, p.out))
		return len(script) >= 3
	})
	t.Logf("printed after %s under the race detector", time.Since(began))

	replied := false
	for _, line := range script {
		out := run(t, "bash", "-c", line)
		if !json.Valid([]byte(out)) {
			t.Errorf("%s\nprinted %s, want JSON", line, out)
		}
		var got replies
		if json.Unmarshal([]byte(out), &got) == nil && len(got.Replies) > 0 {
			replied = true
		}
	}
	if !replied {
		t.Errorf("none of these brought a camera's reply:\n%s", strings.Join(script, "\n"))
	}
	if code := p.terminate(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// pasted returns the commands of a text: each line that begins with curl, with the lines that a backslash joins to it.
func pasted(text string) []string {
	var script []string
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "curl ") {
			script = append(script, line)
		}
	}
	return script
}

func TestDemo(t *testing.T) {
	data := filepath.Join(t.TempDir(), "demo")
	p := start(t, "demo", "--data", data, "--cameras", "2",
		"--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
	admin := api{t: t, token: p.Tokens["admin"]}.at(p)
	operator := api{t: t, token: p.Tokens["operator"]}.at(p)
	viewer := api{t: t, token: p.Tokens["viewer"]}.at(p)

	t.Run("has the cameras asked for, and they answer", func(t *testing.T) {
		devices := admin.devices()
		if len(devices) != 2 {
			t.Fatalf("there are %d cameras, want 2", len(devices))
		}
		for _, id := range devices {
			operator.waitOnline(id)
			if got := operator.ping(id, "Prefer: wait=10"); got.State != "answered" {
				t.Errorf("%s answered %+v", id, got)
			}
		}
		viewer.call("POST", "/v1/devices/"+devices[0]+"/commands", `{"command":"ping"}`).refused(http.StatusForbidden, "forbidden")
	})
	t.Run("leaves its configuration to be edited", func(t *testing.T) {
		for _, name := range []string{"commands.yaml", "roles.yaml"} {
			if _, err := os.Stat(filepath.Join(data, name)); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("answers only to the names of this machine", func(t *testing.T) {
		for host, want := range map[string]int{
			p.HTTP: 200, "localhost:" + p.HTTP[strings.LastIndexByte(p.HTTP, ':')+1:]: 200,
			"evil.example": http.StatusMisdirectedRequest, "evil.example:80": http.StatusMisdirectedRequest,
		} {
			req, err := http.NewRequestWithContext(t.Context(), "GET", admin.base+"/v1/me", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Host, req.Close = host, true
			req.Header.Set("Authorization", "Bearer "+admin.token)
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("Host %s: %d, want %d", host, res.StatusCode, want)
			}
		}
	})
}

func TestDemoStaysOnThisMachine(t *testing.T) {
	for _, flag := range []string{"--http", "--admin", "--mqtt", "--grpc"} {
		t.Run(flag, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "signal-device", "demo", flag, "0.0.0.0:0").CombinedOutput()
			if err == nil || !strings.Contains(string(out), "loopback") || !strings.Contains(string(out), flag[2:]+": ") {
				t.Errorf("ended with %v and said %q, want a refusal that names the flag", err, out)
			}
		})
	}
}
