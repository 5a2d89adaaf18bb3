package httpapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"signaldevice/device"
)

// Limits of a body, in bytes, and of the free-form JSON in it.
const (
	// A command's arguments travel inside an MQTT payload of device.MaxPayload bytes, which has more around them than
	// the body here; the exact limit is therefore the broker's.
	maxCommandBody = device.MaxPayload + 1024
	maxOtherBody   = 64 << 10 // a PEM certificate and 64 labels fit well
	maxNesting     = 64       // of objects and arrays in a command's arguments
)

// boundBody gives the body of a call a deadline from now on. readBody takes it away again; a call that does not read
// its body keeps it for the end, when the server reads what is left.
func (a *API) boundBody(w *answer, r *http.Request) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(a.cfg.Timeouts.Body)) // a recorder has none
	}
}

// readBody returns the whole body of a call, or an error for one that is not JSON, too large or too slow.
func readBody(w *answer, r *http.Request, limit int64) ([]byte, error) {
	if r.ContentLength == 0 {
		return nil, device.Errorf(device.Malformed, "the body is empty")
	}
	if err := checkMediaType(r.Header); err != nil {
		return nil, err
	}
	if r.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	body, err := io.ReadAll(http.MaxBytesReader(w.ResponseWriter, r.Body, limit))
	var over *http.MaxBytesError
	switch {
	case errors.As(err, &over):
		return nil, tooLarge(limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, device.Errorf(kindTimeout, "the body did not come in time")
	case err != nil:
		return nil, device.Wrap(device.Malformed, err, "the body could not be read to its end")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return body, nil
}

func tooLarge(limit int64) error {
	return device.Errorf(device.PayloadTooLarge, "the body may have at most %d bytes", limit)
}

func checkMediaType(h http.Header) error {
	mediaType, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	charset := params["charset"]
	if err != nil || mediaType != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return device.Errorf(kindMediaType, "the body must have the Content-Type application/json, in UTF-8")
	}
	if h.Get("Content-Encoding") != "" {
		return device.Errorf(kindMediaType, "the body must not have a Content-Encoding")
	}
	return nil
}

// fields are the members of a body, and the faults that reading them has found so far: a caller is told all of them at
// once.
type fields struct {
	members map[string]jsontext.Value
	faults  []device.Fault
}

// readFields reads a body that is one JSON object with no fields but the named ones. Whatever breaks this is Malformed;
// what the fields hold is checked when they are read.
func readFields(w *answer, r *http.Request, limit int64, names ...string) (*fields, error) {
	body, err := readBody(w, r, limit)
	if err != nil {
		return nil, err
	}
	members, err := parseObject(body, names)
	if err != nil {
		return nil, device.Errorf(device.Malformed, "%s", err)
	}
	return &fields{members: members}, nil
}

// parseObject splits a JSON object into its members. It refuses duplicate names at any depth, names that are not
// listed, invalid UTF-8 and anything behind the object. Its errors tell the place by a byte offset and quote nothing.
func parseObject(body []byte, names []string) (map[string]jsontext.Value, error) {
	if !utf8.Valid(body) {
		return nil, errors.New("the body is not valid UTF-8")
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(body))
	start, err := dec.ReadToken()
	if err != nil {
		return nil, syntaxFault(err)
	}
	if start.Kind() != jsontext.KindBeginObject {
		return nil, errors.New("the body must be one JSON object")
	}
	members := make(map[string]jsontext.Value, len(names))
	for dec.PeekKind() != jsontext.KindEndObject {
		token, err := dec.ReadToken()
		if err != nil {
			return nil, syntaxFault(err)
		}
		name := token.String()
		if !slices.Contains(names, name) {
			return nil, fmt.Errorf("the body has an unknown field before byte %d; its fields are: %s",
				dec.InputOffset(), strings.Join(names, ", "))
		}
		value, err := dec.ReadValue()
		if err != nil {
			return nil, syntaxFault(err)
		}
		members[name] = slices.Clone(value)
	}
	if _, err := dec.ReadToken(); err != nil { // the closing brace
		return nil, syntaxFault(err)
	}
	if _, err := dec.ReadToken(); !errors.Is(err, io.EOF) {
		return nil, errors.New("there is something behind the JSON object")
	}
	return members, nil
}

func syntaxFault(err error) error {
	var at *jsontext.SyntacticError
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("the body is empty")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the JSON ends before it is complete")
	case errors.As(err, &at) && errors.Is(err, jsontext.ErrDuplicateName):
		return fmt.Errorf("a field is there twice, at byte %d", at.ByteOffset)
	case errors.As(err, &at):
		return fmt.Errorf("this is not JSON, at byte %d", at.ByteOffset)
	default:
		return errors.New("this is not JSON")
	}
}

