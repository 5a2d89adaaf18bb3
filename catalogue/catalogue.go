// Package catalogue knows the commands: it reads them from one declarative file, checks the arguments of each call, and
// reads what devices answer.
//
// A new command is an edit of commands.yaml and no Go code. Load takes the file strictly: every fault is told with its
// line, the examples in the file are run, and a file with a fault is no catalogue at all. Lint also tells what a file may
// be, but hardly means to be. A Catalogue never changes once it is loaded; Live holds the newest one of a file and
// implements dispatch.Catalogue. The package reaches no network and opens no file that a schema names.
//
// Devices may differ: the section models says, by one of a device's labels, which commands it has and in which form each
// is spoken, as JSON or as a line of text. What a device answers is read without knowing its model.
//
// Everything here is safe for concurrent use.
package catalogue

import (
	_ "embed"
	"encoding/json"
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"signaldevice/device"
)

//go:embed commands.yaml
var defaultFile string

// Default returns the file that is used where none is given: the commands that a fatigue camera needs.
func Default() []byte { return []byte(defaultFile) }

// Catalogue is one version of the set of commands. It is immutable.
type Catalogue struct {
	commands []device.Command // in the file's order
	byName   map[string]*command
	models   *models
}

// command is what the catalogue knows of one command.
type command struct {
	device.Command
	schema *jsonschema.Schema // of the arguments
	texts  []*textForm        // besides JSON, in the file's order
}

// Commands returns every command in the file's order. The Args are shared: nobody may change them.
func (c *Catalogue) Commands() []device.Command { return slices.Clone(c.commands) }

// CommandsOf returns the commands that a device with these labels has, in the file's order. The Args are shared: nobody
// may change them.
func (c *Catalogue) CommandsOf(labels device.Labels) []device.Command {
	has := c.models.of(labels)
	return slices.DeleteFunc(c.Commands(), func(cmd device.Command) bool {
		_, ok := has[cmd.Name]
		return !ok
	})
}

// Command returns one command, or UnknownCommand.
func (c *Catalogue) Command(name string) (device.Command, error) {
	cmd, ok := c.byName[name]
	if !ok {
		return device.Command{}, unknownCommand()
	}
	return cmd.Command, nil
}

// Prepare checks the arguments and makes them ready for the broker, in the form that the device speaks: compact JSON,
// with members and numbers as they were sent, or a line of text. Arguments that are nil or null mean an empty object.
// labels tells the device's labels; it is called at most once, and only where models differ in this command and the
// arguments fit.
//
// UnknownCommand, also where the device's model does not have the command; InvalidArguments with every fault, each with
// its place, up to 100 of them; PayloadTooLarge where no MQTT packet can hold them; and whatever error labels returns.
func (c *Catalogue) Prepare(name string, args json.RawMessage, labels func() (device.Labels, error)) (device.Payload, error) {
	cmd, ok := c.byName[name]
	if !ok {
		return device.Payload{}, unknownCommand()
	}
	if len(args) > device.MaxPayload {
		return device.Payload{}, device.Errorf(device.PayloadTooLarge, "the arguments are larger than %d bytes", device.MaxPayload)
	}
	a, faults := cmd.arguments(args)
	if len(faults) > 0 {
		return device.Payload{}, invalidArguments(faults)
	}
	form, err := c.models.form(name, labels)
	if err != nil {
		return device.Payload{}, err
	}
	if form == nil {
		return device.Payload{JSON: a.compact()}, nil
	}
	line, faults := form.render(a.tree)
	if len(faults) > 0 {
		return device.Payload{}, invalidArguments(faults)
	}
	return device.Payload{Text: line}, nil
}

// arguments reads arguments and returns every fault that the command finds in them.
func (cmd *command) arguments(args json.RawMessage) (arguments, []device.Fault) {
	a, faults := readArguments(args)
	if a.tree != nil {
		faults = append(faults, a.judge(cmd.schema)...)
	}
	return a, faults
}

func unknownCommand() error {
	return device.Errorf(device.UnknownCommand, "the catalogue has no such command")
}
