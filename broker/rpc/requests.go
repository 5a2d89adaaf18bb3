package rpc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"signaldevice/broker/delivery"
	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/device"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// Limits of the requests service, as its proto says.
const (
	maxClient      = 256
	maxCommand     = 64
	maxKey         = 255
	maxIDs         = 100
	maxWithin      = 30 * 24 * time.Hour
	maxWait        = 60 * time.Second
	maxGrace       = time.Hour
	defaultPage    = 100
	maxPage        = 1000
	maxCached      = device.MaxUnreadRequests + 1
	defaultReplies = 500
	maxPositions   = 1000
)

// RequestServer serves signaldevice.broker.v1.RequestService. It is safe for concurrent use.
type RequestServer struct {
	brokerv1.UnimplementedRequestServiceServer
	Delivery *delivery.Delivery
	Records  *requests.Store
	Queue    *queue.Queue
	Clock    func() time.Time
}

// Send checks the request against the limits of the proto and sends the command.
func (s *RequestServer) Send(ctx context.Context, in *brokerv1.SendRequest) (*brokerv1.SendResponse, error) {
	command, err := readSend(in)
	if err != nil {
		return nil, err
	}
	rec, repeated, err := s.Delivery.Send(ctx, command)
	if err != nil {
		return nil, err
	}
	return &brokerv1.SendResponse{Request: s.request(rec), Repeated: repeated}, nil
}

func readSend(in *brokerv1.SendRequest) (delivery.Command, error) {
	var f faults
	c := delivery.Command{
		Device: f.device(in.DeviceId), Mailbox: f.mailbox(in.Mailbox, true),
		Client: device.ClientID(in.Client), Name: in.Command, Hold: in.Hold, Key: in.IdempotencyKey, Labels: in.Labels,
		DeliverWithin:     f.duration("deliver_within", in.DeliverWithin, time.Second, maxWithin),
		ReplyWithin:       f.duration("reply_within", in.ReplyWithin, time.Second, maxWithin),
		WaitDelivered:     f.duration("wait_delivered", in.WaitDelivered, 0, maxWait),
		CachedUnread:      f.requestIDs("cached_unread", in.CachedUnread, maxCached),
		CachedUnreadBytes: in.CachedUnreadBytes,
	}
	if c.DeliverWithin > c.ReplyWithin { // the answer to a late delivery could be older than the retention
		f.add("deliver_within", "must not be longer than reply_within")
	}
	f.size("client", len(in.Client), 1, maxClient)
	f.size("command", len(in.Command), 1, maxCommand)
	f.size("idempotency_key", len(in.IdempotencyKey), 0, maxKey)
	if in.CachedUnreadBytes < 0 {
		f.add("cached_unread_bytes", "must not be negative")
	}
	switch p := in.Payload.(type) {
	case *brokerv1.SendRequest_JsonArgs:
		c.Payload.JSON = f.jsonObject("json_args", p.JsonArgs)
	case *brokerv1.SendRequest_Text:
		f.size("text", len(p.Text), 1, device.MaxPayload)
		c.Payload.Text = p.Text
	default:
		f.add("payload", "is missing: json_args or text")
	}
	return c, f.err()
}

// Cancel takes a held command back.
func (s *RequestServer) Cancel(ctx context.Context, in *brokerv1.CancelRequest) (*brokerv1.CancelResponse, error) {
	var f faults
	m := f.mailbox(in.Mailbox, true)
	if err := f.err(); err != nil {
		return nil, err
	}
	rec, err := s.Delivery.Cancel(ctx, m, device.RequestID(in.RequestId))
	if err != nil {
		return nil, err
	}
	return &brokerv1.CancelResponse{Request: s.request(rec)}, nil
}

