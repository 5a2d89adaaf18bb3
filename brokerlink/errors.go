package brokerlink

import (
	"context"
	"errors"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"signaldevice/device"
)

// effect tells whether a call changes something: only then is its outcome worth worrying about when it is cut.
type effect bool

const (
	read  effect = false
	write effect = true
)

// errorDomain marks the broker's own errors among gRPC's.
const errorDomain = "signal-device"

// translate turns a gRPC status into a device.Error. The broker's own answers carry their kind, Unauthenticated and
// Forbidden for a certificate that it does not accept; what comes from the transport is told apart by whether the call
// can have reached the broker.
func translate(err error, e effect) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return device.Wrap(device.BrokerUnavailable, err, "the broker was not reached")
	}
	if own := ownError(s); own != nil {
		return own
	}
	switch s.Code() {
	case codes.Canceled:
		if e == write {
			return outcomeUnknown(errors.Join(context.Canceled, err))
		}
		return device.Wrap(device.BrokerUnavailable, errors.Join(context.Canceled, err), "the call was given up")
	case codes.DeadlineExceeded, codes.Unavailable, codes.ResourceExhausted:
		// gRPC says Unavailable both for a connection that never came about and for one that broke under the call.
		if e == write {
			return outcomeUnknown(err)
		}
		return device.Wrap(device.BrokerUnavailable, err, "the broker did not answer")
	case codes.Unauthenticated, codes.PermissionDenied:
		return device.Wrap(device.Unauthenticated, err, "the broker does not accept the client certificate")
	default:
		return device.Wrap(device.Internal, err, "the broker failed")
	}
}

func outcomeUnknown(err error) error {
	return device.Wrap(device.OutcomeUnknown, err, "the broker did not answer, it is not known whether the call took effect")
}

// ownError reads the kind and the faults that the broker put into a status.
func ownError(s *status.Status) *device.Error {
	var out *device.Error
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.Domain == errorDomain && d.Reason != "" {
				out = &device.Error{Kind: device.Kind(d.Reason), Message: s.Message()}
			}
		}
	}
	if out == nil {
		return nil
	}
	for _, d := range s.Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.FieldViolations {
				out.Faults = append(out.Faults, device.Fault{Location: v.Field, Message: v.Description})
			}
		case *errdetails.RetryInfo:
			out.RetryAfter = d.RetryDelay.AsDuration()
		}
	}
	return out
}
