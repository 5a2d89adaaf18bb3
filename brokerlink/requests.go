package brokerlink

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"signaldevice/device"
	"signaldevice/dispatch"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

var _ dispatch.Broker = (*Link)(nil)

// reachable waits for a connection before a call that changes something is sent, so that a broker which is not there is
// told as BrokerUnavailable rather than as an unknown outcome.
func (l *Link) reachable(ctx context.Context) error {
	for {
		state := l.conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Idle:
			l.conn.Connect()
		case connectivity.Shutdown, connectivity.TransientFailure:
			return device.Errorf(device.BrokerUnavailable, "the broker was not reached")
		}
		if !l.conn.WaitForStateChange(ctx, state) {
			return device.Wrap(device.BrokerUnavailable, ctx.Err(), "the broker was not reached in time")
		}
	}
}

// Send implements dispatch.Broker.
func (l *Link) Send(ctx context.Context, s dispatch.Send) (device.Request, bool, error) {
	if err := l.reachable(ctx); err != nil {
		return device.Request{}, false, err
	}
	in := &brokerv1.SendRequest{
		DeviceId: string(s.Device), Mailbox: s.Mailbox[:], Client: string(s.Client), Command: s.Command.Name,
		DeliverWithin: durationpb.New(s.Command.DeliverWithin), ReplyWithin: durationpb.New(s.Command.ReplyWithin),
		Hold: s.Command.Hold, IdempotencyKey: s.IdempotencyKey, Labels: s.Labels,
		WaitDelivered: durationpb.New(s.WaitDelivered),
		CachedUnread:  texts(s.CachedUnread), CachedUnreadBytes: s.CachedUnreadBytes,
	}
	if s.Payload.Text != nil {
		in.Payload = &brokerv1.SendRequest_Text{Text: s.Payload.Text}
	} else {
		in.Payload = &brokerv1.SendRequest_JsonArgs{JsonArgs: s.Payload.JSON}
	}
	out, err := l.requests.Send(ctx, in)
	if err != nil {
		return device.Request{}, false, translate(err, write)
	}
	return readRequest(out.Request), out.Repeated, nil
}

// Cancel implements dispatch.Broker.
func (l *Link) Cancel(ctx context.Context, m device.Mailbox, id device.RequestID) (device.Request, error) {
	if err := l.reachable(ctx); err != nil {
		return device.Request{}, err
	}
	out, err := l.requests.Cancel(ctx, &brokerv1.CancelRequest{Mailbox: m[:], RequestId: string(id)})
	if err != nil {
		return device.Request{}, translate(err, write)
	}
	return readRequest(out.Request), nil
}

// Requests implements dispatch.Broker.
func (l *Link) Requests(ctx context.Context, m device.Mailbox, ids []device.RequestID) ([]device.Request, error) {
	out, err := l.requests.GetRequests(ctx, &brokerv1.GetRequestsRequest{Mailbox: mailbox(m), RequestIds: texts(ids)})
	if err != nil {
		return nil, translate(err, read)
	}
	return readRequests(out.Requests), nil
}

// ListRequests implements dispatch.Broker.
func (l *Link) ListRequests(ctx context.Context, f dispatch.RequestFilter) ([]device.Request, string, error) {
	in := &brokerv1.ListRequestsRequest{
		Mailbox: mailbox(f.Mailbox), DeviceId: string(f.Device), Command: f.Command,
		Since: timestamp(f.Since), Until: timestamp(f.Until), PageSize: int32(f.Limit), PageToken: f.Cursor,
	}
	for wire, state := range states {
		if slices.Contains(f.States, state) {
			in.States = append(in.States, wire)
		}
	}
	out, err := l.requests.ListRequests(ctx, in)
	if err != nil {
		return nil, "", translate(err, read)
	}
	return readRequests(out.Requests), out.NextPageToken, nil
}

// Drain implements dispatch.Broker.
func (l *Link) Drain(ctx context.Context, q dispatch.Drain) (dispatch.DrainPage, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream when reading stops early
	defer cancel()
	stream, err := l.queue.Drain(ctx, &brokerv1.DrainRequest{
		DeviceId: string(q.Device), Mailbox: mailbox(q.Mailbox), RequestIds: texts(q.Requests),
		After: q.After, MaxReplies: int32(q.Limit),
	})
	if err != nil {
		return dispatch.DrainPage{}, translate(err, read)
	}
	var page dispatch.DrainPage
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return page, nil
		}
		if err != nil {
			return dispatch.DrainPage{}, translate(err, read)
		}
		page.More = chunk.More
		for _, r := range chunk.Replies {
			m, ok := readMailbox(r.Mailbox)
			if !ok {
				return dispatch.DrainPage{}, device.Errorf(device.Internal, "the broker gave a reply without a mailbox")
			}
			page.Replies = append(page.Replies, dispatch.DrainedReply{Read: r.Read, Reply: device.Reply{
				Request: device.RequestID(r.RequestId), Device: q.Device, Mailbox: m, Command: r.Command,
				Seq: int(r.Seq), Final: r.Final, Late: r.Late, ReceivedAt: moment(r.ReceivedAt), Body: r.Body, Position: r.Position,
			}})
		}
	}
}

