package rpc

import (
	"context"

	"google.golang.org/grpc"

	"signaldevice/broker/queue"
	"signaldevice/broker/requests"
	"signaldevice/broker/watch"
	"signaldevice/device"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// chunkBytes is about how much one message of a drain's stream holds; the limit of a message is 4 MB.
const chunkBytes = 1 << 20

// QueueServer serves signaldevice.broker.v1.QueueService. It is safe for concurrent use.
type QueueServer struct {
	brokerv1.UnimplementedQueueServiceServer
	Queue    *queue.Queue
	Records  *requests.Store
	Hub      *watch.Hub
	Known    func(id device.ID) bool // whether the device is registered
	Stopping <-chan struct{}         // closed when the broker stops: waiting calls end
}

// Drain reads a device's queue and removes nothing.
func (s *QueueServer) Drain(in *brokerv1.DrainRequest, out grpc.ServerStreamingServer[brokerv1.DrainResponse]) error {
	var f faults
	q := queue.Drain{
		Device: f.device(in.DeviceId), Mailbox: f.mailbox(in.Mailbox, false), After: in.After,
		Limit: f.page("max_replies", in.MaxReplies, defaultReplies), Wait: f.duration("wait", in.Wait, 0, maxWait),
		Requests: map[device.UUID]bool{},
	}
	for _, id := range f.requestIDs("request_ids", in.RequestIds, maxIDs) {
		if claims, err := id.Claims(); err == nil {
			q.Requests[claims.UUID] = true
		}
	}
	if err := f.err(); err != nil {
		return err
	}
	if !s.Known(q.Device) {
		return device.Errorf(device.DeviceNotFound, "there is no such device")
	}
	ctx := out.Context()
	if q.Wait > 0 {
		var cancel context.CancelFunc
		ctx, cancel = s.untilStop(ctx)
		defer cancel()
	}
	page, err := s.Queue.Drain(ctx, q)
	if err != nil {
		if out.Context().Err() == nil && ctx.Err() != nil {
			return device.Errorf(device.BrokerUnavailable, "the broker stops")
		}
		return unavailable(err, "the queue could not be read")
	}
	return s.send(ctx, out, page)
}

// send streams a page in chunks.
func (s *QueueServer) send(ctx context.Context, out grpc.ServerStreamingServer[brokerv1.DrainResponse], page queue.Page) error {
	chunk, size := &brokerv1.DrainResponse{}, 0
	for _, r := range page.Replies {
		if size > 0 && size+len(r.Body) > chunkBytes {
			if err := out.Send(chunk); err != nil {
				return err
			}
			chunk, size = &brokerv1.DrainResponse{}, 0
		}
		command, err := s.command(ctx, r.Claims)
		if err != nil {
			return err
		}
		chunk.Replies = append(chunk.Replies, &brokerv1.DrainedReply{
			Position: r.Position, RequestId: string(r.ID), Mailbox: r.Claims.Mailbox[:], Command: command,
			Seq: int32(r.Seq), Final: r.Final, Late: r.Late, ReceivedAt: timestamp(r.Received), Body: r.Body, Read: r.Read,
		})
		size += len(r.Body) + 256
	}
	chunk.More = page.More
	return out.Send(chunk)
}

// command names the command that a reply answers; "" when its record has been dropped.
func (s *QueueServer) command(ctx context.Context, c device.Claims) (string, error) {
	rec, ok, err := s.Records.Get(ctx, c)
	if err != nil || !ok {
		return "", unavailable(err, "a request's record could not be read")
	}
	return rec.Command, nil
}

// Acknowledge removes replies, now or after their grace.
func (s *QueueServer) Acknowledge(ctx context.Context, in *brokerv1.AcknowledgeRequest) (*brokerv1.AcknowledgeResponse, error) {
	var f faults
	dev := f.device(in.DeviceId)
	f.size("positions", len(in.Positions), 1, maxPositions)
	after := f.duration("after", in.After, 0, maxGrace)
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := s.Queue.Acknowledge(ctx, dev, in.Positions, after); err != nil {
		return nil, unavailable(err, "the replies could not be removed; repeating is safe")
	}
	return &brokerv1.AcknowledgeResponse{}, nil
}

// unavailable keeps the kind of an error that has one; any other means that the store did not do its work.
func unavailable(err error, message string) error {
	if err == nil || device.KindOf(err) != device.Internal {
		return err
	}
	return device.Wrap(device.BrokerUnavailable, err, message)
}

// Watch streams hints until the caller ends it, falls behind, or the broker stops.
func (s *QueueServer) Watch(in *brokerv1.WatchRequest, out grpc.ServerStreamingServer[brokerv1.WatchEvent]) error {
	events, stop := s.Hub.Listen(func(e watch.Event) bool {
		return in.Presence && e.Presence != nil || in.Replies && e.Reply != nil || in.Requests && len(e.Requests) > 0
	})
	defer stop()
	ready := &brokerv1.WatchEvent{Event: &brokerv1.WatchEvent_Ready_{Ready: &brokerv1.WatchEvent_Ready{}}}
	if err := out.Send(ready); err != nil {
		return err
	}
	ctx, cancel := s.untilStop(out.Context())
	defer cancel()
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return device.Errorf(device.BrokerUnavailable, "too many hints waited: watch again")
			}
			if err := out.Send(watchEvent(e)); err != nil {
				return err
			}
		case <-ctx.Done():
			return device.Errorf(device.BrokerUnavailable, "the watch has ended")
		}
	}
}

func watchEvent(e watch.Event) *brokerv1.WatchEvent {
	if p := e.Presence; p != nil {
		return &brokerv1.WatchEvent{Event: &brokerv1.WatchEvent_Presence{Presence: &brokerv1.WatchEvent_PresenceChanged{
			DeviceId: string(p.Device), Online: p.Online, Since: timestamp(p.Since), Labels: p.Labels,
		}}}
	}
	if len(e.Requests) > 0 {
		return requestsChanged(e.Requests)
	}
	r := e.Reply
	return &brokerv1.WatchEvent{Event: &brokerv1.WatchEvent_Reply{Reply: &brokerv1.WatchEvent_ReplyArrived{
		DeviceId: string(r.Device), Mailbox: r.Mailbox[:], RequestId: string(r.Request), Seq: int32(r.Seq), Final: r.Final,
	}}}
}

func requestsChanged(requests []watch.Request) *brokerv1.WatchEvent {
	list := make([]*brokerv1.WatchEvent_RequestChanged, len(requests))
	for i, r := range requests {
		list[i] = &brokerv1.WatchEvent_RequestChanged{
			DeviceId: string(r.Device), Mailbox: r.Mailbox[:], RequestId: string(r.Request), State: states[r.State],
		}
	}
	return &brokerv1.WatchEvent{Event: &brokerv1.WatchEvent_Requests{Requests: &brokerv1.WatchEvent_RequestsChanged{Requests: list}}}
}

// untilStop returns a context that also ends when the broker stops.
func (s *QueueServer) untilStop(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-s.Stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
