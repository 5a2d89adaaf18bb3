package catalogue

import (
	"errors"
	"fmt"
	"regexp"
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
	Name          string        `yaml:"name"`
	Title         string        `yaml:"title"`
	Description   string        `yaml:"description"`
	Group         string        `yaml:"group"`
	Permission    string        `yaml:"permission"`
	Danger        bool          `yaml:"danger"`
	Hold          bool          `yaml:"hold"`
	DeliverWithin within        `yaml:"deliver_within"`
	ReplyWithin   within        `yaml:"reply_within"`
	Reply         replyEntry    `yaml:"reply"`
	Args          yaml.Node     `yaml:"args"`
	Examples      []jsonExample `yaml:"examples"`
	Text          *textEntry    `yaml:"text"`
	Forms         yaml.Node     `yaml:"forms"` // more of the same, by name
}

type replyEntry struct {
	Kind device.ReplyKind `yaml:"kind"`
}

type textEntry struct {
	Send     string        `yaml:"send"`
	Reply    string        `yaml:"reply"`
	Examples []textExample `yaml:"examples"`
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
