package broker

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	"signaldevice/broker/iotcore"
	"signaldevice/broker/rpc"
	"signaldevice/device"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// newGRPC makes the gRPC server with all services.
func (b *Broker) newGRPC() (*grpc.Server, error) {
	core, err := iotcore.New(iotcore.Config{
		Clock: b.cfg.Clock, Registry: b.registry, Presence: b.presence.Of, Publisher: (*publisher)(b),
	})
	if err != nil {
		return nil, err
	}
	s := grpc.NewServer(rpc.ServerOptions(rpc.Guard{Identity: b.identity, Token: b.cfg.IoTCoreToken, Clock: b.cfg.Clock, Log: b.cfg.Log})...)
	brokerv1.RegisterRequestServiceServer(s, &rpc.RequestServer{
		Delivery: b.delivery, Records: b.records, Queue: b.queue, Clock: b.cfg.Clock,
	})
	brokerv1.RegisterQueueServiceServer(s, &rpc.QueueServer{
		Queue: b.queue, Records: b.records, Hub: b.hub, Stopping: b.stopping,
		Known: func(id device.ID) bool { _, ok := b.registry.Device(id); return ok },
	})
	brokerv1.RegisterDeviceServiceServer(s, rpc.NewDeviceServer(rpc.DeviceConfig{
		Connection: b.connection(), Registry: b.registry, Presence: b.presence.Of,
	}))
	core.Register(s)
	b.health = health.NewServer()
	healthpb.RegisterHealthServer(s, b.health)
	reflection.Register(s)
	return s, nil
}