// GetRequests tells the state of each request. An id that is malformed, of another client or unknown is NOT_FOUND.
func (s *RequestServer) GetRequests(ctx context.Context, in *brokerv1.GetRequestsRequest) (*brokerv1.GetRequestsResponse, error) {
	var f faults
	m := f.mailbox(in.Mailbox, false)
	f.size("request_ids", len(in.RequestIds), 1, maxIDs)
	if err := f.err(); err != nil {
		return nil, err
	}
	out := &brokerv1.GetRequestsResponse{Requests: make([]*brokerv1.Request, len(in.RequestIds))}
	for i, id := range in.RequestIds {
		rec, ok, err := s.find(ctx, m, device.RequestID(id))
		switch {
		case err != nil:
			return nil, err
		case ok:
			out.Requests[i] = s.request(rec)
		default:
			out.Requests[i] = &brokerv1.Request{RequestId: id, State: brokerv1.RequestState_REQUEST_STATE_NOT_FOUND}
		}
	}
	return out, nil
}

func (s *RequestServer) find(ctx context.Context, m device.Mailbox, id device.RequestID) (requests.Record, bool, error) {
	claims, err := id.Claims()
	if err != nil || m != (device.Mailbox{}) && claims.Mailbox != m {
		return requests.Record{}, false, nil
	}
	rec, ok, err := s.Records.Get(ctx, claims)
	if err != nil {
		return requests.Record{}, false, device.Wrap(device.BrokerUnavailable, err, "the request's record could not be read")
	}
	return rec, ok && rec.ID == id, nil // the whole token: one whose signature was bent is nobody's
}

