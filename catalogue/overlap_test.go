package catalogue

import (
	"regexp"
	"strings"
	"testing"
	"time"
)

// withPatterns is a file whose one command has two text forms with these patterns.
func withPatterns(first, second string) string {
	return `commands:
  - name: a
    permission: p
    text: {send: "A {request_id}", reply: '` + first + `'}
    forms: {v2: {send: "B {request_id}", reply: '` + second + `'}}
`
}

func TestLoad_RefusesPatternsThatReadOneLineDifferently(t *testing.T) {
	const id = `(?P<request_id>\S+)`
	tests := map[string]struct {
		first, second string
		want          string // the line; "" none
	}{
		"other words":                         {`OK ` + id, `DONE ` + id, ""},
		"the same pattern":                    {`OK ` + id + ` (?P<v>\d+)`, `OK ` + id + ` (?P<v>\d+)`, ""},
		"the same fields, written otherwise":  {`OK ` + id + ` (?P<v>\d+)`, `OK ` + id + ` (?P<v>[0-9]{1,9})`, ""},
		"errors in common":                    {`OK ` + id + `|ERR \S+ (?P<error_code>\d+)`, `DONE ` + id + `|ERR \S+ (?P<error_code>\d+)`, ""},
		"the id in another place":             {`OK ` + id + ` (?P<v>\S+)`, `OK (?P<v>\S+) ` + id, ""},
		"a number and a word":                 {`OK ` + id + ` (?P<v>[0-9]+)`, `OK ` + id + ` (?P<w>[a-z]+)`, ""},
		"a field by another name":             {`OK ` + id + ` (?P<volume>\d+)`, `OK ` + id + ` (?P<level>\d+)`, "OK {request_id} 0"},
		"one that is only there at times":     {`OK ` + id + `(?: (?P<volume>\d+))?`, `OK ` + id + `(?: (?P<level>\d+))?`, "OK {request_id} 0"},
		"a field and the whole":               {`OK ` + id + ` (?P<volume>\d+)`, `(?P<result>OK .*)`, "OK {request_id} 0"},
		"an error and a field":                {`(?P<request_id>\S+) (?P<error_code>E\d)`, id + ` (?P<state>[A-Z0-9]+)`, "{request_id} E0"},
		"fields the other way round":          {id + ` (?P<a>\w+) (?P<b>\w+)`, id + ` (?P<b>\w+) (?P<a>\w+)`, "{request_id} c g"},
		"letters of either case":              {`(?i)ok ` + id + ` (?P<a>\d)`, `OK ` + id + ` (?P<b>\d)`, "OK {request_id} 0"},
		"a line that no one can read":         {"(?s)" + id + "\n(?P<a>.)", "(?s)" + id + "\n(?P<b>\x0b)", "{request_id}\n\x0b"},
		"a place in the line that cannot be":  {`OK\b` + id + ` (?P<a>\d)`, `OK\B` + id + ` (?P<b>\d)`, ""},
		"a request id beside anything":        {id + ` (?P<a>.*)`, `(?P<b>.*) ` + id, "{request_id} {request_id}"},
		"the end of the pattern in the other": {`OK ` + id, `OK ` + id + `(?P<rest>.*)`, "OK {request_id}"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			form := func(name, pattern string) *textForm {
				return &textForm{name: name, at: []string{name}, pattern: pattern, reply: regexp.MustCompile(`\A(?:` + pattern + `)\z`)}
			}
			for _, swapped := range []bool{false, true} {
				a, b := form("text", tt.first), form("v2", tt.second)
				if swapped {
					a, b = b, a
				}
				if line, found := disagreement(a, b); found != (tt.want != "") || line != tt.want {
					t.Errorf("swapped %t: got %q, want %q", swapped, line, tt.want)
				}
			}
		})
	}
	_, err := Load([]byte(withPatterns(`OK `+id+` (?P<volume>\d+)`, `OK `+id+` (?P<level>\d+)`)))
	if want := `line 5: text.reply and forms.v2.reply both take "OK {request_id} 0" and read it differently`; err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

func TestLoad_RefusesAGroupThatTakesNoRequestID(t *testing.T) {
	tests := map[string]struct {
		group string
		good  bool
	}{
		"anything":                {`\S+`, true},
		"its own characters":      {`[A-Za-z0-9_-]+`, true},
		"its own characters, all": {`sdr1_[A-Za-z0-9_-]{68}`, true},
		"words have no dash":      {`\w+`, false},
		"digits":                  {`\d+`, false},
		"one less":                {`sdr1_[A-Za-z0-9_-]{67}`, false},
		"a lazy one":              {`.+?`, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load([]byte(withPatterns(`OK (?P<request_id>`+tt.group+`) x`, `DONE`)))
			if tt.good && err != nil || !tt.good && (err == nil || !strings.Contains(err.Error(), "line 4: text.reply has a group request_id that does not take every request id")) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Patterns of a thousand bytes can stand for automata of a hundred thousand states.
func TestLoad_HugePatternsCostLittle(t *testing.T) {
	huge := func(letter string) string { return strings.Repeat("(?:"+letter+"?){999}", 60) }
	start := time.Now()
	if _, err := Load([]byte(withPatterns(huge("x"), huge("[a-z]")))); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}
