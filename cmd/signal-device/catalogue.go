package main

import (
	"fmt"
	"os"

	"signaldevice/catalogue"
)

type catalogueCommand struct {
	Lint catalogueLintCommand `cmd:"" help:"Check a file of commands: every fault is told with its line."`
}

type catalogueLintCommand struct {
	File string `arg:"" help:"The file, such as commands.yaml." type:"existingfile"`
}

// Help shows an example.
func (catalogueLintCommand) Help() string {
	return `The check is the one that the API makes when it loads the file.

Example:
  signal-device catalogue lint commands.yaml`
}

// Run checks the file.
func (c *catalogueLintCommand) Run(env *environment) error {
	info, err := os.Stat(c.File)
	if err != nil {
		return err
	}
	if info.Size() > catalogue.MaxFileBytes {
		return fmt.Errorf("%s is larger than %d bytes", c.File, catalogue.MaxFileBytes)
	}
	data, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	loaded, err := catalogue.Load(data)
	if err != nil {
		return fmt.Errorf("%s: %w", c.File, err)
	}
	_, err = fmt.Fprintf(env.out, "%s: %d commands, no fault\n", c.File, len(loaded.Commands()))
	return err
}
