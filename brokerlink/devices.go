package brokerlink

import (
	"context"

	"google.golang.org/protobuf/types/known/durationpb"

	"signaldevice/device"
	"signaldevice/dispatch"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// CreateDevice implements dispatch.Broker.
func (l *Link) CreateDevice(ctx context.Context, d dispatch.NewDevice) (dispatch.Registration, error) {
	if err := l.reachable(ctx); err != nil {
		return dispatch.Registration{}, err
	}
	in := &brokerv1.CreateDeviceRequest{Name: d.Name, Labels: d.Labels}
	switch {
	case d.Credential.CSR != "":
		in.Credential = &brokerv1.CreateDeviceRequest_Csr{Csr: d.Credential.CSR}
	case d.Credential.Certificate != "":
		in.Credential = &brokerv1.CreateDeviceRequest_Certificate{Certificate: d.Credential.Certificate}
	}
	return readRegistration(l.devices.CreateDevice(ctx, in))
}

// Enrol implements dispatch.Broker.
func (l *Link) Enrol(ctx context.Context, e dispatch.Enrolment) (dispatch.Registration, error) {
	if err := l.reachable(ctx); err != nil {
		return dispatch.Registration{}, err
	}
	return readRegistration(l.devices.EnrolDevice(ctx, &brokerv1.EnrolDeviceRequest{Code: e.Code, Csr: e.CSR, Name: e.Name}))
}

func readRegistration(out *brokerv1.CreateDeviceResponse, err error) (dispatch.Registration, error) {
	if err != nil {
		return dispatch.Registration{}, translate(err, write)
	}
	return dispatch.Registration{
		Device: readDevice(out.Device), Certificate: out.Certificate, Repeated: out.Repeated,
		CA: out.GetConnection().GetCa(), MQTT: out.GetConnection().GetMqtt(),
	}, nil
}

// CreateEnrolmentCode implements dispatch.Broker.
func (l *Link) CreateEnrolmentCode(ctx context.Context, c dispatch.NewCode) (dispatch.Code, error) {
	if err := l.reachable(ctx); err != nil {
		return dispatch.Code{}, err
	}
	in := &brokerv1.CreateEnrolmentCodeRequest{Labels: c.Labels, Name: c.Name}
	if c.ExpiresIn > 0 {
		in.ExpiresIn = durationpb.New(c.ExpiresIn)
	}
	out, err := l.devices.CreateEnrolmentCode(ctx, in)
	if err != nil {
		return dispatch.Code{}, translate(err, write)
	}
	return dispatch.Code{Code: out.Code, ExpiresAt: moment(out.ExpiresAt)}, nil
}

// Device implements dispatch.Broker.
func (l *Link) Device(ctx context.Context, id device.ID) (device.Device, error) {
	out, err := l.devices.GetDevice(ctx, &brokerv1.GetDeviceRequest{DeviceId: string(id)})
	if err != nil {
		return device.Device{}, translate(err, read)
	}
	return readDevice(out), nil
}

// Devices implements dispatch.Broker.
func (l *Link) Devices(ctx context.Context, f dispatch.DeviceFilter) ([]device.Device, string, error) {
	out, err := l.devices.ListDevices(ctx, &brokerv1.ListDevicesRequest{
		Labels: f.Labels, Name: f.Name, Online: f.Online, PageSize: int32(f.Limit), PageToken: f.Cursor,
	})
	if err != nil {
		return nil, "", translate(err, read)
	}
	items := make([]device.Device, len(out.Devices))
	for i, d := range out.Devices {
		items[i] = readDevice(d)
	}
	return items, out.NextPageToken, nil
}

// DeleteDevice implements dispatch.Broker.
func (l *Link) DeleteDevice(ctx context.Context, id device.ID) error {
	if err := l.reachable(ctx); err != nil {
		return err
	}
	_, err := l.devices.DeleteDevice(ctx, &brokerv1.DeleteDeviceRequest{DeviceId: string(id)})
	return translate(err, write)
}

// AddCertificate implements dispatch.Broker.
func (l *Link) AddCertificate(ctx context.Context, id device.ID, c dispatch.Credential) (device.Certificate, error) {
	if err := l.reachable(ctx); err != nil {
		return device.Certificate{}, err
	}
	in := &brokerv1.IssueCertificateRequest{DeviceId: string(id)}
	switch {
	case c.CSR != "":
		in.Credential = &brokerv1.IssueCertificateRequest_Csr{Csr: c.CSR}
	case c.Certificate != "":
		in.Credential = &brokerv1.IssueCertificateRequest_Certificate{Certificate: c.Certificate}
	}
	out, err := l.devices.IssueCertificate(ctx, in)
	if err != nil {
		return device.Certificate{}, translate(err, write)
	}
	return readCertificate(out.Certificate), nil
}

// RevokeCertificate implements dispatch.Broker.
func (l *Link) RevokeCertificate(ctx context.Context, id device.ID, fingerprint string) error {
	if err := l.reachable(ctx); err != nil {
		return err
	}
	_, err := l.devices.RevokeCertificate(ctx, &brokerv1.RevokeCertificateRequest{DeviceId: string(id), Fingerprint: fingerprint})
	return translate(err, write)
}

func readDevice(d *brokerv1.Device) device.Device {
	out := device.Device{
		ID: device.ID(d.GetId()), RegistryID: d.GetRegistryId(), Name: d.GetName(), Description: d.GetDescription(),
		Labels: d.GetLabels(), CreatedAt: moment(d.GetCreatedAt()),
		Presence: device.Presence{Online: d.GetOnline(), Since: moment(d.GetSince()), LastSeen: moment(d.GetLastSeen())},
	}
	for _, c := range d.GetCertificates() {
		out.Certificates = append(out.Certificates, readCertificate(c))
	}
	return out
}

func readCertificate(c *brokerv1.Certificate) device.Certificate {
	return device.Certificate{Fingerprint: c.GetFingerprint(), PEM: c.GetPem(), NotAfter: moment(c.GetNotAfter())}
}
