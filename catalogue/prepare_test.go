package catalogue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
)

// forPrepare has a command for each thing that a schema can ask for.
const forPrepare = `commands:
  - name: set_volume
    permission: p
    args:
      type: object
      additionalProperties: false
      required: [volume]
      properties:
        volume: {type: integer, minimum: 0, maximum: 100}
        ramp: {type: object, additionalProperties: false, required: [steps], properties: {steps: {type: array, maxItems: 2, items: {type: number}}}}
  - name: anything
    permission: p
    args: {}
  - name: zoom
    permission: p
    args:
      type: object
      oneOf:
        - {required: [factor], properties: {factor: {type: number, exclusiveMinimum: 1}}}
        - {required: [area], properties: {area: {$ref: '#/$defs/area'}}}
      $defs:
        area: {type: array, minItems: 4, maxItems: 4, items: {type: integer}}
  - name: every_rule
    permission: p
    args:
      properties:
        const: {const: 7}
        enum: {enum: [low, 2, null]}
        max: {maximum: 1.5}
        over: {exclusiveMaximum: 2}
        under: {exclusiveMinimum: 2}
        step: {multipleOf: 0.5}
        short: {minLength: 2}
        long: {maxLength: 1}
        few: {minItems: 1}
        many: {maxItems: 1}
        none: {minProperties: 1}
        lots: {maxProperties: 1}
        unique: {uniqueItems: true}
        pattern: {pattern: '^a+$'}
        format: {format: ipv4}
        names: {propertyNames: {maxLength: 1}}
        never: false
        not: {not: {type: string}}
        holds: {contains: {const: 1}}
        holds_two: {contains: {const: 1}, minContains: 2}
        holds_one: {contains: {const: 1}, maxContains: 1}
        together: {dependentRequired: {a: [b]}}
        types: {type: [string, boolean, "null"]}
        both: {allOf: [{minimum: 5}, {multipleOf: 2}]}
        either: {anyOf: [{type: string}, {type: array}]}
        one: {oneOf: [{type: integer}, {type: number}]}
  - name: say
    permission: p
    args:
      type: object
      required: [volume]
      properties:
        volume: {type: [integer, array, "null"]}
        words: {type: string, default: hello you}
        loud: {type: boolean, default: false}
    text:
      send: "SAY {request_id} {volume} {loud} {words}"
      reply: OK
`

func faultsIn(t testing.TB, err error) []string {
	t.Helper()
	var e *device.Error
	if err != nil && !errors.As(err, &e) {
		t.Fatalf("got another error: %v", err)
	}
	if e == nil {
		return nil
	}
	lines := []string{}
	for _, f := range e.Faults {
		lines = append(lines, f.Location+" "+f.Message)
	}
	return lines
}

