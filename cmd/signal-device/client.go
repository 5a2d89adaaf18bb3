package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// serverFlags say which API to call.
type serverFlags struct {
	Server string `help:"Base URL of the API, or its name in the file of servers; by default ${default}." default:"http://127.0.0.1:8080" placeholder:"NAME|URL"`
	Config string `help:"File of servers: \"servers: {NAME: {url: URL, token_file: FILE}}\", or token in place of token_file; by default ~/.config/signal-device/servers.yaml, mode 0600." placeholder:"FILE"`
}

// clientFlags say which API to call, and as whom.
type clientFlags struct {
	serverFlags
	Token string `help:"Bearer token, as token create printed it. Better given as an environment variable than on the command line. A server that has a token in the file of servers is called with that one." placeholder:"TOKEN"`
}

const (
	callTimeout = 75 * time.Second // above the longest wait that the API grants
	maxAnswer   = 32 << 20         // bytes of one answer
	maxWait     = 60 * time.Second // that the API grants
)

// apiClient calls one API as one client of it. It is safe for concurrent use.
type apiClient struct {
	base  string // without a slash at its end
	token string
}

// connect finds out where to call, and as whom; it makes no call.
func (f clientFlags) connect(env *environment) (*apiClient, error) {
	server, token, err := f.resolve(env.log)
	if err != nil {
		return nil, err
	}
	if token == "" {
		return nil, usagef("a token is needed: --token TOKEN or SIGNAL_DEVICE_TOKEN, or one in the file of servers")
	}
	return &apiClient{base: strings.TrimSuffix(server, "/"), token: token}, nil
}

// call makes one call and decodes a good answer into out. What the API refuses is an *apiError.
func (c *apiClient) call(ctx context.Context, method, path string, body any, header http.Header, out any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req, err := newRequest(ctx, method, c.base+path, body)
	if err != nil {
		return err
	}
	maps.Copy(req.Header, header)
	req.Header.Set("Authorization", "Bearer "+c.token)
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
		return fmt.Errorf("the answer of %s is not that of this API: %w", c.base, err)
	}
	return nil
}

// get reads what path names.
func (c *apiClient) get(ctx context.Context, path string, out any) error {
	return c.call(ctx, http.MethodGet, path, nil, nil, out)
}

// list reads a list of the API, page by page, and gives each item as it came; up to limit of them, 0: all. After an
// error there is nothing more.
func (c *apiClient) list(ctx context.Context, path string, query url.Values, limit int) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		query := maps.Clone(query)
		for given := 0; ; {
			query.Set("limit", strconv.Itoa(pageSize(limit, given)))
			var page struct {
				Items      []json.RawMessage `json:"items"`
				NextCursor string            `json:"next_cursor"`
			}
			if err := c.get(ctx, path+"?"+query.Encode(), &page); err != nil {
				yield(nil, err)
				return
			}
			for _, item := range page.Items {
				if !yield(item, nil) {
					return
				}
				if given++; given == limit {
					return
				}
			}
			if page.NextCursor == "" {
				return
			}
			if page.NextCursor == query.Get("cursor") {
				yield(nil, errors.New("the API gave the same page twice"))
				return
			}
			query.Set("cursor", page.NextCursor)
		}
	}
}

// pageSize is what is still wanted, or as much as a page may have.
func pageSize(limit, given int) int {
	const largest = 1000
	if limit == 0 {
		return largest
	}
	return min(largest, limit-given)
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

// apiError is a refusal of the API (RFC 9457).
type apiError struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Errors []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
	retryAfter string // seconds, as the header has them; "": it does not say
}

// Error gives the refusal with each fault on a line of its own, and when to try again.
func (e *apiError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the API answered %d %s: %s", e.Status, e.Code, e.Detail)
	for _, fault := range e.Errors {
		fmt.Fprintf(&b, "\n  %s: %s", fault.Location, fault.Message)
	}
	if e.retryAfter != "" {
		fmt.Fprintf(&b, "\n  try again in %s s", e.retryAfter)
	}
	if way := wayOut[e.Code]; way != "" {
		fmt.Fprintf(&b, "\n  %s", way)
	}
	return b.String()
}

// wayOut is where to look after a refusal.
var wayOut = map[string]string{
	"device_not_found":  "which there are: signal-device devices",
	"unknown_command":   "which there are: signal-device commands",
	"invalid_arguments": "what it takes: signal-device commands show NAME",
	"request_not_found": "which there are: signal-device requests",
}

// exitCode tells an offline device from any other refusal, and both from a failure of the service.
func (e *apiError) exitCode() int {
	switch {
	case e.Code == "device_offline":
		return exitOffline
	case e.Status < http.StatusInternalServerError:
		return exitRefused
	default:
		return exitFailed
	}
}

func readProblem(res *http.Response, data []byte) error {
	var problem apiError
	if json.Unmarshal(data, &problem) != nil || problem.Code == "" {
		return fmt.Errorf("the server answered %s, and not as this API does", res.Status)
	}
	problem.Status = res.StatusCode
	problem.retryAfter = res.Header.Get("Retry-After")
	return &problem
}
