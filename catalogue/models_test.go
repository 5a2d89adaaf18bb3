package catalogue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"signaldevice/device"
)

// threeModels is a fleet of cameras: one that speaks JSON, one of text, and one of another text.
const threeModels = `models:
  label: model
  values:
    lingua: {description: The first ones., speaks: [text]}
    lingua2: {speaks: [v2, text], without: [honk]}
    fc: {commands: [ping, set_volume]}
commands:
  - name: ping
    permission: p
  - name: set_volume
    permission: p
    args: {required: [volume], properties: {volume: {type: integer}}}
    text:
      send: "VOL {request_id} {volume}"
      reply: 'OK (?P<request_id>\S+) (?P<volume>\d+)'
    forms:
      v2:
        send: "V2 VOL {volume} ID {request_id}"
        reply: 'ID (?P<request_id>\S+) VOL (?P<volume>\d+)'
  - name: honk
    permission: p
    text: {send: "HONK {request_id}", reply: 'OK (?P<request_id>\S+)'}
  - name: zoom
    permission: p
`

func ofModel(value string) func() (device.Labels, error) {
	return func() (device.Labels, error) { return device.Labels{"model": value, "city": "omsk"}, nil }
}

func TestPrepare_SpeaksTheFormOfTheModel(t *testing.T) {
	c := load(t, threeModels)
	const asJSON, unknown = `{"volume":7}`, "unknown_command"
	tests := map[string]struct {
		labels func() (device.Labels, error)
		want   map[string]string
	}{
		"one of text":                {ofModel("lingua"), map[string]string{"ping": unknown, "set_volume": "VOL {request_id} 7", "honk": "HONK {request_id}", "zoom": unknown}},
		"one of two texts":           {ofModel("lingua2"), map[string]string{"ping": unknown, "set_volume": "V2 VOL 7 ID {request_id}", "honk": unknown, "zoom": unknown}},
		"one of JSON with some":      {ofModel("fc"), map[string]string{"ping": "{}", "set_volume": asJSON, "honk": unknown, "zoom": unknown}},
		"one that is not listed":     {ofModel("new"), map[string]string{"ping": "{}", "set_volume": asJSON, "honk": "{}", "zoom": "{}"}},
		"one without the label":      {noLabels, map[string]string{"ping": "{}", "set_volume": asJSON, "honk": "{}", "zoom": "{}"}},
		"one whose label is in vain": {ofModel(""), map[string]string{"ping": "{}", "set_volume": asJSON, "honk": "{}", "zoom": "{}"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var names []string
			for command, want := range tt.want {
				args := []byte("{}")
				if command == "set_volume" {
					args = []byte(asJSON)
				}
				payload, err := c.Prepare(command, args, tt.labels)
				got := string(payload.JSON) + string(payload.Text)
				if err != nil {
					got = string(device.KindOf(err))
				}
				if got != want {
					t.Errorf("%s: got %s (%v), want %s", command, got, err, want)
				}
				if want != unknown {
					names = append(names, command)
				}
			}
			labels, _ := tt.labels()
			var listed []string
			for _, cmd := range c.CommandsOf(labels) {
				listed = append(listed, cmd.Name)
			}
			slices.Sort(names)
			if order := []string{"ping", "set_volume", "honk", "zoom"}; !slices.IsSortedFunc(listed, func(a, b string) int {
				return slices.Index(order, a) - slices.Index(order, b)
			}) {
				t.Errorf("listed in the order %v", listed)
			}
			if slices.Sort(listed); !slices.Equal(listed, names) {
				t.Errorf("lists %v, prepares %v", listed, names)
			}
		})
	}
}

