package faults

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// The kinds of calls, as the journal names them.
const (
	opSend   = "send"
	opPoll   = "poll" // does not wait
	opWait   = "wait" // a poll or a send that waits
	opState  = "state"
	opMe     = "me"
	opHealth = "health" // whether the API is alive, and ready
	opStaff  = "staff"  // registers and revokes
)

const (
	callTimeout = 10 * time.Second // longer than any answer may take
	pollWait    = 5                // seconds
	maxAnswer   = 4 << 20
	staffTries  = 15 // and a second between them
)

// client is somebody with a token.
type client struct {
	name, token string
}

// caller makes HTTP calls to the APIs, and notes each in the journal.
type caller struct {
	apis    [apiCount]*api
	journal *journal
	http    *http.Client
}

func newCaller(s *system) *caller {
	return &caller{apis: s.apis, journal: s.journal, http: &http.Client{Timeout: callTimeout, Transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: time.Second}).DialContext,
		MaxIdleConnsPerHost: 500,
	}}}
}

func (c *caller) close() { c.http.CloseIdleConnections() }

// request is one call to make.
type request struct {
	op, method, path string
	body             any
	header           http.Header
}

// justOnce is a body that package net/http cannot send a second time, and so does not.
type justOnce struct{ io.ReadCloser }

// result is what came of it.
type result struct {
	answer
	body []byte
	date string // of the API's clock
}

// into decodes a good answer.
func (r result) into(out any) error {
	if r.status/100 != 2 {
		return fmt.Errorf("%d %s %s", r.status, r.code, r.err)
	}
	return json.Unmarshal(r.body, out)
}

// mayGoBetter reports whether the same call may succeed later.
func (r result) mayGoBetter() bool { return r.status == 0 || r.status == http.StatusServiceUnavailable }

// do makes one call and notes it, unless the run ended meanwhile.
func (c *caller) do(ctx context.Context, at int, who client, q request) result {
	r := c.call(ctx, at, who, q)
	if r.status != 0 || ctx.Err() == nil {
		c.journal.note(func(j *journal) { j.answers = append(j.answers, r.answer) })
	}
	return r
}

