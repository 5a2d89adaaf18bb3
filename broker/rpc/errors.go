package rpc

import (
	"context"
	"errors"
	"log/slog"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"signaldevice/device"
)

// ErrorDomain marks this broker's errors in google.rpc.ErrorInfo. The reason beside it is the device.Kind.
const ErrorDomain = "signal-device"

// ToStatus translates an error for a gRPC caller: its kind becomes a code and an ErrorInfo, its faults a BadRequest, its
// RetryAfter a RetryInfo. A status stays as it is. Any other error, and a cause, is not for the caller's eyes: it
// becomes "internal error" and nothing. nil gives nil.
func ToStatus(err error) error {
	var known *device.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return fromKind(known)
	case isStatus(err):
		return err
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the call was cancelled")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the call's deadline has passed")
	}
	return internal()
}

func isStatus(err error) bool {
	var s interface{ GRPCStatus() *status.Status }
	return errors.As(err, &s)
}

func internal() error { return withDetails(codes.Internal, "internal error", info(device.Internal)) }

func fromKind(e *device.Error) error {
	code, known := codeOf(e.Kind)
	if !known {
		return internal()
	}
	message := e.Message
	if message == "" {
		message = string(e.Kind)
	}
	details := []protoadapt.MessageV1{info(e.Kind)}
	if len(e.Faults) > 0 {
		bad := &errdetails.BadRequest{}
		for _, f := range e.Faults {
			bad.FieldViolations = append(bad.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: f.Location, Description: f.Message})
		}
		details = append(details, bad)
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	return withDetails(code, message, details...)
}

func info(k device.Kind) *errdetails.ErrorInfo {
	return &errdetails.ErrorInfo{Domain: ErrorDomain, Reason: string(k)}
}

func withDetails(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	s := status.New(code, message)
	detailed, err := s.WithDetails(details...)
	if err != nil { // a text that is not UTF-8: the code matters more
		return s.Err()
	}
	return detailed.Err()
}

// codeOf reports false for the kinds that are not for a caller's eyes.
func codeOf(k device.Kind) (code codes.Code, known bool) {
	switch k {
	case device.Invalid, device.Malformed, device.InvalidCertificate, device.InvalidCSR, device.UnknownCommand,
		device.InvalidArguments, device.PayloadTooLarge:
		return codes.InvalidArgument, true
	case device.Unauthenticated:
		return codes.Unauthenticated, true
	case device.Forbidden, device.InvalidCode:
		return codes.PermissionDenied, true
	case device.DeviceNotFound, device.CertificateUnknown, device.RequestNotFound:
		return codes.NotFound, true
	case device.DeviceExists, device.CertificateInUse, device.IdempotencyReused:
		return codes.AlreadyExists, true
	case device.DeviceOffline, device.AlreadyDelivered:
		return codes.FailedPrecondition, true
	case device.TooManyUnread, device.RateLimited, device.CacheFull:
		return codes.ResourceExhausted, true
	case device.BrokerUnavailable, device.CacheUnavailable, device.Unavailable, device.OutcomeUnknown:
		return codes.Unavailable, true
	}
	return codes.Internal, false
}

// errorInterceptors translate the errors of every service with ToStatus, and log what is not told to the caller.
func errorInterceptors(log *slog.Logger) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	translate := func(ctx context.Context, method string, err error) error {
		out := ToStatus(err)
		switch status.Code(out) {
		case codes.Internal, codes.Unknown:
			log.ErrorContext(ctx, "call failed", "method", method, "error", err)
		case codes.Unavailable:
			log.DebugContext(ctx, "call refused", "method", method, "error", err)
		}
		return out
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		resp, err := handler(ctx, req)
		if err != nil {
			return nil, translate(ctx, info.FullMethod, err)
		}
		return resp, nil
	}
	stream := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		err := handler(srv, ss)
		if err != nil {
			return translate(ss.Context(), info.FullMethod, err)
		}
		return nil
	}
	return unary, stream
}
