package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	silenceMeansDead = 45 * time.Second // the API sends a comment every 15 s
	maxEventLine     = 64 << 10         // bytes, also of all data of an event
)

// event is one server-sent event.
type event struct {
	id, name, data string
}

// eventStream reads server-sent events (HTML Living Standard, section 9.2). One goroutine uses it.
type eventStream struct {
	body  io.ReadCloser
	lines *bufio.Scanner
	alive *time.Timer   // ends the call when nothing comes
	retry time.Duration // what the API advises for the next call; 0: nothing
	stop  context.CancelCauseFunc
	ctx   context.Context // of the call
}

var errSilent = errors.New("nothing came for 45 s")

// events opens the stream behind the event with this id, "" for the beginning. What the API refuses is an *apiError.
// Close ends it, and so does the context.
func (c *apiClient) events(ctx context.Context, after string) (*eventStream, error) {
	ctx, stop := context.WithCancelCause(ctx)
	s := &eventStream{ctx: ctx, stop: stop, alive: time.AfterFunc(silenceMeansDead, func() { stop(errSilent) })}
	body, err := c.openEvents(ctx, after)
	if err != nil {
		s.alive.Stop()
		stop(nil)
		return nil, err
	}
	s.body, s.lines = body, bufio.NewScanner(body)
	s.lines.Buffer(nil, maxEventLine)
	return s, nil
}

func (c *apiClient) openEvents(ctx context.Context, after string) (io.ReadCloser, error) {
	req, err := newRequest(ctx, http.MethodGet, c.base+"/v1/events", nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "text/event-stream")
	if after != "" {
		req.Header.Set("Last-Event-ID", after)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("the API was not reached: %w", err)
	}
	if res.StatusCode == http.StatusOK && strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		return res.Body, nil
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxEventLine))
	if err != nil {
		return nil, fmt.Errorf("the answer of the API was cut off: %w", err)
	}
	return nil, readProblem(res, data)
}

// next waits for the next event. An error tells why there is none any more.
func (s *eventStream) next() (event, error) {
	var e event
	for s.lines.Scan() {
		s.alive.Reset(silenceMeansDead)
		field, value, _ := strings.Cut(s.lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.name = value
		case "data":
			if e.data != "" {
				e.data += "\n"
			}
			if e.data += value; len(e.data) > maxEventLine {
				return event{}, errForeign
			}
		case "retry":
			if ms, err := strconv.ParseUint(value, 10, 16); err == nil {
				s.retry = time.Duration(ms) * time.Millisecond
			}
		case "":
			if s.lines.Text() == "" && e.data != "" {
				return e, nil
			}
		}
	}
	switch err := s.lines.Err(); {
	case s.ctx.Err() != nil:
		return event{}, context.Cause(s.ctx)
	case err != nil:
		return event{}, fmt.Errorf("the stream broke off: %w", err)
	default:
		return event{}, errors.New("the API ended the stream")
	}
}

func (s *eventStream) close() {
	s.alive.Stop()
	s.stop(nil)
	_ = s.body.Close() // it was read as far as it is wanted
}
