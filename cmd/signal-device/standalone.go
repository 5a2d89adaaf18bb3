package main

import (
	"context"

	"signaldevice/app"
)

type standaloneCommand struct {
	apiFlags
	brokerFlags
	startFlags
	Data string `help:"Folder of everything that must survive." required:"" placeholder:"DIR"`
}

// Help shows an example.
func (standaloneCommand) Help() string {
	return `Tokens, roles and commands are the data folder's tokens.yaml, roles.yaml and commands.yaml where no
other files are named.

Example:
  signal-device standalone --data data --host cameras.example.org
  signal-device token create --tokens data/tokens.yaml --client panel --role operator`
}

// Run runs both until it is told to stop.
func (c *standaloneCommand) Run(ctx context.Context, env *environment) error {
	api, broker := c.apiFlags.options(), c.brokerFlags.options(c.Data)
	api.Admin, api.Pprof, api.Log = c.Admin, c.Pprof, env.log
	program, err := app.Standalone(ctx, api, broker)
	if err != nil {
		return err
	}
	return c.until(ctx, env, program, nil)
}
