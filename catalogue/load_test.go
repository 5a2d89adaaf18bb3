package catalogue

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
	"signaldevice/dispatch"
)

var (
	_ dispatch.Catalogue = (*Catalogue)(nil)
	_ dispatch.Catalogue = (*Live)(nil)
)

// valid is a file with one command that uses every field. Tests change one thing in it.
const valid = `commands:
  - name: set_volume
    title: Volume
    description: Sets how loud the camera warns.
    group: settings
    permission: commands.settings
    danger: true
    hold: true
    deliver_within: 1m
    reply_within: 2m
    reply: {kind: text}
    args:
      type: object
      required: [volume]
      properties:
        volume: {type: integer, minimum: 0, maximum: 100}
        mode: {type: string, default: soft}
    text:
      send: "VOL {request_id} {volume} {mode}"
      reply: 'OK (?P<request_id>\S+) (?P<volume>\d+)'
`

func load(t testing.TB, file string) *Catalogue {
	t.Helper()
	c, err := Load([]byte(file))
	if err != nil {
		t.Fatalf("Load: %v\n%s", err, file)
	}
	return c
}

// noLabels is of a device that has none.
func noLabels() (device.Labels, error) { return nil, nil }

// edit returns valid with one piece of text replaced, and fails where the piece is not there.
func edit(t testing.TB, before, after string) string {
	t.Helper()
	if !strings.Contains(valid, before) {
		t.Fatalf("the valid file has no %q", before)
	}
	return strings.Replace(valid, before, after, 1)
}

