package catalogue

import (
	"fmt"
	"strings"
	"testing"

	"signaldevice/device"
)

// withExamples is a file with good examples of both forms. Tests change one thing in it.
const withExamples = `commands:
  - name: set_volume
    permission: p
    args:
      required: [volume]
      properties:
        volume: {type: integer, maximum: 100}
        mode: {type: string, default: soft}
    examples:
      - args: {volume: 7}
        reply: {status: ok, result: {volume: 7}}
      - reply: {status: progress, result: 40, seq: 1, final: false}
      - reply: {status: error, error: {code: muted, message: off}}
    text:
      send: "VOL {request_id} {volume} {mode}"
      reply: '(?:OK (?P<request_id>\S+)(?: (?P<volume>\d+))?|ERR \S+ (?P<error_code>\d+) (?P<error_message>.*))'
      examples:
        - args: {volume: 7}
          send: "VOL {request_id} 7 soft"
          reply: "OK {request_id} 7"
          result: {volume: "7"}
        - {args: {mode: loud, volume: 1.0e+1}, send: "VOL {request_id} 10 loud"}
        - {reply: "OK {request_id}", status: ok}
        - reply: "ERR {request_id} 12 speaker off"
          error: {code: "12", message: speaker off}
        - {reply: "BUSY {request_id}", status: unparsed}
`

