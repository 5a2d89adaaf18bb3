package configfile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

func TestPairs(t *testing.T) {
	tests := map[string]struct{ data, want, fault string }{
		"in their order":        {"m:\n  z: 1\n  a: 2\n", "z@2=1 a@3=2", ""},
		"nothing":               {"m:\n", "", ""},
		"not there":             {"x: 1\n", "", ""},
		"numbers as names":      {"m: {300: x, yes: y}\n", "300@1=x yes@1=y", ""},
		"as many as allowed":    {"m: {a: 1, b: 2, c: 3}\n", "a@1=1 b@1=2 c@1=3", ""},
		"one more":              {"m: {a: 1, b: 2, c: 3, d: 4}\n", "", "line 1: m must have at most 3 entries"},
		"one that is twice":     {"m:\n  a: 1\n  a: 2\n", "a@2=1 a@3=2", `line 3: "a" is there twice in m, first on line 2`},
		"a list":                {"m: [a]\n", "", "line 1: m must be a mapping of fields"},
		"a name that is a list": {"m: {? [a] : 1}\n", "", "line 1: a name in m must be text"},
		"through aliases":       {"b: &b {k: 1}\nm: *b\n", "k@1=1", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var doc struct {
				B yaml.Node `yaml:"b"`
				M yaml.Node `yaml:"m"`
				X int       `yaml:"x"`
			}
			if err := yaml.Load([]byte(tt.data), &doc); err != nil {
				t.Fatal(err)
			}
			pairs, faults := Pairs(&doc.M, "m", 3)
			var got []string
			for _, p := range pairs {
				got = append(got, fmt.Sprintf("%s@%d=%s", p.Name, p.Line, p.Value.Value))
			}
			if strings.Join(got, " ") != tt.want || faults.Error() != tt.fault {
				t.Errorf("got %v and %v", got, faults)
			}
		})
	}
	if pairs, faults := Pairs(nil, "m", 3); pairs != nil || faults != nil {
		t.Errorf("no node: got %v and %v", pairs, faults)
	}
}

func TestFaultsOf(t *testing.T) {
	two := Faults{{1, "a"}, {2, "b"}}
	for name, tt := range map[string]struct {
		err  error
		want Faults
	}{
		"nothing":         {nil, nil},
		"faults":          {two, two},
		"wrapped faults":  {fmt.Errorf("read: %w", two), two},
		"something else":  {errors.New("gone"), Faults{{0, "gone"}}},
		"an empty answer": {Faults(nil).Err(), nil},
	} {
		if got := FaultsOf(tt.err); fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("%s: got %v, want %v", name, got, tt.want)
		}
	}
}
