package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	maxAnswer   = 4 << 20 // bytes of one answer
	maxIdle     = 1_000   // connections kept for the next exchange
	setUpWithin = 30 * time.Second
)

// httpClient speaks to the HTTP API, or to one that looks like it, as several clients.
type httpClient struct {
	base   string
	tokens []string // one for each client
	http   *http.Client
}

func newHTTPClient(base string, tokens []string) *httpClient {
	return &httpClient{base: base, tokens: tokens, http: &http.Client{Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout}).DialContext,
		MaxIdleConns:        maxIdle,
		MaxIdleConnsPerHost: maxIdle,
	}}}
}

func (c *httpClient) close() { c.http.CloseIdleConnections() }

// failure is an exchange that did not go well, and its kind in a report.
type failure struct {
	kind string
	err  error
}

func (f *failure) Error() string { return f.kind + ": " + f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// failureOf returns the kind of a failed exchange.
func failureOf(err error) string {
	var f *failure
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &f):
		return f.kind
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return failedTimeout
	default:
		return failedConnection
	}
}

// call makes one call with a token and decodes a good answer into out, which may be nil. A refusal is a failure of the
// kind that its problem's code names.
func (c *httpClient) call(ctx context.Context, token, method, path string, body, out any) error {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, payload)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		return refusal(res, answer)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return &failure{failedAnswer, err}
	}
	return nil
}

// refusal makes a failure of an answer that is an error (RFC 9457).
func refusal(res *http.Response, answer []byte) error {
	var problem struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
	}
	if json.Unmarshal(answer, &problem) != nil || problem.Code == "" {
		problem.Code = fmt.Sprintf("http_%d", res.StatusCode)
	}
	return &failure{problem.Code, fmt.Errorf("%s: %s", res.Status, problem.Detail)}
}

// sent is the answer to a command, and polled that to a poll, as far as the bench reads them.
type (
	sent struct {
		RequestID string `json:"request_id"`
	}
	polled struct {
		Replies []struct {
			Status string       `json:"status"`
			Result cameraResult `json:"result"`
		} `json:"replies"`
	}
)

// exchange sends commands to cameras in turn, as each client in turn, and polls for each reply with a wait, as a panel
// does.
func (c *httpClient) exchange(cameras *fleet, ids []string, command string) exchange {
	body := map[string]string{"command": command}
	return func(ctx context.Context, n int) (trace, error) {
		device := "/v1/devices/" + url.PathEscape(ids[n%len(ids)])
		token := c.tokens[n/len(ids)%len(c.tokens)]
		var t trace
		var s sent
		if err := c.call(ctx, token, http.MethodPost, device+"/commands", body, &s); err != nil {
			return trace{}, err
		}
		t.sent = time.Now()
		var p polled
		poll := device + "/replies?" + url.Values{"request_id": {s.RequestID}, "wait": {waitLeft(ctx)}}.Encode()
		if err := c.call(ctx, token, http.MethodGet, poll, nil, &p); err != nil {
			return trace{}, err
		}
		t.done = time.Now()
		switch {
		case len(p.Replies) == 0:
			return trace{}, &failure{failedNoReply, errors.New("the poll ended without a reply")}
		case len(p.Replies) > 1 || p.Replies[0].Status != "ok":
			return trace{}, &failure{failedAnswer, fmt.Errorf("%d replies", len(p.Replies))}
		}
		t.delivered = cameras.deliveredAt(p.Replies[0].Result)
		return t, nil
	}
}

// waitLeft is how many whole seconds a poll may wait within the context's time.
func waitLeft(ctx context.Context) string {
	deadline, limited := ctx.Deadline()
	if !limited {
		return "60"
	}
	return fmt.Sprint(min(max(int(time.Until(deadline).Seconds()), 0), 60))
}
