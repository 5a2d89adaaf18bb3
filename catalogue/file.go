package catalogue

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
)

// Limits of the file.
const (
	MaxFileBytes   = 1 << 20
	MaxCommands    = 500
	maxForms       = 8    // of text, of one command
	maxTitle       = 100  // characters
	maxDescription = 2000 // characters
	maxPermission  = 128  // bytes
	minWithin      = time.Second
	maxWithin      = 30 * 24 * time.Hour
)

// What a command has where the file does not say.
const (
	defaultGroup         = "other"
	defaultReply         = device.ReplyJSON
	defaultDeliverWithin = 10 * time.Second
	defaultReplyWithin   = 30 * time.Second
)

var (
	namePattern       = regexp.MustCompile(`^[a-z][a-z0-9_]{0,63}$`)
	formPattern       = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	permissionPattern = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
)

// file is commands.yaml. Commands are nodes, so that each fault finds its line.
type file struct {
	Models   yaml.Node   `yaml:"models"`
	Commands []yaml.Node `yaml:"commands"`
}

// entry is one command in the file.
type entry struct {
	Name          string      `yaml:"name"`
	Title         string      `yaml:"title"`
	Description   string      `yaml:"description"`
	Group         string      `yaml:"group"`
	Permission    string      `yaml:"permission"`
	Danger        bool        `yaml:"danger"`
	Hold          bool        `yaml:"hold"`
	DeliverWithin within      `yaml:"deliver_within"`
	ReplyWithin   within      `yaml:"reply_within"`
	Reply         replyEntry  `yaml:"reply"`
	Args          yaml.Node   `yaml:"args"`
	Examples      []yaml.Node `yaml:"examples"` // jsonExamples
	Text          *textEntry  `yaml:"text"`
	Forms         yaml.Node   `yaml:"forms"` // more of the same, by name
}

type replyEntry struct {
	Kind device.ReplyKind `yaml:"kind"`
}

type textEntry struct {
	Send     string      `yaml:"send"`
	Reply    string      `yaml:"reply"`
	Examples []yaml.Node `yaml:"examples"` // textExamples
}

// within is a length of time such as 10s, 5m or 72h; 0: not given.
type within time.Duration

// UnmarshalYAML reads the duration and checks its limits.
func (w *within) UnmarshalYAML(node *yaml.Node) error {
	d, err := time.ParseDuration(node.Value)
	if err != nil {
		return errors.New("must be a duration such as 10s, 5m or 72h")
	}
	if d < minWithin || d > maxWithin {
		return errors.New("must be a duration from 1s to 720h")
	}
	*w = within(d)
	return nil
}

// Load reads a catalogue from the bytes of its file and runs the file's examples. The error is configfile.Faults: every
// fault, each with its line.
func Load(data []byte) (*Catalogue, error) {
	s := readSource(data)
	if err := s.faults.Err(); err != nil {
		return nil, err
	}
	return s.catalogue, nil
}

// source is a file as far as it could be read.
type source struct {
	catalogue *Catalogue
	entries   []sourceEntry // of the commands, in order
	models    *yaml.Node
	faults    configfile.Faults
}

// sourceEntry is one command with what it was read from.
type sourceEntry struct {
	entry
	cmd    *command
	node   *yaml.Node
	args   argsSchema
	texts  []textSource
	faults configfile.Faults
}

// textSource is one text form of a command in the file.
type textSource struct {
	*textEntry
	name string
	at   []string // the way to it in the command's entry
}

func readSource(data []byte) source {
	var f file
	if err := configfile.Decode(data, MaxFileBytes, &f); err != nil {
		return source{faults: configfile.FaultsOf(err)}
	}
	if n := len(f.Commands); n == 0 || n > MaxCommands {
		return source{faults: configfile.Faults{configfile.Faultf(0, "the file must have 1 to %d commands", MaxCommands)}}
	}
	s := source{models: &f.Models}
	s.readCommands(f.Commands)
	if len(s.faults) == 0 { // else models would be told of commands and forms that are only misspelt
		s.catalogue.models, s.faults = readModels(&f.Models, s.catalogue)
	}
	slices.SortFunc(s.faults, func(a, b configfile.Fault) int {
		return cmp.Or(a.Line-b.Line, cmp.Compare(a.Message, b.Message))
	})
	return s
}

func (s *source) readCommands(nodes []yaml.Node) {
	s.catalogue = &Catalogue{byName: make(map[string]*command, len(nodes))}
	lines := map[string]int{}
	for i := range nodes {
		e := readCommand(configfile.Resolve(&nodes[i]))
		s.entries = append(s.entries, e)
		s.faults = append(s.faults, e.faults...)
		line := configfile.Line(e.node, "name")
		if first, twice := lines[e.Name]; twice && e.Name != "" {
			s.faults = append(s.faults, configfile.Faultf(line, "command %q is there twice, first on line %d", e.Name, first))
		}
		lines[e.Name] = line
		s.catalogue.commands = append(s.catalogue.commands, e.cmd.Command)
		s.catalogue.byName[e.Name] = e.cmd
	}
}

// readCommand reads one command as far as it can be read, with all that is wrong with it.
func readCommand(node *yaml.Node) sourceEntry {
	e := sourceEntry{node: node, cmd: &command{}}
	if node.Kind != yaml.MappingNode {
		e.faults = configfile.Faults{configfile.Faultf(node.Line, "a command must be a mapping of fields")}
		return e
	}
	e.faults = configfile.DecodeNode(node, &e.entry)
	e.cmd.Name = e.Name
	if len(e.faults) > 0 {
		return e
	}
	e.fillDefaults()
	e.faults = e.check(node)
	schema, faults := readSchema(&e.Args, node.Line)
	e.args = schema
	e.faults = append(e.faults, faults...)
	e.cmd.Command, e.cmd.schema = e.command(schema), schema.compiled
	if len(faults) == 0 {
		e.readTexts()
	}
	if len(e.faults) == 0 {
		e.runExamples()
	}
	return e
}