// err is nil where no fault was found.
func (f *fields) err() error {
	if len(f.faults) == 0 {
		return nil
	}
	return &device.Error{Kind: device.Invalid, Message: "the body breaks a rule: see errors", Faults: f.faults}
}

func (f *fields) fault(location, format string, args ...any) {
	f.faults = append(f.faults, device.Fault{Location: location, Message: fmt.Sprintf(format, args...)})
}

func (f *fields) has(name string) bool { return f.members[name] != nil }

// text returns a string of 1 to limit bytes, "" where the field is absent or at fault.
func (f *fields) text(name string, limit int) string {
	value, ok := f.members[name]
	if !ok {
		return ""
	}
	var s string
	switch err := json.Unmarshal(value, &s); {
	case value.Kind() != jsontext.KindString || err != nil:
		f.fault(name, "must be a string")
	case s == "":
		f.fault(name, "must not be empty")
	case len(s) > limit:
		f.fault(name, "may have at most %d bytes", limit)
	default:
		return s
	}
	return ""
}

// needed is text that must be there.
func (f *fields) needed(name string, limit int) string {
	if !f.has(name) {
		f.fault(name, "is missing")
	}
	return f.text(name, limit)
}

// seconds returns a duration between the limits, 0 where the field is absent or at fault.
func (f *fields) seconds(name string, least, most time.Duration) time.Duration {
	value, ok := f.members[name]
	if !ok {
		return 0
	}
	var n float64
	err := json.Unmarshal(value, &n)
	if value.Kind() != jsontext.KindNumber || err != nil || n < least.Seconds() || n > most.Seconds() {
		f.fault(name, "must be a number of seconds from %.0f to %.0f", least.Seconds(), most.Seconds())
		return 0
	}
	return time.Duration(n * float64(time.Second))
}

// object reads a JSON object into a map of text; false where the field is absent or at fault.
func (f *fields) object(name string, into *device.Labels) bool {
	value, ok := f.members[name]
	if !ok {
		return false
	}
	var texts map[string]*string
	err := json.Unmarshal(value, &texts)
	if value.Kind() != jsontext.KindBeginObject || err != nil || slices.Contains(slices.Collect(maps.Values(texts)), nil) {
		f.fault(name, "must be an object whose values are strings")
		return false
	}
	*into = make(device.Labels, len(texts))
	for key, text := range texts {
		(*into)[key] = *text
	}
	return true
}

// freeForm returns any JSON as it came, nil where the field is absent. What a program behind this one may stumble over
// is a fault: nesting beyond maxNesting, numbers that a float64 cannot hold (RFC 7493, section 2.2) and NUL in text.
func (f *fields) freeForm(name string) jsontext.Value {
	value, ok := f.members[name]
	if !ok {
		return nil
	}
	dec := jsontext.NewDecoder(bytes.NewBuffer(value))
	for {
		token, err := dec.ReadToken()
		if err != nil { // io.EOF: parseObject has seen that the value is good
			return value
		}
		switch token.Kind() {
		case jsontext.KindBeginObject, jsontext.KindBeginArray:
			if dec.StackDepth() > maxNesting {
				f.fault(name, "may be nested at most %d deep", maxNesting)
				return nil
			}
		case jsontext.KindNumber:
			if _, err := token.Float(); err != nil {
				f.fault(name, "holds a number that is out of range")
				return nil
			}
		case jsontext.KindString:
			if strings.ContainsRune(token.String(), 0) {
				f.fault(name, "holds text with a NUL character")
				return nil
			}
		}
	}
}
