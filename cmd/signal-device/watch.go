package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

type watchCommand struct {
	clientFlags
	Device   string            `help:"Only what concerns this device." placeholder:"ID"`
	Label    map[string]string `help:"Only devices with this label; may be repeated, all must match." placeholder:"KEY=VALUE"`
	Replies  bool              `help:"Only replies, and what else is named so. It tells of them and takes none."`
	Requests bool              `help:"Only where requests stand, and what else is named so."`
	Presence bool              `help:"Only devices that come and go, and what else is named so."`
	For      time.Duration     `help:"Watch for so long; 0 has no end." default:"0s"`
	Count    int               `help:"Watch until so many lines were printed; 0 has no end." default:"0"`
	JSON     bool              `name:"json" help:"Print one JSON object a line, an event each."`
}

// Help shows examples.
func (watchCommand) Help() string {
	return `Prints a line for each reply to your own requests, for each step of those requests, and for each device that comes or
goes, as it happens. It only tells: no reply is taken, with or without --replies; read it with signal-device replies. Times
are UTC, of when the line was printed.

It ends with 0 on Ctrl-C, after --for and after --count; where both are given and --for is over first, with 5. A connection
that breaks is made again, and goes on where it was; that, and events that may have been missed, is told on standard error.
--json prints the data of each event as the API describes it, with its name as the field event.

Examples:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device watch
  signal-device watch --presence --label fleet=north --json | jq -r 'select(.online | not) | .device_id'
  signal-device watch --replies --device d4f2c8a1b7e34590 --count 1 --for 30s`
}

// Validate is called by the parser.
func (c *watchCommand) Validate() error {
	if c.Count < 0 || c.For < 0 {
		return usagef("--count and --for must not be negative")
	}
	return nil
}

// Run prints events until there is a reason to end.
func (c *watchCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect(env)
	if err != nil {
		return err
	}
	w := &watcher{watchCommand: c, api: api, out: env.out, err: env.err, matches: map[string]bool{}}
	limited := ctx
	if c.For > 0 {
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeout(ctx, c.For)
		defer cancel()
	}
	switch err := w.run(limited); {
	case err == nil || ctx.Err() != nil:
		return nil
	case limited.Err() == nil:
		return err
	case c.Count > 0:
		return noAnswerError{fmt.Errorf("%d of %d lines came in time", w.printed, c.Count)}
	default:
		return nil
	}
}

// watcher is one run of the command.
type watcher struct {
	*watchCommand
	api      *apiClient
	out, err io.Writer
	matches  map[string]bool // whether a device has the labels asked for
	last     string          // id of the last event
	began    bool            // an event has come
	printed  int
}

var (
	errEnough  = errors.New("enough lines were printed")
	errForeign = errors.New("the stream is not that of this API")
)

