package main

import (
	"context"
	"fmt"

	"signaldevice/app"
)

type demoCommand struct {
	apiFlags
	brokerFlags
	startFlags
	Data    string `help:"Folder for the demonstration's data; without it they are gone when it stops." placeholder:"DIR"`
	Cameras int    `help:"How many cameras to simulate." default:"3"`
}

// Help shows an example.
func (demoCommand) Help() string {
	return `It listens on loopback only, because it gives everybody who asks a token. It prints what to try.

Examples:
  signal-device demo
  signal-device demo --cameras 20 --http 127.0.0.1:0`
}

// Run runs the demonstration until it is told to stop.
func (c *demoCommand) Run(ctx context.Context, env *environment) error {
	options := app.DemoOptions{API: c.apiFlags.options(), Broker: c.brokerFlags.options(c.Data), Cameras: c.Cameras}
	options.API.Admin, options.API.Pprof, options.API.Log = c.Admin, c.Pprof, env.log
	if err := options.Validate(); err != nil {
		return usagef("demo: %w", err)
	}
	demo, err := app.Demo(ctx, options)
	if err != nil {
		return err
	}
	return c.until(ctx, env, demo.App, func() error {
		_, err := fmt.Fprint(env.out, whatToTry(demo))
		return err
	})
}

// whatToTry returns text with commands that work as they stand.
func whatToTry(demo *app.Demonstration) string {
	at := demo.Ready()
	base := "http://" + at.HTTP
	bearer := func(role string) string { return "-H 'Authorization: Bearer " + at.Tokens[role] + "'" }
	if demo.CameraID == "" {
		return fmt.Sprintf("The demonstration is ready at %s, without cameras.\nList devices:\n  curl -sS %s %s/v1/devices\n",
			base, bearer("viewer"), base)
	}
	device := base + "/v1/devices/" + demo.CameraID
	const json = "-H 'Content-Type: application/json'"
	return fmt.Sprintf(`The demonstration is ready at %[1]s. Try in another terminal:

Which cameras are there, and which commands?
  curl -sS %[2]s %[1]s/v1/devices
  curl -sS %[2]s %[1]s/v1/commands

Send a command and wait for the reply:
  curl -sS %[3]s %[5]s -H 'Prefer: wait=10' -d '{"command":"get_status"}' %[4]s/commands

Send a command, then ask for the reply, as a panel does:
  curl -sS %[3]s %[5]s -d '{"command":"ping"}' %[4]s/commands
  curl -sS %[3]s '%[4]s/replies?wait=10'

The same from a terminal, by this program:
  export SIGNAL_DEVICE_SERVER=%[1]s SIGNAL_DEVICE_TOKEN=%[7]s
  signal-device devices
  signal-device send %[8]s snapshot --wait 10s --save snapshot.jpg
  signal-device requests

Make a one-time code with which a camera of your own registers itself at %[1]s/v1/enrol:
  curl -sS %[6]s %[5]s -d '{"name":"my-camera"}' %[1]s/v1/enrolment-codes

Ctrl-C stops it.
`, base, bearer("viewer"), bearer("operator"), device, json, bearer("admin"),
		at.Tokens["operator"], demo.CameraID)
}
