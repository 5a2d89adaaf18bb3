package rpc_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"signaldevice/broker/registry"
	"signaldevice/broker/rpc"
	"signaldevice/device"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

func byCertificate(pem string) *brokerv1.CreateDeviceRequest_Certificate {
	return &brokerv1.CreateDeviceRequest_Certificate{Certificate: pem}
}

func byCSR(pem string) *brokerv1.CreateDeviceRequest_Csr {
	return &brokerv1.CreateDeviceRequest_Csr{Csr: pem}
}

func TestDevices_LifeOfADevice(t *testing.T) {
	w := start(t, rpc.Guard{}, nil)
	client := w.devices(t)
	created, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{
		Name: "taxi-17", Description: "front", Labels: map[string]string{"depot": "north"}, Credential: byCertificate(newCert(t)),
	})
	if err != nil {
		t.Fatal(err)
	}
	d := created.Device
	if created.Certificate != "" || created.Connection.Ca != w.identity.CA() || created.Connection.Mqtt != "ssl://broker.example:8883" ||
		d.RegistryId != "default" || d.Online || d.Since != nil || len(d.Certificates) != 1 || d.CreatedAt == nil {
		t.Errorf("created %+v", created)
	}

	since := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	w.mu.Lock()
	w.online[device.ID(d.Id)] = device.Presence{Online: true, Since: since, LastSeen: since.Add(time.Second)}
	w.mu.Unlock()
	got, err := client.GetDevice(ctx(t), &brokerv1.GetDeviceRequest{DeviceId: d.Id})
	if err != nil || !got.Online || !got.Since.AsTime().Equal(since) || !got.LastSeen.AsTime().Equal(since.Add(time.Second)) {
		t.Errorf("got %+v, %v", got, err)
	}

	added, err := client.IssueCertificate(ctx(t), &brokerv1.IssueCertificateRequest{
		DeviceId: d.Id, Credential: &brokerv1.IssueCertificateRequest_Csr{Csr: newCSR(t, newKey(t))},
	})
	if err != nil || !strings.HasPrefix(added.Certificate.Pem, "-----BEGIN CERTIFICATE-----") || len(added.Certificate.Fingerprint) != 40 {
		t.Fatalf("added %+v, %v", added, err)
	}
	if _, err := client.RevokeCertificate(ctx(t), &brokerv1.RevokeCertificateRequest{DeviceId: d.Id, Fingerprint: d.Certificates[0].Fingerprint}); err != nil {
		t.Fatal(err)
	}
	got, err = client.GetDevice(ctx(t), &brokerv1.GetDeviceRequest{DeviceId: d.Id})
	if err != nil || len(got.Certificates) != 1 || !proto.Equal(got.Certificates[0], added.Certificate) {
		t.Errorf("after the rotation %+v, %v", got, err)
	}

	if _, err := client.DeleteDevice(ctx(t), &brokerv1.DeleteDeviceRequest{DeviceId: d.Id}); err != nil {
		t.Fatal(err)
	}
	_, err = client.GetDevice(ctx(t), &brokerv1.GetDeviceRequest{DeviceId: d.Id})
	wantReason(t, err, codes.NotFound, device.DeviceNotFound)
}

