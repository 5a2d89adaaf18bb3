package iotcore

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	devices "github.com/yandex-cloud/go-genproto/yandex/cloud/iot/devices/v1"
	"github.com/yandex-cloud/go-genproto/yandex/cloud/operation"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"signaldevice/device"
)

func testLimits(t *testing.T) *limits {
	t.Helper()
	l, err := newLimits(
		devices.File_yandex_cloud_iot_devices_v1_device_service_proto,
		devices.File_yandex_cloud_iot_devices_v1_registry_service_proto,
		devices.File_yandex_cloud_iot_devices_v1_registry_data_service_proto,
		devices.File_yandex_cloud_iot_devices_v1_device_data_service_proto,
		operation.File_yandex_cloud_operation_operation_service_proto,
	)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func labels(n int) map[string]string {
	l := map[string]string{}
	for i := range n {
		l[fmt.Sprintf("k%d", i)] = "v"
	}
	return l
}

// Every limit of the protos from both sides, and the field that the answer names.
func TestLimits_OfTheProtos(t *testing.T) {
	l := testLimits(t)
	create := func(edit func(*devices.CreateDeviceRequest)) proto.Message {
		m := &devices.CreateDeviceRequest{RegistryId: "default", Name: "cam", Labels: map[string]string{"depot": "north"}}
		edit(m)
		return m
	}
	list := func(edit func(*devices.ListDevicesRequest)) proto.Message {
		m := &devices.ListDevicesRequest{Id: &devices.ListDevicesRequest_RegistryId{RegistryId: "default"}}
		edit(m)
		return m
	}
	publish := func(edit func(*devices.PublishRegistryDataRequest)) proto.Message {
		m := &devices.PublishRegistryDataRequest{RegistryId: "default", Topic: "t", Data: []byte("d")}
		edit(m)
		return m
	}
	long := strings.Repeat
	tests := map[string]struct {
		msg   proto.Message
		field string // "": accepted
	}{
		"create as built":         {create(func(*devices.CreateDeviceRequest) {}), ""},
		"no registry":             {create(func(m *devices.CreateDeviceRequest) { m.RegistryId = "" }), "registry_id"},
		"registry of 50":          {create(func(m *devices.CreateDeviceRequest) { m.RegistryId = long("r", 50) }), ""},
		"registry of 51":          {create(func(m *devices.CreateDeviceRequest) { m.RegistryId = long("r", 51) }), "registry_id"},
		"no name":                 {create(func(m *devices.CreateDeviceRequest) { m.Name = "" }), ""},
		"name of 50":              {create(func(m *devices.CreateDeviceRequest) { m.Name = long("n", 50) }), ""},
		"name of 51":              {create(func(m *devices.CreateDeviceRequest) { m.Name = long("n", 51) }), "name"},
		"name with a dot":         {create(func(m *devices.CreateDeviceRequest) { m.Name = "a.b" }), "name"},
		"name with a line end":    {create(func(m *devices.CreateDeviceRequest) { m.Name = "a\n" }), "name"},
		"description of 256":      {create(func(m *devices.CreateDeviceRequest) { m.Description = long("ы", 256) }), ""},
		"description of 257":      {create(func(m *devices.CreateDeviceRequest) { m.Description = long("ы", 257) }), "description"},
		"64 labels":               {create(func(m *devices.CreateDeviceRequest) { m.Labels = labels(64) }), ""},
		"65 labels":               {create(func(m *devices.CreateDeviceRequest) { m.Labels = labels(65) }), "labels"},
		"label key of 63":         {create(func(m *devices.CreateDeviceRequest) { m.Labels = map[string]string{long("k", 63): ""} }), ""},
		"label key of 64":         {create(func(m *devices.CreateDeviceRequest) { m.Labels = map[string]string{long("k", 64): ""} }), "labels"},
		"empty label key":         {create(func(m *devices.CreateDeviceRequest) { m.Labels = map[string]string{"": ""} }), "labels"},
		"label key with a digit":  {create(func(m *devices.CreateDeviceRequest) { m.Labels = map[string]string{"1k": ""} }), "labels"},
		"label value of 63":       {create(func(m *devices.CreateDeviceRequest) { m.Labels = map[string]string{"k": long("v", 63)} }), ""},
		"label value of 64":       {create(func(m *devices.CreateDeviceRequest) { m.Labels = map[string]string{"k": long("v", 64)} }), "labels"},
		"label value in capitals": {create(func(m *devices.CreateDeviceRequest) { m.Labels = map[string]string{"k": "V"} }), "labels"},
		"list by registry":        {list(func(*devices.ListDevicesRequest) {}), ""},
		"list by folder":          {list(func(m *devices.ListDevicesRequest) { m.Id = &devices.ListDevicesRequest_FolderId{FolderId: "default"} }), ""},
		"list by nothing":         {list(func(m *devices.ListDevicesRequest) { m.Id = nil }), "id"},
		"list by too long a folder": {list(func(m *devices.ListDevicesRequest) {
			m.Id = &devices.ListDevicesRequest_FolderId{FolderId: long("f", 51)}
		}), "folder_id"},
		"page of 20000":     {list(func(m *devices.ListDevicesRequest) { m.PageSize = 20000 }), ""},
		"page of 20001":     {list(func(m *devices.ListDevicesRequest) { m.PageSize = 20001 }), "page_size"},
		"page of -1":        {list(func(m *devices.ListDevicesRequest) { m.PageSize = -1 }), "page_size"},
		"page token of 100": {list(func(m *devices.ListDevicesRequest) { m.PageToken = long("t", 100) }), ""},
		"page token of 101": {list(func(m *devices.ListDevicesRequest) { m.PageToken = long("t", 101) }), "page_token"},
		"publish as built":  {publish(func(*devices.PublishRegistryDataRequest) {}), ""},
		"publish nothing":   {publish(func(m *devices.PublishRegistryDataRequest) { m.Data = nil }), ""},
		"data of 262144":    {publish(func(m *devices.PublishRegistryDataRequest) { m.Data = make([]byte, 262144) }), ""},
		"data of 262145":    {publish(func(m *devices.PublishRegistryDataRequest) { m.Data = make([]byte, 262145) }), "data"},
		"no topic":          {publish(func(m *devices.PublishRegistryDataRequest) { m.Topic = "" }), "topic"},
		"topic of 1024":     {publish(func(m *devices.PublishRegistryDataRequest) { m.Topic = long("t", 1024) }), ""},
		"topic of 1025":     {publish(func(m *devices.PublishRegistryDataRequest) { m.Topic = long("t", 1025) }), "topic"},
		"no device":         {&devices.GetDeviceRequest{}, "device_id"},
		"no operation":      {&operation.GetOperationRequest{}, "operation_id"},
		"password of 14":    {&devices.AddDevicePasswordRequest{DeviceId: "d", Password: long("p", 14)}, ""},
		"password of 13":    {&devices.AddDevicePasswordRequest{DeviceId: "d", Password: long("p", 13)}, "password"},
		"no password":       {&devices.AddDevicePasswordRequest{DeviceId: "d"}, "password"},
		"no fingerprint":    {&devices.DeleteDeviceCertificateRequest{DeviceId: "d"}, "fingerprint"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			err := l.check(tt.msg)
			if tt.field == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			var e *device.Error
			if !errors.As(err, &e) || e.Kind != device.Invalid || len(e.Faults) != 1 || e.Faults[0].Location != tt.field {
				t.Fatalf("%+v, want Invalid at %q", err, tt.field)
			}
		})
	}
}

