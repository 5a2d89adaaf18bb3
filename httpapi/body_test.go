package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"

	"signaldevice/device"
	"signaldevice/dispatch"
)

const sendPath = "/v1/devices/cam-1/commands"

// nested returns arrays inside of each other.
func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// A body that is not the JSON asked for changes nothing, gets one error that quotes nothing of it, and the next good
// call works (I10).
func TestBody_RefusesWhatIsNotStrictJSON(t *testing.T) {
	for name, body := range map[string]string{
		"no JSON":                      `canary`,
		"cut":                          `{"command":"ping"`,
		"cut in a string":              `{"command":"pi`,
		"cut in a name":                `{"comm`,
		"only blanks":                  "  \n",
		"null":                         `null`,
		"a number":                     `1`,
		"a string":                     `"canary"`,
		"an array":                     `[{"command":"ping"}]`,
		"something behind":             `{"command":"ping"}canary`,
		"another object behind":        `{"command":"ping"}{"command":"ping"}`,
		"a comma at the end":           `{"command":"ping",}`,
		"single quotes":                `{'command':'ping'}`,
		"a comment":                    `{"command":"ping"/*canary*/}`,
		"an unknown field":             `{"command":"ping","canary":1}`,
		"another case":                 `{"Command":"ping"}`,
		"a field twice":                `{"command":"ping","command":"ping"}`,
		"a field twice, escaped":       `{"command":"ping","\u0063ommand":"ping"}`,
		"a field twice in args":        `{"command":"ping","args":{"canary":1,"canary":1}}`,
		"a field twice deep in args":   `{"command":"ping","args":{"a":[{"b":{"canary":1,"canary":2}}]}}`,
		"invalid UTF-8 in a value":     "{\"command\":\"canary\xff\"}",
		"invalid UTF-8 in a name":      "{\"command\":\"ping\",\"args\":{\"\xc3\x28\":1}}",
		"half a surrogate pair":        `{"command":"ping","args":{"a":"\ud800"}}`,
		"a raw NUL":                    "{\"command\":\"ping\x00\"}",
		"a NUL behind":                 "{\"command\":\"ping\"}\x00",
		"a raw line break in a string": "{\"command\":\"pi\nng\"}",
		"a byte order mark":            "\ufeff{\"command\":\"ping\"}",
		"UTF-16":                       "\xff\xfe{\x00}\x00",
		"NaN":                          `{"command":"ping","args":{"a":NaN}}`,
		"a leading zero":               `{"command":"ping","args":{"a":01}}`,
		"10,001 arrays":                `{"command":"ping","args":` + nested(10_001) + `}`,
		"10,000 open arrays":           `{"command":"ping","args":` + strings.Repeat("[", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.fails(call("POST", sendPath, body), 400, device.Malformed)
			if res := h.do(call("POST", sendPath, body)); strings.Contains(res.body, "canary") {
				t.Errorf("the body is echoed: %s", res.body)
			}
			h.works()
		})
	}
}

func TestBody_RefusesAnEmptyBody(t *testing.T) {
	h := newHarness(t)
	for _, path := range []string{sendPath, "/v1/devices", "/v1/enrol", "/v1/enrolment-codes", "/v1/devices/cam-1/certificates"} {
		h.fails(call("POST", path, ""), 400, device.Malformed)
		h.fails(call("POST", path, "", withHeader("Content-Type", "application/json")), 400, device.Malformed)
		chunked := func(r *http.Request) { r.Body, r.ContentLength = http.NoBody, -1 }
		h.fails(call("POST", path, "", withHeader("Content-Type", "application/json"), chunked), 400, device.Malformed)
	}
}