// A device that was registered elsewhere keeps its id and its certificates.
func TestDevices_FromElsewhere(t *testing.T) {
	w := start(t, rpc.Guard{}, nil)
	operator := brokerv1.NewDeviceServiceClient(w.dial(t, w.ready(t, "operator")))
	first, second := newCert(t), newCert(t)
	got, err := operator.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{
		DeviceId: "are0one", Name: "taxi-1", Description: "front", Labels: map[string]string{"depot": "north"}, Certificates: []string{first, second},
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := got.Device; d.Id != "are0one" || d.Name != "taxi-1" || d.Description != "front" || d.Labels["depot"] != "north" ||
		len(d.Certificates) != 2 || d.Certificates[1].Pem != second || got.Certificate != "" {
		t.Errorf("got %+v", got)
	}
	got, err = operator.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{DeviceId: "are0two", Name: "taxi-2"})
	if err != nil || len(got.Device.Certificates) != 0 {
		t.Errorf("without a certificate: %v, %v", got, err)
	}

	tests := map[string]struct {
		edit  func(*brokerv1.CreateDeviceRequest)
		code  codes.Code
		kind  device.Kind
		field string
	}{
		"no name":             {func(in *brokerv1.CreateDeviceRequest) { in.Name = "" }, codes.InvalidArgument, device.Invalid, "name"},
		"a bad id":            {func(in *brokerv1.CreateDeviceRequest) { in.DeviceId = "are.3" }, codes.InvalidArgument, device.Invalid, "device_id"},
		"a bad certificate":   {func(in *brokerv1.CreateDeviceRequest) { in.Certificates[1] = "x" }, codes.InvalidArgument, device.InvalidCertificate, "certificates[1]"},
		"one more than most":  {func(in *brokerv1.CreateDeviceRequest) { in.Certificates = make([]string, registry.MaxCertificates+1) }, codes.InvalidArgument, device.Invalid, "certificates"},
		"a credential too":    {func(in *brokerv1.CreateDeviceRequest) { in.Credential = byCertificate(newCert(t)) }, codes.InvalidArgument, device.Invalid, "credential"},
		"a taken id":          {func(in *brokerv1.CreateDeviceRequest) { in.DeviceId = "are0one" }, codes.AlreadyExists, device.DeviceExists, ""},
		"a taken name":        {func(in *brokerv1.CreateDeviceRequest) { in.Name = "taxi-1" }, codes.AlreadyExists, device.DeviceExists, ""},
		"a taken certificate": {func(in *brokerv1.CreateDeviceRequest) { in.Certificates[1] = second }, codes.AlreadyExists, device.CertificateInUse, ""},
		"no id": {func(in *brokerv1.CreateDeviceRequest) { in.DeviceId, in.Credential = "", byCertificate(newCert(t)) },
			codes.InvalidArgument, device.Invalid, "certificates"},
	}
	valid := func() *brokerv1.CreateDeviceRequest {
		return &brokerv1.CreateDeviceRequest{DeviceId: "are3", Name: "taxi-3", Certificates: []string{newCert(t), newCert(t)}}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			in := valid()
			tt.edit(in)
			_, err := operator.CreateDevice(ctx(t), in)
			wantReason(t, err, tt.code, tt.kind)
			if tt.field != "" && !slices.Contains(fields(err), tt.field) {
				t.Errorf("fields %v, want %q", fields(err), tt.field)
			}
		})
	}
	_, err = w.devices(t).CreateDevice(ctx(t), valid())
	wantReason(t, err, codes.PermissionDenied, device.Forbidden)
	if _, err := operator.CreateDevice(ctx(t), valid()); err != nil {
		t.Errorf("the next good call: %v", err)
	}
}

func wantReason(t *testing.T, err error, code codes.Code, kind device.Kind) {
	t.Helper()
	wantCode(t, "call", err, code)
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Reason == string(kind) {
			return
		}
	}
	t.Fatalf("%v has no reason %q", err, kind)
}

func TestDevices_Enrol(t *testing.T) {
	w := start(t, rpc.Guard{}, nil)
	client := w.devices(t)
	code, err := client.CreateEnrolmentCode(ctx(t), &brokerv1.CreateEnrolmentCodeRequest{
		Name: "taxi-17", Labels: map[string]string{"depot": "north"}, ExpiresIn: durationpb.New(time.Minute),
	})
	if err != nil || time.Until(code.ExpiresAt.AsTime()) > time.Minute {
		t.Fatalf("code %+v, %v", code, err)
	}
	key := newKey(t)
	first, err := client.EnrolDevice(ctx(t), &brokerv1.EnrolDeviceRequest{Code: code.Code, Csr: newCSR(t, key)})
	if err != nil || first.Repeated || first.Certificate == "" || first.Device.Labels["depot"] != "north" || first.Connection.Mqtt == "" {
		t.Fatalf("first %+v, %v", first, err)
	}
	again, err := client.EnrolDevice(ctx(t), &brokerv1.EnrolDeviceRequest{Code: code.Code, Csr: newCSR(t, key)})
	if err != nil || !again.Repeated || again.Certificate != first.Certificate || again.Device.Id != first.Device.Id {
		t.Fatalf("again %+v, %v", again, err)
	}
	_, err = client.EnrolDevice(ctx(t), &brokerv1.EnrolDeviceRequest{Code: code.Code, Csr: newCSR(t, newKey(t))})
	wantReason(t, err, codes.PermissionDenied, device.InvalidCode)
}

