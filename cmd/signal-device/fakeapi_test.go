package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/rogpeppe/go-internal/testscript"
)

// goodToken is the one that the fake API takes.
const goodToken = "sdt_good"

// fakeAPI answers as the API does for three cameras: taxi-1 answers, taxi-2 is offline, and mute takes commands without
// answering. Its pages have two items at most, so that every list has several. The first call with a command is told
// that it comes too early where that command is hurry.
type fakeAPI struct {
	devices  []deviceJSON
	requests []string // JSON, the newest first
	hurried  atomic.Bool
	returned atomic.Bool
}

type deviceJSON struct {
	ID           string              `json:"id"`
	Name         string              `json:"name"`
	Description  string              `json:"description"`
	Labels       map[string]string   `json:"labels"`
	Certificates []map[string]string `json:"certificates"`
	CreatedAt    string              `json:"created_at"`
	Online       bool                `json:"online"`
	Since        *string             `json:"since"`
	LastSeen     *string             `json:"last_seen"`
}

// startFakeAPI gives a script a fake API of its own, at $API, and the token that it takes, $GOOD_TOKEN.
func startFakeAPI(env *testscript.Env) {
	seen := "2026-11-24T09:02:11.480Z"
	certificates := []map[string]string{{"fingerprint": "3f786850e387550fdab836ed7e6dc881de23001b", "not_after": "2027-11-24T09:00:00.000Z"}}
	created := "2026-11-24T09:00:00.000Z"
	request := func(id, device, state, cause string) string {
		return fmt.Sprintf(`{"request_id":%q,"device_id":%q,"client":"panel","command":"ping","state":%q,"cause":%s,"hold":false,`+
			`"created_at":"2026-11-24T09:29:59.990Z","sent_at":null,"deliver_by":"2026-11-24T09:30:10.000Z",`+
			`"reply_by":"2026-11-24T09:30:30.000Z","replies":0,"late":false,"timeline":[{"state":"held","at":"2026-11-24T09:29:59.990Z","cause":null},`+
			`{"state":%[3]q,"at":"2026-11-24T09:31:00.000Z","cause":%[4]s}]}`, id, device, state, cause)
	}
	api := &fakeAPI{
		devices: []deviceJSON{
			{"aaaa", "taxi-1", "front", map[string]string{"fleet": "north", "city": "omsk"}, certificates, created, true, &seen, &seen},
			{"bbbb", "taxi-2", "", map[string]string{"fleet": "north"}, certificates, created, false, &seen, &seen},
			{"cccc", "mute\x1b[2J", "", map[string]string{"fleet": "south"}, certificates, created, true, nil, nil},
		},
		requests: []string{
			request("r3", "aaaa", "answered", "null"),
			request("r2", "bbbb", "held", "null"),
			request("r1", "aaaa", "no_reply", `"timeout"`),
		},
	}
	server := httptest.NewServer(api.handler())
	env.Defer(server.Close)
	env.Setenv("API", server.URL)
	env.Setenv("GOOD_TOKEN", goodToken)
}

