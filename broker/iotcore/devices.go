package iotcore

import (
	"context"
	"strings"

	devices "github.com/yandex-cloud/go-genproto/yandex/cloud/iot/devices/v1"
	"github.com/yandex-cloud/go-genproto/yandex/cloud/operation"
	"google.golang.org/protobuf/types/known/emptypb"

	"signaldevice/broker/registry"
	"signaldevice/device"
)

// deviceService serves yandex.cloud.iot.devices.v1.DeviceService.
type deviceService struct {
	devices.UnimplementedDeviceServiceServer
	registry   *registry.Registry
	presence   func(device.ID) device.Presence
	operations *operations
}

func (s *deviceService) Get(ctx context.Context, in *devices.GetDeviceRequest) (*devices.Device, error) {
	d, err := s.registry.Find(ctx, device.ID(in.DeviceId))
	if err != nil {
		return nil, err
	}
	return s.device(d, in.DeviceView), nil
}

func (s *deviceService) GetByName(ctx context.Context, in *devices.GetByNameDeviceRequest) (*devices.Device, error) {
	if in.RegistryId != registry.DefaultID {
		return nil, noRegistry()
	}
	d, err := s.registry.FindByName(ctx, in.RegistryId, in.DeviceName)
	if err != nil {
		return nil, err
	}
	return s.device(d, in.DeviceView), nil
}

func (s *deviceService) List(ctx context.Context, in *devices.ListDevicesRequest) (*devices.ListDevicesResponse, error) {
	switch id := in.Id.(type) {
	case *devices.ListDevicesRequest_RegistryId:
		if id.RegistryId != registry.DefaultID {
			return nil, noRegistry()
		}
	case *devices.ListDevicesRequest_FolderId:
		if id.FolderId != registry.DefaultID {
			return nil, noFolder()
		}
	}
	if err := s.registry.CatchUp(ctx); err != nil {
		return nil, err
	}
	page, next, err := s.registry.List(registry.Filter{Limit: pageSize(in.PageSize), Cursor: in.PageToken})
	if err != nil {
		return nil, err
	}
	out := &devices.ListDevicesResponse{NextPageToken: next}
	for _, d := range page {
		out.Devices = append(out.Devices, s.device(d, in.DeviceView))
	}
	return out, nil
}

func (s *deviceService) Create(ctx context.Context, in *devices.CreateDeviceRequest) (*operation.Operation, error) {
	if in.RegistryId != registry.DefaultID {
		return nil, noRegistry()
	}
	if in.Password != "" {
		return nil, invalid("password", "is not supported: a device is known by its certificates")
	}
	if len(in.TopicAliases) > 0 {
		return nil, errNoAliases()
	}
	d := registry.NewDevice{RegistryID: in.RegistryId, Name: in.Name, Description: in.Description, Labels: in.Labels}
	for _, c := range in.Certificates {
		d.Certificates = append(d.Certificates, c.GetCertificateData())
	}
	got, err := s.registry.Create(ctx, d)
	if err != nil {
		return nil, renamed(err, certificateField)
	}
	return s.operations.done("Create device", &devices.CreateDeviceMetadata{DeviceId: string(got.Device.ID)}, s.device(got.Device, devices.DeviceView_BASIC))
}

func errNoAliases() error { return invalid("topic_aliases", "are not supported") }

// certificateField names the place of a certificate as CreateDeviceRequest has it.
func certificateField(location string) string {
	if strings.HasPrefix(location, "certificates[") {
		return location + ".certificate_data"
	}
	return location
}

// Update changes the fields of the mask, or those that are not empty where there is none (AIP-134).
func (s *deviceService) Update(ctx context.Context, in *devices.UpdateDeviceRequest) (*operation.Operation, error) {
	mask := in.GetUpdateMask().GetPaths()
	if in.UpdateMask == nil {
		mask = populated(in)
	}
	var p registry.Patch
	for _, path := range mask {
		switch path {
		case "name":
			p.Name = &in.Name
		case "description":
			p.Description = &in.Description
		case "labels":
			p.Labels = (*device.Labels)(&in.Labels)
		case "topic_aliases":
			return nil, errNoAliases()
		default:
			return nil, invalid("update_mask", "names a field that cannot be changed")
		}
	}
	d, err := s.registry.Update(ctx, device.ID(in.DeviceId), p)
	if err != nil {
		return nil, err
	}
	return s.operations.done("Update device", &devices.UpdateDeviceMetadata{DeviceId: in.DeviceId}, s.device(d, devices.DeviceView_BASIC))
}