// readTexts reads the field text and those of the field forms.
func (e *sourceEntry) readTexts() {
	if e.Text != nil {
		e.texts = append(e.texts, textSource{e.Text, formText, []string{"text"}})
	}
	pairs, faults := configfile.Pairs(&e.Forms, "forms", maxForms)
	e.faults = append(e.faults, faults...)
	for _, p := range pairs {
		if p.Name == formJSON || p.Name == formText || !formPattern.MatchString(p.Name) {
			e.faults = append(e.faults, configfile.Faultf(p.Line, "the name of a form must match %s, and be neither json nor text", formPattern))
			continue
		}
		text := textSource{new(textEntry), p.Name, []string{"forms", p.Name}}
		if faults := configfile.DecodeNode(p.Value, text.textEntry); len(faults) > 0 {
			e.faults = append(e.faults, faults...)
			continue
		}
		e.texts = append(e.texts, text)
	}
	for _, t := range e.texts {
		form, faults := newTextForm(t, e.args.doc, e.node)
		e.cmd.texts = append(e.cmd.texts, form)
		e.faults = append(e.faults, faults...)
	}
}

// runExamples checks a command that is read whole: by its examples, and its forms against each other.
func (e *sourceEntry) runExamples() {
	x := examples{cmd: e.cmd, node: e.node}
	x.json(e.Examples)
	for i, t := range e.texts {
		x.text(e.cmd.texts[i], t.Examples)
	}
	e.faults = append(e.faults, x.faults...)
	for i, later := range e.cmd.texts {
		for _, earlier := range e.cmd.texts[:i] {
			if line, found := disagreement(earlier, later); found {
				at := join(later.at, "reply")
				e.faults = append(e.faults, configfile.Faultf(configfile.Line(e.node, at...),
					"%s and %s both take %q and read it differently", fieldName(join(earlier.at, "reply")), fieldName(at), line))
			}
		}
	}
}

// fillDefaults gives what the file does not say. Where only one of the two durations is given, the other one keeps to it.
func (e *entry) fillDefaults() {
	if e.Title == "" {
		e.Title = e.Name
	}
	if e.Group == "" {
		e.Group = defaultGroup
	}
	if e.Reply.Kind == "" {
		e.Reply.Kind = defaultReply
	}
	if e.DeliverWithin == 0 {
		e.DeliverWithin = within(defaultDeliverWithin)
		if e.ReplyWithin > 0 {
			e.DeliverWithin = min(e.DeliverWithin, e.ReplyWithin)
		}
	}
	if e.ReplyWithin == 0 {
		e.ReplyWithin = within(defaultReplyWithin)
		if e.DeliverWithin > e.ReplyWithin {
			e.ReplyWithin = min(e.DeliverWithin+e.ReplyWithin, within(maxWithin))
		}
	}
}

// check returns the faults of every field but args and text.
func (e *entry) check(node *yaml.Node) configfile.Faults {
	var faults configfile.Faults
	fault := func(field, format string, args ...any) {
		faults = append(faults, configfile.Faultf(configfile.Line(node, field), field+" "+format, args...))
	}
	if !namePattern.MatchString(e.Name) {
		fault("name", "must match %s", namePattern)
	}
	if len(e.Permission) > maxPermission || !permissionPattern.MatchString(e.Permission) {
		fault("permission", "must be words of letters, digits, '_' and '-' with dots between them, at most %d characters", maxPermission)
	}
	if message := lineFault(e.Title, maxTitle); message != "" {
		fault("title", "%s", message)
	}
	if message := lineFault(e.Group, maxTitle); message != "" {
		fault("group", "%s", message)
	}
	if utf8.RuneCountInString(e.Description) > maxDescription {
		fault("description", "must have at most %d characters", maxDescription)
	}
	switch e.Reply.Kind {
	case device.ReplyText, device.ReplyJSON, device.ReplyImage:
	default:
		fault("reply", "must have the kind text, json or image")
	}
	if e.DeliverWithin > e.ReplyWithin {
		fault("deliver_within", "must not be longer than reply_within (%s), which counts from the same moment", time.Duration(e.ReplyWithin))
	}
	return faults
}

func (e *entry) command(schema argsSchema) device.Command {
	return device.Command{
		Name:          e.Name,
		Title:         e.Title,
		Description:   strings.TrimSpace(e.Description),
		Group:         e.Group,
		Permission:    e.Permission,
		Danger:        e.Danger,
		Hold:          e.Hold,
		DeliverWithin: time.Duration(e.DeliverWithin),
		ReplyWithin:   time.Duration(e.ReplyWithin),
		Reply:         e.Reply.Kind,
		Args:          schema.json,
	}
}

// lineFault returns why text is not fit to be shown as one line, or "".
func lineFault(text string, maxChars int) string {
	if utf8.RuneCountInString(text) > maxChars {
		return "must have at most " + strconv.Itoa(maxChars) + " characters"
	}
	for _, c := range text {
		if !unicode.IsPrint(c) {
			return fmt.Sprintf("must be one line of printable characters, without %U", c)
		}
	}
	return ""
}