// Acknowledge implements dispatch.Broker.
func (l *Link) Acknowledge(ctx context.Context, dev device.ID, positions [][]byte, after time.Duration) error {
	for len(positions) > 0 {
		n := min(len(positions), 1000)
		in := &brokerv1.AcknowledgeRequest{DeviceId: string(dev), Positions: positions[:n]}
		if after > 0 {
			in.After = durationpb.New(after)
		}
		if _, err := l.queue.Acknowledge(ctx, in); err != nil {
			return translate(err, write)
		}
		positions = positions[n:]
	}
	return nil
}

// Watch implements dispatch.Broker.
func (l *Link) Watch(ctx context.Context, ready func(), fn func(dispatch.Hint)) error {
	stream, err := l.queue.Watch(ctx, &brokerv1.WatchRequest{Presence: true, Replies: true, Requests: true})
	if err != nil {
		return translate(err, read)
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return translate(err, read)
		}
		switch e := e.Event.(type) {
		case *brokerv1.WatchEvent_Ready_:
			ready()
		case *brokerv1.WatchEvent_Presence:
			fn(dispatch.Hint{Presence: &dispatch.PresenceHint{
				Device: device.ID(e.Presence.DeviceId), Labels: e.Presence.Labels, Online: e.Presence.Online, Since: moment(e.Presence.Since),
			}})
		case *brokerv1.WatchEvent_Reply:
			if m, ok := readMailbox(e.Reply.Mailbox); ok {
				fn(dispatch.Hint{Reply: &dispatch.ReplyHint{
					Device: device.ID(e.Reply.DeviceId), Mailbox: m, Request: device.RequestID(e.Reply.RequestId),
					Seq: int(e.Reply.Seq), Final: e.Reply.Final,
				}})
			}
		case *brokerv1.WatchEvent_Requests:
			for _, r := range e.Requests.Requests {
				if m, ok := readMailbox(r.Mailbox); ok {
					fn(dispatch.Hint{Request: &dispatch.RequestHint{
						Device: device.ID(r.DeviceId), Mailbox: m, Request: device.RequestID(r.RequestId), State: states[r.State],
					}})
				}
			}
		}
	}
}

var states = map[brokerv1.RequestState]device.State{
	brokerv1.RequestState_REQUEST_STATE_SENT:      device.StateSent,
	brokerv1.RequestState_REQUEST_STATE_HELD:      device.StateHeld,
	brokerv1.RequestState_REQUEST_STATE_DELIVERED: device.StateDelivered,
	brokerv1.RequestState_REQUEST_STATE_PROGRESS:  device.StateProgress,
	brokerv1.RequestState_REQUEST_STATE_ANSWERED:  device.StateAnswered,
	brokerv1.RequestState_REQUEST_STATE_NO_REPLY:  device.StateNoReply,
	brokerv1.RequestState_REQUEST_STATE_EXPIRED:   device.StateExpired,
	brokerv1.RequestState_REQUEST_STATE_CANCELLED: device.StateCancelled,
	brokerv1.RequestState_REQUEST_STATE_NOT_FOUND: device.StateNotFound,
}

func readRequest(r *brokerv1.Request) device.Request {
	out := device.Request{
		ID: device.RequestID(r.GetRequestId()), Device: device.ID(r.GetDeviceId()), Client: device.ClientID(r.GetClient()),
		Command: r.GetCommand(), State: states[r.GetState()], Cause: r.GetCause(), Hold: r.GetHold(),
		CreatedAt: moment(r.GetCreatedAt()), SentAt: moment(r.GetSentAt()),
		DeliverBy: moment(r.GetDeliverBy()), ReplyBy: moment(r.GetReplyBy()),
		Replies: int(r.GetReplies()), Late: r.GetLate(), Queued: r.GetQueued(), Read: r.GetRead(),
	}
	for _, s := range r.GetTimeline() {
		out.Timeline = append(out.Timeline, device.Step{State: states[s.State], At: moment(s.At), Cause: s.Cause})
	}
	return out
}

func readRequests(rs []*brokerv1.Request) []device.Request {
	out := make([]device.Request, len(rs))
	for i, r := range rs {
		out[i] = readRequest(r)
	}
	return out
}

// moment returns the zero time for one that is unset.
func moment(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// timestamp leaves the zero time unset.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// mailbox returns nil, which means anyone's, for the zero mailbox.
func mailbox(m device.Mailbox) []byte {
	if m == (device.Mailbox{}) {
		return nil
	}
	return m[:]
}

func readMailbox(b []byte) (m device.Mailbox, ok bool) {
	if len(b) != len(m) {
		return m, false
	}
	return device.Mailbox(b), true
}

func texts(ids []device.RequestID) []string {
	if len(ids) == 0 {
		return nil
	}
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}
