package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"
)

type commandsCommand struct {
	List commandsListCommand `cmd:"" default:"withargs" help:"List the commands that there are (what commands alone does)."`
	Show commandsShowCommand `cmd:"" help:"Show one command with its arguments."`
}

type commandsListCommand struct {
	clientFlags
	Device string `help:"Tell what is allowed at this device." placeholder:"ID"`
	JSON   bool   `name:"json" help:"Print one JSON object a line, a command each."`
}

// Help shows examples.
func (commandsListCommand) Help() string {
	return `ALLOWED: your role may send it. WAITS: it is held for a device that is offline. --json prints one command a line, as the
API describes it.

Examples:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device commands
  signal-device commands --json | jq -r 'select(.allowed) | .name'`
}

// Run prints the list.
func (c *commandsListCommand) Run(ctx context.Context, env *environment) error {
	found, err := catalogueOf(ctx, env, c.clientFlags, c.Device)
	if err != nil {
		return err
	}
	items := func(yield func(json.RawMessage, error) bool) {
		for _, command := range found {
			if !yield(command, nil) {
				return
			}
		}
	}
	if c.JSON {
		return printLines(env.out, items)
	}
	return printTable(env.out, []string{"NAME", "ALLOWED", "DANGER", "WAITS", "REPLY", "TITLE"}, items, commandInfo.row)
}

type commandsShowCommand struct {
	clientFlags
	Name   string `arg:"" help:"Name of the command."`
	Device string `help:"Tell whether it is allowed at this device." placeholder:"ID"`
	JSON   bool   `name:"json" help:"Print one JSON document."`
}

// Help shows an example.
func (commandsShowCommand) Help() string {
	return `Arguments are described as JSON Schema.

Example:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device commands show set_volume`
}

// Run prints the command.
func (c *commandsShowCommand) Run(ctx context.Context, env *environment) error {
	found, err := catalogueOf(ctx, env, c.clientFlags, c.Device)
	if err != nil {
		return err
	}
	for _, command := range found {
		var info commandInfo
		if err := json.Unmarshal(command, &info); err != nil {
			return fmt.Errorf("the answer is not that of this API: %w", err)
		}
		if info.Name == c.Name {
			return printDocument(env.out, command, c.JSON, commandInfo.print)
		}
	}
	return fmt.Errorf("the catalogue has no command %q; to see which there are: signal-device commands", c.Name)
}

// catalogueOf reads the commands, each as it came.
func catalogueOf(ctx context.Context, env *environment, flags clientFlags, device string) ([]json.RawMessage, error) {
	api, err := flags.connect(env)
	if err != nil {
		return nil, err
	}
	path := "/v1/commands"
	if device != "" {
		path += "?" + url.Values{"device": {device}}.Encode()
	}
	var answer struct {
		Commands []json.RawMessage `json:"commands"`
	}
	err = api.get(ctx, path, &answer)
	return answer.Commands, err
}

// commandInfo is what people are shown of a command.
type commandInfo struct {
	Name          string  `json:"name"`
	Title         string  `json:"title"`
	Description   string  `json:"description"`
	Permission    string  `json:"permission"`
	Danger        bool    `json:"danger"`
	Hold          bool    `json:"hold"`
	Allowed       bool    `json:"allowed"`
	DeliverWithin float64 `json:"deliver_within"` // seconds
	ReplyWithin   float64 `json:"reply_within"`   // seconds
	Reply         struct {
		Kind string `json:"kind"`
	} `json:"reply"`
	Args json.RawMessage `json:"args"`
}

func (c commandInfo) row() []string {
	return []string{c.Name, yesNo(c.Allowed), yesNo(c.Danger), yesNo(c.Hold), c.Reply.Kind, c.Title}
}

func (c commandInfo) print(w io.Writer) error {
	within := func(seconds float64) string {
		text := time.Duration(seconds * float64(time.Second)).String()
		if strings.HasSuffix(text, "m0s") {
			text = strings.TrimSuffix(text, "0s")
		}
		if strings.HasSuffix(text, "h0m") {
			text = strings.TrimSuffix(text, "0m")
		}
		return "within " + text
	}
	err := writeRows(w, [][]string{
		{"Name", c.Name},
		{"Title", c.Title},
		{"Description", c.Description},
		{"Permission", c.Permission},
		{"Allowed", yesNo(c.Allowed)},
		{"Danger", yesNo(c.Danger)},
		{"Waits", yesNo(c.Hold)},
		{"Delivered", within(c.DeliverWithin)},
		{"Answered", within(c.ReplyWithin)},
		{"Reply", c.Reply.Kind},
	})
	if err != nil || len(c.Args) == 0 || slices.Equal(bytes.TrimSpace(c.Args), []byte("null")) {
		return err
	}
	if _, err := fmt.Fprintln(w, "Arguments"); err != nil {
		return err
	}
	return printJSON(w, c.Args)
}
