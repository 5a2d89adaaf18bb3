// Package iotcore serves Yandex IoT Core's gRPC services over this broker's own registry, so that a client of IoT Core
// changes an address and a CA file (iot-core.md).
//
// Served: DeviceService but for passwords and operation lists; Get, GetByName and List of RegistryService; Publish of
// RegistryDataService and DeviceDataService; Get of OperationService; ApiEndpointService. Everything else answers
// Unimplemented. There is one registry, "default", in the folder "default". Topic aliases and passwords are refused: a
// device is known by its certificates alone. An operation is done when it is answered, and this node remembers the last
// thousand of them.
//
// The limits written in IoT Core's protos, which the generated code does not enforce, are read from their descriptors and
// checked before each call. Errors are device.Errors and gRPC statuses; the caller's interceptor translates them.
// Everything here is safe for concurrent use.
package iotcore

import (
	"context"
	"errors"
	"time"

	"github.com/yandex-cloud/go-genproto/yandex/cloud/endpoint"
	devices "github.com/yandex-cloud/go-genproto/yandex/cloud/iot/devices/v1"
	"github.com/yandex-cloud/go-genproto/yandex/cloud/operation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"signaldevice/broker/registry"
	"signaldevice/device"
)

// Publisher brings raw messages on their way: best effort, outside request records.
type Publisher interface {
	// PublishCommand writes data to the device's connection if it has one. subtopic is what follows `commands/`, or "".
	// Invalid: the data holds a request id.
	PublishCommand(ctx context.Context, id device.ID, subtopic string, data []byte) error
	// PublishEvent takes data as if the device had published it to the topic, one of its own in the full form, and
	// returns when it is as durable as that would be.
	PublishEvent(ctx context.Context, id device.ID, topic string, data []byte) error
}

// Config is what Services need.
type Config struct {
	Address   string           // host:port that endpoint discovery answers; "": the one by which the caller came
	Clock     func() time.Time // nil: time.Now
	Registry  *registry.Registry
	Presence  func(device.ID) device.Presence
	Publisher Publisher
}

// Services are IoT Core's services.
type Services struct {
	limits       *limits
	devices      *deviceService
	registries   *registryService
	registryData *registryDataService
	deviceData   *deviceDataService
	operations   *operations
	endpoints    *endpointService
}

// New returns the services. It fails when a proto states a limit in a form that is not understood.
func New(cfg Config) (*Services, error) {
	if cfg.Clock == nil {
		cfg.Clock = time.Now
	}
	l, err := newLimits(
		devices.File_yandex_cloud_iot_devices_v1_device_service_proto,
		devices.File_yandex_cloud_iot_devices_v1_registry_service_proto,
		devices.File_yandex_cloud_iot_devices_v1_registry_data_service_proto,
		devices.File_yandex_cloud_iot_devices_v1_device_data_service_proto,
		operation.File_yandex_cloud_operation_operation_service_proto,
		endpoint.File_yandex_cloud_endpoint_api_endpoint_service_proto,
	)
	if err != nil {
		return nil, err
	}
	ops := newOperations(cfg.Clock)
	return &Services{
		limits:       l,
		devices:      &deviceService{registry: cfg.Registry, presence: cfg.Presence, operations: ops},
		registries:   &registryService{registry: cfg.Registry},
		registryData: &registryDataService{registry: cfg.Registry, publisher: cfg.Publisher},
		deviceData:   &deviceDataService{registry: cfg.Registry, publisher: cfg.Publisher},
		operations:   ops,
		endpoints:    &endpointService{address: cfg.Address},
	}, nil
}

// Register puts the services on a server, behind the limits of their protos.
func (s *Services) Register(server grpc.ServiceRegistrar) {
	r := limitedRegistrar{server, s.limits}
	devices.RegisterDeviceServiceServer(r, s.devices)
	devices.RegisterRegistryServiceServer(r, s.registries)
	devices.RegisterRegistryDataServiceServer(r, s.registryData)
	devices.RegisterDeviceDataServiceServer(r, s.deviceData)
	operation.RegisterOperationServiceServer(r, s.operations)
	endpoint.RegisterApiEndpointServiceServer(r, s.endpoints)
}

const defaultPage = 100

func pageSize(n int64) int {
	if n == 0 {
		return defaultPage
	}
	return int(n)
}

func noRegistry() error { return status.Error(codes.NotFound, "there is no such registry") }
func noFolder() error   { return status.Error(codes.NotFound, "there is no such folder") }

func invalid(field, message string) error {
	return &device.Error{
		Kind: device.Invalid, Message: field + " " + message,
		Faults: []device.Fault{{Location: field, Message: message}},
	}
}

// renamed gives a fault of the registry the name that its field has in IoT Core's protos.
func renamed(err error, name func(location string) string) error {
	if e, ok := errors.AsType[*device.Error](err); ok {
		for i := range e.Faults {
			e.Faults[i].Location = name(e.Faults[i].Location)
		}
	}
	return err
}

// timestamp leaves a moment that has not come unset. IoT Core gives whole seconds.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t.Truncate(time.Second))
}