// run follows one stream after the other. It returns nil once enough was printed.
func (w *watcher) run(ctx context.Context) error {
	for failures := 0; ; {
		pause, opened, err := w.follow(ctx)
		switch {
		case errors.Is(err, errEnough):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case w.isFinal(err):
			return err
		case opened:
			failures = 0
		}
		pause = max(pause, backoff(failures))
		failures++
		w.say("%v; connecting again in %s", err, pause.Round(100*time.Millisecond))
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// isFinal reports whether it makes no sense to try again: the API refuses, the output is gone, or it never worked.
func (w *watcher) isFinal(err error) bool {
	var refused *apiError
	var output *outputError
	switch {
	case errors.As(err, &output), errors.Is(err, errForeign):
		return true
	case errors.As(err, &refused):
		return refused.Status < http.StatusInternalServerError && refused.Status != http.StatusTooManyRequests
	default:
		return !w.began
	}
}

// backoff doubles from a quarter of a second to eight, half of it by chance.
func backoff(failures int) time.Duration {
	most := 500 * time.Millisecond << min(failures, 4)
	return most/2 + rand.N(most/2)
}

// outputError is that a line could not be printed.
type outputError struct{ error }

// follow prints what one stream tells. It returns how long to wait before the next one, at least.
func (w *watcher) follow(ctx context.Context) (pause time.Duration, opened bool, err error) {
	stream, err := w.api.events(ctx, w.last)
	if err != nil {
		if refused, ok := errors.AsType[*apiError](err); ok {
			seconds, _ := strconv.Atoi(refused.retryAfter) // none is 0
			pause = time.Duration(seconds) * time.Second
		}
		return pause, false, err
	}
	defer stream.close()
	if w.began {
		w.say("connected again")
	}
	for {
		e, err := stream.next()
		if err == nil {
			err = w.take(ctx, e)
		}
		if err != nil {
			return stream.retry, true, err
		}
	}
}

// eventInfo is the data of any event.
type eventInfo struct {
	RequestID string `json:"request_id"`
	DeviceID  string `json:"device_id"`
	Seq       int    `json:"seq"`
	Final     bool   `json:"final"`
	State     string `json:"state"`
	Online    bool   `json:"online"`
}

// take prints an event if it is asked for.
func (w *watcher) take(ctx context.Context, e event) error {
	w.last = e.id
	if e.name == "resync" {
		if w.began {
			clear(w.matches)
			w.say("events may have been missed")
		}
		w.began = true
		return nil
	}
	w.began = true
	var info eventInfo
	var data bytes.Buffer
	if json.Unmarshal([]byte(e.data), &info) != nil || info.DeviceID == "" || json.Compact(&data, []byte(e.data)) != nil {
		return errForeign
	}
	if !w.asked(e.name) || w.Device != "" && w.Device != info.DeviceID || !w.hasLabels(ctx, info.DeviceID) {
		return nil
	}
	line := info.line(e.name)
	if w.JSON {
		line = fmt.Sprintf(`{"event":%q,%s`, e.name, data.Bytes()[1:]) // the data are an object, and not empty
	}
	if _, err := fmt.Fprintln(w.out, line); err != nil {
		return &outputError{err}
	}
	if w.printed++; w.printed == w.Count {
		return errEnough
	}
	return nil
}

func (w *watcher) asked(name string) bool {
	all := !w.Replies && !w.Requests && !w.Presence
	switch name {
	case "reply":
		return all || w.Replies
	case "request":
		return all || w.Requests
	case "presence":
		return all || w.Presence
	default:
		return false // of a newer API
	}
}

// hasLabels asks once for each device whether it has the labels asked for.
func (w *watcher) hasLabels(ctx context.Context, id string) bool {
	if len(w.Label) == 0 {
		return true
	}
	if known, ok := w.matches[id]; ok {
		return known
	}
	var d struct {
		Labels map[string]string `json:"labels"`
	}
	var refused *apiError
	err := w.api.get(ctx, "/v1/devices/"+url.PathEscape(id), &d)
	switch {
	case errors.As(err, &refused) && refused.Status == http.StatusNotFound: // deleted
	case err != nil:
		w.say("an event of %s is left out, its labels are not known: %v", printable(id), err)
		return false
	}
	match := err == nil
	for key, value := range w.Label {
		match = match && d.Labels[key] == value
	}
	w.matches[id] = match
	return match
}

// line shows an event to people.
func (i eventInfo) line(name string) string {
	now := time.Now()
	what := i.State
	switch name {
	case "reply":
		what = fmt.Sprintf("seq %d", i.Seq)
		if i.Final {
			what += ", final"
		}
	case "presence":
		what = map[bool]string{true: "online", false: "offline"}[i.Online]
	}
	text := fmt.Sprintf("%s  %-8s  %s  %s", formatTime(&now), name, i.DeviceID, what)
	if i.RequestID != "" {
		text += "  " + i.RequestID
	}
	return printable(text)
}

// say tells on standard error, in one line.
func (w *watcher) say(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n  ", "; ")
	fmt.Fprintf(w.err, "signal-device: %s\n", text)
}
