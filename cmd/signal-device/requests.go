package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

type requestsCommand struct {
	List   requestsListCommand   `cmd:"" default:"withargs" help:"List requests, the newest first (what requests alone does)."`
	Show   requestsShowCommand   `cmd:"" help:"Show one request with its time line. Takes no reply."`
	Cancel requestsCancelCommand `cmd:"" help:"Cancel a request that waits for its device."`
}

type requestsListCommand struct {
	clientFlags
	Device  string   `help:"Only requests to this device." placeholder:"ID"`
	State   []string `help:"Only requests that stand so: sent, held, delivered, progress, answered, no_reply, expired or cancelled; several with commas between." enum:"sent,held,delivered,progress,answered,no_reply,expired,cancelled" placeholder:"STATE"`
	Command string   `help:"Only requests with this command." placeholder:"NAME"`
	Client  string   `help:"Only this client's requests; another one's needs the permission requests.read_all." placeholder:"NAME"`
	Since   string   `help:"Only requests created then or later: 2h ago, or at a time such as 2026-11-24T09:30:00Z." placeholder:"2h|TIME"`
	Until   string   `help:"Only requests created before." placeholder:"2h|TIME"`
	Limit   int      `help:"How many at most." default:"100"`
	All     bool     `help:"All of them, whatever --limit says."`
	JSON    bool     `name:"json" help:"Print one JSON object a line, a request each."`
}

// Help shows examples.
func (requestsListCommand) Help() string {
	return `Your own requests are listed; everyone's, if your role may read them. Times are UTC. --json prints one request a line,
as the API describes it.

Examples:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device requests --device d4f2c8a1b7e34590 --limit 10
  signal-device requests --state no_reply,expired --since 2h
  signal-device requests --state held --all --json | jq -r .request_id | xargs -n 1 signal-device requests cancel`
}

// Validate is called by the parser.
func (c *requestsListCommand) Validate() error {
	if c.Limit < 1 {
		return usagef("--limit must be at least 1; --all lists all")
	}
	_, err := c.query(time.Now())
	return err
}

func (c *requestsListCommand) query(now time.Time) (url.Values, error) {
	query := url.Values{}
	set := func(name, value string) {
		if value != "" {
			query.Set(name, value)
		}
	}
	set("device", c.Device)
	set("command", c.Command)
	set("client", c.Client)
	slices.Sort(c.State)
	for _, state := range slices.Compact(c.State) {
		query.Add("state", state)
	}
	for name, text := range map[string]string{"since": c.Since, "until": c.Until} {
		at, err := parseMoment(text, now)
		if err != nil {
			return nil, usagef("--%s must be how long ago, such as 2h, or a time such as 2026-11-24T09:30:00Z", name)
		}
		set(name, at)
	}
	if query.Has("since") && query.Has("until") && query.Get("until") <= query.Get("since") {
		return nil, usagef("--until must be after --since")
	}
	return query, nil
}

// parseMoment reads a time, or how long ago one was, and returns it as the API takes it; "" stays so.
func parseMoment(text string, now time.Time) (string, error) {
	if text == "" {
		return "", nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		var ago time.Duration
		if ago, err = time.ParseDuration(text); err != nil || ago < 0 {
			return "", errors.New("neither a time nor a duration")
		}
		at = now.Add(-ago)
	}
	return at.UTC().Format("2006-01-02T15:04:05.000Z"), nil
}

// Run prints the list.
func (c *requestsListCommand) Run(ctx context.Context, env *environment) error {
	api, err := c.connect(env)
	if err != nil {
		return err
	}
	query, err := c.query(time.Now())
	if err != nil {
		return err
	}
	limit := c.Limit
	if c.All {
		limit = 0
	}
	items := api.list(ctx, "/v1/requests", query, limit)
	if c.JSON {
		return printLines(env.out, items)
	}
	return printTable(env.out, []string{"CREATED", "DEVICE", "COMMAND", "STATE", "REPLIES", "CLIENT", "REQUEST"}, items, requestInfo.row)
}

type requestsShowCommand struct {
	clientFlags
	ID   string `arg:"" help:"Id of the request."`
	JSON bool   `name:"json" help:"Print one JSON document."`
}

// Help shows an example.
func (requestsShowCommand) Help() string {
	return `Times are UTC. --json prints the request as the API describes it.

Example:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device requests show sdr1_AQGTsU0o...`
}

// Run prints the request.
func (c *requestsShowCommand) Run(ctx context.Context, env *environment) error {
	return callRequest(ctx, env, c.clientFlags, http.MethodGet, c.ID, c.JSON)
}

type requestsCancelCommand struct {
	clientFlags
	ID   string `arg:"" help:"Id of the request."`
	JSON bool   `name:"json" help:"Print one JSON document."`
}

// Help shows an example.
func (requestsCancelCommand) Help() string {
	return `Only the client that sent it can, and only while its state is held; once it has left for the device it is refused,
and the exit code is 3. What is printed is the request, now cancelled.

Example:
  export SIGNAL_DEVICE_TOKEN=...
  signal-device requests cancel sdr1_AQGTsU0o...`
}

// Run cancels the request and prints it.
func (c *requestsCancelCommand) Run(ctx context.Context, env *environment) error {
	return callRequest(ctx, env, c.clientFlags, http.MethodDelete, c.ID, c.JSON)
}

// callRequest makes a call that is answered with one request, and prints it.
func callRequest(ctx context.Context, env *environment, flags clientFlags, method, id string, asJSON bool) error {
	api, err := flags.connect(env)
	if err != nil {
		return err
	}
	var answer json.RawMessage
	if err := api.call(ctx, method, "/v1/requests/"+url.PathEscape(id), nil, nil, &answer); err != nil {
		return err
	}
	return printDocument(env.out, answer, asJSON, requestInfo.print)
}

// requestInfo is what people are shown of a request.
type requestInfo struct {
	ID        string     `json:"request_id"`
	DeviceID  string     `json:"device_id"`
	Client    string     `json:"client"`
	Command   string     `json:"command"`
	State     string     `json:"state"`
	Cause     string     `json:"cause"`
	CreatedAt *time.Time `json:"created_at"`
	DeliverBy *time.Time `json:"deliver_by"`
	ReplyBy   *time.Time `json:"reply_by"`
	Replies   int        `json:"replies"`
	Late      bool       `json:"late"`
	Timeline  []struct {
		State string     `json:"state"`
		At    *time.Time `json:"at"`
		Cause string     `json:"cause"`
	} `json:"timeline"`
}

func (r requestInfo) row() []string {
	return []string{formatTime(r.CreatedAt), r.DeviceID, r.Command, withCause(r.State, r.Cause), strconv.Itoa(r.Replies), r.Client, r.ID}
}

func (r requestInfo) print(w io.Writer) error {
	rows := [][]string{
		{"Request", r.ID},
		{"Device", r.DeviceID},
		{"Client", r.Client},
		{"Command", r.Command},
		{"State", withCause(r.State, r.Cause)},
		{"Deliver by", formatTime(r.DeliverBy)},
		{"Reply by", formatTime(r.ReplyBy)},
		{"Replies", strconv.Itoa(r.Replies)},
		{"Late", yesNo(r.Late)},
		{"Time line", formatMoment(r.CreatedAt) + "  created"},
	}
	for _, step := range r.Timeline {
		rows = append(rows, []string{"", formatMoment(step.At) + "  " + withCause(step.State, step.Cause)})
	}
	return writeRows(w, rows)
}

func withCause(state, cause string) string {
	if cause == "" {
		return state
	}
	return state + " (" + cause + ")"
}