// ListRequests pages through records, newest first.
func (s *RequestServer) ListRequests(ctx context.Context, in *brokerv1.ListRequestsRequest) (*brokerv1.ListRequestsResponse, error) {
	var f faults
	m := f.mailbox(in.Mailbox, false)
	var dev device.ID
	if in.DeviceId != "" {
		dev = f.device(in.DeviceId)
	}
	limit := f.page("page_size", in.PageSize, defaultPage)
	cursor := f.cursor("page_token", in.PageToken)
	wanted := f.states("states", in.States)
	f.size("command", len(in.Command), 0, maxCommand)
	since, until := f.moment("since", in.Since), f.moment("until", in.Until)
	if !since.IsZero() && !until.IsZero() && !until.After(since) {
		f.add("until", "must be after since")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	filter := requests.Filter{Mailbox: m, Device: dev, Command: in.Command, Since: since, Until: until}
	if len(wanted) > 0 {
		filter.Keep = func(rec requests.Record) bool {
			s.Queue.Complete(&rec)
			state, _ := rec.State(s.Clock())
			return slices.Contains(wanted, states[state])
		}
	}
	records, next, err := s.Records.List(ctx, filter, limit, cursor)
	if err != nil {
		return nil, device.Wrap(device.BrokerUnavailable, err, "the request records could not be read")
	}
	out := &brokerv1.ListRequestsResponse{}
	if next != "" {
		out.NextPageToken = base64.RawURLEncoding.EncodeToString([]byte(next))
	}
	for _, rec := range records {
		out.Requests = append(out.Requests, s.request(rec))
	}
	return out, nil
}

// request tells where a record stands, from record and queue together.
func (s *RequestServer) request(rec requests.Record) *brokerv1.Request {
	queued := s.Queue.Complete(&rec)
	r := rec.Request(s.Clock())
	out := &brokerv1.Request{
		RequestId: string(r.ID), DeviceId: string(r.Device), Client: string(r.Client), Command: r.Command,
		State: states[r.State], Cause: r.Cause, Hold: r.Hold,
		CreatedAt: timestamp(r.CreatedAt), SentAt: timestamp(r.SentAt),
		DeliverBy: timestamp(r.DeliverBy), ReplyBy: timestamp(r.ReplyBy),
		Replies: int32(r.Replies), Late: r.Late, Read: r.Read, Queued: queued,
	}
	for _, step := range r.Timeline {
		out.Timeline = append(out.Timeline, &brokerv1.Step{State: states[step.State], At: timestamp(step.At), Cause: step.Cause})
	}
	return out
}

var states = map[device.State]brokerv1.RequestState{
	device.StateSent:      brokerv1.RequestState_REQUEST_STATE_SENT,
	device.StateHeld:      brokerv1.RequestState_REQUEST_STATE_HELD,
	device.StateDelivered: brokerv1.RequestState_REQUEST_STATE_DELIVERED,
	device.StateProgress:  brokerv1.RequestState_REQUEST_STATE_PROGRESS,
	device.StateAnswered:  brokerv1.RequestState_REQUEST_STATE_ANSWERED,
	device.StateNoReply:   brokerv1.RequestState_REQUEST_STATE_NO_REPLY,
	device.StateExpired:   brokerv1.RequestState_REQUEST_STATE_EXPIRED,
	device.StateCancelled: brokerv1.RequestState_REQUEST_STATE_CANCELLED,
}

// timestamp leaves a moment that has not come unset.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// faults gathers every fault of a request, so that one answer names them all (I10).
type faults struct{ list []device.Fault }

func (f *faults) add(field, message string) {
	f.list = append(f.list, device.Fault{Location: field, Message: message})
}

func (f *faults) err() error {
	if len(f.list) == 0 {
		return nil
	}
	return &device.Error{Kind: device.Invalid, Message: "the request breaks limits of its fields", Faults: f.list}
}

func (f *faults) size(field string, n, least, most int) {
	if n < least || n > most {
		f.add(field, "must have "+strconv.Itoa(least)+" to "+strconv.Itoa(most)+", has "+strconv.Itoa(n))
	}
}

func (f *faults) device(id string) device.ID {
	if err := device.ID(id).Validate(); err != nil {
		f.add("device_id", "is not a device id")
	}
	return device.ID(id)
}

func (f *faults) mailbox(b []byte, needed bool) (m device.Mailbox) {
	switch {
	case len(b) == len(m):
		return device.Mailbox(b)
	case len(b) != 0:
		f.add("mailbox", "must have 16 bytes")
	case needed:
		f.add("mailbox", "is missing")
	}
	return m
}

func (f *faults) duration(field string, d *durationpb.Duration, least, most time.Duration) time.Duration {
	v := d.AsDuration()
	if d != nil && !d.IsValid() || v < least || v > most {
		f.add(field, "must be between "+least.String()+" and "+most.String())
	}
	return v
}

func (f *faults) requestIDs(field string, ids []string, most int) []device.RequestID {
	f.size(field, len(ids), 0, most)
	out := make([]device.RequestID, len(ids))
	for i, id := range ids {
		out[i] = device.RequestID(id)
		if _, err := out[i].Claims(); err != nil {
			f.add(field, "holds something that is not a request id")
			return nil
		}
	}
	return out
}

func (f *faults) states(field string, list []brokerv1.RequestState) []brokerv1.RequestState {
	f.size(field, len(list), 0, len(states))
	for _, state := range list {
		if !slices.Contains(slices.Collect(maps.Values(states)), state) {
			f.add(field, "holds something that is not the state of a record")
			break
		}
	}
	return list
}

func (f *faults) moment(field string, at *timestamppb.Timestamp) time.Time {
	if at == nil {
		return time.Time{}
	}
	if !at.IsValid() {
		f.add(field, "is not a time")
	}
	return at.AsTime()
}

func (f *faults) jsonObject(field string, b []byte) []byte {
	f.size(field, len(b), 2, device.MaxPayload)
	if len(b) > 0 && (b[0] != '{' || !json.Valid(b)) {
		f.add(field, "must be a JSON object")
	}
	return b
}

func (f *faults) page(field string, n int32, standard int) int {
	if n == 0 {
		return standard
	}
	f.size(field, int(n), 1, maxPage)
	return int(n)
}

func (f *faults) cursor(field, token string) string {
	b, err := base64.RawURLEncoding.DecodeString(token)
	if err != nil || len(b) > 64 {
		f.add(field, "is not a page token of this service")
	}
	return string(b)
}
