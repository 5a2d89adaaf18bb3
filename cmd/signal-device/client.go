package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// clientFlags say which API to call, and as whom.
type clientFlags struct {
	Server string `help:"Base URL of the API." default:"http://127.0.0.1:8080"`
	Token  string `help:"Bearer token, as token create printed it. Better given as an environment variable than on the command line." placeholder:"TOKEN"`
}

const (
	callTimeout = 75 * time.Second // above the longest wait that the API grants
	maxAnswer   = 32 << 20         // bytes of one answer
)

// call makes one call and decodes a good answer into out. An error of the API comes back with its text and what to do.
func (c clientFlags) call(ctx context.Context, method, path string, body any, header http.Header, out any) error {
	if c.Token == "" {
		return usagef("a token is needed: --token TOKEN or SIGNAL_DEVICE_TOKEN")
	}
	base, err := url.Parse(c.Server)
	if err != nil || base.Host == "" || (base.Scheme != "http" && base.Scheme != "https") {
		return usagef("--server must be a URL such as http://127.0.0.1:8080")
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := newRequest(ctx, method, strings.TrimSuffix(c.Server, "/")+path, body)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Authorization", "Bearer "+c.Token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("the API was not reached: %w", err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("the answer of the API was cut off: %w", err)
	}
	if res.StatusCode >= http.StatusMultipleChoices {
		return readProblem(res, data)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the answer of %s is not that of this API: %w", base.Host, err)
	}
	return nil
}

func newRequest(ctx context.Context, method, target string, body any) (*http.Request, error) {
	var payload io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, target, payload)
	if err == nil && body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	return req, err
}

// readProblem makes an error of a refusal (RFC 9457), with each fault on a line of its own.
func readProblem(res *http.Response, data []byte) error {
	var p struct {
		Code   string `json:"code"`
		Detail string `json:"detail"`
		Errors []struct {
			Location string `json:"location"`
			Message  string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(data, &p) != nil || p.Code == "" {
		return fmt.Errorf("the server answered %s, and not as this API does", res.Status)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the API answered %d %s: %s", res.StatusCode, p.Code, p.Detail)
	for _, e := range p.Errors {
		fmt.Fprintf(&b, "\n  %s: %s", e.Location, e.Message)
	}
	if after := res.Header.Get("Retry-After"); after != "" {
		fmt.Fprintf(&b, "\n  try again in %s s", after)
	}
	return errors.New(b.String())
}
