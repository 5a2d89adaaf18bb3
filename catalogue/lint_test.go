package catalogue

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// clean is a file that Lint has nothing against. Tests change one thing in it.
const clean = `models:
  label: model
  values:
    old: {speaks: [text, json]}
    new: {}
commands:
  - name: set_volume
    title: Volume
    description: Sets how loud the camera warns.
    permission: commands.settings
    args:
      type: object
      additionalProperties: false
      required: [volume]
      properties:
        volume: {type: integer, minimum: 0, maximum: 100}
    examples:
      - args: {volume: 7}
    text:
      send: "VOL {request_id} {volume}"
      reply: 'OK (?P<request_id>\S+) (?P<volume>\d+)'
      examples:
        - {args: {volume: 7}, send: "VOL {request_id} 7"}
        - {reply: "OK {request_id} 7", result: {volume: "7"}}
  - name: reboot
    title: Restart
    description: Restarts the camera.
    permission: danger.reboot
    danger: true
    hold: true
    deliver_within: 1m
    reply_within: 2m
`

// grantsCommands is roles of which one may do everything and operator has commands.*.
func grantsCommands(permission string) string {
	if strings.HasPrefix(permission, "commands.") {
		return "operator"
	}
	return ""
}

func lintText(t *testing.T, file string) []string {
	t.Helper()
	var lines []string
	for _, f := range Lint([]byte(file), LintConfig{Grants: grantsCommands}).Findings {
		lines = append(lines, fmt.Sprintf("%d: %s: %s", f.Line, f.Level, f.Message))
	}
	return lines
}

func TestLint_Warns(t *testing.T) {
	const volume = "        volume: {type: integer, minimum: 0, maximum: 100}\n"
	tests := map[string]struct {
		before, after string
		want          []string
	}{
		"nothing": {"", "", nil},
		"danger that says nothing": {"    description: Restarts the camera.\n", "", []string{
			"28: warning: reboot has danger, but no description that says what it does"}},
		"a short wait": {"deliver_within: 1m", "deliver_within: 59s", []string{
			"30: warning: reboot has hold, but waits for its device for 59s only: see deliver_within"}},
		"a wait that is not said": {"    deliver_within: 1m\n", "", []string{
			"30: warning: reboot has hold, but waits for its device for 10s only: see deliver_within"}},
		"danger for all": {"permission: danger.reboot", "permission: commands.reboot", []string{
			"28: warning: permission commands.reboot is granted by the role operator, although the command has danger"}},
		"a permission that nobody has": {"permission: commands.settings", "permission: settings", []string{
			"10: warning: permission settings is granted by no role but those that may do everything"}},
		"a title twice": {"title: Restart", "title: Volume", []string{
			`26: warning: reboot has the title of set_volume, "Volume"`}},
		"a field that is not known": {"      additionalProperties: false\n", "", []string{
			"12: warning: args take fields that are not among the properties, a slip of the pen too: additionalProperties: false refuses them"}},
		"another way to refuse it": {"additionalProperties: false", "unevaluatedProperties: false", nil},
		"a rule for another type": {"maximum: 100}", "maximum: 100, maxLength: 3, items: {}}", []string{
			"16: warning: args.properties.volume.items does nothing for the type number",
			"16: warning: args.properties.volume.maxLength does nothing for the type number"}},
		"a rule for one of two types": {"type: integer, minimum: 0,", "type: [string, integer], maxLength: 3, minimum: 0,", nil},
		"a rule for any type":         {"type: integer, minimum: 0,", "maxLength: 3, minimum: 0,", nil},
		"an argument that is not sent": {volume, volume + "        fast: {type: boolean}\n", []string{
			"21: warning: text.send has no place for {fast}: the device never learns it"}},
		"no line that is sent": {"        - {args: {volume: 7}, send: \"VOL {request_id} 7\"}\n", "", []string{
			"20: warning: text has no example of a line that is sent"}},
		"no line that is answered": {"        - {reply: \"OK {request_id} 7\", result: {volume: \"7\"}}\n", "", []string{
			"20: warning: text has no example of a line that is answered"}},
		"an answer of nobody": {`- {reply: "OK {request_id} 7", result: {volume: "7"}}`, `- {reply: "OK 7", status: unparsed}`, []string{
			"24: warning: text.examples[1].reply holds no {request_id}: whose it is can be told only if the device publishes it below its events topic, under the request id"}},
		"a line for a picture": {"title: Volume\n", "title: Volume\n    reply: {kind: image}\n", []string{
			"22: warning: text.reply makes no picture, which reply.kind says"}},
		"fields for text": {"title: Volume\n", "title: Volume\n    reply: {kind: text}\n", []string{
			"22: warning: text.reply makes fields of the answer, and reply.kind says text: json would show them"}},
		"text for JSON": {
			"(?P<volume>\\d+)'\n      examples:\n        - {args: {volume: 7}, send: \"VOL {request_id} 7\"}\n        - {reply: \"OK {request_id} 7\", result: {volume: \"7\"}}\n",
			"(?P<result>\\d+)'\n      examples:\n        - {args: {volume: 7}, send: \"VOL {request_id} 7\"}\n        - {reply: \"OK {request_id} 7\", result: \"7\"}\n", []string{
				"21: warning: text.reply makes text of the answer, and reply.kind says json"}},
		"a command of no model": {"    new: {}\n", "    new: {without: [reboot]}\n  otherwise: {without: [reboot]}\n", nil},
		"a command of none at all": {"    old: {speaks: [text, json]}\n    new: {}\n", "    old: {speaks: [text]}\n  otherwise: {without: [reboot]}\n", []string{
			"25: warning: reboot is a command that no model has"}},
		"a form that is not spoken": {"speaks: [text, json]", "speaks: [json, text]", []string{
			"20: warning: text is a form that no model speaks"}},
		"examples that nobody speaks": {"    new: {}\n", "    new: {speaks: [text, json]}\n  otherwise: {speaks: [text, json]}\n", []string{
			"19: warning: examples are of JSON, which no model speaks in this command: those of text stand in its form"}},
		"a model of nothing": {"new: {}", "new: {commands: []}", []string{
			"5: warning: models.values.new has no command"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(clean, tt.before) {
				t.Fatalf("the file has no %q", tt.before)
			}
			if got := lintText(t, strings.Replace(clean, tt.before, tt.after, 1)); !slices.Equal(got, tt.want) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
		})
	}
}

