package httpapi

import (
	"context"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"signaldevice/device"
	"signaldevice/dispatch"
)

const maxCommandName = 64

type commandBody struct {
	Name          string         `json:"name"`
	Title         string         `json:"title"`
	Description   string         `json:"description"`
	Group         string         `json:"group"`
	Permission    string         `json:"permission"`
	Danger        bool           `json:"danger"`
	Hold          bool           `json:"hold"`
	DeliverWithin float64        `json:"deliver_within"` // seconds
	ReplyWithin   float64        `json:"reply_within"`   // seconds
	Reply         replyKindBody  `json:"reply"`
	Args          jsontext.Value `json:"args"`
	Allowed       bool           `json:"allowed"`
}

type replyKindBody struct {
	Kind device.ReplyKind `json:"kind"`
}

type commandsBody struct {
	Commands []commandBody `json:"commands"`
}

func (a *API) listCommands(w *answer, r *http.Request, who Identity) error {
	q := parseQuery(r, "device")
	id := device.ID(q.one("device", maxName))
	if err := q.err(); err != nil {
		return err
	}
	views, err := a.commands(r.Context(), who.Caller, id)
	if err != nil {
		return err
	}
	body := commandsBody{Commands: make([]commandBody, len(views))}
	for i, v := range views {
		body.Commands[i] = commandBody{
			Name:          v.Name,
			Title:         v.Title,
			Description:   v.Description,
			Group:         v.Group,
			Permission:    v.Permission,
			Danger:        v.Danger,
			Hold:          v.Hold,
			DeliverWithin: v.DeliverWithin.Seconds(),
			ReplyWithin:   v.ReplyWithin.Seconds(),
			Reply:         replyKindBody{v.Reply},
			Args:          argsSchema(v.Command),
			Allowed:       v.Allowed,
		}
	}
	return w.json(http.StatusOK, body)
}

// commands returns those of one device, or else all.
func (a *API) commands(ctx context.Context, c dispatch.Caller, id device.ID) ([]dispatch.CommandView, error) {
	if id == "" {
		return a.cfg.Service.Commands(c), nil
	}
	return a.cfg.Service.CommandsOf(ctx, c, id)
}

// argsSchema returns a command's schema as its author wrote it; the empty schema where there is none.
func argsSchema(c device.Command) jsontext.Value {
	if len(c.Args) == 0 {
		return jsontext.Value(`{}`)
	}
	return jsontext.Value(c.Args)
}

// sentBody is an accepted command. Replies is left out of a 202.
type sentBody struct {
	RequestID device.RequestID `json:"request_id"`
	DeviceID  device.ID        `json:"device_id"`
	Command   string           `json:"command"`
	State     device.State     `json:"state"`
	SentAt    *string          `json:"sent_at"`
	ReplyBy   string           `json:"reply_by"`
	Replies   []replyBody      `json:"replies,omitzero"`
}

func (a *API) sendCommand(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	key, err := idempotencyKey(r.Header)
	if err != nil {
		return err
	}
	wait, preferred, err := preferredWait(r.Header)
	if err != nil {
		return err
	}
	f, err := readFields(w, r, maxCommandBody, "command", "args")
	if err != nil {
		return err
	}
	in := dispatch.SendInput{
		Device:         deviceIn(r),
		Command:        f.needed("command", maxCommandName),
		Args:           json.RawMessage(f.freeForm("args")),
		IdempotencyKey: key,
		Wait:           wait,
	}
	if err := f.err(); err != nil {
		return err
	}
	a.patience(w, wait)
	sent, err := a.cfg.Service.Send(r.Context(), who.Caller, in)
	if err != nil {
		return err
	}
	if preferred {
		w.Header().Set("Preference-Applied", "wait="+strconv.Itoa(int(wait.Seconds())))
	}
	body := sentBody{
		RequestID: sent.Request.ID,
		DeviceID:  sent.Request.Device,
		Command:   sent.Request.Command,
		State:     sent.Request.State,
		SentAt:    stampOrNull(sent.Request.SentAt),
		ReplyBy:   stamp(sent.Request.ReplyBy),
	}
	if len(sent.Replies) > 0 {
		body.Replies = showReplies(sent.Replies)
		return w.json(http.StatusOK, body)
	}
	w.Header().Set("Location", "/v1/requests/"+string(sent.Request.ID))
	return w.json(http.StatusAccepted, body)
}
