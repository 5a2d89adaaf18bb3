package device

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestID_Validate(t *testing.T) {
	tests := map[string]struct {
		id ID
		ok bool
	}{
		"letters, digits, both signs":  {"are-1_Z9", true},
		"one character":                {"a", true},
		"50 characters":                {ID(strings.Repeat("a", 50)), true},
		"51 characters":                {ID(strings.Repeat("a", 51)), false},
		"empty":                        {"", false},
		"a dot, which splits subjects": {"a.b", false},
		"a slash, which splits topics": {"a/b", false},
		"a wildcard":                   {"a*", false},
		"a tilde":                      {"a~b", false},
		"a letter of another alphabet": {"камера", false},
		"a NUL":                        {"a\x00", false},
	}
	for name, tt := range tests {
		if err := tt.id.Validate(); (err == nil) != tt.ok || err != nil && !Is(err, Invalid) {
			t.Errorf("%s: %v, want ok %v", name, err, tt.ok)
		}
	}
}

func TestLabels_Match(t *testing.T) {
	labels := Labels{"city": "riga", "fleet": "north"}
	tests := map[string]struct {
		condition Labels
		want      bool
	}{
		"no condition":         {nil, true},
		"one pair":             {Labels{"city": "riga"}, true},
		"all pairs":            {Labels{"city": "riga", "fleet": "north"}, true},
		"another value":        {Labels{"city": "oslo"}, false},
		"one right, one wrong": {Labels{"city": "riga", "fleet": "south"}, false},
		"a key that is absent": {Labels{"depot": ""}, false},
	}
	for name, tt := range tests {
		if got := labels.Match(tt.condition); got != tt.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
	if Labels(nil).Match(Labels{"city": ""}) || !Labels(nil).Match(nil) {
		t.Error("no labels")
	}
}

// A mailbox names the same client on every instance and after every update: its value must never change.
func TestMailboxOf_IsStable(t *testing.T) {
	m := MailboxOf("alice")
	if got := hex.EncodeToString(m[:]); got != "94f856c7977864a88be2b54473231a83" {
		t.Errorf("got %s", got)
	}
	if MailboxOf("alice") == MailboxOf("alic") || MailboxOf("") == MailboxOf("alice") {
		t.Error("two clients share a mailbox")
	}
}

func TestUnder(t *testing.T) {
	tests := map[string]struct {
		topic, sub string
		ok         bool
	}{
		"the topic itself":  {"$devices/c/events", "", true},
		"one level below":   {"$devices/c/events/a", "a", true},
		"two levels below":  {"$devices/c/events/a/b", "a/b", true},
		"begins like it":    {"$devices/c/eventsa", "", false},
		"above it":          {"$devices/c", "", false},
		"an empty subtopic": {"$devices/c/events/", "", true},
	}
	for name, tt := range tests {
		if sub, ok := Under(tt.topic, TopicsOf("c").Events); sub != tt.sub || ok != tt.ok {
			t.Errorf("%s: %q, %v", name, sub, ok)
		}
	}
}

func TestKindOf(t *testing.T) {
	cause := errors.New("disk")
	tests := map[string]struct {
		err  error
		want Kind
	}{
		"nil":                    {nil, OK},
		"of a kind":              {Errorf(DeviceOffline, "device %d", 7), DeviceOffline},
		"wrapped":                {fmt.Errorf("send: %w", Errorf(Forbidden, "no")), Forbidden},
		"with a cause":           {Wrap(BrokerUnavailable, cause, "not reached"), BrokerUnavailable},
		"the outer of two kinds": {Wrap(OutcomeUnknown, Errorf(BrokerUnavailable, "x"), "y"), OutcomeUnknown},
		"of no kind":             {cause, Internal},
	}
	for name, tt := range tests {
		if got := KindOf(tt.err); got != tt.want || Is(tt.err, tt.want) != (tt.err != nil) {
			t.Errorf("%s: %q, want %q", name, got, tt.want)
		}
	}
	if err := Wrap(Internal, cause, "write"); !errors.Is(err, cause) || err.Error() != "write: disk" {
		t.Errorf("cause or text lost: %v", err)
	}
	if err := (&Error{Kind: Forbidden}); err.Error() != "forbidden" {
		t.Errorf("text without a message is %q", err)
	}
}

func TestEnvelope_IsFinal(t *testing.T) {
	tests := map[string]bool{
		`{"status":"ok"}`:                     true,
		`{"status":"error"}`:                  true,
		`{}`:                                  true,
		`{"status":"progress"}`:               false,
		`{"status":"progress","final":true}`:  true,
		`{"status":"ok","final":false}`:       false,
		`{"status":"progress","final":false}`: false,
	}
	for text, want := range tests {
		var e Envelope
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		if e.IsFinal() != want {
			t.Errorf("%s: final is %v", text, !want)
		}
	}
}
