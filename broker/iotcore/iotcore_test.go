package iotcore

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/yandex-cloud/go-genproto/yandex/cloud/endpoint"
	devices "github.com/yandex-cloud/go-genproto/yandex/cloud/iot/devices/v1"
	"github.com/yandex-cloud/go-genproto/yandex/cloud/operation"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	"signaldevice/broker/identity"
	"signaldevice/device"
)

// opensslCert is a camera's own certificate, as its factory makes it, and the fingerprint that openssl gives it.
func opensslCert(t *testing.T) (text, fingerprint string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "cert.pem")
	run := func(args ...string) string {
		out, err := exec.CommandContext(ctx(t), "openssl", args...).Output()
		if err != nil {
			t.Fatalf("openssl %v: %v", args, err)
		}
		return string(out)
	}
	run("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", os.DevNull,
		"-out", file, "-subj", "/CN=camera", "-days", "365")
	line := run("x509", "-noout", "-fingerprint", "-sha1", "-in", file)
	_, hex, _ := strings.Cut(strings.TrimSpace(line), "=")
	return run("x509", "-in", file), strings.ToLower(strings.ReplaceAll(hex, ":", ""))
}

func withCertificates(certs ...string) []*devices.CreateDeviceRequest_Certificate {
	var out []*devices.CreateDeviceRequest_Certificate
	for _, c := range certs {
		out = append(out, &devices.CreateDeviceRequest_Certificate{CertificateData: c})
	}
	return out
}