func TestLoad_TakesEveryField(t *testing.T) {
	got, err := load(t, valid).Command("set_volume")
	if err != nil {
		t.Fatal(err)
	}
	want := device.Command{
		Name: "set_volume", Title: "Volume", Description: "Sets how loud the camera warns.", Group: "settings",
		Permission: "commands.settings", Danger: true, Hold: true, DeliverWithin: time.Minute, ReplyWithin: 2 * time.Minute,
		Reply: device.ReplyText,
		Args:  json.RawMessage(`{"type":"object","required":["volume"],"properties":{"volume":{"type":"integer","minimum":0,"maximum":100},"mode":{"type":"string","default":"soft"}}}`),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestLoad_FillsWhatIsNotSaid(t *testing.T) {
	got, err := load(t, "commands: [{name: ping, permission: commands.status}]").Command("ping")
	if err != nil {
		t.Fatal(err)
	}
	want := device.Command{
		Name: "ping", Title: "ping", Group: "other", Permission: "commands.status", Reply: device.ReplyJSON,
		DeliverWithin: 10 * time.Second, ReplyWithin: 30 * time.Second, Args: json.RawMessage(takesNothing),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestLoad_OneDurationKeepsToTheOther(t *testing.T) {
	tests := map[string]struct {
		fields         string
		deliver, reply time.Duration
	}{
		"a short reply shortens delivery":        {"reply_within: 2s", 2 * time.Second, 2 * time.Second},
		"a long reply leaves delivery":           {"reply_within: 1h", 10 * time.Second, time.Hour},
		"a delivery as long as the reply":        {"deliver_within: 30s", 30 * time.Second, 30 * time.Second},
		"a longer delivery lengthens the reply":  {"deliver_within: 31s", 31 * time.Second, 61 * time.Second},
		"the longest delivery is the last reply": {"deliver_within: 720h", 720 * time.Hour, 720 * time.Hour},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := load(t, "commands: [{name: ping, permission: p, "+tt.fields+"}]").Command("ping")
			if err != nil {
				t.Fatal(err)
			}
			if got.DeliverWithin != tt.deliver || got.ReplyWithin != tt.reply {
				t.Errorf("got %s and %s, want %s and %s", got.DeliverWithin, got.ReplyWithin, tt.deliver, tt.reply)
			}
		})
	}
}

func TestLoad_RefusesAndNamesTheLine(t *testing.T) {
	tests := map[string]struct {
		file string
		want string
	}{
		"an unknown field":               {edit(t, "danger: true", "dangr: true"), `line 7: unknown field "dangr"`},
		"an unknown field at the top":    {"command: []\n" + valid, `line 1: unknown field "command"`},
		"an unknown field below":         {edit(t, "reply: {kind: text}", "reply: {kind: text, size: 3}"), `line 11: unknown field "size"`},
		"a field that is there twice":    {edit(t, "hold: true", "danger: true"), `line 8: mapping key "danger" already defined at line 7`},
		"no file at all":                 {"", "no documents"},
		"a second document":              {valid + "---\ncommands: []\n", "expected single document"},
		"no commands":                    {"commands: []", "must have 1 to 500 commands"},
		"a list where a mapping belongs": {"- commands\n", "line 1: cannot take !!seq as a mapping of fields"},
		"a command that is text":         {"commands:\n  - ping\n", "line 2: a command must be a mapping of fields"},
		"text for a yes or no":           {edit(t, "danger: true", "danger: perhaps"), "line 7: cannot take !!str `perhaps` as true or false"},
		"broken YAML":                    {edit(t, "title: Volume", "title: [Volume"), "line 4: "},

		"a name with a capital":            {edit(t, "name: set_volume", "name: Set_volume"), "line 2: name must match"},
		"no name":                          {edit(t, "name: set_volume", "name: ''"), "line 2: name must match"},
		"a name that is there twice":       {valid + "  - {name: set_volume, permission: p}\n", `line 21: command "set_volume" is there twice, first on line 2`},
		"no permission":                    {edit(t, "permission: commands.settings", "permission: ''"), "line 6: permission must be"},
		"a permission with a wildcard":     {edit(t, "permission: commands.settings", `permission: "commands.*"`), "line 6: permission must be"},
		"a title of two lines":             {edit(t, "title: Volume", `title: "a\nb"`), "line 3: title must be one line of printable characters, without U+000A"},
		"a group with an escape sequence":  {edit(t, "group: settings", `group: "\e[31m"`), "line 5: group must be one line of printable characters, without U+001B"},
		"an unknown kind of reply":         {edit(t, "kind: text", "kind: video"), "line 11: reply must have the kind text, json or image"},
		"a number for a duration":          {edit(t, "deliver_within: 1m", "deliver_within: 60"), "line 9: must be a duration such as 10s"},
		"a delivery longer than the reply": {edit(t, "reply_within: 2m", "reply_within: 59s"), "line 9: deliver_within must not be longer than reply_within (59s)"},

		"args that are a list":                {"commands:\n  - name: a\n    permission: p\n    args: []\n", "line 4: args must be a JSON Schema"},
		"args that are nothing":               {"commands:\n  - name: a\n    permission: p\n    args: text\n", "line 4: args must be a JSON Schema"},
		"args of another type":                {edit(t, "type: object", "type: array"), "line 13: args.type must be object"},
		"args in another dialect":             {edit(t, "type: object", "$schema: http://json-schema.org/draft-07/schema#"), "line 13: args.$schema must be"},
		"a type that does not exist":          {edit(t, "type: integer", "type: int"), `line 16: args.properties.volume.type fits none of the allowed forms: either must be one of "array"`},
		"a bound that is text":                {edit(t, "minimum: 0", "minimum: none"), "line 16: args.properties.volume.minimum must be a number"},
		"a pattern that is none":              {edit(t, "default: soft", "pattern: '('"), "line 17: args.properties.mode.pattern must be a valid regex"},
		"a field of args that is there twice": {edit(t, "minimum: 0", "maximum: 0"), "line 16: field maximum is there twice"},
		"a field name that is a number":       {edit(t, "mode: {", "1: {"), "line 17: a field name in args must be text"},
		"a number that is octal":              {edit(t, "minimum: 0", "minimum: 0o17"), "line 16: a number in args must be written as in JSON"},
		"a number that is infinite":           {edit(t, "minimum: 0", "minimum: -.inf"), "line 16: a number in args must be written as in JSON"},
		"a number with a huge exponent":       {edit(t, "minimum: 0", "minimum: 1e999999"), "line 16: "},
		"a value of a type of its own":        {edit(t, "default: soft", "default: !!binary aGk="), "line 17: args must not hold a value that JSON cannot express"},
		"a merge of mappings":                 {edit(t, "mode: {type", "mode: {<<: {}, type"), "line 17: a field name in args must be text"},
		"an alias that holds itself":          {edit(t, "required: [volume]", "examples: &a [*a]"), "args must not be nested more than 64 deep"},

		"a reference to another command": {edit(t, "mode: {type: string, ", "mode: {$ref: other, "), "schemas outside this command are not loaded"},
		"a reference to a file":          {edit(t, "mode: {type: string, ", "mode: {$ref: 'file:///etc/hostname', "), "schemas outside this command are not loaded"},
		"a reference to a web site":      {edit(t, "mode: {type: string, ", "mode: {$ref: 'https://example.org/s', "), "schemas outside this command are not loaded"},
		"a reference to nothing":         {edit(t, "mode: {type: string, ", "mode: {$ref: '#/$defs/none', "), "line 13: args are not a usable JSON Schema"},

		"a line without the request id":             {edit(t, "VOL {request_id} ", "VOL "), "line 19: text.send must hold {request_id}"},
		"a request id that is stuck to a word":      {edit(t, "VOL {request_id}", "VOL{request_id}"), "line 19: text.send must hold {request_id} as a word of its own"},
		"a request id that is stuck to an argument": {edit(t, "{request_id} {volume}", "{request_id}{volume}"), "line 19: text.send must hold {request_id} as a word of its own"},
		"a line with an unknown place":              {edit(t, "{mode}", "{loudness}"), "line 19: text.send has a place {loudness} that is not among the properties"},
		"a line with an argument that may lack":     {edit(t, "default: soft", "minLength: 1"), "line 19: text.send has a place {mode} whose argument is neither required"},
		"a line with half a brace":                  {edit(t, "VOL ", "VOL } "), "line 19: text.send has a brace without its partner"},
		"a line with the other half":                {edit(t, "{mode}", "{mode"), "line 19: text.send has a brace without its partner"},
		"a line that is two":                        {edit(t, "VOL ", `VOL\n`), "line 19: text.send must not hold line ends"},
		"no line":                                   {edit(t, `send: "VOL {request_id} {volume} {mode}"`, `send: ""`), "line 19: text.send must have 1 to 1024 bytes"},
		"no reply pattern":                          {edit(t, `reply: 'OK (?P<request_id>\S+) (?P<volume>\d+)'`, `reply: ""`), "line 20: text.reply must be a pattern"},
		"a reply pattern that is none":              {edit(t, "'OK (", "'OK (("), "line 20: text.reply is not a pattern"},
		"a reply pattern that closes our bracket":   {edit(t, "'OK (", "'OK) ("), "line 20: text.reply is not a pattern"},
		"a result beside a field":                   {edit(t, `OK (?P<request_id>\S+)`, `OK (?P<result>\S+)`), `line 20: text.reply has the group "volume" beside "result"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := Load([]byte(tt.file))
			var faults configfile.Faults
			if c != nil || !errors.As(err, &faults) {
				t.Fatalf("got %v and error %v, want faults alone", c, err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestLoad_ListsEveryFault(t *testing.T) {
	file := "commands:\n" +
		"  - {name: A, permission: '', deliver_within: 1h, reply_within: 1m}\n" +
		"  - {name: b, permission: p, args: {properties: {x: {type: int}, y: {minimum: no}}}}\n"
	_, err := Load([]byte(file))
	for _, want := range []string{"line 2: name", "line 2: permission", "line 2: deliver_within", "line 3: args.properties.x.type", "line 3: args.properties.y.minimum"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestLoad_Limits(t *testing.T) {
	commands := func(n int) string {
		var b strings.Builder
		b.WriteString("commands:\n")
		for i := range n {
			fmt.Fprintf(&b, "  - {name: c%d, permission: p}\n", i)
		}
		return b.String()
	}
	field := func(field string) string { return "commands: [{name: a, permission: p, " + field + "}]" }
	nested := func(n int) string {
		return field("args: {examples: " + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + "}")
	}
	const entry = "commands: [{name: a, permission: p}]\n#"
	tests := map[string]struct{ within, beyond string }{
		"commands":            {commands(500), commands(501)},
		"bytes of the file":   {entry + strings.Repeat("x", 1<<20-len(entry)), entry + strings.Repeat("x", 1<<20-len(entry)+1)},
		"letters of a name":   {strings.Replace(field("hold: false"), "name: a", "name: "+strings.Repeat("a", 64), 1), strings.Replace(field("hold: false"), "name: a", "name: "+strings.Repeat("a", 65), 1)},
		"letters of a title":  {field("title: " + strings.Repeat("ä", 100)), field("title: " + strings.Repeat("ä", 101))},
		"letters of a group":  {field("group: " + strings.Repeat("g", 100)), field("group: " + strings.Repeat("g", 101))},
		"a description":       {field("description: " + strings.Repeat("d", 2000)), field("description: " + strings.Repeat("d", 2001))},
		"a permission":        {strings.Replace(field("hold: false"), "permission: p", "permission: "+strings.Repeat("p", 128), 1), strings.Replace(field("hold: false"), "permission: p", "permission: "+strings.Repeat("p", 129), 1)},
		"shortest delivery":   {field("deliver_within: 1s"), field("deliver_within: 999ms")},
		"longest delivery":    {field("deliver_within: 720h"), field("deliver_within: 720h1ns")},
		"shortest reply":      {field("reply_within: 1s"), field("reply_within: 999ms")},
		"longest reply":       {field("reply_within: 720h"), field("reply_within: 720h0m1s")},
		"delivery and reply":  {field("deliver_within: 20s, reply_within: 20s"), field("deliver_within: 20001ms, reply_within: 20s")},
		"depth of args":       {nested(64), nested(65)},
		"bytes of args":       {field("args: {description: " + strings.Repeat("d", 65000) + "}"), field("args: {description: " + strings.Repeat("d", 66000) + ", title: x}")},
		"bytes of a text":     {field(`text: {send: "{request_id} ` + strings.Repeat("x", 1011) + `", reply: x}`), field(`text: {send: "{request_id} ` + strings.Repeat("x", 1012) + `", reply: x}`)},
		"bytes of a pattern":  {field(`text: {send: "{request_id}", reply: ` + strings.Repeat("x", 1024) + `}`), field(`text: {send: "{request_id}", reply: ` + strings.Repeat("x", 1025) + `}`)},
		"exponent of a bound": {field("args: {maxProperties: 1.0e+2}"), field("args: {properties: {x: {maximum: 1.0e+309}}}")},
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

// A small file must not become a large catalogue.
func TestLoad_AliasesCannotGrow(t *testing.T) {
	var b strings.Builder
	b.WriteString("commands:\n  - name: a\n    permission: p\n    args:\n      examples:\n        - &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		alias := fmt.Sprintf("*a%d", i-1)
		fmt.Fprintf(&b, "        - &a%d [%s]\n", i, strings.Join([]string{alias, alias, alias, alias, alias, alias, alias, alias, alias, alias}, ", "))
	}
	if _, err := Load([]byte(b.String())); err == nil || !strings.Contains(err.Error(), "larger than 65536 bytes") {
		t.Errorf("got %v", err)
	}
}

func TestLoad_KeepsTheAuthorsOrder(t *testing.T) {
	c := load(t, `commands:
  - {name: zebra, permission: p}
  - name: ant
    permission: p
    args:
      properties:
        zoom: {default: 0.10, title: <Zoom>}
        angle: {enum: ["on", on, 1, null, true, 2020-01-02]}
      type: object
`)
	commands := c.Commands()
	if commands[0].Name != "zebra" || commands[1].Name != "ant" {
		t.Errorf("commands are in the order %s, %s", commands[0].Name, commands[1].Name)
	}
	want := `{"properties":{"zoom":{"default":0.10,"title":"<Zoom>"},"angle":{"enum":["on","on",1,null,true,"2020-01-02"]}},"type":"object"}`
	if got := string(commands[1].Args); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// What commands have in common may be written once, in YAML's own way.
func TestLoad_TakesAnchorsAndMerges(t *testing.T) {
	const file = `commands:
  - &base
    name: a
    permission: p
    reply_within: 1m
    args: &args {type: object, required: [x], properties: {x: {type: integer}}}
    text: {send: "A {request_id} {x}", reply: OK}
  - <<: *base
    name: b
  - {name: c, permission: p, args: *args}
`
	c := load(t, file)
	for _, name := range []string{"a", "b", "c"} {
		_, err := c.Prepare(name, nil, noLabels)
		if got := faultsIn(t, err); !slices.Equal(got, []string{"args.x is required"}) {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if b, err := c.Command("b"); err != nil || b.ReplyWithin != time.Minute {
		t.Errorf("got %+v and %v", b, err)
	}
	_, err := Load([]byte(strings.Replace(file, "{x}", "{y}", 1)))
	if err == nil || !strings.Contains(err.Error(), "line 7: text.send") || !strings.Contains(err.Error(), "line 8: text.send") {
		t.Errorf("a fault in what is merged: %v", err)
	}
}

func TestCatalogue_CommandsAreACopy(t *testing.T) {
	c := load(t, valid)
	c.Commands()[0].Name = "changed"
	if got := c.Commands()[0].Name; got != "set_volume" {
		t.Errorf("a caller changed the catalogue: %s", got)
	}
}

func TestCatalogue_UnknownCommand(t *testing.T) {
	c := load(t, valid)
	if _, err := c.Command("fly"); !device.Is(err, device.UnknownCommand) {
		t.Errorf("Command: got %v", err)
	}
	if _, err := c.Prepare("fly", nil, noLabels); !device.Is(err, device.UnknownCommand) || strings.Contains(err.Error(), "fly") {
		t.Errorf("Prepare: got %v", err)
	}
}

func TestDefault_IsWhatAFatigueCameraNeeds(t *testing.T) {
	c := load(t, string(Default()))
	var names []string
	for _, cmd := range c.Commands() {
		names = append(names, cmd.Name)
		if cmd.Title == cmd.Name || cmd.Description == "" {
			t.Errorf("%s says nothing to people", cmd.Name)
		}
		switch cmd.Group {
		case "status", "picture", "settings", "maintenance":
		default:
			t.Errorf("%s is in the group %s", cmd.Name, cmd.Group)
		}
		wantPermission := "commands." + cmd.Group
		if cmd.Danger {
			wantPermission = "commands.danger." + cmd.Name
		}
		if cmd.Permission != wantPermission {
			t.Errorf("%s needs %s, want %s", cmd.Name, cmd.Permission, wantPermission)
		}
		if wantHold := cmd.Name == "update_firmware"; cmd.Hold != wantHold {
			t.Errorf("%s has hold %t", cmd.Name, cmd.Hold)
		}
		if wantDanger := cmd.Name == "reboot" || cmd.Name == "update_firmware"; cmd.Danger != wantDanger {
			t.Errorf("%s has danger %t", cmd.Name, cmd.Danger)
		}
	}
	want := []string{"ping", "get_status", "get_position", "snapshot", "record_clip", "set_config", "set_volume", "calibrate", "get_logs", "run_diagnostics", "reboot", "update_firmware"}
	if !reflect.DeepEqual(names, want) {
		t.Errorf("got  %v\nwant %v", names, want)
	}
}

// The examples are run by Load.
func TestDefault_ShowsAnExampleOfEachCommand(t *testing.T) {
	for _, e := range readSource(Default()).entries {
		if len(e.Examples) == 0 {
			t.Errorf("%s has none", e.Name)
		}
	}
}

func TestLive_KeepsTheOldOneWhenTheNewOneIsBad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "commands.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("commands: [{name: first, permission: p}]")
	var told []error
	live, err := OpenLive(LiveConfig{Path: path, Reloaded: func(err error) { told = append(told, err) }})
	if err != nil {
		t.Fatal(err)
	}
	write("commands: [{name: Second, permission: p}]")
	if err := live.Reload(); err == nil || !strings.Contains(err.Error(), "commands.yaml: line 1: name must match") {
		t.Errorf("a bad file: got %v", err)
	}
	if _, err := live.Command("first"); err != nil {
		t.Errorf("the old catalogue is gone: %v", err)
	}
	write("commands: [{name: third, permission: p}]")
	if err := live.Reload(); err != nil {
		t.Errorf("a good file: got %v", err)
	}
	if commands := live.Commands(); len(commands) != 1 || commands[0].Name != "third" {
		t.Errorf("got %+v", commands)
	}
	if len(told) != 2 || told[0] == nil || told[1] != nil {
		t.Errorf("told of %v", told)
	}
}

func TestLive_WithoutAFileIsTheDefault(t *testing.T) {
	live, err := OpenLive(LiveConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if payload, err := live.Prepare("set_volume", json.RawMessage(`{"volume":3}`), noLabels); err != nil || string(payload.JSON) != `{"volume":3}` {
		t.Errorf("got %s and %v", payload.JSON, err)
	}
	if a := live.Answer("ping", "", []byte("hello")); a.Status != device.StatusUnparsed {
		t.Errorf("got %+v", a)
	}
	if err := live.Reload(); err != nil {
		t.Errorf("Reload: %v", err)
	}
}

func TestLive_RefusesABadFirstFile(t *testing.T) {
	if _, err := OpenLive(LiveConfig{Path: filepath.Join(t.TempDir(), "none.yaml")}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// Each call sees one whole version, whatever is reloaded meanwhile.
func TestLive_ConcurrentUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "commands.yaml")
	if err := os.WriteFile(path, Default(), 0o600); err != nil {
		t.Fatal(err)
	}
	live, err := OpenLive(LiveConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				if _, err := live.Prepare("set_volume", json.RawMessage(`{"volume":101}`), noLabels); len(faultsIn(t, err)) != 1 {
					t.Errorf("got %v", err)
				}
				live.Answer("ping", "", []byte(`{"status":"ok"}`))
			}
		})
	}
	for range 10 {
		if err := live.Reload(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := Load(Default()); err != nil {
			b.Fatal(err)
		}
	}
}
