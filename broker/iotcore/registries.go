package iotcore

import (
	"context"

	devices "github.com/yandex-cloud/go-genproto/yandex/cloud/iot/devices/v1"

	"signaldevice/broker/registry"
)

// registryService serves yandex.cloud.iot.devices.v1.RegistryService with the one registry that there is.
type registryService struct {
	devices.UnimplementedRegistryServiceServer
	registry *registry.Registry
}

func (s *registryService) Get(_ context.Context, in *devices.GetRegistryRequest) (*devices.Registry, error) {
	if in.RegistryId != registry.DefaultID {
		return nil, noRegistry()
	}
	return s.theOne(), nil
}

func (s *registryService) GetByName(_ context.Context, in *devices.GetByNameRegistryRequest) (*devices.Registry, error) {
	if in.FolderId != registry.DefaultID {
		return nil, noFolder()
	}
	if in.RegistryName != registry.DefaultID {
		return nil, noRegistry()
	}
	return s.theOne(), nil
}

func (s *registryService) List(_ context.Context, in *devices.ListRegistriesRequest) (*devices.ListRegistriesResponse, error) {
	if in.FolderId != registry.DefaultID {
		return nil, noFolder()
	}
	if in.PageToken != "" { // one registry needs no second page
		return nil, invalid("page_token", "is not one of this service")
	}
	return &devices.ListRegistriesResponse{Registries: []*devices.Registry{s.theOne()}}, nil
}

func (s *registryService) theOne() *devices.Registry {
	return &devices.Registry{
		Id: registry.DefaultID, FolderId: registry.DefaultID, Name: registry.DefaultID,
		CreatedAt: timestamp(s.registry.Created()), Status: devices.Registry_ACTIVE,
	}
}
