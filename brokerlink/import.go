package brokerlink

import (
	"context"

	"signaldevice/device"
	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// ImportDevice implements migrate.Broker. The link's certificate must have the role "operator".
func (l *Link) ImportDevice(ctx context.Context, d device.Device) error {
	if err := l.reachable(ctx); err != nil {
		return err
	}
	in := &brokerv1.CreateDeviceRequest{DeviceId: string(d.ID), Name: d.Name, Description: d.Description, Labels: d.Labels}
	for _, c := range d.Certificates {
		in.Certificates = append(in.Certificates, c.PEM)
	}
	_, err := l.devices.CreateDevice(ctx, in)
	return translate(err, write)
}
