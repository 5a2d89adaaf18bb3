package rpc_test

import (
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/yandex-cloud/go-genproto/yandex/cloud/endpoint"
	devices "github.com/yandex-cloud/go-genproto/yandex/cloud/iot/devices/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"

	"signaldevice/broker/identity"
	"signaldevice/broker/rpc"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// everything registers services that no test needs to do anything.
func everything(s grpc.ServiceRegistrar) {
	healthpb.RegisterHealthServer(s, health.NewServer())
	devices.RegisterDeviceServiceServer(s, devices.UnimplementedDeviceServiceServer{})
	endpoint.RegisterApiEndpointServiceServer(s, endpoint.UnimplementedApiEndpointServiceServer{})
	reflection.Register(s.(reflection.GRPCServer))
}

// deviceCertificate is one that our own device CA signed.
func deviceCertificate(t *testing.T, id *identity.Identity) *tls.Certificate {
	t.Helper()
	key := newKey(t)
	csr, err := identity.ParseCSR(newCSR(t, key))
	if err != nil {
		t.Fatal(err)
	}
	c, err := id.SignCSR(csr, "are1")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(c.PEM))
	return &tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: key}
}

var calls = map[string]func(ctx context.Context, c *grpc.ClientConn) error{
	"own service": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := brokerv1.NewDeviceServiceClient(c).GetConnectionInfo(ctx, &brokerv1.GetConnectionInfoRequest{})
		return err
	},
	"IoT Core": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := devices.NewDeviceServiceClient(c).List(ctx, &devices.ListDevicesRequest{})
		return err
	},
	"discovery": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := endpoint.NewApiEndpointServiceClient(c).List(ctx, &endpoint.ListApiEndpointsRequest{})
		return err
	},
	"health": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	},
	"health, streaming": func(ctx context.Context, c *grpc.ClientConn) error {
		s, err := healthpb.NewHealthClient(c).Watch(ctx, &healthpb.HealthCheckRequest{})
		if err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	},
	"reflection": func(ctx context.Context, c *grpc.ClientConn) error {
		s, err := reflectionpb.NewServerReflectionClient(c).ServerReflectionInfo(ctx)
		if err != nil {
			return err
		}
		// A call that was refused already answers io.EOF here, and why in Recv.
		if err := s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		_, err = s.Recv()
		return err
	},
}

func TestRoles_WhoMayCallWhat(t *testing.T) {
	const (
		ok      = codes.OK
		passes  = codes.Unimplemented // the guard let it through to a service that does nothing
		who     = codes.Unauthenticated
		refused = codes.PermissionDenied
	)
	w := start(t, rpc.Guard{}, everything)
	other := start(t, rpc.Guard{}, nil)
	callers := map[string]struct {
		cert *tls.Certificate
		want map[string]codes.Code
	}{
		"the API":                   {w.ready(t, "service"), map[string]codes.Code{"own service": ok, "IoT Core": refused, "reflection": ok}},
		"an operator":               {w.ready(t, "operator"), map[string]codes.Code{"own service": ok, "IoT Core": passes, "reflection": ok}},
		"no certificate":            {nil, map[string]codes.Code{"own service": who, "IoT Core": who, "reflection": who}},
		"another broker's operator": {other.ready(t, "operator"), map[string]codes.Code{"own service": who, "IoT Core": who, "reflection": who}},
		"the server certificate":    {w.ready(t, "server"), map[string]codes.Code{"own service": who, "IoT Core": who, "reflection": who}},
		"a device":                  {deviceCertificate(t, w.identity), map[string]codes.Code{"own service": refused, "IoT Core": refused, "reflection": refused}},
	}
	for name, caller := range callers {
		t.Run(name, func(t *testing.T) {
			conn := w.dial(t, caller.cert)
			caller.want["discovery"], caller.want["health"], caller.want["health, streaming"] = passes, ok, ok
			for call, do := range calls {
				wantCode(t, call, do(ctx(t), conn), caller.want[call])
			}
		})
	}
}

func TestRoles_ExpiryIsLookedAtOnEachCall(t *testing.T) {
	var ahead atomic.Int64
	w := start(t, rpc.Guard{Clock: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }}, everything)
	conn := w.dial(t, w.ready(t, "service"))
	wantCode(t, "before", calls["own service"](ctx(t), conn), codes.OK)
	ahead.Store(int64(3 * 365 * 24 * time.Hour))
	wantCode(t, "after", calls["own service"](ctx(t), conn), codes.Unauthenticated)
	wantCode(t, "after, streaming", calls["reflection"](ctx(t), conn), codes.Unauthenticated)
	ahead.Store(0)
	wantCode(t, "the next good call", calls["own service"](ctx(t), conn), codes.OK)
}

// iot-core.md: existing clients may have a bearer token instead of a certificate, for IoT Core's services only.
func TestRoles_BearerToken(t *testing.T) {
	const token = "t0ken-of-the-operator"
	w := start(t, rpc.Guard{Token: token}, everything)
	without := start(t, rpc.Guard{}, everything)
	tests := map[string]struct {
		w      *world
		header []string
		call   string
		want   codes.Code
	}{
		"the token":                    {w, []string{"Bearer " + token}, "IoT Core", codes.Unimplemented},
		"scheme in small letters":      {w, []string{"bearer " + token}, "IoT Core", codes.Unimplemented},
		"another token":                {w, []string{"Bearer " + token + "x"}, "IoT Core", codes.Unauthenticated},
		"no token":                     {w, []string{"Bearer "}, "IoT Core", codes.Unauthenticated},
		"no scheme":                    {w, []string{token}, "IoT Core", codes.Unauthenticated},
		"two of them":                  {w, []string{"Bearer " + token, "Bearer " + token}, "IoT Core", codes.Unauthenticated},
		"for our own services":         {w, []string{"Bearer " + token}, "own service", codes.Unauthenticated},
		"none configured, empty token": {without, []string{"Bearer "}, "IoT Core", codes.Unauthenticated},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := ctx(t)
			for _, h := range tt.header {
				c = metadata.AppendToOutgoingContext(c, "authorization", h)
			}
			wantCode(t, tt.call, calls[tt.call](c, tt.w.dial(t, nil)), tt.want)
		})
	}
}