func (f *fakeAPI) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/devices", f.listDevices)
	mux.HandleFunc("GET /v1/devices/{id}", func(w http.ResponseWriter, r *http.Request) {
		if d := f.device(w, r); d != nil {
			answer(w, http.StatusOK, d)
		}
	})
	mux.HandleFunc("POST /v1/devices/{id}/commands", f.send)
	mux.HandleFunc("GET /v1/events", f.stream)
	mux.HandleFunc("GET /v1/commands", f.commands)
	mux.HandleFunc("GET /v1/devices/{id}/replies", f.replies)
	mux.HandleFunc("GET /v1/requests", f.listRequests)
	mux.HandleFunc("GET /v1/requests/{id}", f.oneRequest)
	mux.HandleFunc("DELETE /v1/requests/{id}", f.oneRequest)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+goodToken {
			refuse(w, http.StatusUnauthorized, "unauthenticated", "A valid bearer token is needed")
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (f *fakeAPI) listDevices(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	var found []any
	for _, d := range f.devices {
		matches := strings.Contains(d.Name, query.Get("name"))
		for _, label := range query["label"] {
			key, value, _ := strings.Cut(label, "=")
			matches = matches && d.Labels[key] == value
		}
		if online := query.Get("online"); online != "" {
			matches = matches && online == strconv.FormatBool(d.Online)
		}
		if matches {
			found = append(found, d)
		}
	}
	page(w, r, found)
}

func (f *fakeAPI) device(w http.ResponseWriter, r *http.Request) *deviceJSON {
	i := slices.IndexFunc(f.devices, func(d deviceJSON) bool { return d.ID == r.PathValue("id") })
	if i < 0 {
		refuse(w, http.StatusNotFound, "device_not_found", "No such device")
		return nil
	}
	return &f.devices[i]
}

// results are what taxi-1 answers to a command: the reply's status, result and error.
func results(command string) (status, result, fault string) {
	switch command {
	case "snapshot":
		return "ok", `{"content_type":"image/jpeg","data":"/9j/4A=="}`, "null"
	case "break":
		return "error", "null", `{"code":"broken","message":"no\u001b[2J"}`
	case "tell":
		return "ok", `{"text":"` + strings.Repeat("a", 100) + `"}`, "null"
	default:
		return "ok", `{"uptime":1}`, "null"
	}
}

func (f *fakeAPI) send(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Command string         `json:"command"`
		Args    map[string]any `json:"args"`
	}
	d := f.device(w, r)
	if d == nil {
		return
	}
	_ = json.NewDecoder(r.Body).Decode(&body) // what is missing is an unknown command
	id, key, wait := "sdr1_"+d.ID, r.Header.Get("Idempotency-Key"), r.Header.Get("Prefer")
	if key != "" {
		id += "_" + key
	}
	sent := map[string]any{"request_id": id, "device_id": d.ID, "command": body.Command, "state": "delivered", "sent_at": nil, "reply_by": d.CreatedAt}
	switch {
	case !slices.Contains([]string{"ping", "snapshot", "break", "tell", "hurry", "reboot"}, body.Command):
		refuse(w, http.StatusUnprocessableEntity, "unknown_command", "No such command")
	case body.Args["level"] != nil:
		answer(w, http.StatusUnprocessableEntity, map[string]any{"code": "invalid_arguments", "detail": "The arguments break the command's schema",
			"errors": []map[string]string{{"location": "args.level", "message": "must be at most 100"}}})
	case body.Command == "hurry" && !f.hurried.Swap(true):
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "rate_limited", "Too many calls")
	case !d.Online && body.Command == "reboot":
		sent["state"] = "held"
		answer(w, http.StatusAccepted, sent)
	case !d.Online:
		refuse(w, http.StatusConflict, "device_offline", "The device is offline")
	case wait == "" || d.ID == "cccc":
		answer(w, http.StatusAccepted, sent)
	case wait != "wait=2": // 1.5 s, rounded up
		refuse(w, http.StatusUnprocessableEntity, "invalid_request", "header.Prefer: "+wait)
	default:
		status, result, fault := results(body.Command)
		sent["state"] = "answered"
		sent["replies"] = []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"status":%q,"result":%s,"error":%s,"seq":0,"final":true}`, status, result, fault))}
		answer(w, http.StatusOK, sent)
	}
}

// stream tells three things and breaks off; whoever comes back with the id of the last one is told three more, then a
// resync, and the stream stays open. The first to come back is told that it comes too early.
func (f *fakeAPI) stream(w http.ResponseWriter, r *http.Request) {
	send := func(text string) {
		_, _ = w.Write([]byte(text)) // the command will say what it misses
		_ = http.NewResponseController(w).Flush()
	}
	tell := func(id, name, data string) { send("id: " + id + "\nevent: " + name + "\ndata: " + data + "\n\n") }
	after := r.Header.Get("Last-Event-ID")
	if after == "b-3" && !f.returned.Swap(true) {
		w.Header().Set("Retry-After", "1")
		refuse(w, http.StatusTooManyRequests, "rate_limited", "This client has too many event streams open")
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	send("retry: 10\n\n")
	if after != "b-3" {
		tell("b-0", "resync", "{}")
		tell("b-1", "reply", `{"request_id":"r3","device_id":"aaaa","seq":0,"final":true}`)
		tell("b-2", "request", `{"request_id":"r3","device_id":"aaaa","state":"answered"}`)
		send(":\n\nid: b-3\nevent: presence\ndata: {\"device_id\":\"cccc\",\ndata: \"online\":false,\"since\":\"2026-11-24T09:31:00.000Z\"}\n\n")
		send("id: b-4\nevent: request\ndata: {}\n") // is never whole: its id must not be taken
		panic(http.ErrAbortHandler)
	}
	tell("b-4", "request", `{"request_id":"r2","device_id":"bbbb","state":"no_reply"}`)
	tell("b-5", "presence", `{"device_id":"bbbb","online":true,"since":"2026-11-24T09:31:00.000Z"}`)
	tell("b-6", "surprise", `{"device_id":"bbbb"}`)
	tell("b-7", "reply", `{"request_id":"r2","device_id":"bb\u001b[2Jbb","seq":1,"final":false}`)
	tell("b-8", "resync", "{}")
	<-r.Context().Done()
}

func (f *fakeAPI) commands(w http.ResponseWriter, r *http.Request) {
	allowed := r.URL.Query().Get("device") != "bbbb"
	answer(w, http.StatusOK, map[string]any{"commands": []any{
		map[string]any{"name": "ping", "title": "Ping", "description": "Says pong.", "group": "Basics", "permission": "commands.ping",
			"deliver_within": 5, "reply_within": 10, "reply": map[string]string{"kind": "json"}, "args": nil, "allowed": allowed},
		map[string]any{"name": "set_volume", "title": "Volume\x1b[2J", "description": "Sets it.", "group": "Sound", "permission": "commands.volume",
			"danger": true, "hold": true, "deliver_within": 1.5, "reply_within": 3600, "reply": map[string]string{"kind": "text"},
			"args": map[string]any{"type": "object"}, "allowed": false},
	}})
}

// replies answers to the requests ping and break of taxi-1; whoever waits has to wait for two seconds.
func (f *fakeAPI) replies(w http.ResponseWriter, r *http.Request) {
	query := r.URL.Query()
	if f.device(w, r) == nil {
		return
	}
	if wait := query.Get("wait"); wait != "" && wait != "2" {
		refuse(w, http.StatusUnprocessableEntity, "invalid_request", "query.wait: "+wait)
		return
	}
	replies, requests := []any{}, []any{}
	for _, id := range query["request_id"] {
		if r.PathValue("id") != "aaaa" {
			requests = append(requests, map[string]string{"request_id": id, "state": "held"})
			continue
		}
		status, result, fault := results(id)
		replies = append(replies, json.RawMessage(fmt.Sprintf(`{"request_id":%q,"status":%q,"result":%s,"error":%s,"seq":0,"final":true}`, id, status, result, fault)))
		requests = append(requests, map[string]string{"request_id": id, "state": "answered"})
	}
	answer(w, http.StatusOK, map[string]any{"replies": replies, "answered": len(replies) > 0, "requests": requests, "source": "broker"})
}

func (f *fakeAPI) listRequests(w http.ResponseWriter, r *http.Request) {
	var found []any
	query := r.URL.Query()
	if client := query.Get("client"); client != "" && client != "panel" {
		refuse(w, http.StatusForbidden, "forbidden", "The role of this client does not permit it")
		return
	}
	for i, request := range f.requests {
		states := query["state"]
		matches := strings.Contains(request, `"device_id":"`+query.Get("device")) && strings.Contains(request, `"command":"`+query.Get("command")) &&
			(len(states) == 0 || slices.ContainsFunc(states, func(s string) bool { return strings.Contains(request, `"state":"`+s+`","cause"`) }))
		// They are all of one moment, so that a time chooses all or none; without one the newest would do.
		const created = "2026-11-24T09:29:59.990Z"
		since, until := query.Get("since"), query.Get("until")
		if matches && since <= created && (until == "" || created < until) {
			found = append(found, json.RawMessage(f.requests[i]))
		}
	}
	page(w, r, found)
}

func (f *fakeAPI) oneRequest(w http.ResponseWriter, r *http.Request) {
	i := slices.IndexFunc(f.requests, func(q string) bool { return strings.Contains(q, `"request_id":"`+r.PathValue("id")+`"`) })
	switch {
	case i < 0:
		refuse(w, http.StatusNotFound, "request_not_found", "No such request of this client")
	case r.Method == http.MethodGet:
		answer(w, http.StatusOK, json.RawMessage(f.requests[i]))
	case !strings.Contains(f.requests[i], `"state":"held","cause"`):
		refuse(w, http.StatusConflict, "already_delivered", "The command has left for the device")
	default:
		answer(w, http.StatusOK, json.RawMessage(strings.ReplaceAll(f.requests[i], `"state":"held","cause"`, `"state":"cancelled","cause"`)))
	}
}

// page answers with the two items that the cursor points at.
func page(w http.ResponseWriter, r *http.Request, items []any) {
	start, _ := strconv.Atoi(r.URL.Query().Get("cursor")) // none is 0
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil || limit < 1 || limit > 1000 {
		refuse(w, http.StatusUnprocessableEntity, "invalid_request", "query.limit")
		return
	}
	end := min(len(items), start+min(limit, 2))
	var next any
	if end < len(items) {
		next = strconv.Itoa(end)
	}
	answer(w, http.StatusOK, map[string]any{"items": append([]any{}, items[start:end]...), "next_cursor": next})
}

func refuse(w http.ResponseWriter, status int, code, detail string) {
	answer(w, status, map[string]any{"status": status, "code": code, "detail": detail, "request_id": "X"})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the command will say what it misses
}