func populated(in *devices.UpdateDeviceRequest) []string {
	var mask []string
	for path, set := range map[string]bool{
		"name": in.Name != "", "description": in.Description != "",
		"labels": len(in.Labels) > 0, "topic_aliases": len(in.TopicAliases) > 0,
	} {
		if set {
			mask = append(mask, path)
		}
	}
	return mask
}

func (s *deviceService) Delete(ctx context.Context, in *devices.DeleteDeviceRequest) (*operation.Operation, error) {
	if err := s.registry.Delete(ctx, device.ID(in.DeviceId)); err != nil {
		return nil, err
	}
	return s.operations.done("Delete device", &devices.DeleteDeviceMetadata{DeviceId: in.DeviceId}, &emptypb.Empty{})
}

func (s *deviceService) ListCertificates(ctx context.Context, in *devices.ListDeviceCertificatesRequest) (*devices.ListDeviceCertificatesResponse, error) {
	d, err := s.registry.Find(ctx, device.ID(in.DeviceId))
	if err != nil {
		return nil, err
	}
	out := &devices.ListDeviceCertificatesResponse{}
	for i, c := range d.Certificates {
		out.Certificates = append(out.Certificates, &devices.DeviceCertificate{
			DeviceId: in.DeviceId, Fingerprint: c.Fingerprint, CertificateData: c.PEM, CreatedAt: timestamp(d.CertificateAddedAt(i)),
		})
	}
	return out, nil
}

func (s *deviceService) AddCertificate(ctx context.Context, in *devices.AddDeviceCertificateRequest) (*operation.Operation, error) {
	c, err := s.registry.AddCertificate(ctx, device.ID(in.DeviceId), in.CertificateData, "")
	if err != nil {
		return nil, renamed(err, func(string) string { return "certificate_data" })
	}
	return s.operations.done("Add device certificate",
		&devices.AddDeviceCertificateMetadata{DeviceId: in.DeviceId, Fingerprint: c.Fingerprint},
		&devices.DeviceCertificate{
			DeviceId: in.DeviceId, Fingerprint: c.Fingerprint, CertificateData: c.PEM, CreatedAt: timestamp(s.operations.clock()),
		})
}

func (s *deviceService) DeleteCertificate(ctx context.Context, in *devices.DeleteDeviceCertificateRequest) (*operation.Operation, error) {
	if err := s.registry.RemoveCertificate(ctx, device.ID(in.DeviceId), in.Fingerprint); err != nil {
		return nil, err
	}
	return s.operations.done("Delete device certificate",
		&devices.DeleteDeviceCertificateMetadata{DeviceId: in.DeviceId, Fingerprint: in.Fingerprint}, &emptypb.Empty{})
}

func (s *deviceService) device(d *registry.Snapshot, view devices.DeviceView) *devices.Device {
	out := &devices.Device{
		Id: string(d.ID), RegistryId: d.RegistryID, CreatedAt: timestamp(d.CreatedAt), Name: d.Name,
		Description: d.Description, Status: devices.Device_ACTIVE, Labels: d.Labels,
	}
	if view == devices.DeviceView_FULL {
		out.MonitoringData = monitoring(s.presence(d.ID))
	}
	return out
}

// monitoring tells what is known of a device's connections.
func monitoring(p device.Presence) *devices.DeviceMonitoringData {
	out := &devices.DeviceMonitoringData{LastOnlineTime: timestamp(p.LastSeen)}
	if p.Online {
		out.LastAuthTime = timestamp(p.Since)
	} else {
		out.LastDisconnectTime = timestamp(p.Since)
	}
	return out
}
