package catalogue

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
)

// shortHold is a time to wait for an offline device that is hardly worth it.
const shortHold = time.Minute

// Level tells how much a Finding matters.
type Level string

// The levels of a finding.
const (
	LevelError   Level = "error"   // Load refuses the file
	LevelWarning Level = "warning" // the file is loaded, but hardly does what its author means
)

// Finding is one thing that Lint has to say.
type Finding struct {
	Line    int // counted from 1; 0 where it is about the file as a whole
	Level   Level
	Message string
}

// Report is what Lint found in a file.
type Report struct {
	Commands int       // that were read
	Findings []Finding // in the order of the file's lines
}

// Errors counts the findings for which Load refuses the file.
func (r Report) Errors() int {
	n := 0
	for _, f := range r.Findings {
		if f.Level == LevelError {
			n++
		}
	}
	return n
}

// LintConfig is what Lint knows besides the file.
type LintConfig struct {
	// Grants returns a role, of those that may not do everything, which grants a permission; "" where none does. Nil:
	// permissions are not looked into.
	Grants func(permission string) (role string)
}

// Lint looks a file through: the errors are those of Load, and warnings come on top. A command with an error has no
// warnings of its own, and models are looked into where there is no error at all.
func Lint(data []byte, c LintConfig) Report {
	l := linter{source: readSource(data), config: c}
	for _, f := range l.faults {
		l.findings = append(l.findings, Finding{Line: f.Line, Level: LevelError, Message: f.Message})
	}
	for _, e := range l.entries {
		if len(e.faults) == 0 {
			l.command(e)
		}
	}
	l.titles()
	if len(l.faults) == 0 {
		l.reach()
	}
	slices.SortStableFunc(l.findings, func(a, b Finding) int { return cmp.Compare(a.Line, b.Line) })
	return Report{Commands: len(l.entries), Findings: l.findings}
}

type linter struct {
	source
	config   LintConfig
	findings []Finding
}

func (l *linter) warn(line int, format string, args ...any) {
	l.findings = append(l.findings, Finding{Line: line, Level: LevelWarning, Message: fmt.Sprintf(format, args...)})
}

// at is warn with the place of a field in a command's entry.
func (l *linter) at(node *yaml.Node, at []string, format string, args ...any) {
	l.warn(configfile.Line(node, at...), fieldName(at)+" "+format, args...)
}

// command warns of what one command may be, but hardly means to be.
func (l *linter) command(e sourceEntry) {
	if e.Danger && strings.TrimSpace(e.Description) == "" {
		l.warn(configfile.Line(e.node, "danger"), "%s has danger, but no description that says what it does", e.Name)
	}
	if e.Hold && time.Duration(e.DeliverWithin) < shortHold {
		l.warn(configfile.Line(e.node, "hold"), "%s has hold, but waits for its device for %s only: see deliver_within", e.Name, time.Duration(e.DeliverWithin))
	}
	l.permission(e)
	l.schema(e)
	for i, t := range e.texts {
		l.text(e, t, e.cmd.texts[i])
	}
}

func (l *linter) permission(e sourceEntry) {
	if l.config.Grants == nil {
		return
	}
	at := []string{"permission"}
	role := l.config.Grants(e.Permission)
	switch {
	case e.Danger && role != "":
		l.at(e.node, at, "%s is granted by the role %s, although the command has danger", e.Permission, role)
	case !e.Danger && role == "":
		l.at(e.node, at, "%s is granted by no role but those that may do everything", e.Permission)
	}
}

// schema warns of rules that do nothing.
func (l *linter) schema(e sourceEntry) {
	node := configfile.Resolve(&e.Args)
	if node.IsZero() {
		return
	}
	visit(e.args.doc, nil, func(at []string, schema map[string]any) {
		types := typesOf(schema)
		for _, name := range slices.Sorted(maps.Keys(schema)) {
			if of := keywords[name].of; of != "" && len(types) > 0 && !slices.Contains(types, of) {
				l.warn(configfile.Line(node, join(at, name)...), "%s does nothing for the type %s", place(argsRoot, join(at, name)), strings.Join(types, ", "))
			}
		}
	})
	if e.args.doc["properties"] != nil && e.args.compiled.AdditionalProperties == nil && e.args.compiled.UnevaluatedProperties == nil {
		l.warn(node.Line, "args take fields that are not among the properties, a slip of the pen too: additionalProperties: false refuses them")
	}
}

