package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"testing"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	devicesv1 "github.com/yandex-cloud/go-genproto/yandex/cloud/iot/devices/v1"
	"github.com/yandex-cloud/go-genproto/yandex/cloud/operation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
)

// A client written for Yandex IoT Core, with the vendor's own generated code, changes an address and a CA file.

// dialBroker connects to the broker's gRPC with a client certificate, or with none.
func dialBroker(t *testing.T, p *process, certs ...tls.Certificate) *grpc.ClientConn {
	t.Helper()
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(read(t, p.CA))) {
		t.Fatalf("no CA in %s", p.CA)
	}
	creds := credentials.NewTLS(&tls.Config{RootCAs: pool, Certificates: certs})
	conn, err := grpc.NewClient(p.GRPC, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func loadKeyPair(t *testing.T, k keyPair) tls.Certificate {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(k.Cert, k.Key)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestIoTCoreClient(t *testing.T) {
	s := startSystem(t)
	conn := dialBroker(t, s.process, loadKeyPair(t, s.Operator))
	devices := devicesv1.NewDeviceServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()
	own := selfSigned(t, "anything")

	op, err := devices.Create(ctx, &devicesv1.CreateDeviceRequest{
		RegistryId:   s.RegistryID,
		Name:         "from-iot-core",
		Certificates: []*devicesv1.CreateDeviceRequest_Certificate{{CertificateData: toPEM("CERTIFICATE", own.Certificate[0])}},
	})
	if err != nil {
		t.Fatal(err)
	}
	dev := createdDevice(ctx, t, operation.NewOperationServiceClient(conn), op)

	// The API sees the device; it connects with the certificate that the vendor's client registered.
	if got := s.admin.devices(); !slices.Contains(got, dev.GetId()) {
		t.Fatalf("the API lists %v, not %s", got, dev.GetId())
	}
	received := make(chan []byte, 1)
	cam := &device{t: t, cert: own}
	cam.ID, cam.CA, cam.MQTT = dev.GetId(), read(t, s.CA), "ssl://"+s.MQTT
	topic := "$devices/" + cam.ID + "/commands"
	done(t, "subscribe", cam.dial().Subscribe(topic+"/#", 1, func(_ mqtt.Client, m mqtt.Message) {
		if m.Topic() == topic+"/raw" {
			received <- m.Payload()
		}
	}))

	publish := func(size int) error {
		_, err := devicesv1.NewRegistryDataServiceClient(conn).Publish(ctx, &devicesv1.PublishRegistryDataRequest{
			RegistryId: s.RegistryID, Topic: topic + "/raw", Data: []byte(strings.Repeat("x", size)),
		})
		return err
	}
	if err := publish(maxPayload + 1); status.Code(err) != codes.InvalidArgument {
		t.Errorf("%d bytes: %v, want InvalidArgument", maxPayload+1, err)
	}
	if err := publish(maxPayload); err != nil {
		t.Fatalf("%d bytes: %v", maxPayload, err)
	}
	select {
	case got := <-received:
		if len(got) != maxPayload {
			t.Errorf("the camera received %d bytes, want %d", len(got), maxPayload)
		}
	case <-ctx.Done():
		t.Error("the camera received nothing")
	}
}

func createdDevice(ctx context.Context, t *testing.T, ops operation.OperationServiceClient, op *operation.Operation) *devicesv1.Device {
	t.Helper()
	waitFor(t, startTimeout, "the operation", func() bool {
		var err error
		if op, err = ops.Get(ctx, &operation.GetOperationRequest{OperationId: op.GetId()}); err != nil {
			t.Fatal(err)
		}
		return op.GetDone()
	})
	m, err := op.GetResponse().UnmarshalNew()
	if err != nil {
		t.Fatalf("%v: %v", op, err)
	}
	return m.(*devicesv1.Device)
}

func TestBrokerAdmitsByCertificate(t *testing.T) {
	s := startSystem(t)
	cam := s.admin.newDevice("curious")
	tests := map[string]struct {
		certs []tls.Certificate
		want  []codes.Code
	}{
		"no certificate":             {nil, []codes.Code{codes.Unauthenticated, codes.Unavailable}},
		"a device's certificate":     {[]tls.Certificate{cam.cert}, []codes.Code{codes.Unauthenticated, codes.PermissionDenied, codes.Unavailable}},
		"a stranger's certificate":   {[]tls.Certificate{selfSigned(t, "service")}, []codes.Code{codes.Unauthenticated, codes.Unavailable}},
		"the API's certificate":      {[]tls.Certificate{loadKeyPair(t, s.Service)}, []codes.Code{codes.PermissionDenied}},
		"the operator's certificate": {[]tls.Certificate{loadKeyPair(t, s.Operator)}, []codes.Code{codes.OK}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
			defer cancel()
			_, err := devicesv1.NewDeviceServiceClient(dialBroker(t, s.process, tt.certs...)).
				List(ctx, &devicesv1.ListDevicesRequest{Id: &devicesv1.ListDevicesRequest_RegistryId{RegistryId: s.RegistryID}})
			if got := status.Code(err); !slices.Contains(tt.want, got) {
				t.Errorf("answered %v, want one of %v", err, tt.want)
			}
		})
	}
}

func TestBrokerDescribesItself(t *testing.T) {
	s := startSystem(t)
	conn := dialBroker(t, s.process, loadKeyPair(t, s.Operator))
	ctx, cancel := context.WithTimeout(t.Context(), startTimeout)
	defer cancel()

	health, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health is %v, %v; want SERVING", health, err)
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	ask := &reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}
	if err := stream.Send(ask); err != nil {
		t.Fatal(err)
	}
	answer, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, service := range answer.GetListServicesResponse().GetService() {
		names = append(names, service.GetName())
	}
	for _, want := range []string{
		"signaldevice.broker.v1.RequestService",
		"signaldevice.broker.v1.QueueService",
		"signaldevice.broker.v1.DeviceService",
		"yandex.cloud.iot.devices.v1.DeviceService",
		"yandex.cloud.iot.devices.v1.RegistryService",
		"yandex.cloud.iot.devices.v1.RegistryDataService",
		"yandex.cloud.iot.devices.v1.DeviceDataService",
	} {
		if !slices.Contains(names, want) {
			t.Errorf("%s is not among %v", want, names)
		}
	}
}

// freeAddr is an address that nothing listened on a moment ago, for a program that must come back at the same place.
func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