// I10: bad input is refused with the name of the field, and the next good call works.
func TestDevices_BadInput(t *testing.T) {
	w := start(t, rpc.Guard{}, nil)
	client := w.devices(t)
	cert := newCert(t)
	if _, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "taken", Credential: byCertificate(cert)}); err != nil {
		t.Fatal(err)
	}
	good := newCert(t)
	tests := map[string]struct {
		call  func() error
		code  codes.Code
		kind  device.Kind
		field string
	}{
		"no name": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Credential: byCertificate(good)})
			return err
		}, codes.InvalidArgument, device.Invalid, "name"},
		"no credential": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "cam"})
			return err
		}, codes.InvalidArgument, device.Invalid, "credential"},
		"a bad certificate": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "cam", Credential: byCertificate("x")})
			return err
		}, codes.InvalidArgument, device.InvalidCertificate, "certificate"},
		"an empty certificate": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "cam", Credential: byCertificate("")})
			return err
		}, codes.InvalidArgument, device.InvalidCertificate, "certificate"},
		"a bad CSR": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "cam", Credential: byCSR("x")})
			return err
		}, codes.InvalidArgument, device.InvalidCSR, "csr"},
		"an empty CSR": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "cam", Credential: byCSR("")})
			return err
		}, codes.InvalidArgument, device.InvalidCSR, "csr"},
		"another registry": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{RegistryId: "x", Name: "cam", Credential: byCertificate(good)})
			return err
		}, codes.InvalidArgument, device.Invalid, "registry_id"},
		"a taken name": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "taken", Credential: byCertificate(good)})
			return err
		}, codes.AlreadyExists, device.DeviceExists, ""},
		"a taken certificate": {func() error {
			_, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "cam", Credential: byCertificate(cert)})
			return err
		}, codes.AlreadyExists, device.CertificateInUse, ""},
		"a code that lives 0 s": {func() error {
			_, err := client.CreateEnrolmentCode(ctx(t), &brokerv1.CreateEnrolmentCodeRequest{ExpiresIn: durationpb.New(0)})
			return err
		}, codes.InvalidArgument, device.Invalid, "expires_in"},
		"a code that lives 31 days": {func() error {
			_, err := client.CreateEnrolmentCode(ctx(t), &brokerv1.CreateEnrolmentCodeRequest{ExpiresIn: durationpb.New(31 * 24 * time.Hour)})
			return err
		}, codes.InvalidArgument, device.Invalid, "expires_in"},
		"enrol without a CSR": {func() error {
			_, err := client.EnrolDevice(ctx(t), &brokerv1.EnrolDeviceRequest{Code: "sde1_x"})
			return err
		}, codes.InvalidArgument, device.InvalidCSR, "csr"},
		"get with a bad id": {func() error {
			_, err := client.GetDevice(ctx(t), &brokerv1.GetDeviceRequest{DeviceId: "a.b"})
			return err
		}, codes.InvalidArgument, device.Invalid, "device_id"},
		"delete a stranger": {func() error {
			_, err := client.DeleteDevice(ctx(t), &brokerv1.DeleteDeviceRequest{DeviceId: "stranger"})
			return err
		}, codes.NotFound, device.DeviceNotFound, ""},
		"issue without a credential": {func() error {
			_, err := client.IssueCertificate(ctx(t), &brokerv1.IssueCertificateRequest{DeviceId: "stranger"})
			return err
		}, codes.InvalidArgument, device.Invalid, "credential"},
		"issue for an empty CSR": {func() error {
			_, err := client.IssueCertificate(ctx(t), &brokerv1.IssueCertificateRequest{DeviceId: "stranger", Credential: &brokerv1.IssueCertificateRequest_Csr{}})
			return err
		}, codes.InvalidArgument, device.InvalidCSR, "csr"},
		"issue for a stranger": {func() error {
			_, err := client.IssueCertificate(ctx(t), &brokerv1.IssueCertificateRequest{DeviceId: "stranger", Credential: &brokerv1.IssueCertificateRequest_Certificate{Certificate: good}})
			return err
		}, codes.NotFound, device.DeviceNotFound, ""},
		"revoke a stranger's": {func() error {
			_, err := client.RevokeCertificate(ctx(t), &brokerv1.RevokeCertificateRequest{DeviceId: "stranger", Fingerprint: "x"})
			return err
		}, codes.NotFound, device.DeviceNotFound, ""},
		"page of 1001": {func() error {
			_, err := client.ListDevices(ctx(t), &brokerv1.ListDevicesRequest{PageSize: 1001})
			return err
		}, codes.InvalidArgument, device.Invalid, "page_size"},
		"page of -1": {func() error {
			_, err := client.ListDevices(ctx(t), &brokerv1.ListDevicesRequest{PageSize: -1})
			return err
		}, codes.InvalidArgument, device.Invalid, "page_size"},
		"a foreign page token": {func() error {
			_, err := client.ListDevices(ctx(t), &brokerv1.ListDevicesRequest{PageToken: "!"})
			return err
		}, codes.InvalidArgument, device.Invalid, "page_token"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := tt.call()
			wantReason(t, err, tt.code, tt.kind)
			if tt.field != "" && !slices.Contains(fields(err), tt.field) {
				t.Errorf("fields %v, want %q", fields(err), tt.field)
			}
		})
	}
	if _, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{Name: "cam", Credential: byCertificate(good)}); err != nil {
		t.Errorf("the next good call: %v", err)
	}
}

