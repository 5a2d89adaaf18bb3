package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
	query := url.Values{"request_id": c.RequestID}
	if c.Wait > 0 {
		query.Set("wait", fmt.Sprint(int(c.Wait.Seconds())))
	}
	var answer json.RawMessage
	path := "/v1/devices/" + url.PathEscape(c.Device) + "/replies?" + query.Encode()
	if err := c.call(ctx, http.MethodGet, path, nil, nil, &answer); err != nil {
		return err
	}
	return printJSON(env.out, answer)
}

func printJSON(w io.Writer, data json.RawMessage) error {
	var b bytes.Buffer
	if err := json.Indent(&b, data, "", "  "); err != nil {
		return err
	}
	b.WriteByte('\n')
	_, err := b.WriteTo(w)
	return err
}