// What IoT Core's own example does: create, poll the operation, take the device out of it, rotate, delete.
func TestDevices_AsAClientOfIoTCoreUsesThem(t *testing.T) {
	w := start(t, "")
	conn := w.dial(t, "operator")
	client, ops := devices.NewDeviceServiceClient(conn), operation.NewOperationServiceClient(conn)
	cert, fingerprint := opensslCert(t)

	op, err := client.Create(ctx(t), &devices.CreateDeviceRequest{
		RegistryId: "default", Name: "camera-1", Description: "front", Labels: map[string]string{"depot": "north"},
		Certificates: withCertificates(cert),
	})
	if err != nil {
		t.Fatal(err)
	}
	var meta devices.CreateDeviceMetadata
	if err := op.Metadata.UnmarshalTo(&meta); err != nil || !op.Done {
		t.Fatalf("operation %+v, %v", op, err)
	}
	polled, err := ops.Get(ctx(t), &operation.GetOperationRequest{OperationId: op.Id})
	if err != nil {
		t.Fatal(err)
	}
	response, err := polled.GetResponse().UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	d := response.(*devices.Device)
	if d.Id != meta.DeviceId || len(d.Id) != 20 || d.RegistryId != "default" || d.Name != "camera-1" || d.Description != "front" ||
		d.Labels["depot"] != "north" || d.Status != devices.Device_ACTIVE || d.CreatedAt == nil || d.MonitoringData != nil {
		t.Errorf("created %+v", d)
	}
	if id, err := w.registry.ByCertificate(derOf(t, cert)); err != nil || string(id) != d.Id {
		t.Errorf("the certificate is %s's, %v", id, err)
	}

	got, err := client.GetByName(ctx(t), &devices.GetByNameDeviceRequest{RegistryId: "default", DeviceName: "camera-1"})
	if err != nil || got.Id != d.Id {
		t.Errorf("by name: %+v, %v", got, err)
	}

	second, secondPrint := opensslCert(t)
	op, err = client.AddCertificate(ctx(t), &devices.AddDeviceCertificateRequest{DeviceId: d.Id, CertificateData: second})
	if err != nil {
		t.Fatal(err)
	}
	var added devices.AddDeviceCertificateMetadata
	if err := op.Metadata.UnmarshalTo(&added); err != nil || added.Fingerprint != secondPrint || added.DeviceId != d.Id {
		t.Errorf("added %+v, %v, want %s", &added, err, secondPrint)
	}
	certs, err := client.ListCertificates(ctx(t), &devices.ListDeviceCertificatesRequest{DeviceId: d.Id})
	if err != nil || len(certs.Certificates) != 2 {
		t.Fatalf("certificates %+v, %v", certs, err)
	}
	for i, want := range []struct{ text, print string }{{cert, fingerprint}, {second, secondPrint}} {
		c := certs.Certificates[i]
		if c.Fingerprint != want.print || c.CertificateData != want.text || c.DeviceId != d.Id || time.Since(c.CreatedAt.AsTime()) > time.Minute {
			t.Errorf("certificate %d: %+v", i, c)
		}
	}
	if _, err := client.DeleteCertificate(ctx(t), &devices.DeleteDeviceCertificateRequest{DeviceId: d.Id, Fingerprint: fingerprint}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.registry.ByCertificate(derOf(t, cert)); !device.Is(err, device.Unauthenticated) {
		t.Errorf("the removed certificate: %v", err)
	}

	op, err = client.Delete(ctx(t), &devices.DeleteDeviceRequest{DeviceId: d.Id})
	if err != nil {
		t.Fatal(err)
	}
	if empty, err := op.GetResponse().UnmarshalNew(); err != nil || empty.ProtoReflect().Descriptor() != (&emptypb.Empty{}).ProtoReflect().Descriptor() {
		t.Errorf("the deletion answers %v, %v", empty, err)
	}
	_, err = client.Get(ctx(t), &devices.GetDeviceRequest{DeviceId: d.Id})
	wantCode(t, "get after the deletion", err, codes.NotFound)
}

func derOf(t *testing.T, text string) []byte {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.pem")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(ctx(t), "openssl", "x509", "-in", file, "-outform", "DER").Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func createDevice(t *testing.T, client devices.DeviceServiceClient, name string) string {
	t.Helper()
	op, err := client.Create(ctx(t), &devices.CreateDeviceRequest{RegistryId: "default", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	var meta devices.CreateDeviceMetadata
	if err := op.Metadata.UnmarshalTo(&meta); err != nil {
		t.Fatal(err)
	}
	return meta.DeviceId
}

func TestDevices_Update(t *testing.T) {
	client := devices.NewDeviceServiceClient(start(t, "").dial(t, "operator"))
	id := createDevice(t, client, "one")
	createDevice(t, client, "two")
	mask := func(paths ...string) *fieldmaskpb.FieldMask { return &fieldmaskpb.FieldMask{Paths: paths} }
	tests := []struct {
		name string
		in   *devices.UpdateDeviceRequest
		code codes.Code
		want string
	}{
		{"all populated, without a mask", &devices.UpdateDeviceRequest{Description: "d", Labels: map[string]string{"a": "1"}}, codes.OK, "one/d/map[a:1]"},
		{"only what the mask names", &devices.UpdateDeviceRequest{Name: "three", Description: "e", UpdateMask: mask("name")}, codes.OK, "three/d/map[a:1]"},
		{"emptied by the mask", &devices.UpdateDeviceRequest{UpdateMask: mask("description", "labels")}, codes.OK, "three//map[]"},
		{"an empty mask", &devices.UpdateDeviceRequest{Name: "four", UpdateMask: mask()}, codes.OK, "three//map[]"},
		{"an unknown path", &devices.UpdateDeviceRequest{UpdateMask: mask("id")}, codes.InvalidArgument, "three//map[]"},
		{"aliases", &devices.UpdateDeviceRequest{TopicAliases: map[string]string{"a": "b"}}, codes.InvalidArgument, "three//map[]"},
		{"a taken name", &devices.UpdateDeviceRequest{Name: "two"}, codes.AlreadyExists, "three//map[]"},
		{"no name by the mask", &devices.UpdateDeviceRequest{UpdateMask: mask("name")}, codes.InvalidArgument, "three//map[]"},
		{"a bad label", &devices.UpdateDeviceRequest{Labels: map[string]string{"A": ""}}, codes.InvalidArgument, "three//map[]"},
	}
	for _, tt := range tests {
		tt.in.DeviceId = id
		_, err := client.Update(ctx(t), tt.in)
		wantCode(t, tt.name, err, tt.code)
		d, err := client.Get(ctx(t), &devices.GetDeviceRequest{DeviceId: id})
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%s/%s/%v", d.Name, d.Description, d.Labels); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}

func TestDevices_List(t *testing.T) {
	client := devices.NewDeviceServiceClient(start(t, "").dial(t, "operator"))
	for i := range 7 {
		createDevice(t, client, fmt.Sprintf("cam-%d", i))
	}
	byRegistry := &devices.ListDevicesRequest_RegistryId{RegistryId: "default"}
	for _, size := range []int64{0, 1, 3, 7, 20000} {
		in := &devices.ListDevicesRequest{Id: byRegistry, PageSize: size}
		var names []string
		for {
			page, err := client.List(ctx(t), in)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range page.Devices {
				names = append(names, d.Name)
			}
			if in.PageToken = page.NextPageToken; in.PageToken == "" {
				break
			}
		}
		if len(names) != 7 || !slices.IsSorted(names) {
			t.Errorf("%d a page: %v", size, names)
		}
	}
	page, err := client.List(ctx(t), &devices.ListDevicesRequest{Id: &devices.ListDevicesRequest_FolderId{FolderId: "default"}})
	if err != nil || len(page.Devices) != 7 {
		t.Errorf("by folder: %d devices, %v", len(page.GetDevices()), err)
	}
}

func TestDevices_FullViewHasPresence(t *testing.T) {
	w := start(t, "")
	client := devices.NewDeviceServiceClient(w.dial(t, "operator"))
	id := createDevice(t, client, "cam")
	since := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	for _, online := range []bool{true, false} {
		w.mu.Lock()
		w.presence = device.Presence{Online: online, Since: since, LastSeen: since.Add(time.Minute)}
		w.mu.Unlock()
		d, err := client.Get(ctx(t), &devices.GetDeviceRequest{DeviceId: id, DeviceView: devices.DeviceView_FULL})
		if err != nil {
			t.Fatal(err)
		}
		m := d.MonitoringData
		if !m.LastOnlineTime.AsTime().Equal(since.Add(time.Minute)) || (m.LastDisconnectTime == nil) != online || (m.LastAuthTime != nil) != online {
			t.Errorf("online %v: %+v", online, m)
		}
	}
}

// I10: what is refused names its field and changes nothing.
func TestServices_BadInput(t *testing.T) {
	w := start(t, "")
	conn := w.dial(t, "operator")
	client, registries := devices.NewDeviceServiceClient(conn), devices.NewRegistryServiceClient(conn)
	toDevice, fromDevice := devices.NewRegistryDataServiceClient(conn), devices.NewDeviceDataServiceClient(conn)
	cert, _ := opensslCert(t)
	id := createDevice(t, client, "taken")
	if _, err := client.AddCertificate(ctx(t), &devices.AddDeviceCertificateRequest{DeviceId: id, CertificateData: cert}); err != nil {
		t.Fatal(err)
	}
	create := func(in *devices.CreateDeviceRequest) error { _, err := client.Create(ctx(t), in); return err }
	command := func(registry, topic string) error {
		_, err := toDevice.Publish(ctx(t), &devices.PublishRegistryDataRequest{RegistryId: registry, Topic: topic})
		return err
	}
	event := func(id, topic string) error {
		_, err := fromDevice.Publish(ctx(t), &devices.PublishDeviceDataRequest{DeviceId: id, Topic: topic})
		return err
	}
	tests := map[string]struct {
		call  func() error
		code  codes.Code
		field string
	}{
		"create without a registry":  {func() error { return create(&devices.CreateDeviceRequest{}) }, codes.InvalidArgument, "registry_id"},
		"create in another registry": {func() error { return create(&devices.CreateDeviceRequest{RegistryId: "x"}) }, codes.NotFound, ""},
		"create with a bad name":     {func() error { return create(&devices.CreateDeviceRequest{RegistryId: "default", Name: "a b"}) }, codes.InvalidArgument, "name"},
		"create with a taken name":   {func() error { return create(&devices.CreateDeviceRequest{RegistryId: "default", Name: "taken"}) }, codes.AlreadyExists, ""},
		"create with a password":     {func() error { return create(&devices.CreateDeviceRequest{RegistryId: "default", Password: "x"}) }, codes.InvalidArgument, "password"},
		"create with aliases": {func() error {
			return create(&devices.CreateDeviceRequest{RegistryId: "default", TopicAliases: map[string]string{"a": "b"}})
		}, codes.InvalidArgument, "topic_aliases"},
		"create with a bad certificate": {func() error {
			return create(&devices.CreateDeviceRequest{RegistryId: "default", Certificates: withCertificates("x")})
		}, codes.InvalidArgument, "certificates[0].certificate_data"},
		"create with a taken certificate": {func() error {
			return create(&devices.CreateDeviceRequest{RegistryId: "default", Certificates: withCertificates(cert)})
		}, codes.AlreadyExists, ""},
		"add a bad certificate": {func() error {
			_, err := client.AddCertificate(ctx(t), &devices.AddDeviceCertificateRequest{DeviceId: id, CertificateData: "x"})
			return err
		}, codes.InvalidArgument, "certificate_data"},
		"add to a stranger": {func() error {
			other, _ := opensslCert(t)
			_, err := client.AddCertificate(ctx(t), &devices.AddDeviceCertificateRequest{DeviceId: "stranger", CertificateData: other})
			return err
		}, codes.NotFound, ""},
		"delete an unknown certificate": {func() error {
			_, err := client.DeleteCertificate(ctx(t), &devices.DeleteDeviceCertificateRequest{DeviceId: id, Fingerprint: "00"})
			return err
		}, codes.NotFound, ""},
		"list by another registry": {func() error {
			_, err := client.List(ctx(t), &devices.ListDevicesRequest{Id: &devices.ListDevicesRequest_RegistryId{RegistryId: "x"}})
			return err
		}, codes.NotFound, ""},
		"list by another folder": {func() error {
			_, err := client.List(ctx(t), &devices.ListDevicesRequest{Id: &devices.ListDevicesRequest_FolderId{FolderId: "x"}})
			return err
		}, codes.NotFound, ""},
		"a foreign page token": {func() error {
			_, err := client.List(ctx(t), &devices.ListDevicesRequest{Id: &devices.ListDevicesRequest_RegistryId{RegistryId: "default"}, PageToken: "!"})
			return err
		}, codes.InvalidArgument, "page_token"},
		"another registry": {func() error {
			_, err := registries.Get(ctx(t), &devices.GetRegistryRequest{RegistryId: "x"})
			return err
		}, codes.NotFound, ""},
		"registries of another folder": {func() error {
			_, err := registries.List(ctx(t), &devices.ListRegistriesRequest{FolderId: "x"})
			return err
		}, codes.NotFound, ""},
		"command through another registry": {func() error { return command("x", "$devices/"+id+"/commands") }, codes.NotFound, ""},
		"command to a stranger":            {func() error { return command("default", "$devices/stranger/commands") }, codes.NotFound, ""},
		"command to events":                {func() error { return command("default", "$devices/"+id+"/events") }, codes.InvalidArgument, "topic"},
		"command to a topic like it":       {func() error { return command("default", "$devices/"+id+"/commandsx") }, codes.InvalidArgument, "topic"},
		"command with a wildcard":          {func() error { return command("default", "$devices/"+id+"/commands/#") }, codes.InvalidArgument, "topic"},
		"command to all devices":           {func() error { return command("default", "$devices/+/commands") }, codes.InvalidArgument, "topic"},
		"command to the registry":          {func() error { return command("default", "$registries/default/commands") }, codes.InvalidArgument, "topic"},
		"event of a stranger":              {func() error { return event("stranger", "$devices/stranger/events") }, codes.NotFound, ""},
		"event on another's topic":         {func() error { return event(id, "$devices/other/events") }, codes.InvalidArgument, "topic"},
		"event on commands":                {func() error { return event(id, "$devices/"+id+"/commands") }, codes.InvalidArgument, "topic"},
		"event with a wildcard":            {func() error { return event(id, "$devices/"+id+"/events/+") }, codes.InvalidArgument, "topic"},
		"an unknown operation": {func() error {
			_, err := operation.NewOperationServiceClient(conn).Get(ctx(t), &operation.GetOperationRequest{OperationId: "x"})
			return err
		}, codes.NotFound, ""},
		"passwords": {func() error {
			_, err := client.ListPasswords(ctx(t), &devices.ListDevicePasswordsRequest{DeviceId: id})
			return err
		}, codes.Unimplemented, ""},
		"a registry more": {func() error {
			_, err := registries.Create(ctx(t), &devices.CreateRegistryRequest{FolderId: "default", Name: "x"})
			return err
		}, codes.Unimplemented, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := tt.call()
			wantCode(t, "call", err, tt.code)
			if tt.field != "" && !slices.Equal(fields(err), []string{tt.field}) {
				t.Errorf("fields %v, want %q", fields(err), tt.field)
			}
		})
	}
	if n := w.registry.Count(); n != 1 {
		t.Errorf("%d devices, want 1", n)
	}
	if got := w.take(); len(got) != 0 {
		t.Errorf("published %v", got)
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

func TestRegistries_TheOne(t *testing.T) {
	client := devices.NewRegistryServiceClient(start(t, "").dial(t, "operator"))
	list, err := client.List(ctx(t), &devices.ListRegistriesRequest{FolderId: "default"})
	if err != nil || len(list.Registries) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	byID, err := client.Get(ctx(t), &devices.GetRegistryRequest{RegistryId: list.Registries[0].Id})
	if err != nil {
		t.Fatal(err)
	}
	byName, err := client.GetByName(ctx(t), &devices.GetByNameRegistryRequest{FolderId: "default", RegistryName: byID.Name})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []*devices.Registry{list.Registries[0], byID, byName} {
		if r.Id != "default" || r.FolderId != "default" || r.Status != devices.Registry_ACTIVE || time.Since(r.CreatedAt.AsTime()) > time.Minute {
			t.Errorf("%+v", r)
		}
	}
}

func TestPublish_ReachesThePublisher(t *testing.T) {
	w := start(t, "")
	conn := w.dial(t, "operator")
	id := createDevice(t, devices.NewDeviceServiceClient(conn), "cam")
	for _, topic := range []string{"commands", "commands/reboot/now"} {
		_, err := devices.NewRegistryDataServiceClient(conn).Publish(ctx(t), &devices.PublishRegistryDataRequest{
			RegistryId: "default", Topic: "$devices/" + id + "/" + topic, Data: []byte("c"),
		})
		wantCode(t, topic, err, codes.OK)
	}
	for _, topic := range []string{"$devices/" + id + "/events", "$devices/" + id + "/events/a", "$me/device/events/b"} {
		_, err := devices.NewDeviceDataServiceClient(conn).Publish(ctx(t), &devices.PublishDeviceDataRequest{DeviceId: id, Topic: topic, Data: []byte("e")})
		wantCode(t, topic, err, codes.OK)
	}
	want := []string{
		"command " + id + ` "" c`, "command " + id + ` "reboot/now" c`,
		"event " + id + ` "$devices/` + id + `/events" e`, "event " + id + ` "$devices/` + id + `/events/a" e`, "event " + id + ` "$devices/` + id + `/events/b" e`,
	}
	if got := w.take(); !slices.Equal(got, want) {
		t.Errorf("published %q, want %q", got, want)
	}
	w.mu.Lock()
	w.refuse = device.Errorf(device.Invalid, "data holds a request id")
	w.mu.Unlock()
	_, err := devices.NewRegistryDataServiceClient(conn).Publish(ctx(t), &devices.PublishRegistryDataRequest{RegistryId: "default", Topic: "$devices/" + id + "/commands"})
	wantCode(t, "refused by the publisher", err, codes.InvalidArgument)
}

func TestEndpoints_OpenToAnyone(t *testing.T) {
	tests := map[string]struct{ configured, want string }{
		"the address of the call": {"", ""},
		"the configured one":      {"broker.example:8884", "broker.example:8884"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := start(t, tt.configured)
			if tt.want == "" {
				tt.want = w.addr
			}
			client := endpoint.NewApiEndpointServiceClient(w.dial(t, ""))
			list, err := client.List(ctx(t), &endpoint.ListApiEndpointsRequest{})
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, e := range list.Endpoints {
				ids = append(ids, e.Id)
				if e.Address != tt.want {
					t.Errorf("%s is at %s, want %s", e.Id, e.Address, tt.want)
				}
			}
			if want := []string{"endpoint", "iot-data", "iot-devices", "operation"}; !slices.Equal(ids, want) {
				t.Errorf("endpoints %v, want %v", ids, want)
			}
			one, err := client.Get(ctx(t), &endpoint.GetApiEndpointRequest{ApiEndpointId: "iot-devices"})
			if err != nil || one.Address != tt.want {
				t.Errorf("%+v, %v", one, err)
			}
			_, err = client.Get(ctx(t), &endpoint.GetApiEndpointRequest{ApiEndpointId: "compute"})
			wantCode(t, "another endpoint", err, codes.NotFound)
		})
	}
}

// The limits come after the guard: a caller without rights learns nothing of them.
func TestServices_RolesComeFirst(t *testing.T) {
	w := start(t, "")
	bad := &devices.CreateDeviceRequest{Name: "a b"}
	for role, code := range map[identity.Role]codes.Code{
		"": codes.Unauthenticated, identity.RoleService: codes.PermissionDenied, identity.RoleOperator: codes.InvalidArgument,
	} {
		_, err := devices.NewDeviceServiceClient(w.dial(t, string(role))).Create(ctx(t), bad)
		wantCode(t, "role "+string(role), err, code)
	}
}

func TestOperations_AreBounded(t *testing.T) {
	o := newOperations(time.Now)
	var ids []string
	for range maxOperations + 5 {
		op, err := o.done("test", &emptypb.Empty{}, &emptypb.Empty{})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, op.Id)
	}
	for i, id := range ids {
		_, err := o.Get(ctx(t), &operation.GetOperationRequest{OperationId: id})
		if (err == nil) != (i >= 5) {
			t.Fatalf("operation %d of %d: %v", i, len(ids), err)
		}
	}
	if len(o.byID) != maxOperations {
		t.Errorf("%d are kept, want %d", len(o.byID), maxOperations)
	}
}