func TestPrepare_ListsEveryFaultWithItsPlace(t *testing.T) {
	c := load(t, forPrepare)
	tests := map[string]struct {
		command string
		args    string
		want    []string
	}{
		"good":                        {"set_volume", `{"volume":7}`, nil},
		"a whole number with a point": {"set_volume", `{"volume":7.0}`, nil},
		"at the lower bound":          {"set_volume", `{"volume":0}`, nil},
		"under it":                    {"set_volume", `{"volume":-1}`, []string{"args.volume must be at least 0"}},
		"at the upper bound":          {"set_volume", `{"volume":100}`, nil},
		"over it":                     {"set_volume", `{"volume":101}`, []string{"args.volume must be at most 100"}},
		"text for a number":           {"set_volume", `{"volume":"7"}`, []string{"args.volume must be a whole number"}},
		"half a number":               {"set_volume", `{"volume":7.5}`, []string{"args.volume must be a whole number"}},
		"nothing":                     {"set_volume", ``, []string{"args.volume is required"}},
		"null":                        {"set_volume", ` null `, []string{"args.volume is required"}},
		"several at once": {"set_volume", `{"volume":101,"colour":1,"ramp":{"steps":[1,"2",3],"x":1}}`, []string{
			"args.colour is not known here", "args.ramp.steps must have at most 2 items", "args.ramp.steps[1] must be a number",
			"args.ramp.x is not known here", "args.volume must be at most 100",
		}},

		"a list":              {"anything", `[]`, []string{"args must be an object"}},
		"text":                {"anything", `"x"`, []string{"args must be an object"}},
		"a number":            {"anything", `1`, []string{"args must be an object"}},
		"half an object":      {"anything", `{"a":1`, []string{"args is not valid JSON at byte 6"}},
		"two objects":         {"anything", `{}{}`, []string{"args goes on after the end of its JSON value"}},
		"a name twice":        {"anything", `{"a":{"b":1,"b":2}}`, []string{"args.a.b is there twice"}},
		"the same in escapes": {"anything", `{"a":1,"\u0061":2}`, []string{"args.a is there twice"}},
		"invalid UTF-8":       {"anything", "{\"a\":\"\xff\"}", []string{"args is not valid JSON at byte 6"}},
		"half a surrogate":    {"anything", `{"a":"\ud800"}`, []string{"args is not valid JSON at byte 6"}},
		"NUL in a value":      {"anything", `{"a":["x","\u0000"]}`, []string{"args.a[1] must not hold the NUL character"}},
		"NUL in a name":       {"anything", `{"\u0000":1}`, []string{"args.? must not hold the NUL character"}},
		"a name with markup":  {"set_volume", `{"volume":1,"<img onerror=x>":1}`, []string{"args.? is not known here"}},

		"the greatest exponent":              {"anything", `{"a":1e308,"b":-1E-308,"c":1e+308}`, nil},
		"one more":                           {"anything", `{"a":1e309}`, []string{"args.a must be a number with an exponent from -308 to 308"}},
		"one less":                           {"anything", `{"a":1e-309}`, []string{"args.a must be a number with an exponent from -308 to 308"}},
		"a huge exponent":                    {"anything", `{"a":1e999999999}`, []string{"args.a must be a number with an exponent from -308 to 308"}},
		"an exponent that no integer can be": {"anything", `{"a":1e99999999999999999999}`, []string{"args.a must be a number with an exponent from -308 to 308"}},
		"too great for a float":              {"anything", `{"a":99e308}`, []string{"args.a must be a number that a 64-bit float can hold"}},
		"a number of 64 characters":          {"anything", `{"a":` + strings.Repeat("1", 64) + `}`, nil},
		"one of 65":                          {"anything", `{"a":` + strings.Repeat("1", 65) + `}`, []string{"args.a must be a number of at most 64 characters"}},
		"a huge number has its other faults": {"set_volume", `{"volume":1e999999999,"x":1e999999999}`, []string{
			"args.volume must be a number with an exponent from -308 to 308", "args.volume must be at most 100",
			"args.x is not known here", "args.x must be a number with an exponent from -308 to 308",
		}},

		"the first form":   {"zoom", `{"factor":2}`, nil},
		"the second form":  {"zoom", `{"area":[1,2,3,4]}`, nil},
		"neither form":     {"zoom", `{}`, []string{"args fits none of the allowed forms: either factor is required; or area is required"}},
		"both forms wrong": {"zoom", `{"factor":1,"area":[1,"2"]}`, []string{"args fits none of the allowed forms: either factor must be more than 1; or area must have at least 4 items and area[1] must be a whole number"}},
		"both forms":       {"zoom", `{"factor":2,"area":[1,2,3,4]}`, []string{"args fits more than one of the allowed forms, and must fit one only"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := c.Prepare(tt.command, json.RawMessage(tt.args), noLabels)
			if err != nil && !device.Is(err, device.InvalidArguments) {
				t.Errorf("got %v", err)
			}
			if got := faultsIn(t, err); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestPrepare_ASchemaWithoutEndIsToldOf(t *testing.T) {
	c := load(t, "commands: [{name: a, permission: p, args: {$ref: '#'}}]")
	_, err := c.Prepare("a", nil, noLabels)
	if got := faultsIn(t, err); !slices.Equal(got, []string{"args cannot be checked: its schema refers to itself without end"}) {
		t.Errorf("got %q", got)
	}
}

func TestPrepare_ABadNameIsToldWithoutAPlaceThatMayBeWrong(t *testing.T) {
	c := load(t, "commands: [{name: a, permission: p, args: {additionalProperties: {anyOf: [{propertyNames: {maxLength: 1}}]}}}]")
	for range 20 { // the fields of an object come in another order each time
		_, err := c.Prepare("a", json.RawMessage(`{"q":{"long":1},"r":{},"s":{}}`), noLabels)
		if got := faultsIn(t, err); !slices.Equal(got, []string{"args.q has a field whose name is not allowed: long"}) {
			t.Fatalf("got %q", got)
		}
	}
}

func TestPrepare_SaysEachRuleInPlainWords(t *testing.T) {
	c := load(t, forPrepare)
	tests := map[string]string{
		`{"const":8}`:                "args.const must be 7",
		`{"enum":"high"}`:            `args.enum must be one of "low", 2, null`,
		`{"max":1.6}`:                "args.max must be at most 1.5",
		`{"over":2}`:                 "args.over must be less than 2",
		`{"under":2}`:                "args.under must be more than 2",
		`{"step":0.7}`:               "args.step must be a multiple of 0.5",
		`{"short":"a"}`:              "args.short must have at least 2 characters",
		`{"long":"ab"}`:              "args.long must have at most 1 character",
		`{"few":[]}`:                 "args.few must have at least 1 item",
		`{"many":[1,2]}`:             "args.many must have at most 1 item",
		`{"none":{}}`:                "args.none must have at least 1 field",
		`{"lots":{"a":1,"b":2}}`:     "args.lots must have at most 1 field",
		`{"unique":[1,2,1.0]}`:       "args.unique must not hold a value twice (items 0 and 2 are equal)",
		`{"pattern":"b"}`:            "args.pattern must match the pattern ^a+$",
		`{"format":"1.2.3"}`:         "args.format must be a valid ipv4",
		`{"names":{"long":1}}`:       "args has a field whose name is not allowed: long",
		`{"never":1}`:                "args.never is not known here",
		`{"not":"x"}`:                "args.not is a combination that is not allowed",
		`{"holds":[2]}`:              "args.holds lacks an item that must be there",
		`{"holds_two":[1]}`:          "args.holds_two must have at least 2 items of the required sort",
		`{"holds_one":[1,1]}`:        "args.holds_one must have at most 1 item of the limited sort",
		`{"together":{"a":1}}`:       "args.together.b is required together with a",
		`{"types":1}`:                "args.types must be null or true or false or text",
		`{"both":3}`:                 "args.both must be a multiple of 2; args.both must be at least 5",
		`{"either":1}`:               "args.either fits none of the allowed forms: either must be text; or must be a list",
		`{"one":1}`:                  "args.one fits more than one of the allowed forms, and must fit one only",
		`{"one":"x"}`:                "args.one fits none of the allowed forms: either must be a whole number; or must be a number",
		`{"step":1e308,"both":1e20}`: "",
	}
	for args, want := range tests {
		t.Run(args, func(t *testing.T) {
			_, err := c.Prepare("every_rule", json.RawMessage(args), noLabels)
			if got := strings.Join(faultsIn(t, err), "; "); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func TestPrepare_SendsMembersAndNumbersAsTheyCame(t *testing.T) {
	c := load(t, forPrepare)
	tests := map[string]struct{ args, want string }{
		"white space goes":         {" {\n\t\"a\" : [ 1 , 2 ] } \r\n", `{"a":[1,2]}`},
		"white space in text":      {`{"a":" b  c "}`, `{"a":" b  c "}`},
		"the order of members":     {`{"z":1,"a":2,"m":{"y":1,"b":2}}`, `{"z":1,"a":2,"m":{"y":1,"b":2}}`},
		"the digits of numbers":    {`{"a":1.10,"b":12345678901234567890123,"c":1E2,"d":-0}`, `{"a":1.10,"b":12345678901234567890123,"c":1E2,"d":-0}`},
		"escapes and markup":       {`{"a":"\u003cb\/>é\ud83d\ude00"}`, `{"a":"\u003cb\/>é\ud83d\ude00"}`},
		"nothing becomes {}":       {"", "{}"},
		"white space becomes {}":   {" \n", "{}"},
		"null becomes {}":          {"null", "{}"},
		"an empty object stays {}": {"{ }", "{}"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := c.Prepare("anything", json.RawMessage(tt.args), noLabels)
			if err != nil || string(got.JSON) != tt.want || got.Text != nil {
				t.Errorf("got %s and %v, want %s", got.JSON, err, tt.want)
			}
		})
	}
}

func TestPrepare_DoesNotKeepTheCallersBytes(t *testing.T) {
	args := json.RawMessage(`{"a":1}`)
	got, err := load(t, forPrepare).Prepare("anything", args, noLabels)
	if err != nil {
		t.Fatal(err)
	}
	copy(args, "xxxxxxx")
	if string(got.JSON) != `{"a":1}` {
		t.Errorf("the payload changed with the caller's bytes: %s", got.JSON)
	}
}

func TestPrepare_Depth(t *testing.T) {
	c := load(t, forPrepare)
	nested := func(n int) json.RawMessage {
		return json.RawMessage(`{"a":` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `}`)
	}
	if _, err := c.Prepare("anything", nested(64), noLabels); err != nil {
		t.Errorf("64 deep: %v", err)
	}
	for _, n := range []int{65, 10_000, 100_000} {
		_, err := c.Prepare("anything", nested(n), noLabels)
		if got := faultsIn(t, err); !slices.Equal(got, []string{"args is nested more than 64 deep"}) {
			t.Errorf("%d deep: got %q", n, got)
		}
	}
}

func TestPrepare_Size(t *testing.T) {
	c := load(t, forPrepare)
	sized := func(n int) json.RawMessage {
		const frame = `{"a":""}`
		return json.RawMessage(`{"a":"` + strings.Repeat("x", n-len(frame)) + `"}`)
	}
	if _, err := c.Prepare("anything", sized(device.MaxPayload), noLabels); err != nil {
		t.Errorf("as large as a packet: %v", err)
	}
	if _, err := c.Prepare("anything", sized(device.MaxPayload+1), noLabels); !device.Is(err, device.PayloadTooLarge) {
		t.Errorf("one byte more: got %v", err)
	}
}

func TestPrepare_ManyFaultsAreBounded(t *testing.T) {
	c := load(t, forPrepare)
	unknown := func(n int) json.RawMessage {
		var b strings.Builder
		b.WriteString(`{"volume":1`)
		for i := range n {
			fmt.Fprintf(&b, `,"x%d":1e999`, i)
		}
		return json.RawMessage(b.String() + "}")
	}
	_, err := c.Prepare("set_volume", unknown(50), noLabels) // two faults each
	if got := faultsIn(t, err); len(got) != 100 {
		t.Errorf("100 faults: got %d", len(got))
	}
	_, err = c.Prepare("set_volume", unknown(5000), noLabels)
	if got := faultsIn(t, err); len(got) != 101 || !strings.HasPrefix(got[100], "args has ") {
		t.Errorf("10,000 faults: got %d, the last is %q", len(got), got[len(got)-1])
	}
}

func TestPrepare_LongMessagesAreBounded(t *testing.T) {
	list := func(n int, item string) string {
		var items []string
		for i := range n {
			items = append(items, fmt.Sprintf(item, i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	}
	tests := map[string]struct{ rule, want string }{
		"20 values are told":    {"enum: " + list(20, "%d"), "18, 19"},
		"of 21 the last is not": {"enum: " + list(21, "%d"), "19, 1 more"},
		"6 forms are told":      {"anyOf: " + list(6, "{const: %d}"), "or must be 5"},
		"of 8 two are not":      {"anyOf: " + list(8, "{const: %d}"), "or must be 5; or one of 2 more"},
		"800 bytes are told":    {"anyOf: [{enum: [" + strings.Repeat("ü", 500) + "]}]", "üü …"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := load(t, "commands: [{name: a, permission: p, args: {properties: {x: {"+tt.rule+"}}}}]")
			_, err := c.Prepare("a", json.RawMessage(`{"x":"none"}`), noLabels)
			if got := faultsIn(t, err); len(got) != 1 || !strings.HasSuffix(got[0], tt.want) {
				t.Errorf("got %q, want an end of %q", got, tt.want)
			}
		})
	}
}

// A short text can stand for a number of a billion digits.
func TestPrepare_HugeNumbersCostNothing(t *testing.T) {
	c := load(t, forPrepare)
	args := json.RawMessage(`{"step":[` + strings.Repeat("1e999999,", 20_000) + `1],"both":1e999999999}`)
	start := time.Now()
	if _, err := c.Prepare("every_rule", args, noLabels); !device.Is(err, device.InvalidArguments) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestPrepare_RendersTheTextLine(t *testing.T) {
	c := load(t, forPrepare)
	const lineFault = " the device is sent a line of text"
	tests := map[string]struct {
		args string
		want string
		fail []string
	}{
		"with defaults":         {args: `{"volume":7}`, want: "SAY {request_id} 7 false hello you"},
		"with everything":       {args: `{"words":"grüß dich","loud":true,"volume":7}`, want: "SAY {request_id} 7 true grüß dich"},
		"a whole number":        {args: `{"volume":7.0}`, want: "SAY {request_id} 7 false hello you"},
		"an empty text":         {args: `{"volume":7,"words":""}`, want: "SAY {request_id} 7 false "},
		"a fault of the schema": {args: `{"volume":"x"}`, fail: []string{"args.volume must be null or a whole number or a list"}},
		"a second line":         {args: `{"volume":7,"words":"a\nREBOOT"}`, fail: []string{"args.words must not hold line ends or control characters:" + lineFault}},
		"a carriage return":     {args: `{"volume":7,"words":"a\r"}`, fail: []string{"args.words must not hold line ends or control characters:" + lineFault}},
		"an escape sequence":    {args: `{"volume":7,"words":"\u001b[2J"}`, fail: []string{"args.words must not hold line ends or control characters:" + lineFault}},
		"a line separator":      {args: `{"volume":7,"words":"a\u2028b"}`, fail: []string{"args.words must not hold line ends or control characters:" + lineFault}},
		"a second request id":   {args: `{"volume":7,"words":"{request_id}"}`, fail: []string{"args.words must not hold braces:" + lineFault}},
		"another request's id":  {args: `{"volume":7,"words":"sdr1_` + strings.Repeat("A", 68) + `"}`, fail: []string{"args must not hold anything of the form of a request id"}},
		"a list":                {args: `{"volume":[1]}`, fail: []string{"args.volume must be text, a number, true or false:" + lineFault}},
		"null":                  {args: `{"volume":null}`, fail: []string{"args.volume must be text, a number, true or false:" + lineFault}},
		"two faults":            {args: `{"volume":null,"words":"{"}`, fail: []string{"args.volume must be text, a number, true or false:" + lineFault, "args.words must not hold braces:" + lineFault}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := c.Prepare("say", json.RawMessage(tt.args), noLabels)
			if string(got.Text) != tt.want || got.JSON != nil {
				t.Errorf("got %q and %s, want %q", got.Text, got.JSON, tt.want)
			}
			if faults := faultsIn(t, err); !slices.Equal(faults, tt.fail) {
				t.Errorf("got  %q\nwant %q", faults, tt.fail)
			}
		})
	}
}

// A device of text has a parser for digits, not for JSON.
func TestDecimal(t *testing.T) {
	for number, want := range map[string]string{
		"7": "7", "-7": "-7", "7.0": "7", "-0": "0", "-0.0": "0", "0e5": "0", "7e2": "700", "7.25E+1": "72.5", "7.25e1": "72.5",
		"700e-2": "7", "0.10": "0.10", "-0.5": "-0.5", "1e-3": "0.001", "12.50e-1": "1.250", "-2e-2": "-0.02",
		"1e308": "1" + strings.Repeat("0", 308), "1e-308": "0." + strings.Repeat("0", 307) + "1",
	} {
		if got := decimal(json.Number(number)); got != want {
			t.Errorf("%s became %s, want %s", number, got, want)
		}
	}
}

func FuzzPrepare(f *testing.F) {
	for _, args := range []string{``, `null`, `{}`, `{"volume":7}`, `{"volume":1e999999999}`, `{"volume":7,"words":"a\nb","loud":true}`, `{"area":[1,2,3,4]}`, `{"a":[{"b":[null]}]}`, `{"both":3,"unique":[1,1.0]}`, `{"a":1,"a":2}`, "{\"\xff\":1}", `[[[[`} {
		f.Add([]byte(args))
	}
	c := load(f, forPrepare)
	f.Fuzz(func(t *testing.T, args []byte) {
		for _, cmd := range c.Commands() {
			payload, err := c.Prepare(cmd.Name, args, noLabels)
			if err != nil {
				if len(payload.JSON)+len(payload.Text) > 0 || !device.Is(err, device.PayloadTooLarge) && len(faultsIn(t, err)) == 0 {
					t.Fatalf("%s: payload %+v with error %v", cmd.Name, payload, err)
				}
				continue
			}
			if cmd.Name == "say" {
				if bytes.ContainsAny(payload.Text, "\r\n\x00") || bytes.Count(payload.Text, []byte(device.Placeholder)) != 1 {
					t.Fatalf("line %q", payload.Text)
				}
				continue
			}
			again, err := c.Prepare(cmd.Name, payload.JSON, noLabels)
			if err != nil || !bytes.Equal(again.JSON, payload.JSON) {
				t.Fatalf("%s: %s became %s, %v", cmd.Name, payload.JSON, again.JSON, err)
			}
		}
	})
}

func BenchmarkPrepare(b *testing.B) {
	c := load(b, string(Default()))
	for name, call := range map[string]struct{ command, args string }{
		"one number":     {"set_volume", `{"volume":70}`},
		"eight settings": {"set_config", `{"sensitivity":"high","eyes_closed_ms":1500,"yawn_detection":true,"head_down_ms":2000,"min_speed_kmh":20,"alert":{"sound":"voice"},"language":"pt-BR","upload_events":true}`},
		"two faults":     {"set_volume", `{"volume":700,"x":1}`},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = c.Prepare(call.command, json.RawMessage(call.args), noLabels)
			}
		})
	}
}
