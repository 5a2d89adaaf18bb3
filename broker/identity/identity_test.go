package identity

import (
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var now = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func mustOpen(t *testing.T, dir string, cfg Config) *Identity {
	t.Helper()
	if cfg.Clock == nil {
		cfg.Clock = at(now)
	}
	id, err := Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var files = []string{
	"device-ca.pem", "device-ca.key", "service-ca.pem", "service-ca.key", "ca.pem",
	"server.pem", "server.key", "service.pem", "service.key", "operator.pem", "operator.key",
}

func TestOpen_FirstStartMakesAllFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	mustOpen(t, dir, Config{})
	for _, name := range files {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if want := os.FileMode(0o600); strings.HasSuffix(name, ".key") && info.Mode().Perm() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode().Perm(), want)
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != len(files) {
		t.Errorf("%d files in the folder, want %d: %v", len(entries), len(files), entries)
	}
}

func TestOpen_AgainChangesNothing(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir, Config{Hosts: []string{"broker.example", "192.0.2.7"}})
	before := map[string]string{}
	for _, name := range files {
		before[name] = read(t, dir, name)
	}
	mustOpen(t, dir, Config{Hosts: []string{"192.0.2.7", "Broker.Example", "localhost"}, Clock: at(now.Add(time.Hour))})
	for _, name := range files {
		if read(t, dir, name) != before[name] {
			t.Errorf("%s was changed", name)
		}
	}
}

// I9: a first start that was killed after any of its writes is finished by the next one, and what was written stays.
func TestOpen_FinishesAStartThatWasKilled(t *testing.T) {
	whole := t.TempDir()
	mustOpen(t, whole, Config{})
	order := []string{
		"device-ca.key", "device-ca.pem", "service-ca.key", "service-ca.pem", "ca.pem",
		"server.key", "server.pem", "service.key", "service.pem", "operator.key", "operator.pem",
	}
	for n := range order {
		t.Run("killed before "+order[n], func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range order[:n] {
				write(t, read(t, whole, name), dir, name)
			}
			write(t, "half of a fi", dir, order[n]+".tmp")
			mustOpen(t, dir, Config{})
			for _, name := range order[:n] {
				if read(t, dir, name) != read(t, whole, name) {
					t.Errorf("%s was changed", name)
				}
			}
			mustOpen(t, dir, Config{})
		})
	}
}

func write(t *testing.T, content string, path ...string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(path...), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_NamesTheFileAtFault(t *testing.T) {
	other := t.TempDir()
	mustOpen(t, other, Config{})
	tests := map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"a CA's key is missing":   {func(t *testing.T, dir string) { remove(t, dir, "service-ca.key") }, "service-ca.key is missing"},
		"a leaf's key is missing": {func(t *testing.T, dir string) { remove(t, dir, "operator.key") }, "operator.key is missing"},
		"a certificate is cut short": {func(t *testing.T, dir string) {
			write(t, read(t, dir, "device-ca.pem")[:200], dir, "device-ca.pem")
		}, "device-ca.pem"},
		"a key is cut short": {func(t *testing.T, dir string) {
			write(t, read(t, dir, "server.key")[:60], dir, "server.key")
		}, "server.key"},
		"a file is empty":         {func(t *testing.T, dir string) { write(t, "", dir, "service.pem") }, "service.pem"},
		"a certificate and a key": {func(t *testing.T, dir string) { write(t, read(t, dir, "server.key"), dir, "server.pem") }, "server.pem"},
		"a pair that does not match": {func(t *testing.T, dir string) {
			write(t, read(t, other, "device-ca.key"), dir, "device-ca.key")
		}, "device-ca.pem does not belong"},
		"a leaf of another broker": {func(t *testing.T, dir string) {
			write(t, read(t, other, "service.pem"), dir, "service.pem")
			write(t, read(t, other, "service.key"), dir, "service.key")
		}, "service.pem was not signed by"},
		"another broker's ca.pem": {func(t *testing.T, dir string) { write(t, read(t, other, "ca.pem"), dir, "ca.pem") }, "ca.pem"},
		"a leaf in a CA's place": {func(t *testing.T, dir string) {
			write(t, read(t, dir, "server.pem"), dir, "device-ca.pem")
			write(t, read(t, dir, "server.key"), dir, "device-ca.key")
		}, "device-ca.pem is not the certificate of a CA"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mustOpen(t, dir, Config{})
			tt.spoil(t, dir)
			spoilt := map[string]string{}
			for _, f := range files {
				b, _ := os.ReadFile(filepath.Join(dir, f))
				spoilt[f] = string(b)
			}
			_, err := Open(dir, Config{Clock: at(now)})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Open: %v, want an error with %q", err, tt.want)
			}
			for _, f := range files {
				if b, _ := os.ReadFile(filepath.Join(dir, f)); string(b) != spoilt[f] {
					t.Errorf("%s was changed by the failed start", f)
				}
			}
		})
	}
}