func TestBody_RefusesOtherContentTypes(t *testing.T) {
	h := newHarness(t)
	for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
		"application/json; charset=utf-16", "application/json5", "application/*", "json", "application/json;;"} {
		h.fails(call("POST", sendPath, `{"command":"ping"}`, withHeader("Content-Type", contentType)), 415, kindMediaType)
	}
	h.fails(call("POST", sendPath, `{"command":"ping"}`, withHeader("Content-Encoding", "gzip")), 415, kindMediaType)
	for _, contentType := range []string{"application/json", "Application/JSON", "application/json; charset=UTF-8", `application/json; charset="utf-8"`} {
		if res := h.do(call("POST", sendPath, `{"command":"ping"}`, withHeader("Content-Type", contentType))); res.StatusCode != 202 {
			t.Errorf("%q: %d", contentType, res.StatusCode)
		}
	}
}

// failingReader tells whether anybody read.
type failingReader struct{ t *testing.T }

func (r failingReader) Read([]byte) (int, error) {
	r.t.Error("the body was read")
	return 0, io.EOF
}

func TestBody_Limits(t *testing.T) {
	pad := func(body string, size int) string { return body + strings.Repeat(" ", size-len(body)) }
	chunked := func(r *http.Request) { r.ContentLength = -1 }
	for name, tt := range map[string]struct {
		path, body string
		limit      int
		status     int
	}{
		"a command":     {sendPath, `{"command":"ping"}`, device.MaxPayload + 1024, 202},
		"another body":  {"/v1/enrolment-codes", `{}`, 64 << 10, 201},
		"an enrolment":  {"/v1/enrol", `{"code":"x","csr":"x"}`, 64 << 10, 201},
		"a device":      {"/v1/devices", `{"name":"x","csr":"x"}`, 64 << 10, 201},
		"a certificate": {"/v1/devices/cam-1/certificates", `{"csr":"x"}`, 64 << 10, 201},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			if res := h.do(call("POST", tt.path, pad(tt.body, tt.limit))); res.StatusCode != tt.status {
				t.Errorf("at the limit: %d %s", res.StatusCode, res.body)
			}
			if res := h.do(call("POST", tt.path, pad(tt.body, tt.limit), chunked)); res.StatusCode != tt.status {
				t.Errorf("at the limit, of unknown length: %d %s", res.StatusCode, res.body)
			}
			h.service.called()
			h.fails(call("POST", tt.path, pad(tt.body, tt.limit+1), chunked), 413, device.PayloadTooLarge)
			unread := func(r *http.Request) { r.Body = io.NopCloser(failingReader{t}) }
			h.fails(call("POST", tt.path, pad(tt.body, tt.limit+1), unread), 413, device.PayloadTooLarge)
		})
	}
}

func TestBody_BoundsFreeFormJSON(t *testing.T) {
	for name, tt := range map[string]struct {
		args string
		good bool
	}{
		"an object":                 {`{"a":1}`, true},
		"nothing":                   {`null`, true},
		"64 deep":                   {`{"a":` + nested(63) + `}`, true},
		"65 deep":                   {`{"a":` + nested(64) + `}`, false},
		"9,000 deep":                {nested(9000), false},
		"64 deep many times":        {`[` + nested(63) + `,` + nested(63) + `]`, true},
		"the largest number":        {`{"a":1.7976931348623157e308}`, true},
		"a number out of range":     {`{"a":1e400}`, false},
		"one far out of range":      {`{"a":[-1e999999999999]}`, false},
		"a very small number":       {`{"a":1e-400}`, true},
		"text":                      {`{"a":"\u0001"}`, true},
		"NUL in text":               {`{"a":"b\u0000"}`, false},
		"NUL in a name":             {`{"\u0000":1}`, false},
		"a long number":             {`{"a":` + strings.Repeat("9", 300) + `}`, true},
		"text that looks like deep": {`{"a":"` + strings.Repeat("[", 100) + `"}`, true},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			r := call("POST", sendPath, `{"command":"ping","args":`+tt.args+`}`)
			if !tt.good {
				p := h.fails(r, 422, device.Invalid)
				if len(p.Errors) != 1 || p.Errors[0].Location != "args" {
					t.Errorf("errors %v", p.Errors)
				}
				h.works()
				return
			}
			if res := h.do(r); res.StatusCode != 202 {
				t.Fatalf("%d %s", res.StatusCode, res.body)
			}
			if got := h.service.input.(dispatch.SendInput).Args; string(got) != tt.args {
				t.Errorf("args became %s", got)
			}
		})
	}
}

