package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	maxTurns    = 20               // that one device waits for, where the client is limited to so many calls a second
	longestTurn = 10 * time.Second // each
	shownResult = 60               // characters of a result in the table
)

// sendToMany sends the command to every device with the labels. What one device meets does not stop the others; once
// ctx ends no further one is sent to.
func (c *sendCommand) sendToMany(ctx context.Context, env *environment, s sender) error {
	devices, err := matching(ctx, s.api, c.Label)
	if err != nil {
		return err
	}
	report := newFleetReport(env, len(devices), c.JSON)
	var group errgroup.Group
	group.SetLimit(c.Parallel)
	for i, device := range devices {
		group.Go(func() error {
			key := c.IdempotencyKey
			if key != "" {
				key += "-" + device.ID
			}
			return report.add(i, s.sendInTurn(ctx, device, key))
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return report.finish()
}

// matching finds the devices, all of them before the first one is sent to.
func matching(ctx context.Context, api *apiClient, labels map[string]string) ([]deviceInfo, error) {
	var devices []deviceInfo
	for item, err := range api.list(ctx, "/v1/devices", labelQuery(labels), 0) {
		if err != nil {
			return nil, err
		}
		var d deviceInfo
		if err := json.Unmarshal(item, &d); err != nil {
			return nil, fmt.Errorf("the answer is not that of this API: %w", err)
		}
		devices = append(devices, d)
	}
	if len(devices) == 0 {
		return nil, fmt.Errorf("no device has %s", formatLabels(labels))
	}
	return devices, nil
}

// sendInTurn sends to one device. A call that the limit of calls refused has changed nothing and is made again.
func (s sender) sendInTurn(ctx context.Context, device deviceInfo, key string) outcome {
	result := outcome{DeviceID: device.ID, Name: device.Name}
	for turn := 1; ; turn++ {
		if ctx.Err() != nil {
			result.State, result.code = "not_sent", exitFailed
			return result
		}
		sent, err := s.send(ctx, device.ID, key)
		if refused, ok := errors.AsType[*apiError](err); ok && refused.Code == "rate_limited" && turn < maxTurns {
			refused.pause(ctx)
			continue
		}
		if err != nil {
			result.fail(err)
		} else {
			result.take(sent, s.verdict(sent))
		}
		return result
	}
}

// pause waits for as long as the API asks, within reason.
func (e *apiError) pause(ctx context.Context) {
	seconds, err := strconv.Atoi(e.retryAfter)
	if err != nil || seconds < 1 {
		seconds = 1
	}
	select {
	case <-ctx.Done():
	case <-time.After(min(time.Duration(seconds)*time.Second, longestTurn)):
	}
}

// outcome is what became of the command at one device, as --json prints it.
type outcome struct {
	DeviceID  string          `json:"device_id"`
	Name      string          `json:"name"`
	State     string          `json:"state"` // of the request; the code of a refusal; "failed" or "not_sent"
	RequestID string          `json:"request_id,omitempty"`
	Replies   json.RawMessage `json:"replies,omitempty"`
	Error     string          `json:"error,omitempty"`

	code   int    // exit code that it alone would give
	label  string // State, told apart by what the camera answered
	detail string
}

func (o *outcome) fail(err error) {
	o.State, o.Error, o.code = "failed", err.Error(), exitFailed
	if refused, ok := errors.AsType[*apiError](err); ok {
		o.State, o.code = refused.Code, refused.exitCode()
	}
	o.detail = strings.ReplaceAll(o.Error, "\n ", ";")
}

func (o *outcome) take(sent sentCommand, verdict error) {
	o.State, o.RequestID, o.Replies, o.code = sent.State, sent.RequestID, sent.Replies, codeOf(verdict)
	if fault := faultIn(sent.replies); fault != "" {
		o.label, o.detail, o.Error = sent.State+", error", fault, fault
		return
	}
	o.detail = sent.summary()
}

// summary is the final result, cut to what a table can show; before there is one, the id of the request.
func (s sentCommand) summary() string {
	for _, reply := range s.replies {
		if !reply.Final {
			continue
		}
		if p, ok := pictureOf(reply.Result); ok {
			return p.String()
		}
		var b bytes.Buffer
		if json.Compact(&b, reply.Result) != nil {
			return ""
		}
		if shown := []rune(b.String()); len(shown) > shownResult {
			return string(shown[:shownResult]) + "…"
		}
		return b.String()
	}
	return s.RequestID
}

// fleetReport gathers what became of a command at many devices. It is safe for concurrent use.
type fleetReport struct {
	out      io.Writer
	progress io.Writer // nil: nobody watches
	asJSON   bool

	mu       sync.Mutex
	done     int
	outcomes []outcome // in the order of the devices
}

func newFleetReport(env *environment, devices int, asJSON bool) *fleetReport {
	r := &fleetReport{out: env.out, asJSON: asJSON, outcomes: make([]outcome, devices)}
	if isTerminal(env.err) {
		r.progress = env.err
	}
	return r
}

func (r *fleetReport) add(i int, o outcome) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.label = cmp.Or(o.label, o.State)
	r.outcomes[i] = o
	r.done++
	if r.progress != nil {
		fmt.Fprintf(r.progress, "\r%d of %d", r.done, len(r.outcomes))
		if r.done == len(r.outcomes) {
			fmt.Fprintln(r.progress)
		}
	}
	if !r.asJSON {
		return nil
	}
	line := json.NewEncoder(r.out)
	line.SetEscapeHTML(false)
	return line.Encode(o)
}

// finish prints the tables, and returns an error unless all went well.
func (r *fleetReport) finish() error {
	if !r.asJSON {
		if err := r.printTables(); err != nil {
			return err
		}
	}
	good, codes := 0, map[int]bool{}
	for _, o := range r.outcomes {
		if o.code == exitOK {
			good++
		}
		codes[o.code] = true
	}
	for _, code := range []int{exitFailed, exitRefused, exitNoAnswer, exitOffline} {
		if codes[code] {
			return fleetError{code: code, good: good, all: len(r.outcomes)}
		}
	}
	return nil
}

func (r *fleetReport) printTables() error {
	rows := [][]string{{"NAME", "DEVICE", "STATE", "DETAIL"}}
	count := map[string]int{}
	for _, o := range r.outcomes {
		rows = append(rows, []string{o.Name, o.DeviceID, o.label, o.detail})
		count[o.label]++
	}
	if err := writeRows(r.out, rows); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(r.out); err != nil {
		return err
	}
	rows = [][]string{{"STATE", "DEVICES"}}
	for _, label := range slices.Sorted(maps.Keys(count)) {
		rows = append(rows, []string{label, strconv.Itoa(count[label])})
	}
	return writeRows(r.out, rows)
}

// fleetError says that not every device did what it was to do.
type fleetError struct{ code, good, all int }

func (e fleetError) Error() string {
	return fmt.Sprintf("%d of %d devices did not do it", e.all-e.good, e.all)
}

func (e fleetError) exitCode() int { return e.code }

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