// typesOf returns the types that a schema allows, none where it does not say; whole numbers are numbers.
func typesOf(schema map[string]any) []string {
	list, ok := schema["type"].([]any)
	if !ok {
		list = []any{schema["type"]}
	}
	var types []string
	for _, t := range list {
		if name, ok := t.(string); ok {
			types = append(types, strings.Replace(name, "integer", "number", 1))
		}
	}
	return types
}

// text warns of a text form that nobody can rely on.
func (l *linter) text(e sourceEntry, t textSource, form *textForm) {
	if !slices.ContainsFunc(t.Examples, func(x textExample) bool { return x.Send != "" }) {
		l.at(e.node, t.at, "has no example of a line that is sent")
	}
	if !slices.ContainsFunc(t.Examples, func(x textExample) bool { return x.Reply != "" }) {
		l.at(e.node, t.at, "has no example of a line that is answered")
	}
	for i, x := range t.Examples {
		if x.Reply != "" && !strings.Contains(x.Reply, device.Placeholder) {
			l.at(e.node, join(t.at, "examples", fmt.Sprint(i), "reply"), "holds no %s: whose it is can be told only if the device publishes it below its events topic, under the request id", device.Placeholder)
		}
	}
	properties, _ := e.args.doc["properties"].(map[string]any)
	for _, name := range slices.Sorted(maps.Keys(properties)) {
		if !slices.ContainsFunc(form.line, func(p textPart) bool { return p.arg == name }) {
			l.at(e.node, join(t.at, "send"), "has no place for {%s}: the device never learns it", shownName(name))
		}
	}
	whole, fields := form.reply.SubexpIndex(groupResult) >= 0, slices.ContainsFunc(form.reply.SubexpNames(), isField)
	switch {
	case e.Reply.Kind == device.ReplyImage:
		l.at(e.node, join(t.at, "reply"), "makes no picture, which reply.kind says")
	case e.Reply.Kind == device.ReplyText && fields:
		l.at(e.node, join(t.at, "reply"), "makes fields of the answer, and reply.kind says text: json would show them")
	case e.Reply.Kind == device.ReplyJSON && whole:
		l.at(e.node, join(t.at, "reply"), "makes text of the answer, and reply.kind says json")
	}
}

// titles warns of commands that people cannot tell apart.
func (l *linter) titles() {
	first := map[string]sourceEntry{}
	for _, e := range l.entries {
		if other, twice := first[e.Title]; twice {
			l.warn(configfile.Line(e.node, "title"), "%s has the title of %s, %q", e.Name, other.Name, e.Title)
		} else if e.Title != "" {
			first[e.Title] = e
		}
	}
}

// reach warns of what no device has.
func (l *linter) reach() {
	all := append(slices.Collect(maps.Values(l.catalogue.models.named)), l.catalogue.models.otherwise)
	spoken := func(command string, form *textForm) bool {
		return slices.ContainsFunc(all, func(m model) bool {
			f, has := m[command]
			return has && f == form
		})
	}
	for _, e := range l.entries {
		if !slices.ContainsFunc(all, func(m model) bool { _, has := m[e.Name]; return has }) {
			l.warn(configfile.Line(e.node, "name"), "%s is a command that no model has", e.Name)
			continue
		}
		for _, form := range e.cmd.texts {
			if !spoken(e.Name, form) {
				l.at(e.node, form.at, "is a form that no model speaks")
			}
		}
		if len(e.Examples) > 0 && !spoken(e.Name, nil) {
			l.at(e.node, []string{"examples"}, "are of JSON, which no model speaks in this command: those of text stand in its form")
		}
	}
	values, _ := configfile.Pairs(configfile.Field(l.models, "values"), "models.values", maxModels)
	for _, p := range values {
		if len(l.catalogue.models.named[p.Name]) == 0 {
			l.warn(p.Line, "models.values.%s has no command", shownName(p.Name))
		}
	}
}
