package configfile

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v4"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDecode_RefusesAndNamesTheLine(t *testing.T) {
	type inner struct {
		List []string `yaml:"list"`
	}
	type outer struct {
		Name  string           `yaml:"name"`
		On    bool             `yaml:"on"`
		Inner map[string]inner `yaml:"inner"`
	}
	tests := map[string]struct{ data, want string }{
		"good":                   {"name: a\non: true\ninner: {x: {list: [a]}}\n", ""},
		"an unknown field":       {"name: a\nnam: b\n", `line 2: unknown field "nam": did you mean name?`},
		"one inside a mapping":   {"inner:\n  x:\n    lists: []\n", `line 3: unknown field "lists": did you mean list?`},
		"a repeated field":       {"name: a\nname: b\n", `line 2: mapping key "name" already defined at line 1`},
		"a repeated free name":   {"inner:\n  x: {}\n  x: {}\n", `line 3: mapping key "x" already defined at line 2`},
		"text for true":          {"on: maybe\n", "line 1: cannot take !!str `maybe` as true or false"},
		"a mapping for text":     {"name: {}\n", "line 1: cannot take !!map as text"},
		"text for a list":        {"inner: {x: {list: a}}\n", "line 1: cannot take !!str `a` as a list"},
		"every fault":            {"a: 1\nb: 2\n", `line 1: unknown field "a"; line 2: unknown field "b"`},
		"no data":                {"", "no documents in stream"},
		"comments alone":         {"# x\n", "no documents in stream"},
		"two documents":          {"name: a\n---\nname: b\n", "expected single document, found multiple"},
		"bytes that are no text": {"name: \xff\n", "invalid leading UTF-8 octet (value: 255)"},
		"a tab for indentation":  {"inner:\n\tx: 1\n", "line 2: found character that cannot start any token"},
		"as large as allowed":    {"name: a #" + strings.Repeat("x", 91), ""},
		"one byte larger":        {"name: a #" + strings.Repeat("x", 92), "the file is larger than 100 bytes"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out outer
			err := Decode([]byte(tt.data), 100, &out)
			if got := fmt.Sprint(err); err == nil && tt.want != "" || err != nil && got != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestFaults_ErrorIsBounded(t *testing.T) {
	many := func(n int) Faults { return make(Faults, n) }
	if got := many(20).Error(); strings.Contains(got, "more") {
		t.Errorf("20 faults: %s", got)
	}
	if got := many(23).Error(); !strings.HasSuffix(got, "; and 3 more") {
		t.Errorf("23 faults: %s", got)
	}
	if err := many(0).Err(); err != nil {
		t.Errorf("no faults are the error %v", err)
	}
}

func TestLine_FollowsAPath(t *testing.T) {
	var doc yaml.Node
	if err := yaml.Load([]byte("a:\n  b:\n    - x\n    - c:\n        d: 1\nalias: &z\n  k:\n    v\nuse: *z\n"), &doc); err != nil {
		t.Fatal(err)
	}
	root := doc.Content[0]
	tests := map[string]struct {
		path []string
		want int
	}{
		"the whole":              {nil, 1},
		"a field":                {[]string{"a", "b"}, 3},
		"an item":                {[]string{"a", "b", "1", "c", "d"}, 5},
		"as far as there is one": {[]string{"a", "b", "9", "c"}, 3},
		"a name in a list":       {[]string{"a", "b", "x"}, 3},
		"an index that is less":  {[]string{"a", "b", "-1"}, 3},
		"through an alias":       {[]string{"use", "k"}, 8},
		"nothing of it is there": {[]string{"none"}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := Line(root, tt.path...); got != tt.want {
				t.Errorf("got line %d, want %d", got, tt.want)
			}
		})
	}
}

// watched is a Live over a file of one word, with what it reported and logged.
type watched struct {
	*Live[string]
	path    string
	parsed  int
	reports []error
	log     bytes.Buffer
}

func parseWord(data []byte) (*string, error) {
	word := string(data)
	if strings.HasPrefix(word, "bad") {
		return nil, errors.New("line 1: not a word")
	}
	return &word, nil
}

func open(t *testing.T, content string, edit func(*Config[string])) *watched {
	t.Helper()
	w := &watched{path: filepath.Join(t.TempDir(), "word")}
	w.write(t, content)
	c := Config[string]{
		Path:     w.path,
		MaxBytes: 10,
		Parse:    func(data []byte) (*string, error) { w.parsed++; return parseWord(data) },
		Reloaded: func(err error) { w.reports = append(w.reports, err) },
		Log:      slog.New(slog.NewTextHandler(&w.log, nil)),
	}
	if edit != nil {
		edit(&c)
	}
	live, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	w.Live = live
	return w
}

func (w *watched) write(t *testing.T, content string) {
	t.Helper()
	if err := os.WriteFile(w.path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *watched) want(t *testing.T, word string, reports int) {
	t.Helper()
	if got := *w.Current(); got != word || len(w.reports) != reports {
		t.Errorf("got %q and %d reports, want %q and %d", got, len(w.reports), word, reports)
	}
}

func TestLive_SeesAChangeWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := open(t, "one", nil)
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Watch(ctx) }()
		w.write(t, "two")
		time.Sleep(time.Second)
		synctest.Wait()
		w.want(t, "two", 1)
		stop()
		<-done
	})
}