func remove(t *testing.T, path ...string) {
	t.Helper()
	if err := os.Remove(filepath.Join(path...)); err != nil {
		t.Fatal(err)
	}
}

func TestOpen_RenewsTheServerCertificate(t *testing.T) {
	tests := map[string]struct {
		hosts   []string
		after   time.Duration
		renewed bool
	}{
		"31 days left":    {nil, leafLifetime - 31*24*time.Hour, false},
		"29 days left":    {nil, leafLifetime - 29*24*time.Hour, true},
		"long expired":    {nil, leafLifetime + 1000*time.Hour, true},
		"a host more":     {[]string{"broker.example"}, 0, true},
		"an address more": {[]string{"192.0.2.7"}, 0, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mustOpen(t, dir, Config{})
			cert, key := read(t, dir, "server.pem"), read(t, dir, "server.key")
			later := now.Add(tt.after)
			id := mustOpen(t, dir, Config{Hosts: tt.hosts, Clock: at(later)})
			if got := read(t, dir, "server.pem") != cert; got != tt.renewed {
				t.Errorf("renewed: %v, want %v", got, tt.renewed)
			}
			if read(t, dir, "server.key") != key {
				t.Error("the key was replaced")
			}
			for _, host := range append(tt.hosts, "localhost", "127.0.0.1", "::1") {
				if err := verifyServer(id, host, later); err != nil {
					t.Errorf("%s: %v", host, err)
				}
			}
		})
	}
}

func verifyServer(id *Identity, host string, at time.Time) error {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(id.CA()))
	_, err := id.ServerCertificate().Leaf.Verify(x509.VerifyOptions{
		Roots: roots, DNSName: host, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

func TestOpen_RefusesBadHosts(t *testing.T) {
	for _, host := range []string{"", "a b", "host:443", "https://x", "[::1]", strings.Repeat("a", 254)} {
		dir := filepath.Join(t.TempDir(), "data")
		if _, err := Open(dir, Config{Hosts: []string{host}}); err == nil {
			t.Errorf("%q was taken", host)
		}
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%q: the folder was made all the same", host)
		}
	}
}

func TestOpen_RefusesAnExpiredCA(t *testing.T) {
	dir := t.TempDir()
	mustOpen(t, dir, Config{})
	_, err := Open(dir, Config{Clock: at(now.Add(caLifetime + time.Hour))})
	if err == nil || !strings.Contains(err.Error(), "device-ca.pem expired") {
		t.Fatalf("Open: %v", err)
	}
}

func TestIssueTo_WritesAUsableClient(t *testing.T) {
	id := mustOpen(t, t.TempDir(), Config{})
	out := filepath.Join(t.TempDir(), "new")
	if err := id.IssueTo(out, RoleOperator); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "openssl", "verify", "-purpose", "sslclient", "-attime", "1795608000",
		"-CAfile", filepath.Join(out, "ca.pem"), filepath.Join(out, "operator.pem"))
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl verify: %v\n%s", err, text)
	}
	if err := id.IssueTo(out, RoleService); err != nil {
		t.Errorf("another role into the same folder: %v", err)
	}
	before := read(t, out, "operator.key")
	if err := id.IssueTo(out, RoleOperator); err == nil || !strings.Contains(err.Error(), "operator.key exists already") {
		t.Errorf("again: %v", err)
	}
	if read(t, out, "operator.key") != before {
		t.Error("the key was replaced")
	}
	if err := id.IssueTo(out, "root"); err == nil {
		t.Error("an unknown role was issued")
	}
}

// The broker may be running on its folder, with hosts that the command line does not know.
func TestIssueFrom_ChangesNothingInTheBrokersFolder(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	mustOpen(t, dir, Config{Hosts: []string{"broker.example"}, Clock: time.Now})
	before := map[string]string{}
	for _, name := range files {
		before[name] = read(t, dir, name)
	}
	if err := IssueFrom(dir, out, RoleService); err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if read(t, dir, name) != before[name] {
			t.Errorf("%s was changed", name)
		}
	}
	id := mustOpen(t, dir, Config{Hosts: []string{"broker.example"}, Clock: time.Now})
	if role, err := id.roleOf(keyPair(t, out, "service").Leaf); role != RoleService || err != nil {
		t.Errorf("the new certificate has role %q, %v", role, err)
	}

	empty := t.TempDir()
	if err := IssueFrom(empty, out, RoleOperator); err == nil || !strings.Contains(err.Error(), "service-ca.pem") {
		t.Errorf("from an empty folder: %v", err)
	}
	if entries, _ := os.ReadDir(empty); len(entries) != 0 {
		t.Error("something was made in an empty folder")
	}
	remove(t, dir, "service-ca.key")
	if err := IssueFrom(dir, out, RoleOperator); err == nil || !strings.Contains(err.Error(), "service-ca.key") {
		t.Errorf("without the CA's key: %v", err)
	}
}