func fields(err error) []string {
	var names []string
	for _, d := range status.Convert(err).Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			for _, v := range bad.FieldViolations {
				names = append(names, v.Field)
			}
		}
	}
	return names
}

func TestDevices_List(t *testing.T) {
	w := start(t, rpc.Guard{}, nil)
	client := w.devices(t)
	for i := range 12 {
		d, err := client.CreateDevice(ctx(t), &brokerv1.CreateDeviceRequest{
			Name: fmt.Sprintf("taxi-%02d", i), Labels: map[string]string{"depot": []string{"north", "south"}[i%2]}, Credential: byCSR(newCSR(t, newKey(t))),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.online[device.ID(d.Device.Id)] = device.Presence{Online: i%3 == 0}
		w.mu.Unlock()
	}
	tests := map[string]struct {
		in   *brokerv1.ListDevicesRequest
		want string
	}{
		"all":              {&brokerv1.ListDevicesRequest{}, "00 01 02 03 04 05 06 07 08 09 10 11"},
		"by label":         {&brokerv1.ListDevicesRequest{Labels: map[string]string{"depot": "south"}}, "01 03 05 07 09 11"},
		"by name":          {&brokerv1.ListDevicesRequest{Name: "XI-1"}, "10 11"},
		"online":           {&brokerv1.ListDevicesRequest{Online: new(true)}, "00 03 06 09"},
		"offline in south": {&brokerv1.ListDevicesRequest{Online: new(false), Labels: map[string]string{"depot": "south"}}, "01 05 07 11"},
	}
	for name, tt := range tests {
		for _, size := range []int32{0, 1, 5, 1000} {
			t.Run(fmt.Sprintf("%s, %d a page", name, size), func(t *testing.T) {
				in := proto.CloneOf(tt.in)
				in.PageSize = size
				var names []string
				for {
					page, err := client.ListDevices(ctx(t), in)
					if err != nil {
						t.Fatal(err)
					}
					for _, d := range page.Devices {
						names = append(names, strings.TrimPrefix(d.Name, "taxi-"))
					}
					if in.PageToken = page.NextPageToken; in.PageToken == "" {
						break
					}
				}
				if got := strings.Join(names, " "); got != tt.want {
					t.Errorf("%s, want %s", got, tt.want)
				}
			})
		}
	}
}

func TestServerOptions_BoundMessages(t *testing.T) {
	client := start(t, rpc.Guard{}, nil).devices(t)
	_, err := client.ListDevices(ctx(t), &brokerv1.ListDevicesRequest{Name: strings.Repeat("x", 4<<20)})
	wantCode(t, "over 4 MB", err, codes.ResourceExhausted)
	_, err = client.ListDevices(ctx(t), &brokerv1.ListDevicesRequest{Name: strings.Repeat("x", 4<<20-100)})
	wantCode(t, "under 4 MB", err, codes.OK)
}
