package main

import (
	"context"
	"fmt"
	"net/http"
	"time"
)

type enrolCodeCommand struct {
	clientFlags
	Name      string            `help:"Name of the device to be; without it the camera brings its own." placeholder:"NAME"`
	Label     map[string]string `help:"Label of the device to be; may be repeated." placeholder:"KEY=VALUE"`
	ExpiresIn time.Duration     `help:"How long the code can be used, up to 30 days." default:"1h"`
}

// Help shows an example.
func (enrolCodeCommand) Help() string {
	return `The code is printed alone on a line. It is good for one camera.

Example:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device enrol-code --name taxi-17 --label city=omsk --expires-in 24h`
}

// Run asks the API for a code and prints it.
func (c *enrolCodeCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect(env)
	if err != nil {
		return err
	}
	body := map[string]any{"expires_in": int(c.ExpiresIn.Seconds())}
	if c.Name != "" {
		body["name"] = c.Name
	}
	if len(c.Label) > 0 {
		body["labels"] = c.Label
	}
	var made struct {
		Code string `json:"code"`
	}
	if err := api.call(ctx, http.MethodPost, "/v1/enrolment-codes", body, nil, &made); err != nil {
		return err
	}
	_, err = fmt.Fprintln(env.out, made.Code)
	return err
}
