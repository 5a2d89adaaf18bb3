package rpc

import (
	"context"
	"errors"
	"time"

	"signaldevice/broker/identity"
	"signaldevice/broker/registry"
	"signaldevice/device"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// Connection is what a device needs in order to connect.
type Connection struct {
	CA   string // PEM of the CA of the broker's server certificate
	MQTT string // ssl://host:port
}

// DeviceConfig is what a DeviceServer needs.
type DeviceConfig struct {
	Connection Connection
	Registry   *registry.Registry
	Presence   func(device.ID) device.Presence
}

// DeviceServer serves signaldevice.broker.v1.DeviceService. It is safe for concurrent use.
type DeviceServer struct {
	brokerv1.UnimplementedDeviceServiceServer
	cfg DeviceConfig
}

// NewDeviceServer returns a server over a registry.
func NewDeviceServer(cfg DeviceConfig) *DeviceServer { return &DeviceServer{cfg: cfg} }

// CreateDevice registers a device with the certificate it brings or one signed for its CSR, or, for an operator, one
// that was registered elsewhere, with its id and its certificates.
func (s *DeviceServer) CreateDevice(ctx context.Context, in *brokerv1.CreateDeviceRequest) (*brokerv1.CreateDeviceResponse, error) {
	if in.DeviceId != "" && !isOperator(ctx) {
		return nil, device.Errorf(device.Forbidden, "only the role %q may choose a device's id", identity.RoleOperator)
	}
	var f faults
	if in.Name == "" {
		f.add("name", "is missing")
	}
	switch {
	case in.DeviceId != "" && in.Credential != nil:
		f.add("credential", "does not go with device_id: give certificates")
	case in.DeviceId == "" && in.Credential == nil:
		f.add("credential", "is missing: certificate or csr")
	}
	if in.DeviceId == "" && len(in.Certificates) > 0 {
		f.add("certificates", "go only with device_id")
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	d := registry.NewDevice{
		ID: device.ID(in.DeviceId), RegistryID: in.RegistryId, Name: in.Name, Description: in.Description, Labels: in.Labels,
		Certificates: in.Certificates, CSR: in.GetCsr(),
	}
	switch c := in.Credential.(type) {
	case *brokerv1.CreateDeviceRequest_Certificate:
		d.Certificates = []string{c.Certificate}
	case *brokerv1.CreateDeviceRequest_Csr:
		if c.Csr == "" {
			return nil, emptyCSR()
		}
	}
	got, err := s.cfg.Registry.Create(ctx, d)
	switch {
	case err == nil:
		return s.registration(got), nil
	case in.DeviceId == "":
		return nil, renamed(err, "certificates[0]", "certificate")
	}
	return nil, renamed(err, "id", "device_id")
}

// emptyCSR is the fault that the registry cannot see: for it an empty text means that there is none.
func emptyCSR() error {
	return &device.Error{
		Kind: device.InvalidCSR, Message: "the certificate signing request is empty",
		Faults: []device.Fault{{Location: "csr", Message: "is empty"}},
	}
}

// renamed gives a fault the name that its field has here.
func renamed(err error, from, to string) error {
	if e, ok := errors.AsType[*device.Error](err); ok {
		for i := range e.Faults {
			if e.Faults[i].Location == from {
				e.Faults[i].Location = to
			}
		}
	}
	return err
}

// EnrolDevice registers the device that holds an enrolment code.
func (s *DeviceServer) EnrolDevice(ctx context.Context, in *brokerv1.EnrolDeviceRequest) (*brokerv1.CreateDeviceResponse, error) {
	got, err := s.cfg.Registry.Enrol(ctx, in.Code, in.Csr, in.Name)
	if err != nil {
		return nil, err
	}
	return s.registration(got), nil
}

func (s *DeviceServer) registration(r registry.Registration) *brokerv1.CreateDeviceResponse {
	return &brokerv1.CreateDeviceResponse{
		Device: s.device(r.Device), Certificate: r.Certificate, Connection: s.connection(), Repeated: r.Repeated,
	}
}

// CreateEnrolmentCode makes a one-time code.
func (s *DeviceServer) CreateEnrolmentCode(ctx context.Context, in *brokerv1.CreateEnrolmentCodeRequest) (*brokerv1.CreateEnrolmentCodeResponse, error) {
	c := registry.NewCode{Name: in.Name, Labels: in.Labels}
	if in.ExpiresIn != nil {
		var f faults
		c.ExpiresIn = f.duration("expires_in", in.ExpiresIn, time.Second, maxWithin)
		if err := f.err(); err != nil {
			return nil, err
		}
	}
	code, expiresAt, err := s.cfg.Registry.CreateCode(ctx, c)
	if err != nil {
		return nil, err
	}
	return &brokerv1.CreateEnrolmentCodeResponse{Code: code, ExpiresAt: timestamp(expiresAt)}, nil
}

// GetDevice returns one device with its presence.
func (s *DeviceServer) GetDevice(ctx context.Context, in *brokerv1.GetDeviceRequest) (*brokerv1.Device, error) {
	var f faults
	id := f.device(in.DeviceId)
	if err := f.err(); err != nil {
		return nil, err
	}
	d, err := s.cfg.Registry.Find(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.device(d), nil
}

// ListDevices returns a page of devices in the order of their names. It may hold fewer than page_size, so that it fits
// into one message.
func (s *DeviceServer) ListDevices(ctx context.Context, in *brokerv1.ListDevicesRequest) (*brokerv1.ListDevicesResponse, error) {
	var f faults
	limit := f.page("page_size", in.PageSize, defaultPage)
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := s.cfg.Registry.CatchUp(ctx); err != nil {
		return nil, err
	}
	filter := registry.Filter{Labels: in.Labels, Name: in.Name, Limit: limit, Cursor: in.PageToken}
	if in.Online != nil {
		filter.Match = func(d *registry.Snapshot) bool { return s.cfg.Presence(d.ID).Online == *in.Online }
	}
	page, next, err := s.cfg.Registry.List(filter)
	if err != nil {
		return nil, err
	}
	out := &brokerv1.ListDevicesResponse{NextPageToken: next}
	for _, d := range page {
		out.Devices = append(out.Devices, s.device(d))
	}
	return out, nil
}

// DeleteDevice removes a device. Its connections are cut on every node that learns of it.
func (s *DeviceServer) DeleteDevice(ctx context.Context, in *brokerv1.DeleteDeviceRequest) (*brokerv1.DeleteDeviceResponse, error) {
	if err := s.cfg.Registry.Delete(ctx, device.ID(in.DeviceId)); err != nil {
		return nil, err
	}
	return &brokerv1.DeleteDeviceResponse{}, nil
}

// IssueCertificate gives a device one more certificate.
func (s *DeviceServer) IssueCertificate(ctx context.Context, in *brokerv1.IssueCertificateRequest) (*brokerv1.IssueCertificateResponse, error) {
	switch c := in.Credential.(type) {
	case nil:
		var f faults
		f.add("credential", "is missing: certificate or csr")
		return nil, f.err()
	case *brokerv1.IssueCertificateRequest_Csr:
		if c.Csr == "" {
			return nil, emptyCSR()
		}
	}
	c, err := s.cfg.Registry.AddCertificate(ctx, device.ID(in.DeviceId), in.GetCertificate(), in.GetCsr())
	if err != nil {
		return nil, err
	}
	return &brokerv1.IssueCertificateResponse{Certificate: certificate(c)}, nil
}

// RevokeCertificate removes a certificate. Connections that use it are cut on every node that learns of it.
func (s *DeviceServer) RevokeCertificate(ctx context.Context, in *brokerv1.RevokeCertificateRequest) (*brokerv1.RevokeCertificateResponse, error) {
	if err := s.cfg.Registry.RemoveCertificate(ctx, device.ID(in.DeviceId), in.Fingerprint); err != nil {
		return nil, err
	}
	return &brokerv1.RevokeCertificateResponse{}, nil
}

// GetConnectionInfo tells what a device needs in order to connect.
func (s *DeviceServer) GetConnectionInfo(context.Context, *brokerv1.GetConnectionInfoRequest) (*brokerv1.ConnectionInfo, error) {
	return s.connection(), nil
}

func (s *DeviceServer) connection() *brokerv1.ConnectionInfo {
	return &brokerv1.ConnectionInfo{Ca: s.cfg.Connection.CA, Mqtt: s.cfg.Connection.MQTT}
}

func (s *DeviceServer) device(snapshot *registry.Snapshot) *brokerv1.Device {
	d := snapshot.With(s.cfg.Presence(snapshot.ID))
	out := &brokerv1.Device{
		Id: string(d.ID), RegistryId: d.RegistryID, Name: d.Name, Description: d.Description, Labels: d.Labels,
		CreatedAt: timestamp(d.CreatedAt), Online: d.Presence.Online,
		Since: timestamp(d.Presence.Since), LastSeen: timestamp(d.Presence.LastSeen),
	}
	for _, c := range d.Certificates {
		out.Certificates = append(out.Certificates, certificate(c))
	}
	return out
}

func certificate(c device.Certificate) *brokerv1.Certificate {
	return &brokerv1.Certificate{Fingerprint: c.Fingerprint, Pem: c.PEM, NotAfter: timestamp(c.NotAfter)}
}
