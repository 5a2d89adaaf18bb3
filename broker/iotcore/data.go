package iotcore

import (
	"context"
	"strings"

	devices "github.com/yandex-cloud/go-genproto/yandex/cloud/iot/devices/v1"

	"signaldevice/broker/registry"
	"signaldevice/device"
)

// registryDataService serves yandex.cloud.iot.devices.v1.RegistryDataService: raw commands to one device.
type registryDataService struct {
	devices.UnimplementedRegistryDataServiceServer
	registry  *registry.Registry
	publisher Publisher
}

func (s *registryDataService) Publish(ctx context.Context, in *devices.PublishRegistryDataRequest) (*devices.PublishRegistryDataResponse, error) {
	if in.RegistryId != registry.DefaultID {
		return nil, noRegistry()
	}
	id, subtopic, ok := commandTopic(in.Topic)
	if !ok {
		return nil, invalid("topic", "must be $devices/<device id>/commands or a subtopic of it")
	}
	if _, err := s.registry.Find(ctx, id); err != nil {
		return nil, err
	}
	if err := s.publisher.PublishCommand(ctx, id, subtopic, in.Data); err != nil {
		return nil, err
	}
	return &devices.PublishRegistryDataResponse{}, nil
}

// commandTopic reads `$devices/<id>/commands[/subtopic]`.
func commandTopic(topic string) (id device.ID, subtopic string, ok bool) {
	rest, ok := strings.CutPrefix(topic, "$devices/")
	if !ok || !isTopicName(topic) {
		return "", "", false
	}
	name, _, _ := strings.Cut(rest, "/")
	id = device.ID(name)
	if id.Validate() != nil {
		return "", "", false
	}
	subtopic, ok = device.Under(topic, device.TopicsOf(id).Commands)
	return id, subtopic, ok
}

// deviceDataService serves yandex.cloud.iot.devices.v1.DeviceDataService: messages on behalf of a device.
type deviceDataService struct {
	devices.UnimplementedDeviceDataServiceServer
	registry  *registry.Registry
	publisher Publisher
}

func (s *deviceDataService) Publish(ctx context.Context, in *devices.PublishDeviceDataRequest) (*devices.PublishDeviceDataResponse, error) {
	id := device.ID(in.DeviceId)
	topic, ok := eventTopic(id, in.Topic)
	if !ok {
		return nil, invalid("topic", "must be $devices/<device id>/events of this device or a subtopic of it")
	}
	if _, err := s.registry.Find(ctx, id); err != nil {
		return nil, err
	}
	if err := s.publisher.PublishEvent(ctx, id, topic, in.Data); err != nil {
		return nil, err
	}
	return &devices.PublishDeviceDataResponse{}, nil
}

// eventTopic reads a topic of the device's events in either form and returns the full one.
func eventTopic(id device.ID, topic string) (full string, ok bool) {
	if !isTopicName(topic) {
		return "", false
	}
	own := device.TopicsOf(id).Events
	for _, base := range []string{own, device.MyTopics.Events} {
		if rest, ok := strings.CutPrefix(topic, base); ok && (rest == "" || rest[0] == '/') {
			return own + rest, true
		}
	}
	return "", false
}

// isTopicName tells a topic from a filter [MQTT-3.3.2-2] [MQTT-1.5.3-2].
func isTopicName(topic string) bool { return !strings.ContainsAny(topic, "+#\x00") }
