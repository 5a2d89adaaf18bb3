package httpapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"signaldevice/device"
)

// Limits of query parameters.
const (
	defaultPage = 100
	maxPage     = 1000
	maxCursor   = 1024 // bytes
	maxIDs      = 100  // request ids in one poll
	maxIDLength = 120  // bytes of a request id
	maxWait     = 60   // seconds
	maxClient   = 256  // bytes of a client's name
)

// query is the query of a call, and the faults that reading it has found so far.
type query struct {
	values url.Values
	faults []device.Fault
}

// parseQuery reads a query that has only the named parameters. Others are a fault, because a filter with a slip of the
// pen would otherwise choose everything.
func parseQuery(r *http.Request, names ...string) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &query{values: values}
	if err != nil {
		q.fault("", "is malformed")
	}
	for name, list := range values {
		if !slices.Contains(names, name) {
			q.fault("", "has an unknown parameter; this call takes: %s", strings.Join(names, ", "))
		} else if slices.ContainsFunc(list, unreadable) {
			q.fault(name, "must be UTF-8 without control characters")
		}
	}
	return q
}

// noQuery refuses any query.
func noQuery(r *http.Request) error {
	if r.URL.RawQuery != "" {
		return device.Errorf(device.Invalid, "this call takes no query")
	}
	return nil
}

func unreadable(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl)
}

func (q *query) fault(name, format string, args ...any) {
	location := strings.TrimSuffix("query."+name, ".")
	q.faults = append(q.faults, device.Fault{Location: location, Message: fmt.Sprintf(format, args...)})
}

// err is nil where no fault was found.
func (q *query) err() error {
	if len(q.faults) == 0 {
		return nil
	}
	return &device.Error{Kind: device.Invalid, Message: "the query breaks a rule: see errors", Faults: q.faults}
}

// one returns a parameter that may be there once, "" where it is absent or at fault.
func (q *query) one(name string, limit int) string {
	list, ok := q.values[name]
	switch {
	case !ok:
		return ""
	case len(list) > 1:
		q.fault(name, "may be there only once")
	case list[0] == "":
		q.fault(name, "must not be empty")
	case len(list[0]) > limit:
		q.fault(name, "may have at most %d bytes", limit)
	default:
		return list[0]
	}
	return ""
}

// number returns a whole number between the limits, the default where it is absent or at fault.
func (q *query) number(name string, least, most, otherwise int) int {
	s := q.one(name, 20)
	if s == "" {
		return otherwise
	}
	n, ok := digits(s)
	if !ok || n < least || n > most {
		q.fault(name, "must be a whole number from %d to %d", least, most)
		return otherwise
	}
	return n
}

// flag returns nil where the parameter is absent or at fault.
func (q *query) flag(name string) *bool {
	switch q.one(name, 5) {
	case "":
		return nil
	case "true":
		return new(true)
	case "false":
		return new(false)
	default:
		q.fault(name, "must be true or false")
		return nil
	}
}

// time reads a moment, RFC 3339; the zero time where it is absent or at fault.
func (q *query) time(name string) time.Time {
	s := q.one(name, 40)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil || t.Year() < 1970 {
		q.fault(name, "must be a time from 1970 on, such as 2026-11-24T09:30:00Z")
		return time.Time{}
	}
	return t.UTC()
}

// states reads a parameter that repeats.
func (q *query) states(name string) (states []device.State) {
	known := device.RecordStates()
	for _, s := range q.values[name] {
		state := device.State(s)
		switch {
		case !slices.Contains(known, state):
			q.fault(name, "must be one of %s", joined(known))
			return nil
		case slices.Contains(states, state):
			q.fault(name, "names the same state twice")
			return nil
		}
		states = append(states, state)
	}
	return states
}

func joined(states []device.State) string {
	names := make([]string, len(states))
	for i, s := range states {
		names[i] = string(s)
	}
	return strings.Join(names, ", ")
}

// labels reads pairs written key:value or key=value.
func (q *query) labels(name string) device.Labels {
	list := q.values[name]
	if len(list) == 0 {
		return nil
	}
	labels := make(device.Labels, len(list))
	for _, pair := range list {
		i := strings.IndexAny(pair, ":=")
		if i < 1 {
			q.fault(name, "must be written key:value")
			continue
		}
		if _, twice := labels[pair[:i]]; twice {
			q.fault(name, "names the same key twice")
		}
		labels[pair[:i]] = pair[i+1:]
	}
	if len(labels) > maxLabels {
		q.fault(name, "may be there at most %d times", maxLabels)
	}
	return labels
}

// requestIDs reads a parameter that repeats.
func (q *query) requestIDs(name string) []device.RequestID {
	list := q.values[name]
	if len(list) > maxIDs {
		q.fault(name, "may be there at most %d times", maxIDs)
		return nil
	}
	ids := make([]device.RequestID, len(list))
	for i, s := range list {
		if s == "" || len(s) > maxIDLength {
			q.fault(name, "must have 1 to %d bytes", maxIDLength)
			return nil
		}
		ids[i] = device.RequestID(s)
	}
	return ids
}

// page reads the two parameters of every list.
func (q *query) page() (limit int, cursor string) {
	return q.number("limit", 1, maxPage, defaultPage), q.one("cursor", maxCursor)
}

// preferredWait reads `wait` of the Prefer headers (RFC 7240, section 4.3). The first one counts, and every other
// preference is passed over, as section 2 of the RFC asks for; a wait that is out of range is refused all the same, so
// that nobody believes to wait longer than they do.
func preferredWait(h http.Header) (wait time.Duration, given bool, err error) {
	for _, line := range h.Values("Prefer") {
		for preference := range strings.SplitSeq(line, ",") {
			preference, _, _ = strings.Cut(preference, ";") // parameters of the preference
			name, value, _ := strings.Cut(preference, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			n, ok := digits(strings.Trim(strings.TrimSpace(value), `"`))
			if !ok || n > maxWait {
				return 0, false, headerFault("Prefer", fmt.Sprintf("wait must be whole seconds from 0 to %d", maxWait))
			}
			return time.Duration(n) * time.Second, true, nil
		}
	}
	return 0, false, nil
}

// digits reads a plain decimal number: no sign, no underscore.
func digits(s string) (int, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return int(n), err == nil
}

// idempotencyKey returns "" where the header is absent.
func idempotencyKey(h http.Header) (string, error) {
	values, ok := h["Idempotency-Key"]
	if !ok {
		return "", nil
	}
	const rule = "must be there once, with 1 to 255 visible ASCII characters"
	if len(values) != 1 || len(values[0]) < 1 || len(values[0]) > 255 {
		return "", headerFault("Idempotency-Key", rule)
	}
	for _, c := range []byte(values[0]) {
		if c < 0x21 || c > 0x7e {
			return "", headerFault("Idempotency-Key", rule)
		}
	}
	return values[0], nil
}

func headerFault(name, message string) error {
	return &device.Error{
		Kind:    device.Invalid,
		Message: "a header breaks a rule: see errors",
		Faults:  []device.Fault{{Location: "header." + name, Message: message}},
	}
}