func TestLoad_RunsTheExamples(t *testing.T) {
	load(t, withExamples)
	tests := map[string]struct{ before, after, want string }{
		"another line":              {`send: "VOL {request_id} 7 soft"`, `send: "VOL {request_id} 8 soft"`, `line 19: text.examples[0].send: expected "VOL {request_id} 8 soft", got "VOL {request_id} 7 soft"`},
		"a template with a slip":    {`send: "VOL {request_id} {volume} {mode}"`, `send: "VOL {request_id} {mode} {volume}"`, `line 19: text.examples[0].send: expected "VOL {request_id} 7 soft", got "VOL {request_id} soft 7"; line 22: text.examples[1].send: `},
		"a pattern with a slip":     {`(?P<volume>\d+)`, `(?P<volume>\d)x`, `line 20: text.examples[0].reply: expected ok {"volume":"7"}, got unparsed "OK {request_id} 7"`},
		"another result":            {`result: {volume: "7"}`, `result: {volume: 7}`, `line 20: text.examples[0].reply: expected ok {"volume":7}, got ok {"volume":"7"}`},
		"no result":                 {`          result: {volume: "7"}` + "\n", ``, `line 20: text.examples[0].reply: expected ok, got ok {"volume":"7"}`},
		"another error code":        {`code: "12"`, `code: "13"`, `line 24: text.examples[3].reply: expected error {code: "13", message: "speaker off"}, got error {code: "12", message: "speaker off"}`},
		"another error message":     {`message: speaker off`, `message: off`, `expected error {code: "12", message: "off"}, got error`},
		"ok for an error":           {`error: {code: "12", message: speaker off}`, `status: ok`, `line 24: text.examples[3].reply: expected ok, got error {code: "12", message: "speaker off"}`},
		"unparsed for what is read": {`status: ok}` + "\n        - reply: \"ERR", `status: unparsed}` + "\n        - reply: \"ERR", `line 23: text.examples[2].reply: expected unparsed, got ok`},
		"read for what is unparsed": {`status: unparsed}`, `status: ok}`, `line 26: text.examples[4].reply: expected ok, got unparsed "BUSY {request_id}"`},
		"progress by a line":        {`status: unparsed}`, `status: progress}`, `line 26: text.examples[4].status must be ok, error or unparsed`},
		"args that do not fit":      {"        - args: {volume: 7}", "        - args: {volume: 101}", `line 18: text.examples[0].args do not fit the command: args.volume must be at most 100`},
		"args that fit no line":     {`{mode: loud, `, `{mode: "a{b", `, `line 22: text.examples[1].args do not fit the command: args.mode must not hold braces`},
		"args that are a list":      {"        - args: {volume: 7}", "        - args: [7]", `line 18: text.examples[0].args do not fit the command: args must be an object`},
		"args without a line":       {`, send: "VOL {request_id} 10 loud"`, ``, `line 22: text.examples[1] has args, but not the line to send`},
		"an outcome without a line": {`reply: "OK {request_id}", status: ok`, `send: "VOL {request_id} 7 soft", args: {volume: 7}, status: ok`, `line 23: text.examples[2] has an outcome, but not the reply that makes it`},
		"nothing at all":            {`{reply: "OK {request_id}", status: ok}`, `{}`, `line 23: text.examples[2] must have send, reply or both`},
		"an unknown field":          {`status: unparsed`, `statu: unparsed`, `line 26: unknown field "statu": did you mean status?`},
		"a result beyond JSON":      {`result: {volume: "7"}`, `result: .inf`, `line 21: a number in text.examples[0].result must be written as in JSON`},

		"JSON args that do not fit":     {"      - args: {volume: 7}", "      - args: {volume: 101}", `line 10: examples[0].args do not fit the command: args.volume must be at most 100`},
		"JSON args with two faults":     {"      - args: {volume: 7}", "      - args: {volume: x, mode: 1}", `line 10: examples[0].args do not fit the command: args.mode must be text; line 10: examples[0].args do not fit the command: args.volume must be a whole number`},
		"JSON args beyond JSON":         {"      - args: {volume: 7}", "      - args: {volume: 0x7}", `line 10: a number in examples[0].args must be written as in JSON`},
		"a reply without a status":      {"reply: {status: ok, result: {volume: 7}}", "reply: {result: {volume: 7}}", `line 11: examples[0].reply must have the status ok, error or progress`},
		"a reply with another status":   {"reply: {status: ok,", "reply: {status: fine,", `line 11: examples[0].reply must have the status ok, error or progress`},
		"a reply with an unknown field": {"reply: {status: ok, result", "reply: {status: ok, reslt", `line 11: unknown field "reslt": did you mean result?`},
		"a reply that is text":          {"reply: {status: ok, result: {volume: 7}}", "reply: ok", `line 11: examples[0].reply must be a mapping of fields: status, result, error`},
		"an error without its words":    {", error: {code: muted, message: off}", "", `line 13: examples[2].reply has the status error, but not the error`},
		"an exchange of nothing":        {"reply: {status: progress, result: 40, seq: 1, final: false}", "{}", `line 12: examples[1] must have args, reply or both`},
		"a picture that is none":        {"permission: p\n", "permission: p\n    reply: {kind: image}\n", `line 12: examples[0].reply.result must be a picture`},
		"text that is none":             {"permission: p\n", "permission: p\n    reply: {kind: text}\n", `line 12: examples[0].reply.result must be text, as reply.kind says`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(withExamples, tt.before) {
				t.Fatalf("the file has no %q", tt.before)
			}
			c, err := Load([]byte(strings.Replace(withExamples, tt.before, tt.after, 1)))
			if c != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestLoad_ReplyKindsOfExamples(t *testing.T) {
	tests := map[string]struct{ kind, reply, want string }{
		"text":                            {"text", `{status: ok, result: hello}`, ""},
		"text that is empty":              {"text", `{status: ok, result: ""}`, ""},
		"a number for text":               {"text", `{status: ok, result: 7}`, "must be text"},
		"no result":                       {"text", `{status: ok}`, ""},
		"progress is no result":           {"text", `{status: progress, result: 7}`, ""},
		"a picture":                       {"image", `{status: ok, result: {content_type: image/png, data: aGVsbG8=}}`, ""},
		"a picture of another type":       {"image", `{status: ok, result: {content_type: video/mp4, data: aGVsbG8=}}`, "must be a picture"},
		"a picture that is not in base64": {"image", `{status: ok, result: {content_type: image/png, data: "***"}}`, "must be a picture"},
		"text for a picture":              {"image", `{status: ok, result: cheese}`, "must be a picture"},
		"anything":                        {"json", `{status: ok, result: [1, {a: null}]}`, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := Load([]byte("commands: [{name: a, permission: p, reply: {kind: " + tt.kind + "}, examples: [{reply: " + tt.reply + "}]}]"))
			if got := fmt.Sprint(err); tt.want == "" && err != nil || !strings.Contains(got, tt.want) {
				t.Errorf("got %s, want %q", got, tt.want)
			}
		})
	}
}

func TestLoad_ExamplesOfACommandWithoutArguments(t *testing.T) {
	const file = `commands:
  - name: ping
    permission: p
    text:
      send: "PING {request_id}"
      reply: 'PONG (?P<request_id>\S+)'
      examples: [{send: "PING {request_id}", reply: "PONG {request_id}"}]
`
	load(t, file)
	_, err := Load([]byte(strings.Replace(file, `[{send: "PING`, `[{send: "ping`, 1)))
	if err == nil || !strings.Contains(err.Error(), `line 7: text.examples[0].send: expected "ping {request_id}", got "PING {request_id}"`) {
		t.Errorf("got %v", err)
	}
}

// The id in examples has the shape of a real one, so that a pattern which takes it takes every id.
func TestExampleID(t *testing.T) {
	found, ok := device.FindRequestID([]byte(exampleID))
	if !ok || found != exampleID || len(exampleID) != device.RequestIDLen {
		t.Fatalf("%d characters, found %q", len(exampleID), found)
	}
	for _, sort := range []string{"abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "0123456789", "-", "_"} {
		if !strings.ContainsAny(string(exampleID[len(device.RequestIDPrefix):]), sort) {
			t.Errorf("holds none of %s", sort)
		}
	}
}
