package catalogue

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"signaldevice/device"
)

const forAnswer = `commands:
  - name: ping
    permission: p
  - name: set_volume
    permission: p
    args: {required: [volume], properties: {volume: {type: integer}}}
    text:
      send: "VOL {request_id} {volume}"
      reply: '(?:OK (?P<request_id>\S+)(?: volume=(?P<volume>\d+))?(?: mode=(?P<mode>\w+))?|ERR \S+ (?P<error_code>\d+)(?: (?P<error_message>.*))?)'
  - name: get_logs
    permission: p
    text:
      send: "LOG {request_id}"
      reply: '(?s)LOG (?P<request_id>\S+)\r?\n(?P<result>.*)'
`

const answerID = device.RequestID("sdr1_mine")

func answerText(a device.Answer) string {
	s := string(a.Status)
	if a.Result != nil {
		s += " " + string(a.Result)
	}
	if a.Error != nil {
		s += " (" + a.Error.Code + ": " + a.Error.Message + ")"
	}
	return s
}

func TestAnswer(t *testing.T) {
	c := load(t, forAnswer)
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	tests := map[string]struct {
		command string
		body    string
		want    string
	}{
		"an envelope":                    {"ping", `{"request_id":"sdr1_mine","status":"ok","result":{"b":1, "a":2.50},"seq":0,"final":true}`, `ok {"b":1, "a":2.50}`},
		"one without an id":              {"ping", `{"status":"ok","result":"hi"}`, `ok "hi"`},
		"one without a result":           {"ping", `{"status":"ok"}`, `ok`},
		"one with no result":             {"ping", `{"status":"ok","result":null,"error":null}`, `ok`},
		"one with progress":              {"ping", `{"status":"progress","result":40,"final":false}`, `progress 40`},
		"one with an error":              {"ping", `{"status":"error","error":{"code":"lens","message":"dirty","hint":"wipe"}}`, `error (lens: dirty)`},
		"one with fields of its own":     {"ping", `{"status":"ok","battery":{"v":12}}`, `ok`},
		"one with white space around it": {"ping", "\r\n {\"status\":\"ok\"}\n", `ok`},
		"one of an unknown command":      {"", `{"status":"ok","result":1}`, `ok 1`},
		"one of a command that is gone":  {"fly", `{"status":"ok","result":1}`, `ok 1`},
		"one from a device of text":      {"set_volume", `{"status":"ok","result":1}`, `ok 1`},
		"a result that is 64 deep":       {"ping", `{"status":"ok","result":` + deep(64) + `}`, `ok ` + deep(64)},

		"a result that is deeper":     {"ping", `{"status":"ok","result":` + deep(65) + `}`, `unparsed "{\"status\":\"ok\",\"result\":` + deep(65) + `}"`},
		"another request's id":        {"ping", `{"request_id":"sdr1_other","status":"ok"}`, `unparsed "{\"request_id\":\"sdr1_other\",\"status\":\"ok\"}"`},
		"an unknown status":           {"ping", `{"status":"fine"}`, `unparsed "{\"status\":\"fine\"}"`},
		"a status in capitals":        {"ping", `{"status":"OK"}`, `unparsed "{\"status\":\"OK\"}"`},
		"a status of ours":            {"ping", `{"status":"unparsed"}`, `unparsed "{\"status\":\"unparsed\"}"`},
		"no status":                   {"ping", `{"result":1}`, `unparsed "{\"result\":1}"`},
		"an error that is text":       {"ping", `{"status":"error","error":"dirty"}`, `unparsed "{\"status\":\"error\",\"error\":\"dirty\"}"`},
		"a field that is there twice": {"ping", `{"status":"ok","status":"error"}`, `unparsed "{\"status\":\"ok\",\"status\":\"error\"}"`},
		"a list":                      {"ping", `[1]`, `unparsed "[1]"`},
		"half an object":              {"ping", `{"status":"ok"`, `unparsed "{\"status\":\"ok\""`},
		"text":                        {"ping", "hello <b>\n", `unparsed "hello <b>\n"`},
		"nothing":                     {"ping", "", `unparsed ""`},
		"text with NUL":               {"ping", "a\x00b", `unparsed {"content_type":"application/octet-stream","data":"YQBi"}`},
		"bytes":                       {"ping", "\xff\xfe", `unparsed {"content_type":"application/octet-stream","data":"//4="}`},
		"an object with bad UTF-8":    {"ping", "{\"status\":\"ok\",\"result\":\"\xff\"}", `unparsed {"content_type":"application/octet-stream","data":"eyJzdGF0dXMiOiJvayIsInJlc3VsdCI6Iv8ifQ=="}`},

		"a line":                         {"set_volume", "OK sdr1_mine volume=7 mode=soft", `ok {"volume":"7","mode":"soft"}`},
		"a line with its end":            {"set_volume", "OK sdr1_mine volume=7\r\n", `ok {"volume":"7"}`},
		"a line without fields":          {"set_volume", "OK sdr1_mine", `ok`},
		"a line with an error":           {"set_volume", "ERR sdr1_mine 12 speaker \"A\" is off", `error (12: speaker "A" is off)`},
		"a line with an error code only": {"set_volume", "ERR sdr1_mine 12", `error (12: )`},
		"a line of another request":      {"set_volume", "OK sdr1_other volume=7", `unparsed "OK sdr1_other volume=7"`},
		"a line with more behind it":     {"set_volume", "OK sdr1_mine volume=7 x", `unparsed "OK sdr1_mine volume=7 x"`},
		"a line with more before it":     {"set_volume", "x OK sdr1_mine", `unparsed "x OK sdr1_mine"`},
		"a line with NUL":                {"set_volume", "OK sdr1_mine\x00", `unparsed {"content_type":"application/octet-stream","data":"T0sgc2RyMV9taW5lAA=="}`},
		"a line of an unknown command":   {"", "OK sdr1_mine volume=7", `unparsed "OK sdr1_mine volume=7"`},
		"a whole text":                   {"get_logs", "LOG sdr1_mine\na\tb\nc\n", `ok "a\tb\nc"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := answerText(c.Answer(tt.command, answerID, []byte(tt.body))); got != tt.want {
				t.Errorf("got  %s\nwant %s", got, tt.want)
			}
		})
	}
}

func FuzzAnswer(f *testing.F) {
	for _, body := range []string{``, `{"status":"ok"}`, `{"request_id":"sdr1_mine","status":"error","error":{"code":"a","message":"b"}}`, "OK sdr1_mine volume=7", "ERR x 12 no", "LOG sdr1_mine\nx", "\xff\x00", `{"status":"ok","result":[[{"a":1e999}]]}`} {
		f.Add(body)
	}
	c := load(f, forAnswer)
	f.Fuzz(func(t *testing.T, body string) {
		for _, command := range []string{"", "ping", "set_volume", "get_logs"} {
			a := c.Answer(command, answerID, []byte(body))
			if a.Result != nil && (!json.Valid(a.Result) || !utf8.Valid(a.Result)) {
				t.Fatalf("%s: the result is no JSON: %q", command, a.Result)
			}
			switch a.Status {
			case device.StatusOK, device.StatusError, device.StatusProgress:
			case device.StatusUnparsed:
				var text string
				if isText([]byte(body)) && (json.Unmarshal(a.Result, &text) != nil || text != body) {
					t.Fatalf("%s: %q was given as %s", command, body, a.Result)
				}
			default:
				t.Fatalf("%s: status %q", command, a.Status)
			}
		}
	})
}

func FuzzLoad(f *testing.F) {
	for _, file := range []string{valid, forPrepare, forAnswer, withExamples, threeModels, "commands: []", "", "commands: [{name: a, permission: p, args: {$ref: '#'}}]", "commands: [&a {name: a, permission: p}, *a]"} {
		f.Add([]byte(file))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		c, err := Load(file)
		if err != nil {
			return
		}
		for _, cmd := range c.Commands() {
			if !json.Valid(cmd.Args) || cmd.DeliverWithin > cmd.ReplyWithin || cmd.Permission == "" {
				t.Fatalf("loaded %+v", cmd)
			}
			_, _ = c.Prepare(cmd.Name, json.RawMessage(`{"a":1,"b":["x",null]}`), noLabels)
			_, _ = c.Prepare(cmd.Name, json.RawMessage(`{"volume":1}`), ofModel("lingua"))
			c.Answer(cmd.Name, answerID, []byte("OK 1"))
		}
	})
}
