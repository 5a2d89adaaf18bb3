package configfile

import "testing"

func TestDidYouMean(t *testing.T) {
	known := []string{"minimum", "maximum", "maxLength", "hold", "date-time", "args"}
	tests := map[string]struct{ name, want string }{
		"a letter left out":         {"maxmum", "maximum"},
		"two letters left out":      {"maxmm", "maximum"},
		"a letter too much":         {"maximuum", "maximum"},
		"another letter":            {"mexLength", "maxLength"},
		"two letters swapped":       {"miinmum", "minimum"},
		"neighbours of a short one": {"hodl", "hold"},
		"another case":              {"maxlength", "maxLength"},
		"an underline for a dash":   {"date_time", "date-time"},
		"the better of two":         {"mimimum", "minimum"},
		"three faults":              {"mxmm", ""},
		"two in a short word":       {"hxxd", ""},
		"something else":            {"colour", ""},
		"nothing":                   {"", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			want := ""
			if tt.want != "" {
				want = ": did you mean " + tt.want + "?"
			}
			if got := DidYouMean(tt.name, known); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}
