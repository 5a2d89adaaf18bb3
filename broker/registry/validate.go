package registry

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"signaldevice/device"
)

// Limits of a device's own words, as in IoT Core (iot-core.md, "gRPC services"). A label's value may be any printable
// text here; IoT Core's own services keep to their narrower rule.
const (
	maxName        = 50
	maxDescription = 256
	maxLabels      = 64
	maxLabel       = 63
)

var (
	namePattern     = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	labelKeyPattern = regexp.MustCompile(`^[a-z][-_0-9a-z]*$`)
)

// faults gathers everything that is wrong with an input.
type faults []device.Fault

func (f *faults) add(location, format string, args ...any) {
	*f = append(*f, device.Fault{Location: location, Message: fmt.Sprintf(format, args...)})
}

// err returns an Invalid error with all faults, or nil.
func (f faults) err() error {
	if len(f) == 0 {
		return nil
	}
	slices.SortFunc(f, func(a, b device.Fault) int { return strings.Compare(a.Location, b.Location) })
	return &device.Error{Kind: device.Invalid, Message: f[0].Location + " " + f[0].Message, Faults: f}
}

func (f *faults) registry(id string) {
	if id != DefaultID {
		f.add("registry_id", "names no registry")
	}
}

func (f *faults) name(name string) {
	switch {
	case name == "" || len(name) > maxName:
		f.add("name", "must have 1 to %d characters", maxName)
	case !namePattern.MatchString(name):
		f.add("name", "may hold only letters, digits, '-' and '_'")
	}
}

func (f *faults) description(text string) {
	switch {
	case utf8.RuneCountInString(text) > maxDescription:
		f.add("description", "must have at most %d characters", maxDescription)
	case !printable(text):
		f.add("description", "may hold only printable text")
	}
}

func (f *faults) labels(labels device.Labels) {
	if len(labels) > maxLabels {
		f.add("labels", "must be at most %d", maxLabels)
		return
	}
	for key, value := range labels {
		switch {
		case len(key) > maxLabel || !labelKeyPattern.MatchString(key):
			// The key may be anything here, so it is not repeated.
			f.add("labels", "must have keys of 1 to %d characters: a lower-case letter, then lower-case letters, digits, '-' and '_'", maxLabel)
		case utf8.RuneCountInString(value) > maxLabel:
			f.add("labels."+key, "must have at most %d characters", maxLabel)
		case !printable(value):
			f.add("labels."+key, "may hold only printable text")
		}
	}
}

func printable(s string) bool {
	if !utf8.ValidString(s) {
		return false
	}
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return true
}
