package camera

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// api is the enrolment call of the HTTP API, as a camera meets it.
type api struct {
	*httptest.Server
	site *site

	mu      sync.Mutex
	calls   []enrolRequest
	keys    []string                                   // public keys of the CSRs
	refuse  func(call int, w http.ResponseWriter) bool // answers instead, where it returns true
	edit    func(answer map[string]any)
	granted int
}

func newAPI(s *site) *api {
	a := &api{site: s}
	a.Server = httptest.NewServer(http.HandlerFunc(a.enrol))
	s.t.Cleanup(a.Close)
	s.t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return a
}

func (a *api) enrol(w http.ResponseWriter, r *http.Request) {
	t := a.site.t
	a.mu.Lock()
	defer a.mu.Unlock()
	var ask enrolRequest
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	if err := d.Decode(&ask); err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/enrol" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("%s %s: %v", r.Method, r.URL, err)
	}
	a.calls = append(a.calls, ask)
	if a.refuse != nil && a.refuse(len(a.calls), w) {
		return
	}
	block, _ := pem.Decode([]byte(ask.CSR))
	csr := must(x509.ParseCertificateRequest(block.Bytes))(t)
	if err := csr.CheckSignature(); err != nil {
		t.Errorf("CSR: %v", err)
	}
	a.keys = append(a.keys, string(must(csr.PublicKey.(*ecdsa.PublicKey).Bytes())(t)))
	a.granted++
	answer := map[string]any{
		"id": "dev42", "name": ask.Name, "labels": map[string]string{"city": "north"},
		"certificates": []any{map[string]string{"fingerprint": strings.Repeat("0", 40), "not_after": "2030-01-01T00:00:00Z"}},
		"certificate":  string(must(a.site.authority.Sign("dev42", csr.PublicKey))(t)),
		"ca":           string(a.site.authority.PEM),
		"mqtt":         a.site.url(),
		"topics":       map[string]string{"commands": "$devices/dev42/commands", "events": "$devices/dev42/events"},
	}
	if a.edit != nil {
		a.edit(answer)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		t.Errorf("answer: %v", err)
	}
}

func (a *api) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.calls)
}

func TestEnrol_OnceAndThenTheFolderIsUsed(t *testing.T) {
	s := newSite(t)
	a := newAPI(s)
	dir := filepath.Join(t.TempDir(), "camera", "one")
	cfg := Config{Name: "taxi-7", API: a.URL + "/", Code: "secret-code", Folder: dir, Pace: time.Millisecond}
	for i := range 2 {
		c := must(New(cfg))(t)
		stop := run(t, c.Run)
		s.waitFor("the camera to be ready", c.Ready())
		if c.ID() != "dev42" {
			t.Errorf("id %q", c.ID())
		}
		id := fmt.Sprint("r", i)
		s.send("dev42", id, "get_status", "")
		if r := s.replies(id)[0]; !strings.Contains(r.body, `"name":"taxi-7"`) {
			t.Errorf("status: %s", r.body)
		}
		stop()
		cfg.Code, cfg.API = "spent", "" // a second start needs neither
	}
	if a.count() != 1 || a.calls[0].Code != "secret-code" || a.calls[0].Name != "taxi-7" {
		t.Errorf("enrolled with %+v", a.calls)
	}
	files := must(os.ReadDir(dir))(t)
	if len(files) != 4 {
		t.Errorf("files: %v", files)
	}
	for _, f := range files {
		if mode := must(f.Info())(t).Mode(); mode != 0o600 {
			t.Errorf("%s has mode %v", f.Name(), mode)
		}
	}
	if mode := must(os.Stat(dir))(t).Mode().Perm(); mode != 0o700 {
		t.Errorf("the folder has mode %v", mode)
	}
}

func TestEnrol_TriesAgainWithTheSameKey(t *testing.T) {
	tests := map[string]func(call int, w http.ResponseWriter) bool{
		"the API has no broker": func(call int, w http.ResponseWriter) bool {
			if call > 1 {
				return false
			}
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprint(w, `{"code":"broker_unavailable","detail":"later"}`)
			return true
		},
		"too many calls": func(call int, w http.ResponseWriter) bool {
			if call > 1 {
				return false
			}
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		},
		"the connection breaks": func(call int, w http.ResponseWriter) bool {
			if call > 1 {
				return false
			}
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				conn.Close()
			}
			return true
		},
	}
	s := newSite(t)
	for name, refuse := range tests {
		t.Run(name, func(t *testing.T) {
			a := newAPI(s)
			a.refuse = refuse
			c := must(New(Config{Name: "taxi", API: a.URL, Code: "code"}))(t)
			stop := run(t, c.Run)
			s.waitFor("the camera to be ready", c.Ready())
			stop()
			if a.count() != 2 || a.calls[0] != a.calls[1] {
				t.Errorf("calls: %+v", a.calls)
			}
		})
	}
}

