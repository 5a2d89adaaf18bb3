package access

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"signaldevice/device"
)

func tokensPath(t testing.TB) string { return filepath.Join(t.TempDir(), "tokens.yaml") }

func create(t testing.TB, path, client, role string, validFor time.Duration) string {
	t.Helper()
	token, err := CreateToken(path, client, role, validFor)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func openTokens(t testing.TB, path string, clock func() time.Time) (*Tokens, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	tokens, err := OpenTokens(TokensConfig{Path: path, Clock: clock, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return tokens, &log
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestCreateToken_MakesATokenThatAuthenticates(t *testing.T) {
	path := tokensPath(t)
	panel := create(t, path, "panel", "operator", 0)
	script := create(t, path, `"shift"`, "viewer", time.Hour)
	if !strings.HasPrefix(panel, "sdt_") || len(panel) != len("sdt_")+43 || panel == script {
		t.Errorf("tokens are %q and %q", panel, script)
	}
	tokens, log := openTokens(t, path, nil)
	for token, want := range map[string]Identity{panel: {"panel", "operator"}, script: {`"shift"`, "viewer"}} {
		if got, err := tokens.Authenticate(token); err != nil || got != want {
			t.Errorf("got %+v and %v, want %+v", got, err, want)
		}
	}
	if log.Len() > 0 {
		t.Errorf("logged: %s", log)
	}
}

// Canary: whoever reads the file cannot use it.
func TestCreateToken_KeepsAHashAlone(t *testing.T) {
	path := tokensPath(t)
	token := create(t, path, "panel", "operator", 0)
	text := read(t, path)
	if strings.Contains(text, token) || strings.Contains(text, strings.TrimPrefix(token, TokenPrefix)) {
		t.Errorf("the token is in the file:\n%s", text)
	}
	if !strings.Contains(text, fmt.Sprintf("%x", sha256.Sum256([]byte(token)))) {
		t.Errorf("its hash is not:\n%s", text)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

func TestCreateToken_LeavesTheRestOfTheFileAsItIs(t *testing.T) {
	const entry = `- {client: a, role: viewer, created: 2026-01-01T00:00:00Z, sha256: "` + "%064x" + `"}`
	tests := map[string]string{
		"a file with comments":       "# mine\n" + fmt.Sprintf(entry, 1) + " # why\n",
		"a last line without an end": fmt.Sprintf(entry, 1),
		"comments alone":             "# mine\n",
		"nothing":                    "",
		"a written null":             "---\n",
	}
	for name, before := range tests {
		t.Run(name, func(t *testing.T) {
			path := tokensPath(t)
			write(t, path, before)
			token := create(t, path, "panel", "operator", 0)
			if after := read(t, path); !strings.HasPrefix(after, before) {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
			tokens, _ := openTokens(t, path, nil)
			if _, err := tokens.Authenticate(token); err != nil {
				t.Error(err)
			}
		})
	}
}

// I10: bad input changes nothing.
func TestCreateToken_RefusesAndChangesNothing(t *testing.T) {
	good := fmt.Sprintf(`- {client: a, role: viewer, created: 2026-01-01T00:00:00Z, sha256: "%064x"}`+"\n", 1)
	tests := map[string]struct {
		file, client, role string
		validFor           time.Duration
		want               string
	}{
		"no client":                 {good, "", "viewer", 0, "client must have 1 to 512 bytes"},
		"a client with a line end":  {good, "a\nb", "viewer", 0, "client must hold visible characters only"},
		"a client with a space":     {good, "a b", "viewer", 0, "client must hold visible characters only"},
		"a client of 513 bytes":     {good, strings.Repeat("a", 513), "viewer", 0, "client must have 1 to 512 bytes"},
		"no role":                   {good, "a", "", 0, "role must match"},
		"a role with a brace":       {good, "a", "viewer}", 0, "role must match"},
		"a role of 65 letters":      {good, "a", strings.Repeat("r", 65), 0, "role must match"},
		"a negative time":           {good, "a", "viewer", -1, "must not be negative"},
		"a file that is bad":        {"- {client: a}\n", "a", "viewer", 0, "is bad, nothing was added"},
		"a file of another kind":    {"clients: []\n", "a", "viewer", 0, "is bad, nothing was added"},
		"a list in another writing": {"[]\n", "a", "viewer", 0, "is no list with one token a line"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := tokensPath(t)
			write(t, path, tt.file)
			token, err := CreateToken(path, tt.client, tt.role, tt.validFor)
			if token != "" || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %q and %v, want %s", token, err, tt.want)
			}
			if after := read(t, path); after != tt.file {
				t.Errorf("the file is now:\n%s", after)
			}
		})
	}
	t.Run("at the limits", func(t *testing.T) {
		create(t, tokensPath(t), strings.Repeat("a", 512), strings.Repeat("r", 64), 0)
	})
}

func TestCreateToken_ReplacesTheFileBehindALink(t *testing.T) {
	dir := t.TempDir()
	target, link := filepath.Join(dir, "real.yaml"), filepath.Join(dir, "tokens.yaml")
	write(t, target, "")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	create(t, link, "panel", "viewer", 0)
	if info, err := os.Lstat(link); err != nil || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("the link is gone: %v, %v", info, err)
	}
	if !strings.Contains(read(t, target), "panel") {
		t.Error("the token is not in the file behind the link")
	}
}

func TestCreateToken_NeedsTheFolder(t *testing.T) {
	if _, err := CreateToken(filepath.Join(t.TempDir(), "none", "tokens.yaml"), "a", "b", 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// createEnv tells a copy of this test program to make tokens in the file that it names.
const createEnv = "ACCESS_TEST_CREATE_IN"

// Several processes, each with several goroutines, lose none of each other's tokens.
func TestCreateToken_ConcurrentProcessesLoseNothing(t *testing.T) {
	const processes, each = 3, 8
	if path := os.Getenv(createEnv); path != "" {
		createMany(t, path, each)
		return
	}
	path := tokensPath(t)
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^"+t.Name()+"$")
			cmd.Env = append(os.Environ(), createEnv+"="+path)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	wg.Wait()
	if got := strings.Count(read(t, path), "sha256"); got != processes*each {
		t.Errorf("%d tokens are there, want %d", got, processes*each)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".tokens-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func createMany(t *testing.T, path string, n int) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := CreateToken(path, fmt.Sprintf("client-%d", i), "viewer", 0); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestTokens_AuthenticateHasOneAnswerForAllThatIsWrong(t *testing.T) {
	path := tokensPath(t)
	good := create(t, path, "panel", "operator", time.Hour)
	now := time.Now()
	tokens, _ := openTokens(t, path, func() time.Time { return now })
	if _, err := tokens.Authenticate(good); err != nil {
		t.Fatal(err)
	}
	_, unknown := tokens.Authenticate(TokenPrefix + strings.Repeat("A", 43))
	if !device.Is(unknown, device.Unauthenticated) {
		t.Fatalf("got %v", unknown)
	}
	for name, token := range map[string]string{
		"nothing":               "",
		"the prefix alone":      TokenPrefix,
		"one letter less":       good[:len(good)-1],
		"one letter more":       good + "A",
		"white space around it": " " + good,
		"without the prefix":    strings.TrimPrefix(good, TokenPrefix),
		"its hash":              fmt.Sprintf("%x", sha256.Sum256([]byte(good))),
		"NUL":                   good + "\x00",
		"a megabyte":            strings.Repeat("A", 1<<20),
	} {
		if id, err := tokens.Authenticate(token); id != (Identity{}) || !device.Is(err, device.Unauthenticated) || err.Error() != unknown.Error() {
			t.Errorf("%s: got %+v and %v", name, id, err)
		}
	}
}

func TestTokens_Expire(t *testing.T) {
	path := tokensPath(t)
	write(t, path, fmt.Sprintf(`- {client: a, role: viewer, created: 2026-01-01T00:00:00Z, expires: 2026-02-01T00:00:00Z, sha256: "%x"}`, sha256.Sum256([]byte("secret"))))
	expires := time.Date(2026, 2, 1, 0, 0, 0, 0, time.UTC)
	for moment, good := range map[time.Time]bool{expires.Add(-time.Nanosecond): true, expires: false, expires.Add(time.Hour): false} {
		tokens, _ := openTokens(t, path, func() time.Time { return moment })
		if _, err := tokens.Authenticate("secret"); (err == nil) != good {
			t.Errorf("at %s: got %v", moment, err)
		}
	}
}

func TestTokens_AreReadAgainWithinTwoSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := tokensPath(t)
		tokens, _ := openTokens(t, path, nil) // a missing file holds none
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); tokens.Watch(ctx) }()

		token := create(t, path, "panel", "operator", 0)
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, err := tokens.Authenticate(token); err != nil {
			t.Errorf("a new token: %v", err)
		}

		other := create(t, path, "script", "viewer", 0)
		lines := strings.SplitAfter(read(t, path), "\n")
		kept := slices.DeleteFunc(lines, func(line string) bool { return strings.Contains(line, `"panel"`) })
		write(t, path, strings.Join(kept, ""))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, err := tokens.Authenticate(token); !device.Is(err, device.Unauthenticated) {
			t.Errorf("a revoked token: %v", err)
		}
		if _, err := tokens.Authenticate(other); err != nil {
			t.Errorf("the token beside it: %v", err)
		}

		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, err := tokens.Authenticate(other); !device.Is(err, device.Unauthenticated) {
			t.Errorf("after the file went: %v", err)
		}
		stop()
		<-done
	})
}

func TestOpenTokens_RefusesAndNamesTheLine(t *testing.T) {
	const valid = "# tokens\n- {client: a, role: viewer, created: 2026-01-01T00:00:00Z, expires: 2027-01-01T00:00:00Z, sha256: \"0000000000000000000000000000000000000000000000000000000000000001\"}\n"
	edit := func(before, after string) string {
		if !strings.Contains(valid, before) {
			t.Fatalf("the valid file has no %q", before)
		}
		return strings.Replace(valid, before, after, 1)
	}
	tests := map[string]struct{ file, want string }{
		"an unknown field":            {edit("expires:", "expire:"), `line 2: unknown field "expire"`},
		"a field twice":               {edit("role: viewer", "client: b"), `line 2: mapping key "client" already defined`},
		"no client":                   {edit("client: a, ", ""), "line 2: client must have"},
		"no role":                     {edit("role: viewer, ", ""), "line 2: role must match"},
		"a day without a time":        {edit("2027-01-01T00:00:00Z", "2027-01-01"), "line 2: must be a time such as"},
		"no hash":                     {edit(`, sha256: "0000000000000000000000000000000000000000000000000000000000000001"`, ""), "line 2: sha256 must have"},
		"a hash of another length":    {edit("0001\"", "001\""), "line 2: sha256 must have 64 hexadecimal digits"},
		"a hash of other letters":     {edit("0001\"", "000x\""), "line 2: sha256 must have 64 hexadecimal digits"},
		"a token instead of a hash":   {edit("\"00000000", "\"sdt_0000"), "line 2: sha256 must have 64 hexadecimal digits"},
		"a token that is there twice": {valid + strings.TrimPrefix(valid, "# tokens\n"), "line 3: this token is there twice"},
		"a token that is text":        {"- sdt_abc\n", "line 1: a token must be a mapping of fields"},
		"a mapping":                   {"tokens: []\n", "line 1: cannot take !!map as a list"},
		"a second document":           {valid + "---\n" + valid, "expected single document"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			path := tokensPath(t)
			write(t, path, tt.file)
			tokens, err := OpenTokens(TokensConfig{Path: path})
			if tokens != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
	if _, err := OpenTokens(TokensConfig{}); err == nil {
		t.Error("no path gave no error")
	}
}

func TestTokens_KeepTheOldOnesWhenTheFileIsBad(t *testing.T) {
	path := tokensPath(t)
	token := create(t, path, "panel", "viewer", 0)
	tokens, _ := openTokens(t, path, nil)
	write(t, path, "- {client: a}\n")
	if err := tokens.Reload(); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("got %v", err)
	}
	if _, err := tokens.Authenticate(token); err != nil {
		t.Errorf("the old token: %v", err)
	}
}

func TestOpenTokens_WarnsOfAFileThatOthersMayRead(t *testing.T) {
	path := tokensPath(t)
	create(t, path, "panel", "viewer", 0)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, log := openTokens(t, path, nil); !strings.Contains(log.String(), "mode=-rw-r--r--") {
		t.Errorf("the log is %q", log)
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	path := tokensPath(b)
	token := create(b, path, "panel", "operator", time.Hour)
	tokens, _ := openTokens(b, path, nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tokens.Authenticate(token); err != nil {
			b.Fatal(err)
		}
	}
}
