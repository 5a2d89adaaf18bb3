package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

type repliesCommand struct {
	clientFlags
	Device    string        `arg:"" help:"Id of the device."`
	RequestID []string      `arg:"" optional:"" help:"Only replies to these requests, up to 100; without one, all that are unread."`
	Wait      time.Duration `help:"Wait so long for a final reply, up to 60 s; 0 does not wait." default:"0s"`
}

// Help shows examples.
func (repliesCommand) Help() string {
	return `The answer of the API is printed as JSON: replies to your own commands, and how each request stands. What was read is
gone after a short grace.

Exit codes:
  0  the API answered; with --wait, at least one final reply is there
  1  something failed; with --wait, a camera answered with an error
  2  the command line is wrong
  3  the API refused the call
  5  no final reply within --wait

Examples:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device replies DEVICE
  signal-device replies DEVICE sdr1_AQGTsU0o... --wait 10s`
}

// Validate is called by the parser.
func (c *repliesCommand) Validate() error {
	switch {
	case c.Wait < 0 || c.Wait > maxWait:
		return usagef("--wait must be from 0s to %s", maxWait)
	case len(c.RequestID) > maxPolled:
		return usagef("at most %d requests", maxPolled)
	}
	return nil
}

// Run polls once and prints the answer.
func (c *repliesCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect(env)
	if err != nil {
		return err
	}
	query := url.Values{"request_id": c.RequestID}
	if c.Wait > 0 {
		query.Set("wait", strconv.Itoa(wholeSeconds(c.Wait)))
	}
	var answer json.RawMessage
	path := "/v1/devices/" + url.PathEscape(c.Device) + "/replies?" + query.Encode()
	if err := api.call(ctx, http.MethodGet, path, nil, nil, &answer); err != nil {
		return err
	}
	var polled polledReplies
	if err := json.Unmarshal(answer, &polled); err != nil {
		return fmt.Errorf("the answer is not that of this API: %w", err)
	}
	if err := printJSON(env.out, answer); err != nil || c.Wait == 0 {
		return err
	}
	return polled.verdict(c.Wait)
}

const maxPolled = 100 // requests that one call may name

// polledReplies is what is looked at of the answer.
type polledReplies struct {
	Answered bool        `json:"answered"`
	Replies  []replyInfo `json:"replies"`
	Requests []struct {
		ID    string `json:"request_id"`
		State string `json:"state"`
	} `json:"requests"`
}

// verdict is what the answer means to whoever waited for it.
func (p polledReplies) verdict(wait time.Duration) error {
	if !p.Answered {
		var text strings.Builder
		fmt.Fprintf(&text, "no final reply within %s", wait)
		for _, r := range p.Requests {
			fmt.Fprintf(&text, "\n  %s is %s", r.ID, r.State)
		}
		return noAnswerError{errors.New(text.String())}
	}
	return verdictOf(p.Replies)
}