func TestLint_TellsErrorsAsLoadDoes(t *testing.T) {
	for _, file := range []string{"", "commands: []", "a: [", valid + "x: 1", strings.Replace(clean, "minimum", "minmum", 1), strings.Replace(clean, "new: {}", "new: {speaks: [x]}", 1), clean} {
		_, err := Load([]byte(file))
		report := Lint([]byte(file), LintConfig{})
		var told []string
		for _, f := range report.Findings {
			if f.Level != LevelError {
				continue
			}
			if f.Line > 0 {
				f.Message = fmt.Sprintf("line %d: %s", f.Line, f.Message)
			}
			told = append(told, f.Message)
		}
		if report.Errors() != len(told) || (err == nil) != (len(told) == 0) || err != nil && err.Error() != strings.Join(told, "; ") {
			t.Errorf("Load says %v, Lint %q", err, told)
		}
	}
}

// A command with an error is not judged further; the others are.
func TestLint_WarnsOfSoundCommandsOnly(t *testing.T) {
	file := strings.Replace(clean, "maximum: 100}", "maxmum: 100}", 1)
	file = strings.Replace(file, "    description: Restarts the camera.\n", "", 1)
	file = strings.Replace(file, "new: {}", "new: {commands: []}", 1)
	file = strings.Replace(file, "permission: commands.settings", "permission: settings", 1)
	want := []string{
		"16: error: args.properties.volume.maxmum is not a keyword of JSON Schema: did you mean maximum?",
		"28: warning: reboot has danger, but no description that says what it does",
	}
	if got := lintText(t, file); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestLint_WithoutRolesPermissionsAreNotLookedInto(t *testing.T) {
	if got := Lint([]byte(strings.Replace(clean, "commands.settings", "settings", 1)), LintConfig{}); len(got.Findings) > 0 || got.Commands != 2 {
		t.Errorf("got %+v", got)
	}
}

func TestDefault_HasNoFinding(t *testing.T) {
	grants := func(permission string) string { // as roles.yaml has it: commands.* is one word more
		if strings.HasPrefix(permission, "commands.") && strings.Count(permission, ".") == 1 {
			return "operator"
		}
		return ""
	}
	report := Lint(Default(), LintConfig{Grants: grants})
	if len(report.Findings) > 0 || report.Commands != 12 {
		t.Errorf("got %+v", report)
	}
}