func (c *caller) call(ctx context.Context, at int, who client, q request) (r result) {
	r.op, r.api, r.began = q.op, at, time.Now()
	defer func() { r.took = time.Since(r.began) }()
	var payload io.Reader
	if q.body != nil {
		data, err := json.Marshal(q.body)
		if err != nil {
			r.err = err.Error()
			return r
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, q.method, c.apis[at].base()+q.path, payload)
	if err != nil {
		r.err = err.Error()
		return r
	}
	if q.method == http.MethodGet {
		req.Body = justOnce{http.NoBody} // else a poll that was cut is made again without a word, and what it took is missed
	}
	if q.header != nil {
		req.Header = q.header
	}
	req.Header.Set("Authorization", "Bearer "+who.token)
	if q.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	if err != nil {
		r.err = err.Error()
		return r
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		r.err = err.Error()
		return r
	}
	r.status, r.body, r.date = res.StatusCode, body, res.Header.Get("Date")
	r.degraded, r.retryAfter = res.Header.Get("Signal-Device-Degraded"), res.Header.Get("Retry-After") != ""
	if r.status >= http.StatusBadRequest {
		var problem struct {
			Code string `json:"code"`
		}
		_ = json.Unmarshal(body, &problem) // no problem has no code
		r.code = problem.Code
	}
	return r
}

// replies is the answer to a poll, and to a send that waited.
type replies struct {
	RequestID string         `json:"request_id"` // of a send
	Replies   []reply        `json:"replies"`
	Requests  []requestState `json:"requests"`
}

type reply struct {
	RequestID string          `json:"request_id"`
	Seq       int             `json:"seq"`
	Final     bool            `json:"final"`
	Result    json.RawMessage `json:"result"`
}

type requestState struct {
	RequestID string `json:"request_id"`
	State     string `json:"state"`
}

// final reports whether the final reply to a request is among them.
func (r *replies) final(id string) bool {
	for _, one := range r.Replies {
		if one.RequestID == id && one.Final {
			return true
		}
	}
	return false
}

// mayFindMore reports whether some request has a reply, or may have one, that this answer does not give.
func (r *replies) mayFindMore() bool {
	return slices.ContainsFunc(r.Requests, func(one requestState) bool {
		return one.State == "unverified" || one.State == "answered" && !r.final(one.RequestID)
	})
}

// state returns what is told of a request; "": nothing.
func (r *replies) state(id string) string {
	for _, one := range r.Requests {
		if one.RequestID == id {
			return one.State
		}
	}
	return ""
}

// poll reads a client's replies from a device, those to some requests or all, and notes what it was given. It reports
// false where there was no good answer.
func (c *caller) poll(ctx context.Context, at int, who client, device string, ids []string, wait int) (replies, bool) {
	query := url.Values{"request_id": ids}
	q := request{op: opPoll, method: http.MethodGet}
	if wait > 0 {
		query.Set("wait", strconv.Itoa(wait))
		q.op = opWait
	}
	q.path = "/v1/devices/" + device + "/replies?" + query.Encode()
	r := c.do(ctx, at, who, q)
	var got replies
	err := r.into(&got)
	c.journal.history.saw(who, device, ids, r, &got)
	if err != nil {
		return replies{}, false
	}
	c.noteReplies(who, r.began, &got)
	return got, true
}

// maxAnswered is how many of its requests a client looks through whose replies it may not have got: more than it makes in
// some minutes, and a page of the list. It does not ask by time, because clocks are moved.
const maxAnswered = 1_000

// unread lists those of the newest requests of a client to a device that have a reply which it was not given. It reports
// false where there was no good answer.
func (c *caller) unread(ctx context.Context, at int, who client, device string) (ids []string, ok bool) {
	query := url.Values{"device": {device}, "state": {"answered", "progress"}, "limit": {strconv.Itoa(maxAnswered)}}
	for listed := 0; listed < maxAnswered; {
		var got struct {
			Items []struct {
				RequestID string `json:"request_id"`
				Replies   int    `json:"replies"`
			} `json:"items"`
			NextCursor *string `json:"next_cursor"`
		}
		if err := c.do(ctx, at, who, request{op: opState, method: http.MethodGet, path: "/v1/requests?" + query.Encode()}).into(&got); err != nil {
			return nil, false
		}
		listed += len(got.Items)
		c.journal.note(func(j *journal) {
			for _, item := range got.Items {
				if !j.hasRead(item.RequestID, item.Replies) {
					ids = append(ids, item.RequestID)
				}
			}
		})
		if got.NextCursor == nil {
			break
		}
		query.Set("cursor", *got.NextCursor)
	}
	return ids, true
}

func (c *caller) noteReplies(who client, asked time.Time, got *replies) {
	now := time.Now()
	c.journal.note(func(j *journal) {
		for _, r := range got.Replies {
			s := slot{r.RequestID, r.Seq}
			j.read[s] = append(j.read[s], reading{who.name, hashOf(r.Result), now})
		}
		for _, r := range got.Requests {
			if r.State == "no_reply" || r.State == "expired" {
				j.told = append(j.told, telling{client: who.name, request: r.RequestID, state: r.State, asked: asked})
			}
		}
	})
}

// state asks what became of a request, for the last time.
func (c *caller) state(ctx context.Context, at int, who client, id string) error {
	r := c.do(ctx, at, who, request{op: opState, method: http.MethodGet, path: "/v1/requests/" + id})
	var got struct {
		State string `json:"state"`
		Cause string `json:"cause"`
	}
	if err := r.into(&got); err != nil && r.status != http.StatusNotFound {
		return fmt.Errorf("state of %s: %w", id, err)
	}
	if r.status == http.StatusNotFound {
		got.State = r.code // no end of an accepted request
	}
	c.journal.note(func(j *journal) {
		j.told = append(j.told, telling{who.name, id, got.State, got.Cause, r.began, true})
	})
	return nil
}

// hashOf is the hash of a body in its shortest form: spaces between tokens do not count.
func hashOf(body []byte) string {
	var short bytes.Buffer
	if json.Compact(&short, body) == nil {
		body = short.Bytes()
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:12])
}
