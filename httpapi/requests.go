package httpapi

import (
	"net/http"

	"signaldevice/device"
	"signaldevice/dispatch"
)

type requestBody struct {
	RequestID device.RequestID `json:"request_id"`
	DeviceID  device.ID        `json:"device_id"`
	Client    device.ClientID  `json:"client"`
	Command   string           `json:"command"`
	State     device.State     `json:"state"`
	Cause     *string          `json:"cause"`
	Hold      bool             `json:"hold"`
	CreatedAt string           `json:"created_at"`
	SentAt    *string          `json:"sent_at"`
	DeliverBy string           `json:"deliver_by"`
	ReplyBy   string           `json:"reply_by"`
	Replies   int              `json:"replies"`
	Late      bool             `json:"late"`
	Timeline  []stepBody       `json:"timeline"`
}

type stepBody struct {
	State device.State `json:"state"`
	At    string       `json:"at"`
	Cause *string      `json:"cause"`
}

func showRequest(r device.Request) requestBody {
	body := requestBody{
		RequestID: r.ID,
		DeviceID:  r.Device,
		Client:    r.Client,
		Command:   r.Command,
		State:     r.State,
		Cause:     textOrNull(r.Cause),
		Hold:      r.Hold,
		CreatedAt: stamp(r.CreatedAt),
		SentAt:    stampOrNull(r.SentAt),
		DeliverBy: stamp(r.DeliverBy),
		ReplyBy:   stamp(r.ReplyBy),
		Replies:   r.Replies,
		Late:      r.Late,
		Timeline:  make([]stepBody, len(r.Timeline)),
	}
	for i, s := range r.Timeline {
		body.Timeline[i] = stepBody{State: s.State, At: stamp(s.At), Cause: textOrNull(s.Cause)}
	}
	return body
}

func (a *API) listRequests(w *answer, r *http.Request, who Identity) error {
	q := parseQuery(r, "device", "state", "command", "client", "since", "until", "limit", "cursor")
	filter := dispatch.RequestFilter{
		Device:  device.ID(q.one("device", maxName)),
		States:  q.states("state"),
		Command: q.one("command", maxCommandName),
		Client:  device.ClientID(q.one("client", maxClient)),
		Since:   q.time("since"),
		Until:   q.time("until"),
	}
	filter.Limit, filter.Cursor = q.page()
	if err := q.err(); err != nil {
		return err
	}
	items, next, err := a.cfg.Service.Requests(r.Context(), who.Caller, filter)
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, pageOf(items, next, showRequest))
}

func (a *API) getRequest(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	req, err := a.cfg.Service.Request(r.Context(), who.Caller, requestIn(r))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, showRequest(req))
}

func (a *API) cancelRequest(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	req, err := a.cfg.Service.Cancel(r.Context(), who.Caller, requestIn(r))
	if err != nil {
		return err
	}
	return w.json(http.StatusOK, showRequest(req))
}

// requestIn returns the request in the path, as it came.
func requestIn(r *http.Request) device.RequestID { return device.RequestID(r.PathValue("id")) }