// A well-formed body is told all its faults at once.
func TestBody_NamesEveryFault(t *testing.T) {
	long := func(n int) string { return strings.Repeat("a", n) }
	labels := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, `,"k%d":"v"`, i)
		}
		return "{" + strings.TrimPrefix(b.String(), ",") + "}"
	}
	for name, tt := range map[string]struct {
		path, body string
		faults     string // the locations; none: the body is good
	}{
		"device, good":                  {"/v1/devices", `{"name":"a","csr":"x"}`, ""},
		"device, name at the limit":     {"/v1/devices", `{"name":"` + long(50) + `","csr":"x"}`, ""},
		"device, name over the limit":   {"/v1/devices", `{"name":"` + long(51) + `","csr":"x"}`, "name"},
		"device, empty name":            {"/v1/devices", `{"name":"","csr":"x"}`, "name"},
		"device, name with a space":     {"/v1/devices", `{"name":"a b","csr":"x"}`, "name"},
		"device, name with NUL":         {"/v1/devices", `{"name":"a\u0000","csr":"x"}`, "name"},
		"device, nothing":               {"/v1/devices", `{}`, "name certificate"},
		"device, name is a number":      {"/v1/devices", `{"name":1,"csr":"x"}`, "name"},
		"device, name is null":          {"/v1/devices", `{"name":null,"csr":"x"}`, "name"},
		"device, both credentials":      {"/v1/devices", `{"name":"a","csr":"x","certificate":"y"}`, "certificate"},
		"device, everything":            {"/v1/devices", `{"name":[],"csr":1,"labels":[]}`, "name labels csr"},
		"device, csr at the limit":      {"/v1/devices", `{"name":"a","csr":"` + long(32<<10) + `"}`, ""},
		"device, csr over the limit":    {"/v1/devices", `{"name":"a","csr":"` + long(32<<10+1) + `"}`, "csr"},
		"device, 64 labels":             {"/v1/devices", `{"name":"a","csr":"x","labels":` + labels(64) + `}`, ""},
		"device, 65 labels":             {"/v1/devices", `{"name":"a","csr":"x","labels":` + labels(65) + `}`, "labels"},
		"device, label of 63":           {"/v1/devices", `{"name":"a","csr":"x","labels":{"` + long(63) + `":"` + long(63) + `"}}`, ""},
		"device, label value of 64":     {"/v1/devices", `{"name":"a","csr":"x","labels":{"k":"` + long(64) + `"}}`, "labels"},
		"device, label key of 64":       {"/v1/devices", `{"name":"a","csr":"x","labels":{"` + long(64) + `":"v"}}`, "labels"},
		"device, label without a key":   {"/v1/devices", `{"name":"a","csr":"x","labels":{"":"v"}}`, "labels"},
		"device, label without a value": {"/v1/devices", `{"name":"a","csr":"x","labels":{"k":""}}`, ""},
		"device, label that is null":    {"/v1/devices", `{"name":"a","csr":"x","labels":{"k":"v","l":null}}`, "labels"},
		"device, label with a newline":  {"/v1/devices", `{"name":"a","csr":"x","labels":{"k":"\n"}}`, "labels"},
		"device, label is a number":     {"/v1/devices", `{"name":"a","csr":"x","labels":{"k":1}}`, "labels"},
		"device, labels are null":       {"/v1/devices", `{"name":"a","csr":"x","labels":null}`, "labels"},

		"code, good":               {"/v1/enrolment-codes", `{}`, ""},
		"code, shortest":           {"/v1/enrolment-codes", `{"expires_in":1}`, ""},
		"code, too short":          {"/v1/enrolment-codes", `{"expires_in":0.999}`, "expires_in"},
		"code, longest":            {"/v1/enrolment-codes", `{"expires_in":2592000}`, ""},
		"code, too long":           {"/v1/enrolment-codes", `{"expires_in":2592000.1}`, "expires_in"},
		"code, far too long":       {"/v1/enrolment-codes", `{"expires_in":1e400}`, "expires_in"},
		"code, negative":           {"/v1/enrolment-codes", `{"expires_in":-5}`, "expires_in"},
		"code, time as text":       {"/v1/enrolment-codes", `{"expires_in":"1h"}`, "expires_in"},
		"code, time as number txt": {"/v1/enrolment-codes", `{"expires_in":"60"}`, "expires_in"},
		"code, everything":         {"/v1/enrolment-codes", `{"expires_in":0,"name":"/","labels":1}`, "labels name expires_in"},

		"enrol, nothing":               {"/v1/enrol", `{}`, "code csr"},
		"enrol, code over the limit":   {"/v1/enrol", `{"code":"` + long(257) + `","csr":"x"}`, "code"},
		"enrol, code at the limit":     {"/v1/enrol", `{"code":"` + long(256) + `","csr":"x"}`, ""},
		"enrol, with a name":           {"/v1/enrol", `{"code":"x","csr":"x","name":"cam"}`, ""},
		"enrol, with a bad name":       {"/v1/enrol", `{"code":"x","csr":"x","name":"ca m"}`, "name"},
		"certificate, nothing":         {"/v1/devices/cam-1/certificates", `{}`, "certificate"},
		"certificate, both":            {"/v1/devices/cam-1/certificates", `{"csr":"x","certificate":"x"}`, "certificate"},
		"certificate, a certificate":   {"/v1/devices/cam-1/certificates", `{"certificate":"x"}`, ""},
		"certificate, an empty one":    {"/v1/devices/cam-1/certificates", `{"certificate":""}`, "certificate"},
		"command, nothing":             {sendPath, `{}`, "command"},
		"command, name at the limit":   {sendPath, `{"command":"` + long(64) + `"}`, ""},
		"command, name over the limit": {sendPath, `{"command":"` + long(65) + `"}`, "command"},
		"command, a number, deep args": {sendPath, `{"command":1,"args":` + nested(65) + `}`, "command args"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			r := call("POST", tt.path, tt.body)
			if tt.faults == "" {
				if res := h.do(r); res.StatusCode >= 300 {
					t.Errorf("%d %s", res.StatusCode, res.body)
				}
				return
			}
			p := h.fails(r, 422, device.Invalid)
			var locations []string
			for _, f := range p.Errors {
				locations = append(locations, f.Location)
			}
			if got := strings.Join(locations, " "); got != tt.faults {
				t.Errorf("faults at %q, want %q", got, tt.faults)
			}
		})
	}
}

