package iotcore

import (
	"context"

	"github.com/yandex-cloud/go-genproto/yandex/cloud/endpoint"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// endpointService serves yandex.cloud.endpoint.ApiEndpointService. Existing clients look addresses up here before they
// authenticate: all of them are this server's.
type endpointService struct {
	endpoint.UnimplementedApiEndpointServiceServer
	address string
}

// endpointIDs are the names under which IoT Core's clients look for what is served here.
func endpointIDs() []string { return []string{"endpoint", "iot-data", "iot-devices", "operation"} }

func (s *endpointService) Get(ctx context.Context, in *endpoint.GetApiEndpointRequest) (*endpoint.ApiEndpoint, error) {
	for _, id := range endpointIDs() {
		if id == in.ApiEndpointId {
			return &endpoint.ApiEndpoint{Id: id, Address: s.own(ctx)}, nil
		}
	}
	return nil, status.Error(codes.NotFound, "there is no such endpoint")
}

func (s *endpointService) List(ctx context.Context, _ *endpoint.ListApiEndpointsRequest) (*endpoint.ListApiEndpointsResponse, error) {
	out := &endpoint.ListApiEndpointsResponse{}
	for _, id := range endpointIDs() {
		out.Endpoints = append(out.Endpoints, &endpoint.ApiEndpoint{Id: id, Address: s.own(ctx)})
	}
	return out, nil
}

// own is the configured address, or the one that the caller has just used: it works for this caller.
func (s *endpointService) own(ctx context.Context) string {
	if s.address != "" {
		return s.address
	}
	if authority := metadata.ValueFromIncomingContext(ctx, ":authority"); len(authority) == 1 {
		return authority[0]
	}
	return ""
}
