package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

type repliesCommand struct {
	clientFlags
	Device    string        `arg:"" help:"Id of the device."`
	RequestID []string      `arg:"" optional:"" help:"Only replies to these requests, up to 100; without one, all that are unread."`
	Wait      time.Duration `help:"Wait so long for a final reply, up to 60 s; 0 does not wait." default:"0s"`
}

// Help shows an example.
func (repliesCommand) Help() string {
	return `Replies to your own commands are printed as JSON. What was read is gone after a short grace.

Example:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device replies DEVICE --wait 10s`
}

// Run polls once and prints the answer.
func (c *repliesCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect(env)
	if err != nil {
		return err
	}
	query := url.Values{"request_id": c.RequestID}
	if c.Wait > 0 {
		query.Set("wait", fmt.Sprint(int(c.Wait.Seconds())))
	}
	var answer json.RawMessage
	path := "/v1/devices/" + url.PathEscape(c.Device) + "/replies?" + query.Encode()
	if err := api.call(ctx, http.MethodGet, path, nil, nil, &answer); err != nil {
		return err
	}
	return printJSON(env.out, answer)
}
