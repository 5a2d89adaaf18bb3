package catalogue_test

import (
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"signaldevice/access"
	"signaldevice/catalogue"
)

// sample is one fenced block of the documentation.
type sample struct {
	kind string // what stands behind the fence
	text string
	line int
}

func samplesOf(t *testing.T, path string) []sample {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var all []sample
	for _, m := range regexp.MustCompile("(?ms)^```([a-z ]+)\n(.*?)^```$").FindAllSubmatchIndex(data, -1) {
		all = append(all, sample{
			kind: string(data[m[2]:m[3]]), text: string(data[m[4]:m[5]]), line: 1 + strings.Count(string(data[:m[0]]), "\n"),
		})
	}
	return all
}

// Every file in the documentation is one that the program takes and has nothing to say against, or one that it is said to
// refuse, with the very words that follow.
func TestDocs_SamplesAreWhatTheyAreSaidToBe(t *testing.T) {
	all := samplesOf(t, "../docs/catalogue.md")
	good, refused := 0, 0
	for i, s := range all {
		switch s.kind {
		case "yaml":
			good++
			if got := lint(t, s.text); got != "" {
				t.Errorf("line %d: %s", s.line, got)
			}
			if _, err := catalogue.Load([]byte(s.text)); err != nil {
				t.Errorf("line %d: %v", s.line, err)
			}
		case "yaml refused":
			refused++
			if got := lint(t, s.text); got != all[i+1].text {
				t.Errorf("line %d: lint says\n%s\nand the documentation\n%s", s.line, got, all[i+1].text)
			}
		}
	}
	if good != 3 || refused != 1 {
		t.Errorf("found %d good and %d refused files", good, refused)
	}
}

// The first command is shown as an entry to put at the end of the file that comes with the program.
func TestDocs_TheFirstCommandJoinsTheDefaultOnes(t *testing.T) {
	for _, s := range samplesOf(t, "../docs/catalogue.md") {
		if s.kind != "yaml" {
			continue
		}
		entry, ok := strings.CutPrefix(s.text, "commands:\n")
		if got := lint(t, string(catalogue.Default())+entry); !ok || got != "" {
			t.Errorf("the first sample: %s", got)
		}
		return
	}
	t.Error("there is no sample")
}

// lint prints what the command line does, by the roles that come with the program.
func lint(t *testing.T, file string) string {
	t.Helper()
	roles, err := access.OpenAuthorizer(access.AuthorizerConfig{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	grants := func(permission string) string {
		if roles.Caller(access.Identity{Role: "operator"}).May(permission) {
			return "operator"
		}
		return ""
	}
	var b strings.Builder
	for _, f := range catalogue.Lint([]byte(file), catalogue.LintConfig{Grants: grants}).Findings {
		fmt.Fprintf(&b, "commands.yaml:%d: %s: %s\n", f.Line, f.Level, f.Message)
	}
	return b.String()
}
