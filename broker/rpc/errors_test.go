package rpc_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"signaldevice/broker/rpc"
	"signaldevice/device"
)

func TestToStatus_EveryKind(t *testing.T) {
	kinds := map[device.Kind]codes.Code{
		device.Internal:           codes.Internal,
		device.Invalid:            codes.InvalidArgument,
		device.Malformed:          codes.InvalidArgument,
		device.Unauthenticated:    codes.Unauthenticated,
		device.Forbidden:          codes.PermissionDenied,
		device.DeviceNotFound:     codes.NotFound,
		device.DeviceExists:       codes.AlreadyExists,
		device.DeviceOffline:      codes.FailedPrecondition,
		device.CertificateInUse:   codes.AlreadyExists,
		device.CertificateUnknown: codes.NotFound,
		device.InvalidCertificate: codes.InvalidArgument,
		device.InvalidCSR:         codes.InvalidArgument,
		device.InvalidCode:        codes.PermissionDenied,
		device.UnknownCommand:     codes.InvalidArgument,
		device.InvalidArguments:   codes.InvalidArgument,
		device.PayloadTooLarge:    codes.InvalidArgument,
		device.IdempotencyReused:  codes.AlreadyExists,
		device.RequestNotFound:    codes.NotFound,
		device.AlreadyDelivered:   codes.FailedPrecondition,
		device.TooManyUnread:      codes.ResourceExhausted,
		device.RateLimited:        codes.ResourceExhausted,
		device.BrokerUnavailable:  codes.Unavailable,
		device.CacheUnavailable:   codes.Unavailable,
		device.Unavailable:        codes.Unavailable,
		device.CacheFull:          codes.ResourceExhausted,
		device.OutcomeUnknown:     codes.Unavailable,
	}
	for kind, code := range kinds {
		err := rpc.ToStatus(fmt.Errorf("wrapped: %w", device.Wrap(kind, errors.New("secret cause"), "a sentence")))
		s, ok := status.FromError(err)
		if !ok || s.Code() != code {
			t.Errorf("%s: %v, want %v", kind, err, code)
		}
		want := "a sentence"
		if kind == device.Internal {
			want = "internal error"
		}
		if s.Message() != want {
			t.Errorf("%s: message %q", kind, s.Message())
		}
		info, ok := s.Details()[0].(*errdetails.ErrorInfo)
		if !ok || info.Domain != "signal-device" || info.Reason != string(kind) {
			t.Errorf("%s: details %v", kind, s.Details())
		}
	}
}

func TestToStatus_OtherErrors(t *testing.T) {
	tests := map[string]struct {
		err     error
		code    codes.Code
		message string
	}{
		"nil":                    {nil, codes.OK, ""},
		"unknown":                {errors.New("open /var/lib: permission denied"), codes.Internal, "internal error"},
		"an unknown kind":        {device.Errorf("no such kind", "x"), codes.Internal, "internal error"},
		"no message":             {&device.Error{Kind: device.DeviceOffline}, codes.FailedPrecondition, "device_offline"},
		"a status":               {status.Error(codes.Unimplemented, "not here"), codes.Unimplemented, "not here"},
		"cancelled":              {fmt.Errorf("wait: %w", context.Canceled), codes.Canceled, "the call was cancelled"},
		"deadline":               {fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded, "the call's deadline has passed"},
		"a kind over a deadline": {device.Wrap(device.OutcomeUnknown, context.DeadlineExceeded, "unknown"), codes.Unavailable, "unknown"},
		"a text not in UTF-8":    {device.Errorf(device.Invalid, "\xff"), codes.InvalidArgument, "\xff"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s, _ := status.FromError(rpc.ToStatus(tt.err))
			if s.Code() != tt.code || s.Message() != tt.message {
				t.Errorf("%v %q, want %v %q", s.Code(), s.Message(), tt.code, tt.message)
			}
		})
	}
}

func TestToStatus_FaultsAndRetry(t *testing.T) {
	err := rpc.ToStatus(&device.Error{
		Kind: device.Invalid, Message: "two faults", RetryAfter: 3 * time.Second,
		Faults: []device.Fault{{Location: "name", Message: "is bad"}, {Location: "labels.a", Message: "is long"}},
	})
	var places []string
	var retry time.Duration
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.BadRequest:
			for _, v := range d.FieldViolations {
				places = append(places, v.Field+" "+v.Description)
			}
		case *errdetails.RetryInfo:
			retry = d.RetryDelay.AsDuration()
		}
	}
	if strings.Join(places, "; ") != "name is bad; labels.a is long" || retry != 3*time.Second {
		t.Errorf("faults %q, retry %v", places, retry)
	}
}

// failing is a service whose calls fail with a chosen error.
type failing struct {
	healthpb.UnimplementedHealthServer
	err error
}

func (f failing) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return nil, f.err
}

func (f failing) Watch(*healthpb.HealthCheckRequest, grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	return f.err
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// What is not for the caller is in the log, whole; what is, is not.
func TestServerOptions_TranslateErrorsOfEveryService(t *testing.T) {
	tests := map[string]struct {
		err    error
		code   codes.Code
		logged bool
	}{
		"unknown":      {errors.New("open /var/lib: permission denied"), codes.Internal, true},
		"of our kinds": {device.Errorf(device.DeviceOffline, "the device is offline"), codes.FailedPrecondition, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var out lockedBuffer
			guard := rpc.Guard{Log: slog.New(slog.NewTextHandler(io.Writer(&out), nil))}
			w := start(t, guard, func(s grpc.ServiceRegistrar) { healthpb.RegisterHealthServer(s, failing{err: tt.err}) })
			conn := w.dial(t, nil)
			for _, call := range []string{"health", "health, streaming"} {
				wantCode(t, call, calls[call](ctx(t), conn), tt.code)
			}
			if n := strings.Count(out.String(), tt.err.Error()); n != 2 && tt.logged || n != 0 && !tt.logged {
				t.Errorf("logged %d times:\n%s", n, out.String())
			}
		})
	}
}
