package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

// api is one client of the HTTP API.
type api struct {
	t     *testing.T
	base  string
	token string
}

func (a api) at(p *process) api {
	a.base = "http://" + p.HTTP
	return a
}

// answer is an HTTP response, read whole.
type answer struct {
	t      *testing.T
	status int
	header http.Header
	body   []byte
	took   time.Duration
}

// call sends a request. A body that is no string is sent as its JSON. headers are "Name: value".
func (a api) call(method, path string, body any, headers ...string) answer {
	a.t.Helper()
	ans, err := a.try(method, path, body, headers...)
	if err != nil {
		a.t.Fatalf("%s %s: %v", method, path, err)
	}
	return ans
}

// try is call for a server that may be dying.
func (a api) try(method, path string, body any, headers ...string) (answer, error) {
	var payload io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		payload = strings.NewReader(b)
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return answer{}, err
		}
		payload = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.base+path, payload)
	if err != nil {
		return answer{}, err
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	req.Close = true // no connection outlives its test
	began := time.Now()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return answer{t: a.t, status: res.StatusCode, header: res.Header, body: data, took: time.Since(began)}, err
}

// pollAgain polls, and again where it is told to come again: a busy machine may not answer in the time that a call has.
func (a api) pollAgain(path string) (ans answer, err error) {
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for until := time.Now().Add(startTimeout); ; <-pause.C {
		ans, err = a.try("GET", path, nil)
		if err != nil || ans.status != http.StatusServiceUnavailable || time.Now().After(until) {
			return ans, err
		}
	}
}

// into decodes an answer that must have the status.
func (r answer) into(status int, v any) answer {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("answered %d, want %d: %s", r.status, status, r.body)
	}
	if v != nil {
		if err := json.Unmarshal(r.body, v); err != nil {
			r.t.Fatalf("%v in %s", err, r.body)
		}
	}
	return r
}

// problem is an error of the API (RFC 9457).
type problem struct {
	Status int    `json:"status"`
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Errors []struct {
		Location string `json:"location"`
		Message  string `json:"message"`
	} `json:"errors"`
}

// refused expects an error with this status and code.
func (r answer) refused(status int, code string) problem {
	r.t.Helper()
	var p problem
	r.into(status, &p)
	if p.Code != code {
		r.t.Fatalf("refused with code %q, want %q: %s", p.Code, code, r.body)
	}
	if got := r.header.Get("Content-Type"); !strings.HasPrefix(got, "application/problem+json") {
		r.t.Errorf("the error is of type %q, want application/problem+json", got)
	}
	return p
}

// accepted is the answer to a command.
type accepted struct {
	RequestID string  `json:"request_id"`
	DeviceID  string  `json:"device_id"`
	Command   string  `json:"command"`
	State     string  `json:"state"`
	Replies   []reply `json:"replies"`
}

type reply struct {
	RequestID string          `json:"request_id"`
	DeviceID  string          `json:"device_id"`
	Command   string          `json:"command"`
	Status    string          `json:"status"`
	Result    json.RawMessage `json:"result"`
	Seq       int             `json:"seq"`
	Final     bool            `json:"final"`
	Late      bool            `json:"late"`
}

// replies is the answer to a poll.
type replies struct {
	Replies  []reply `json:"replies"`
	Answered bool    `json:"answered"`
	Requests []struct {
		RequestID string `json:"request_id"`
		State     string `json:"state"`
	} `json:"requests"`
	Source string `json:"source"`
}

// state is the state of a request in the answer to a poll.
func (r replies) state(id string) string {
	for _, q := range r.Requests {
		if q.RequestID == id {
			return q.State
		}
	}
	return ""
}

// results are the results of the replies, as they stand in the JSON, sorted.
func (r replies) results() []string {
	var out []string
	for _, rep := range r.Replies {
		out = append(out, string(rep.Result))
	}
	slices.Sort(out)
	return out
}

// ping sends the command ping, which must be accepted.
func (a api) ping(device string, headers ...string) accepted {
	a.t.Helper()
	var acc accepted
	r := a.call("POST", "/v1/devices/"+device+"/commands", `{"command":"ping"}`, headers...)
	if r.status != http.StatusOK {
		r.into(http.StatusAccepted, nil)
	}
	r.into(r.status, &acc)
	return acc
}

// poll reads replies: those of the requests named, or else all of this client's.
func (a api) poll(device string, wait string, ids ...string) replies {
	a.t.Helper()
	var out replies
	a.call("GET", pollPath(device, wait, ids...), nil).into(http.StatusOK, &out)
	return out
}

func pollPath(device, wait string, ids ...string) string {
	q := url.Values{}
	if wait != "" {
		q.Set("wait", wait)
	}
	for _, id := range ids {
		q.Add("request_id", id)
	}
	return "/v1/devices/" + device + "/replies?" + q.Encode()
}

// online tells whether the device can receive a command now.
func (a api) online(device string) bool {
	a.t.Helper()
	var d struct {
		Online bool `json:"online"`
	}
	a.call("GET", "/v1/devices/"+device, nil).into(http.StatusOK, &d)
	return d.Online
}

func (a api) waitOnline(device string) {
	a.t.Helper()
	waitFor(a.t, startTimeout, device+" to be online", func() bool { return a.online(device) })
}

// devices are the ids of all devices.
func (a api) devices() []string {
	a.t.Helper()
	var page struct {
		Items []struct {
			ID string `json:"id"`
		} `json:"items"`
	}
	a.call("GET", "/v1/devices", nil).into(http.StatusOK, &page)
	var ids []string
	for _, d := range page.Items {
		ids = append(ids, d.ID)
	}
	return ids
}