// The answer to the first enrolment is lost with the process: the second process asks with the key of the first.
func TestEnrol_KeepsTheKeyOfAnEnrolmentThatWasCutOff(t *testing.T) {
	s := newSite(t)
	a := newAPI(s)
	dir := t.TempDir()
	cfg := Config{Name: "taxi", API: a.URL, Code: "code", Folder: dir}
	first := must(New(cfg))(t)
	ctx, cancel := context.WithCancel(t.Context())
	a.edit = func(map[string]any) {
		cancel()
		panic(http.ErrAbortHandler) // the answer never comes
	}
	if err := first.Run(ctx); err != nil {
		t.Fatalf("Run: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, descriptionFile)); err == nil {
		t.Fatal("the first camera has stored its identity")
	}
	a.mu.Lock()
	a.edit = nil
	a.mu.Unlock()
	c := must(New(cfg))(t)
	run(t, c.Run)
	s.waitFor("the camera to be ready", c.Ready())
	if len(a.keys) != 2 || a.keys[0] != a.keys[1] {
		t.Errorf("keys: %v", a.keys)
	}
}

func TestEnrol_AFinalRefusalEndsRun(t *testing.T) {
	s := newSite(t)
	a := newAPI(s)
	a.refuse = func(_ int, w http.ResponseWriter) bool {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `{"type":"about:blank","status":403,"code":"invalid_code","detail":"the code is spent"}`)
		return true
	}
	dir := t.TempDir()
	err := must(New(Config{API: a.URL, Code: "code", Folder: dir}))(t).Run(t.Context())
	var refusal *EnrolmentError
	if !errors.As(err, &refusal) || *refusal != (EnrolmentError{403, "invalid_code", "the code is spent"}) {
		t.Errorf("Run: %v", err)
	}
	if a.count() != 1 {
		t.Errorf("%d calls", a.count())
	}
}

func TestEnrol_RefusesAnAnswerThatIsNoUse(t *testing.T) {
	s := newSite(t)
	foreign := s.issue("another").Cert
	tests := map[string]struct {
		edit func(map[string]any)
		want string
	}{
		"no id":                    {func(m map[string]any) { delete(m, "id") }, "id is missing"},
		"no certificate":           {func(m map[string]any) { delete(m, "certificate") }, "certificate"},
		"another's certificate":    {func(m map[string]any) { m["certificate"] = string(foreign) }, "does not match"},
		"no CA":                    {func(m map[string]any) { m["ca"] = "" }, "holds no certificate"},
		"no address of the broker": {func(m map[string]any) { delete(m, "mqtt") }, "ssl://host:port"},
		"one topic":                {func(m map[string]any) { m["topics"] = map[string]string{"events": "e"} }, "both topics"},
		"topics of another type":   {func(m map[string]any) { m["topics"] = 7 }, "cannot unmarshal"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			a := newAPI(s)
			a.edit = tt.edit
			dir := t.TempDir()
			err := must(New(Config{Name: "x", API: a.URL, Code: "code", Folder: dir}))(t).Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run: %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(dir, descriptionFile)); err == nil {
				t.Error("it was stored")
			}
		})
	}
}

func TestEnrol_ADamagedFolderIsNamed(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, descriptionFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := must(New(Config{Folder: dir}))(t).Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), descriptionFile) {
		t.Errorf("Run: %v", err)
	}
}

func TestEnrol_AFolderThatCannotBeWrittenCostsNoCode(t *testing.T) {
	s := newSite(t)
	a := newAPI(s)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := must(New(Config{API: a.URL, Code: "code", Folder: filepath.Join(file, "camera")}))(t).Run(t.Context()); err == nil {
		t.Error("Run: no error")
	}
	if a.count() != 0 {
		t.Errorf("%d calls", a.count())
	}
}

func TestEnrol_StopsWhenAsked(t *testing.T) {
	c := must(New(Config{API: "http://127.0.0.1:1", Code: "code"}))(t) // nothing listens there
	stop := run(t, c.Run)
	stop()
}

func TestBackoff_GrowsWithinItsBounds(t *testing.T) {
	b := backoff{rng: idle(t, Config{}).rng}
	var last time.Duration
	for i := range 12 {
		full := min(firstWait<<i, longWait)
		last = b.delay()
		if last > full || last <= full/2 {
			t.Errorf("wait %d: %s, want over %s, at most %s", i, last, full/2, full)
		}
	}
	b.reset()
	if d := b.delay(); d > firstWait {
		t.Errorf("after a reset: %s, the longest was %s", d, last)
	}
}