func TestLive_SettlesOnAFileThatDoesNotChange(t *testing.T) {
	w := open(t, "one", nil)
	for range 5 {
		w.look()
	}
	if w.parsed != 1 || !w.settled {
		t.Errorf("parsed %d times, settled %t", w.parsed, w.settled)
	}
	w.want(t, "one", 0)
}

func TestLive_SeesASecondWriteWithinOneTickOfTheClock(t *testing.T) {
	w := open(t, "one", nil)
	info, err := os.Stat(w.path)
	if err != nil {
		t.Fatal(err)
	}
	w.write(t, "two")
	if err := os.Chtimes(w.path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	w.look()
	w.want(t, "two", 1)
}

func TestLive_SeesAFileThatIsRenamedOverIt(t *testing.T) {
	w := open(t, "one", nil)
	w.look()
	w.look()
	info, err := os.Stat(w.path)
	if err != nil {
		t.Fatal(err)
	}
	next := w.path + ".new"
	if err := os.WriteFile(next, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chtimes(next, info.ModTime(), info.ModTime()), os.Rename(next, w.path)); err != nil {
		t.Fatal(err)
	}
	w.look()
	w.want(t, "two", 1)
}

func TestLive_ABadVersionIsToldOnceAndTheOldOneStays(t *testing.T) {
	w := open(t, "one", nil)
	w.write(t, "bad")
	for range 3 {
		w.look()
	}
	w.want(t, "one", 1)
	if got := strings.Count(w.log.String(), "line 1: not a word"); got != 1 {
		t.Errorf("the log tells %d times:\n%s", got, w.log.String())
	}
	w.write(t, "one")
	w.look()
	w.want(t, "one", 2)
	if w.reports[0] == nil || w.reports[1] != nil {
		t.Errorf("reported %v", w.reports)
	}
}

func TestLive_AMissingFileIsToldOnceAndTheOldOneStays(t *testing.T) {
	w := open(t, "one", nil)
	if err := os.Remove(w.path); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		w.look()
	}
	w.want(t, "one", 1)
	if !errors.Is(w.reports[0], fs.ErrNotExist) {
		t.Errorf("reported %v", w.reports[0])
	}
	w.write(t, "one")
	w.look()
	w.want(t, "one", 2)
}

func TestLive_AnOptionalFileMayComeAndGo(t *testing.T) {
	w := open(t, "", func(c *Config[string]) {
		c.Optional = true
		if err := os.Remove(c.Path); err != nil {
			t.Fatal(err)
		}
	})
	w.look()
	w.want(t, "", 0)
	w.write(t, "one")
	w.look()
	w.want(t, "one", 1)
	if err := os.Remove(w.path); err != nil {
		t.Fatal(err)
	}
	w.look()
	w.look()
	w.want(t, "", 2)
}

func TestLive_ReloadSaysWhatIsWrong(t *testing.T) {
	w := open(t, "one", nil)
	w.write(t, "bad")
	for range 2 { // each time it is asked for, unlike Watch
		if err := w.Reload(); err == nil || !strings.HasSuffix(err.Error(), "word: line 1: not a word") {
			t.Errorf("got %v", err)
		}
	}
	w.want(t, "one", 2)
	if w.log.Len() > 0 {
		t.Errorf("what is returned was logged too: %s", w.log.String())
	}
	w.look()
	w.want(t, "one", 2)
}

func TestLive_Limits(t *testing.T) {
	w := open(t, strings.Repeat("x", 10), nil)
	w.write(t, strings.Repeat("y", 11))
	if err := w.Reload(); err == nil || !strings.Contains(err.Error(), "larger than 10 bytes") {
		t.Errorf("got %v", err)
	}
	w.want(t, strings.Repeat("x", 10), 1)
}

func TestOpen_RefusesABadFirstVersion(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad")
	if err := os.WriteFile(bad, []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := map[string]struct {
		config Config[string]
		want   string
	}{
		"a bad file":    {Config[string]{Path: bad}, "line 1: not a word"},
		"no file":       {Config[string]{Path: filepath.Join(dir, "none")}, "no such file"},
		"a folder":      {Config[string]{Path: dir}, "not a regular file"},
		"a bad default": {Config[string]{Default: []byte("bad")}, "line 1: not a word"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.config.MaxBytes, tt.config.Parse = 10, parseWord
			l, err := Open(tt.config)
			if l != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v and %v, want %s", l, err, tt.want)
			}
		})
	}
}

func TestLive_TheDefaultNeverChanges(t *testing.T) {
	l, err := Open(Config[string]{Default: []byte("built in"), Parse: parseWord})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Reload(); err != nil {
		t.Errorf("Reload: %v", err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	l.Watch(ctx)
	if got := *l.Current(); got != "built in" {
		t.Errorf("got %q", got)
	}
}

func TestLive_WarnsOfAPrivateFileThatOthersMayRead(t *testing.T) {
	for mode, warned := range map[fs.FileMode]bool{0o600: false, 0o400: false, 0o640: true, 0o604: true, 0o620: true} {
		w := open(t, "one", func(c *Config[string]) {
			c.Private = true
			if err := os.Chmod(c.Path, mode); err != nil {
				t.Fatal(err)
			}
		})
		if got := strings.Contains(w.log.String(), "open to its owner alone"); got != warned {
			t.Errorf("mode %v: warned %t, want %t", mode, got, warned)
		}
	}
}
