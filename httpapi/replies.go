package httpapi

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"signaldevice/device"
	"signaldevice/dispatch"
)

type replyBody struct {
	RequestID  device.RequestID    `json:"request_id"`
	DeviceID   device.ID           `json:"device_id"`
	Command    string              `json:"command"` // "" where the request's record is gone
	Status     device.Status       `json:"status"`
	Result     jsontext.Value      `json:"result"`
	Error      *device.AnswerError `json:"error"`
	Seq        int                 `json:"seq"`
	Final      bool                `json:"final"`
	Late       bool                `json:"late"`
	ReceivedAt string              `json:"received_at"`
}

func showReplies(list []dispatch.Reply) []replyBody {
	shown := make([]replyBody, len(list))
	for i, r := range list {
		shown[i] = replyBody{
			RequestID:  r.Request,
			DeviceID:   r.Device,
			Command:    r.Command,
			Status:     r.Answer.Status,
			Result:     orNull(r.Answer.Result),
			Error:      r.Answer.Error,
			Seq:        r.Seq,
			Final:      r.Final,
			Late:       r.Late,
			ReceivedAt: stamp(r.ReceivedAt),
		}
	}
	return shown
}

// orNull shows JSON as it is, and null where there is none.
func orNull(value json.RawMessage) jsontext.Value {
	if len(value) == 0 {
		return jsontext.Value("null")
	}
	return jsontext.Value(value)
}

type repliesBody struct {
	Replies  []replyBody        `json:"replies"`
	Answered bool               `json:"answered"`
	Requests []requestStateBody `json:"requests"`
	Source   dispatch.Source    `json:"source"`
}

type requestStateBody struct {
	RequestID device.RequestID `json:"request_id"`
	State     device.State     `json:"state"`
}

// readReplies is the poll. It takes what it returns.
func (a *API) readReplies(w *answer, r *http.Request, who Identity) error {
	q := parseQuery(r, "request_id", "wait")
	in := dispatch.RepliesInput{
		Device: deviceIn(r),
		IDs:    q.requestIDs("request_id"),
		Wait:   time.Duration(q.number("wait", 0, maxWait, 0)) * time.Second,
	}
	if err := q.err(); err != nil {
		return err
	}
	a.patience(w, in.Wait)
	found, err := a.cfg.Service.Replies(r.Context(), who.Caller, in)
	if err != nil {
		return err
	}
	body := repliesBody{
		Replies:  showReplies(found.Replies),
		Answered: found.Answered,
		Requests: make([]requestStateBody, len(found.Requests)),
		Source:   found.Source,
	}
	for i, s := range found.Requests {
		body.Requests[i] = requestStateBody{RequestID: s.ID, State: s.State}
	}
	return w.json(http.StatusOK, body)
}