// Whatever the strict reader takes, the standard library's reader takes too, with the same members; and it never panics.
func FuzzParseObject(f *testing.F) {
	for _, seed := range []string{
		`{"command":"ping","args":{"a":[1,2.5e3,"x",null,true]}}`, `{"args":{"a":1,"a":2}}`, `{}`, `[]`, `null`,
		"{\"command\":\"\xff\"}", `{"command":"\ud83d\ude00"}`, `{"command":`, ` {"args" : {} } `, nested(200),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		members, err := parseObject(bytes.Clone(body), []string{"command", "args"})
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(body, &want); err != nil {
			t.Fatalf("took what is not JSON: %q: %v", body, err)
		}
		if len(want) != len(members) {
			t.Fatalf("%q: %d members, want %d", body, len(members), len(want))
		}
		for name, value := range members {
			if !jsontext.Value(want[name]).IsValid() {
				t.Fatalf("%q: took a value that is not strict JSON: %s", body, value)
			}
			if string(bytes.TrimSpace(want[name])) != string(value) {
				t.Fatalf("%q: %s is %s, want %s", body, name, value, want[name])
			}
		}
		fields := &fields{members: members}
		if args := fields.freeForm("args"); (args == nil) == (members["args"] != nil && fields.err() == nil) {
			t.Fatalf("%q: args %s and err %v", body, args, fields.err())
		}
	})
}