func TestLimits_EveryFaultButBounded(t *testing.T) {
	l := testLimits(t)
	err := l.check(&devices.CreateDeviceRequest{Name: "a.b", Description: strings.Repeat("x", 257)})
	var e *device.Error
	if !errors.As(err, &e) {
		t.Fatal(err)
	}
	var places []string
	for _, f := range e.Faults {
		places = append(places, f.Location)
	}
	if want := []string{"registry_id", "name", "description"}; !slices.Equal(places, want) {
		t.Errorf("faults at %v, want %v", places, want)
	}
	bad := map[string]string{}
	for i := range 1000 {
		bad[fmt.Sprintf("K%d", i)] = "V"
	}
	err = l.check(&devices.CreateDeviceRequest{RegistryId: "default", Labels: bad})
	if !errors.As(err, &e) || len(e.Faults) != maxFaults {
		t.Errorf("%d faults, want %d", len(e.Faults), maxFaults)
	}
}

func TestLimits_UnknownMessagesAreRefused(t *testing.T) {
	if err := testLimits(t).check(&emptypb.Empty{}); err == nil {
		t.Error("a message whose limits nobody read was let through")
	}
}

func TestReadSpan_Forms(t *testing.T) {
	tests := map[string]struct{ least, most int64 }{ // -1: open
		"<=50": {-1, 50}, "<50": {-1, 49}, ">=14": {14, -1}, ">0": {1, -1}, "1-63": {1, 63}, "5": {5, 5}, "0-20000": {0, 20000},
	}
	for text, want := range tests {
		s, err := readSpan(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if want.least >= 0 && (s.holds(want.least-1) || !s.holds(want.least)) || want.most >= 0 && (s.holds(want.most+1) || !s.holds(want.most)) {
			t.Errorf("%s is read as %s", text, s)
		}
		if (s.least == nil) != (want.least < 0) || (s.most == nil) != (want.most < 0) {
			t.Errorf("%s is read as %s", text, s)
		}
	}
	for _, text := range []string{"a", "1-", "-1", "1..5", "<=", "=5", "1,2"} {
		if s, err := readSpan(text); err == nil {
			t.Errorf("%q is read as %s", text, s)
		}
	}
}
