package dispatch

import (
	"context"
	"maps"

	"signaldevice/device"
)

// need returns Forbidden unless the caller has the permission.
func (c Caller) need(permission string) error {
	if !c.may(permission) {
		return device.Errorf(device.Forbidden, "this needs the permission %s", permission)
	}
	return nil
}

// covers returns Forbidden unless every device with these labels is one that the caller may touch: nobody makes a
// device for others' eyes.
func (c Caller) covers(labels device.Labels) error {
	if !labels.Match(c.Labels) {
		return device.Errorf(device.Forbidden, "the labels must include those that limit this client's role")
	}
	return nil
}

func deviceNotFound() error { return device.Errorf(device.DeviceNotFound, "no such device") }

// knownShape returns DeviceNotFound for what cannot be a device's id.
func knownShape(id device.ID) error {
	if id.Validate() != nil {
		return deviceNotFound()
	}
	return nil
}

// touchable returns DeviceNotFound unless the device exists and the caller may touch it. Without a condition it does
// not ask: the call that follows does.
func (d *Dispatcher) touchable(ctx context.Context, c Caller, id device.ID, brokerTime *allowance) error {
	if len(c.Labels) == 0 {
		return nil
	}
	_, err := d.device(ctx, c, id, brokerTime)
	return err
}

func (d *Dispatcher) device(ctx context.Context, c Caller, id device.ID, brokerTime *allowance) (dev device.Device, err error) {
	err = d.broker.ask(ctx, brokerTime, func(ctx context.Context) (err error) {
		dev, err = d.broker.Device(ctx, id)
		return err
	})
	switch {
	case device.Is(err, device.DeviceNotFound), err == nil && !dev.Labels.Match(c.Labels):
		return device.Device{}, deviceNotFound() // one answer for both, so that it tells nothing
	case err != nil:
		return device.Device{}, err
	}
	return dev, nil
}

// Device returns one device with its presence. Errors: DeviceNotFound, BrokerUnavailable.
func (d *Dispatcher) Device(ctx context.Context, c Caller, id device.ID) (device.Device, error) {
	if err := knownShape(id); err != nil {
		return device.Device{}, err
	}
	return d.device(ctx, c, id, &allowance{left: brokerBudget})
}

// Devices pages through the devices that the caller may touch. Errors: Invalid, BrokerUnavailable.
func (d *Dispatcher) Devices(ctx context.Context, c Caller, f DeviceFilter) (items []device.Device, next string, err error) {
	if err := validLimit(&f.Limit); err != nil {
		return nil, "", err
	}
	for key, value := range c.Labels {
		if asked, ok := f.Labels[key]; ok && asked != value {
			return nil, "", nil // both at once is what no device has
		}
	}
	labels := device.Labels{}
	maps.Copy(labels, f.Labels)
	maps.Copy(labels, c.Labels)
	f.Labels = labels
	err = d.broker.ask(ctx, &allowance{left: brokerBudget}, func(ctx context.Context) (err error) {
		items, next, err = d.broker.Devices(ctx, f)
		return err
	})
	return items, next, err
}

// Register registers a device for staff with device.PermRegister. Errors: Forbidden, BrokerUnavailable, OutcomeUnknown,
// and what the broker refuses: DeviceExists, CertificateInUse, InvalidCertificate, InvalidCSR, Invalid.
func (d *Dispatcher) Register(ctx context.Context, c Caller, n NewDevice) (reg Registration, err error) {
	if err := c.need(device.PermRegister); err != nil {
		return Registration{}, err
	}
	if err := c.covers(n.Labels); err != nil {
		return Registration{}, err
	}
	err = d.change(ctx, &allowance{left: brokerBudget}, "the device may have been registered; look for its name before registering it again", func(ctx context.Context) (err error) {
		reg, err = d.broker.CreateDevice(ctx, n)
		return err
	})
	return reg, err
}

// Enrol registers the device that presents an enrolment code. It needs no permission: the code is the credential.
// Errors: InvalidCode, InvalidCSR, DeviceExists, Invalid, BrokerUnavailable, OutcomeUnknown.
func (d *Dispatcher) Enrol(ctx context.Context, e Enrolment) (reg Registration, err error) {
	err = d.change(ctx, &allowance{left: brokerBudget}, "the device may have been registered; it is safe to repeat this with the same code and key", func(ctx context.Context) (err error) {
		reg, err = d.broker.Enrol(ctx, e)
		return err
	})
	return reg, err
}

// CreateEnrolmentCode makes a code, for callers with device.PermEnrolment. Errors: Forbidden, Invalid,
// BrokerUnavailable, OutcomeUnknown.
func (d *Dispatcher) CreateEnrolmentCode(ctx context.Context, c Caller, n NewCode) (code Code, err error) {
	if err := c.need(device.PermEnrolment); err != nil {
		return Code{}, err
	}
	if err := c.covers(n.Labels); err != nil {
		return Code{}, err
	}
	err = d.change(ctx, &allowance{left: brokerBudget}, "a code may have been made that nobody knows; it is safe to make another", func(ctx context.Context) (err error) {
		code, err = d.broker.CreateEnrolmentCode(ctx, n)
		return err
	})
	return code, err
}

// DeleteDevice removes a device, its certificates and its queue, for callers with device.PermDelete. Errors: Forbidden,
// DeviceNotFound, BrokerUnavailable, OutcomeUnknown.
func (d *Dispatcher) DeleteDevice(ctx context.Context, c Caller, id device.ID) error {
	return d.changeDevice(ctx, c, device.PermDelete, id, "the device may have been deleted; it is safe to repeat this",
		func(ctx context.Context) error { return d.broker.DeleteDevice(ctx, id) })
}

// AddCertificate adds a certificate to a device, for callers with device.PermCertificates; those it has stay valid.
// Errors: Forbidden, DeviceNotFound, CertificateInUse, InvalidCertificate, InvalidCSR, BrokerUnavailable, OutcomeUnknown.
func (d *Dispatcher) AddCertificate(ctx context.Context, c Caller, id device.ID, cred Credential) (cert device.Certificate, err error) {
	err = d.changeDevice(ctx, c, device.PermCertificates, id, "the certificate may have been added; look at the device before adding it again",
		func(ctx context.Context) (err error) {
			cert, err = d.broker.AddCertificate(ctx, id, cred)
			return err
		})
	return cert, err
}

// RevokeCertificate removes a certificate and cuts the connections that use it, for callers with
// device.PermCertificates. Errors: Forbidden, DeviceNotFound, CertificateUnknown, BrokerUnavailable, OutcomeUnknown.
func (d *Dispatcher) RevokeCertificate(ctx context.Context, c Caller, id device.ID, fingerprint string) error {
	return d.changeDevice(ctx, c, device.PermCertificates, id, "the certificate may have been revoked; it is safe to repeat this",
		func(ctx context.Context) error { return d.broker.RevokeCertificate(ctx, id, fingerprint) })
}

// changeDevice changes a device that the caller may touch.
func (d *Dispatcher) changeDevice(ctx context.Context, c Caller, permission string, id device.ID, advice string, op func(context.Context) error) error {
	if err := c.need(permission); err != nil {
		return err
	}
	if err := knownShape(id); err != nil {
		return err
	}
	brokerTime := &allowance{left: brokerBudget}
	if err := d.touchable(ctx, c, id, brokerTime); err != nil {
		return err
	}
	return d.change(ctx, brokerTime, advice, op)
}