func TestPrepare_SaysWhichDeviceHasNotTheCommand(t *testing.T) {
	c := load(t, strings.Replace(threeModels, "commands:\n", "  otherwise: {commands: [ping]}\ncommands:\n", 1))
	for want, labels := range map[string]func() (device.Labels, error){
		"a device with the label model=fc does not have this command":  ofModel("fc"),
		"a device with the label model=new does not have this command": ofModel("new"),
		"a device without the label model does not have this command":  noLabels,
	} {
		if _, err := c.Prepare("honk", nil, labels); !device.Is(err, device.UnknownCommand) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	c = load(t, strings.Replace(threeModels, "commands:\n", "  otherwise: {without: [zoom]}\ncommands:\n", 1))
	if _, err := c.Prepare("zoom", nil, mustNotAsk(t)); !device.Is(err, device.UnknownCommand) || err.Error() != "no model of device has this command" {
		t.Errorf("got %v", err)
	}
}

// mustNotAsk is the labels of a device that nobody needs to know.
func mustNotAsk(t *testing.T) func() (device.Labels, error) {
	return func() (device.Labels, error) {
		t.Error("asked for the labels")
		return nil, nil
	}
}

func TestPrepare_AsksForLabelsOnlyWhereTheyMatter(t *testing.T) {
	const sameForAll = `models: {label: model, values: {a: {}, b: {commands: [x]}}, otherwise: {speaks: [json, text]}}
commands:
  - {name: x, permission: p, text: {send: "X {request_id}", reply: X}}
  - {name: y, permission: p, args: {required: [z]}}
`
	c := load(t, sameForAll)
	if _, err := c.Prepare("x", nil, mustNotAsk(t)); err != nil {
		t.Error(err)
	}
	if _, err := c.Prepare("y", nil, mustNotAsk(t)); !device.Is(err, device.InvalidArguments) {
		t.Errorf("bad arguments: got %v", err)
	}
	if _, err := c.Prepare("fly", nil, mustNotAsk(t)); !device.Is(err, device.UnknownCommand) {
		t.Errorf("an unknown command: got %v", err)
	}
	if payload, err := load(t, valid).Prepare("set_volume", []byte(`{"volume":7}`), mustNotAsk(t)); err != nil || string(payload.Text) != "VOL {request_id} 7 soft" {
		t.Errorf("without models: got %s and %v", payload.Text, err)
	}
	asked := 0
	_, err := c.Prepare("y", []byte(`{"z":1}`), func() (device.Labels, error) { asked++; return device.Labels{"model": "a"}, nil })
	if err != nil || asked != 1 {
		t.Errorf("where they matter: asked %d times, %v", asked, err)
	}
	broken := device.Errorf(device.BrokerUnavailable, "no broker")
	if _, err := c.Prepare("y", []byte(`{"z":1}`), func() (device.Labels, error) { return nil, broken }); !errors.Is(err, broken) {
		t.Errorf("labels that are not told: got %v", err)
	}
}

// A reply is read without knowing the model of its device.
func TestAnswer_ReadsTheFormsOfAllModels(t *testing.T) {
	c := load(t, threeModels)
	for body, want := range map[string]string{
		"OK sdr1_mine 7":                `ok {"volume":"7"}`,
		"ID sdr1_mine VOL 7":            `ok {"volume":"7"}`,
		`{"status":"ok","result":7}`:    `ok 7`,
		"ID sdr1_mine":                  `unparsed "ID sdr1_mine"`,
		"ID sdr1_other VOL 7":           `unparsed "ID sdr1_other VOL 7"`,
		"OK sdr1_mine 7\nOK sdr1_other": `unparsed "OK sdr1_mine 7\nOK sdr1_other"`,
	} {
		if got := answerText(c.Answer("set_volume", answerID, []byte(body))); got != want {
			t.Errorf("%s: got %s, want %s", body, got, want)
		}
	}
}

func TestLoad_Models(t *testing.T) {
	change := func(before, after string) string {
		if !strings.Contains(threeModels, before) {
			t.Fatalf("the file has no %q", before)
		}
		return strings.Replace(threeModels, before, after, 1)
	}
	tests := map[string]struct{ file, want string }{
		"an unknown field":                     {change("label: model", "lable: model"), `line 2: unknown field "lable": did you mean label?`},
		"an unknown field of a model":          {change("fc: {commands", "fc: {comands"), `line 6: unknown field "comands": did you mean commands?`},
		"no label":                             {change("label: model\n", "label: ''\n"), "line 2: models.label can be on no device"},
		"a label with a capital":               {change("label: model\n", "label: Model\n"), "line 2: models.label can be on no device"},
		"a label of 64 letters":                {change("label: model\n", "label: "+strings.Repeat("m", 64)+"\n"), "line 2: models.label can be on no device"},
		"a value that is there twice":          {change("lingua2:", "lingua:"), `line 5: "lingua" is there twice in models.values, first on line 4`},
		"a value of nothing":                   {change("fc:", "'':"), "line 6: a value in models.values can be on no device"},
		"a value of 64 letters":                {change("fc:", strings.Repeat("f", 64)+":"), "line 6: a value in models.values can be on no device"},
		"a model that is text":                 {change("fc: {commands: [ping, set_volume]}", "fc: json"), "line 6: models.values.fc must be a mapping of fields"},
		"a form that no command has":           {change("speaks: [v2, text]", "speaks: [v3, text]"), `line 5: models.values.lingua2 speaks "v3", a form that no command has`},
		"a command that does not exist":        {change("commands: [ping, ", "commands: [pong, "), `line 6: models.values.fc names "pong", which is no command: did you mean ping?`},
		"an exception that does not exist":     {change("without: [honk]", "without: [honq]"), `line 5: models.values.lingua2 names "honq", which is no command: did you mean honk?`},
		"a command that it cannot speak":       {change("speaks: [text]}", "speaks: [text], commands: [ping]}"), `line 4: models.values.lingua names ping, which has no form that it speaks`},
		"both commands and exceptions":         {change("fc: {", "fc: {without: [zoom], "), "line 6: models.values.fc must have commands or without, not both"},
		"otherwise a list":                     {change("commands:\n", "  otherwise: [json]\ncommands:\n"), "line 7: models.otherwise must be a mapping of fields"},
		"otherwise a form that no command has": {change("commands:\n", "  otherwise: {speaks: [jsn]}\ncommands:\n"), `line 7: models.otherwise speaks "jsn", a form that no command has: did you mean json?`},
		"values that are a list":               {change("  values:\n    lingua: {description: The first ones., speaks: [text]}\n    lingua2: {speaks: [v2, text], without: [honk]}\n    fc: {commands: [ping, set_volume]}\n", "  values: [lingua]\n"), "line 3: models.values must be a mapping of fields"},
		"models that are a list":               {"models: [a]\ncommands: [{name: a, permission: p}]", "line 1: "},

		"a form with the name of JSON":    {change("      v2:\n", "      json:\n"), "line 17: the name of a form must match"},
		"a form with the name of text":    {change("      v2:\n", "      text:\n"), "line 17: the name of a form must match"},
		"a form with a capital":           {change("      v2:\n", "      V2:\n"), "line 17: the name of a form must match"},
		"a form of 33 letters":            {change("      v2:\n", "      "+strings.Repeat("v", 33)+":\n"), "line 17: the name of a form must match"},
		"a form with an unknown field":    {change("        send: ", "        snd: "), `line 18: unknown field "snd": did you mean send?`},
		"a form without the request id":   {change(" ID {request_id}", ""), "line 18: forms.v2.send must hold {request_id}"},
		"a form with a pattern of rubble": {change("'ID (?P", "'ID ((?P"), "line 19: forms.v2.reply is not a pattern"},
		"a form that is text":             {change("      v2:\n", "      v1: no\n      v2:\n"), "line 17: cannot take !!str `no` as a mapping of fields"},
		"forms of nothing but text":       {change("    forms:\n      v2:\n        send: \"V2 VOL {volume} ID {request_id}\"\n        reply: 'ID (?P<request_id>\\S+) VOL (?P<volume>\\d+)'\n", "    forms: v2\n"), "line 16: forms must be a mapping of fields"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := Load([]byte(tt.file))
			if c != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestLoad_LimitsOfModels(t *testing.T) {
	values := func(n int) string {
		var b strings.Builder
		b.WriteString("models:\n  label: m\n  values:\n")
		for i := range n {
			fmt.Fprintf(&b, "    v%d: {}\n", i)
		}
		return b.String() + "commands: [{name: a, permission: p}]\n"
	}
	command := func(field string) string { return "commands: [{name: a, permission: p, " + field + "}]" }
	forms := func(n int) string {
		var list []string
		for i := range n {
			list = append(list, fmt.Sprintf(`f%d: {send: "A {request_id}", reply: x%d}`, i, i))
		}
		return command("forms: {" + strings.Join(list, ", ") + "}")
	}
	examples := func(n int) string {
		return command(`text: {send: "A {request_id}", reply: OK, examples: [` + strings.TrimSuffix(strings.Repeat("{reply: OK}, ", n), ", ") + "]}")
	}
	replies := func(n int) string {
		return command(`examples: [` + strings.TrimSuffix(strings.Repeat("{args: {}}, ", n), ", ") + "]")
	}
	label := func(n int) string {
		return "models: {label: " + strings.Repeat("m", n) + "}\ncommands: [{name: a, permission: p}]"
	}
	value := func(n int) string {
		return "models: {label: m, values: {" + strings.Repeat("ä", n) + ": {}}}\ncommands: [{name: a, permission: p}]"
	}
	formName := func(n int) string {
		return command("forms: {" + strings.Repeat("f", n) + `: {send: "A {request_id}", reply: x}}`)
	}
	tests := map[string]struct{ within, beyond string }{
		"models":             {values(200), values(201)},
		"forms":              {forms(8), forms(9)},
		"examples of a form": {examples(20), examples(21)},
		"examples of JSON":   {replies(20), replies(21)},
		"letters of a label": {label(63), label(64)},
		"letters of a value": {value(63), value(64)},
		"letters of a form":  {formName(32), formName(33)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := Load([]byte(tt.within)); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			if _, err := Load([]byte(tt.beyond)); err == nil {
				t.Error("beyond the limit: no error")
			}
		})
	}
}
