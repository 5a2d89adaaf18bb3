package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

type sendCommand struct {
	clientFlags
	Device         string        `arg:"" help:"Id of the device."`
	Command        string        `arg:"" help:"Name of the command in the catalogue."`
	Args           string        `arg:"" optional:"" help:"Arguments, a JSON object."`
	Wait           time.Duration `help:"Wait so long for the final reply, up to 60 s; 0 does not wait." default:"0s"`
	IdempotencyKey string        `help:"Sending again with the same key makes no second request." placeholder:"KEY"`
}

// Help shows examples.
func (sendCommand) Help() string {
	return `The answer of the API is printed as JSON: the request id, and the replies where --wait brought them.

Examples:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device send DEVICE ping --wait 10s
  signal-device send DEVICE set_volume '{"level":30}'`
}

// Run sends the command and prints the answer.
func (c *sendCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect()
	if err != nil {
		return err
	}
	body := map[string]any{"command": c.Command}
	if c.Args != "" {
		if !json.Valid([]byte(c.Args)) {
			return usagef("the arguments must be a JSON object such as '{\"level\":30}'")
		}
		body["args"] = json.RawMessage(c.Args)
	}
	header := http.Header{}
	if c.Wait > 0 {
		header.Set("Prefer", fmt.Sprintf("wait=%d", int(c.Wait.Seconds())))
	}
	if c.IdempotencyKey != "" {
		header.Set("Idempotency-Key", c.IdempotencyKey)
	}
	var answer json.RawMessage
	if err := api.call(ctx, http.MethodPost, "/v1/devices/"+url.PathEscape(c.Device)+"/commands", body, header, &answer); err != nil {
		return err
	}
	return printJSON(env.out, answer)
}
