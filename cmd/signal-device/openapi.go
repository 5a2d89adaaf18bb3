package main

import (
	"os"

	"signaldevice/catalogue"
	"signaldevice/httpapi"
)

type openAPICommand struct {
	Catalogue string `help:"File of commands to describe, instead of the default ones." type:"existingfile" placeholder:"FILE"`
	JSON      bool   `name:"json" help:"Print JSON instead of YAML."`
}

// Help shows an example.
func (openAPICommand) Help() string {
	return `A running API serves the same at /openapi.yaml and /openapi.json.

Example:
  signal-device openapi --json > openapi.json`
}

// Run prints the document.
func (c *openAPICommand) Run(env *environment) error {
	file := catalogue.Default()
	if c.Catalogue != "" {
		var err error
		if file, err = os.ReadFile(c.Catalogue); err != nil {
			return err
		}
	}
	commands, err := catalogue.Load(file)
	if err != nil {
		return err
	}
	document, asJSON, err := httpapi.OpenAPI(commands.Commands())
	if err != nil {
		return err
	}
	if c.JSON {
		document = asJSON
	}
	_, err = env.out.Write(document)
	return err
}
