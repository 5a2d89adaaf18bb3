// Package catalogue knows the commands: it reads them from one declarative file, checks the arguments of each call, and
// reads what devices answer.
//
// A new command is an edit of commands.yaml and no Go code. Load takes the file strictly: every fault is told with its
// line, and a file with a fault is no catalogue at all. A Catalogue never changes once it is loaded; Live holds the
// newest one of a file and implements dispatch.Catalogue. The package reaches no network and opens no file that a
// schema names.
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
}

// command is what the catalogue knows of one command.
type command struct {
	device.Command
	schema *jsonschema.Schema // of the arguments
	text   *textForm          // nil: the device speaks JSON
}

// Commands returns every command in the file's order. The Args are shared: nobody may change them.
func (c *Catalogue) Commands() []device.Command { return slices.Clone(c.commands) }

// Command returns one command, or UnknownCommand.
func (c *Catalogue) Command(name string) (device.Command, error) {
	cmd, ok := c.byName[name]
	if !ok {
		return device.Command{}, unknownCommand()
	}
	return cmd.Command, nil
}

// Prepare checks the arguments and makes them ready for the broker: compact JSON, with members and numbers as they were
// sent, or the command's text line. Arguments that are nil or null mean an empty object. UnknownCommand;
// InvalidArguments with every fault, each with its place, up to 100 of them; PayloadTooLarge where no MQTT packet can
// hold them.
func (c *Catalogue) Prepare(name string, args json.RawMessage) (device.Payload, error) {
	cmd, ok := c.byName[name]
	if !ok {
		return device.Payload{}, unknownCommand()
	}
	if len(args) > device.MaxPayload {
		return device.Payload{}, device.Errorf(device.PayloadTooLarge, "the arguments are larger than %d bytes", device.MaxPayload)
	}
	a, faults := readArguments(args)
	if a.tree != nil {
		faults = append(faults, a.judge(cmd.schema)...)
	}
	if len(faults) == 0 && cmd.text != nil {
		line, textFaults := cmd.text.render(a.tree)
		if len(textFaults) == 0 {
			return device.Payload{Text: line}, nil
		}
		faults = textFaults
	}
	if len(faults) > 0 {
		return device.Payload{}, invalidArguments(faults)
	}
	return device.Payload{JSON: a.compact()}, nil
}

func unknownCommand() error {
	return device.Errorf(device.UnknownCommand, "the catalogue has no such command")
}
