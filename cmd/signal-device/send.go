package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"time"
)

type sendCommand struct {
	clientFlags
	Device         string            `arg:"" help:"Id of the device; left out where --label chooses devices."`
	Command        string            `arg:"" optional:"" help:"Name of the command in the catalogue."`
	Args           string            `arg:"" optional:"" help:"Arguments, a JSON object."`
	Wait           time.Duration     `help:"Wait so long for the final reply, up to 60 s; 0 does not wait." default:"0s"`
	Save           string            `help:"Write the picture of the reply to this file; needs --wait." placeholder:"FILE"`
	IdempotencyKey string            `help:"Sending again with the same key makes no second request." placeholder:"KEY"`
	Label          map[string]string `help:"Send to every device with this label, online or not; may be repeated, all must match." placeholder:"KEY=VALUE" group:"Many devices"`
	Parallel       int               `help:"Send to so many at the same time, up to 64." default:"16" group:"Many devices"`
	JSON           bool              `name:"json" help:"Print one JSON object a line, a device each, as they answer." group:"Many devices"`
}

// Help shows examples.
func (sendCommand) Help() string {
	return `To one device: the answer of the API is printed as JSON, the request id, and the replies where --wait brought them.
With --save one line says what was written; a reply without a picture is printed as JSON, and the exit code is 1.

To many, by --label: a row for each device and a table of states. Long results are cut; --json prints them whole, with
the fields device_id, name, state, request_id, replies and error. A client that is limited to so many calls a second
waits its turn. An idempotency key is made one for each device.

Exit codes:
  0  accepted; with --wait, answered
  1  something failed, or the camera answered with an error
  2  the command line is wrong, and nothing was sent
  3  the API refused the command
  4  the device is offline, and the command does not wait for it
  5  no final reply within --wait
With --label the first of 1, 3, 5 and 4 that a device met.

Examples:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device send DEVICE ping --wait 10s
  signal-device send DEVICE set_volume '{"level":30}'
  signal-device send DEVICE snapshot --wait 20s --save front.jpg
  signal-device send --label fleet=north --label city=omsk get_status --wait 10s --json`
}

// Validate is called by the parser.
func (c *sendCommand) Validate() error {
	device, command, args := c.positional()
	switch {
	case command == "":
		return usagef("expected a device, or --label, and a command")
	case device != "" && len(c.Label) > 0:
		return usagef("either a device or --label")
	case args != "" && !isObject(args):
		return usagef("the arguments must be a JSON object such as '{\"level\":30}'")
	case c.Wait < 0 || c.Wait > maxWait:
		return usagef("--wait must be from 0s to %s", maxWait)
	case c.Save != "" && c.Wait == 0:
		return usagef("--save needs --wait")
	case c.Save != "" && len(c.Label) > 0:
		return usagef("--save is for one device; --label --json prints the pictures of many")
	case c.Parallel < 1 || c.Parallel > 64:
		return usagef("--parallel must be from 1 to 64")
	}
	return nil
}

// positional gives the arguments their meaning: where labels choose the devices, the first one is the command.
func (c *sendCommand) positional() (device, command, args string) {
	if len(c.Label) == 0 {
		return c.Device, c.Command, c.Args
	}
	if c.Args != "" { // one too many: a device was named as well
		return c.Device, c.Command, c.Args
	}
	return "", c.Device, c.Command
}

func isObject(text string) bool {
	var object map[string]json.RawMessage
	return json.Unmarshal([]byte(text), &object) == nil && object != nil
}

// Run sends the command and prints what came of it.
func (c *sendCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect(env)
	if err != nil {
		return err
	}
	device, command, args := c.positional()
	s := sender{api: api, command: command, args: json.RawMessage(args), wait: c.Wait}
	if len(c.Label) > 0 {
		return c.sendToMany(ctx, env, s)
	}
	sent, err := s.send(ctx, device, c.IdempotencyKey)
	if err != nil {
		return err
	}
	if c.Save != "" && s.verdict(sent) == nil {
		return c.save(env, sent)
	}
	if err := printJSON(env.out, sent.raw); err != nil {
		return err
	}
	return s.verdict(sent)
}

// save writes the picture. A reply that was read is gone, so it is printed where it cannot be written.
func (c *sendCommand) save(env *environment, sent sentCommand) error {
	picture, err := sent.picture()
	if err == nil {
		err = picture.write(c.Save)
	}
	if err != nil {
		return errors.Join(err, printJSON(env.out, sent.raw))
	}
	_, err = fmt.Fprintf(env.out, "%s: %s\n", c.Save, picture)
	return err
}

// sender sends one command to one device after another. It is safe for concurrent use.
type sender struct {
	api     *apiClient
	command string
	args    json.RawMessage // empty: none
	wait    time.Duration
}

// sentCommand is the answer of the API to a command.
type sentCommand struct {
	RequestID string          `json:"request_id"`
	DeviceID  string          `json:"device_id"`
	State     string          `json:"state"`
	Replies   json.RawMessage `json:"replies"` // empty: none came in time

	replies []replyInfo     // read out of Replies
	raw     json.RawMessage // the whole answer
}

// replyInfo is what is looked at of a reply.
type replyInfo struct {
	Status string          `json:"status"`
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	} `json:"error"`
	Final bool `json:"final"`
}

func (s sender) send(ctx context.Context, device, key string) (sentCommand, error) {
	body := map[string]any{"command": s.command}
	if len(s.args) > 0 {
		body["args"] = s.args
	}
	header := http.Header{}
	if s.wait > 0 {
		header.Set("Prefer", fmt.Sprintf("wait=%d", wholeSeconds(s.wait)))
	}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	var sent sentCommand
	path := "/v1/devices/" + url.PathEscape(device) + "/commands"
	if err := s.api.call(ctx, http.MethodPost, path, body, header, &sent.raw); err != nil {
		return sentCommand{}, err
	}
	err := json.Unmarshal(sent.raw, &sent)
	if err == nil && len(sent.Replies) > 0 {
		err = json.Unmarshal(sent.Replies, &sent.replies)
	}
	if err != nil {
		return sentCommand{}, fmt.Errorf("the answer is not that of this API: %w", err)
	}
	return sent, nil
}

// verdict is what the answer means to whoever waited for it.
func (s sender) verdict(sent sentCommand) error {
	if s.wait == 0 {
		return nil
	}
	if sent.State != "answered" {
		return noAnswerError{fmt.Errorf("no final reply within %s, the request is %s; one that comes later: signal-device replies %s %s",
			s.wait, sent.State, sent.DeviceID, sent.RequestID)}
	}
	return verdictOf(sent.replies)
}

// verdictOf is what the replies of a camera mean.
func verdictOf(replies []replyInfo) error {
	if fault := faultIn(replies); fault != "" {
		return fmt.Errorf("the camera answered with an error: %s", fault)
	}
	return nil
}

// faultIn is what the camera says went wrong, "" where nothing did.
func faultIn(replies []replyInfo) string {
	for _, reply := range replies {
		if !reply.Final || reply.Status != "error" {
			continue
		}
		if reply.Error == nil {
			return "it does not say which"
		}
		return printable(reply.Error.Code + ": " + reply.Error.Message)
	}
	return ""
}

// noAnswerError says that what was waited for did not come in time.
type noAnswerError struct{ error }

func (noAnswerError) exitCode() int { return exitNoAnswer }

// wholeSeconds rounds up: who waits at all waits for a second.
func wholeSeconds(d time.Duration) int { return int(math.Ceil(d.Seconds())) }
