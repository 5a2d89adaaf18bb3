package device

import (
	"errors"
	"fmt"
	"time"
)

// Kind classes an error for the edges (HTTP, gRPC, command line), which translate it once. The text of a Kind is the
// stable `code` of an HTTP problem.
type Kind string

// The kinds of error. The zero Kind means that no kind is known: an internal error.
const (
	OK                 Kind = ""
	Internal           Kind = "internal"
	Invalid            Kind = "invalid_request"
	Malformed          Kind = "malformed_json"
	Unauthenticated    Kind = "unauthenticated"
	Forbidden          Kind = "forbidden"
	DeviceNotFound     Kind = "device_not_found"
	DeviceExists       Kind = "device_exists"
	DeviceOffline      Kind = "device_offline"
	CertificateInUse   Kind = "certificate_in_use"
	CertificateUnknown Kind = "certificate_not_found"
	InvalidCertificate Kind = "invalid_certificate"
	InvalidCSR         Kind = "invalid_csr"
	InvalidCode        Kind = "invalid_code"
	UnknownCommand     Kind = "unknown_command"
	InvalidArguments   Kind = "invalid_arguments"
	PayloadTooLarge    Kind = "payload_too_large"
	IdempotencyReused  Kind = "idempotency_conflict"
	RequestNotFound    Kind = "request_not_found"
	AlreadyDelivered   Kind = "already_delivered"
	TooManyUnread      Kind = "too_many_unread"
	RateLimited        Kind = "rate_limited"
	BrokerUnavailable  Kind = "broker_unavailable" // the broker was not reached, nothing happened
	CacheUnavailable   Kind = "cache_unavailable"  // the cache was not reached, nothing happened
	Unavailable        Kind = "unavailable"        // neither broker nor cache can tell the truth
	CacheFull          Kind = "cache_full"         // nothing was stored
	AuditUnavailable   Kind = "audit_unavailable"  // the call could not be audited, so it was not made
	OutcomeUnknown     Kind = "outcome_unknown"    // it may or may not have happened; safe to repeat as the text says
)

// Fault is one fault of an input, with its place as a JSON pointer or a dotted path ("args.volume").
type Fault struct {
	Location string
	Message  string
}

// Error is the one error type that crosses package borders inside this program.
type Error struct {
	Kind       Kind
	Message    string        // a sentence for the caller; never holds input, secrets or bodies
	Faults     []Fault       // for Invalid, InvalidArguments: every fault
	RetryAfter time.Duration // for kinds that are worth repeating; 0: the edge's default
	Err        error         // the cause, for the log only
}

// Error joins kind, message and cause.
func (e *Error) Error() string {
	s := e.Message
	if s == "" {
		s = string(e.Kind)
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an Error of the kind with a formatted message for the caller. It keeps no cause; use Wrap for that.
func Errorf(k Kind, format string, args ...any) *Error {
	return &Error{Kind: k, Message: fmt.Sprintf(format, args...)}
}

// Wrap returns an Error of the kind with a message for the caller and a cause for the log.
func Wrap(k Kind, cause error, message string) *Error {
	return &Error{Kind: k, Message: message, Err: cause}
}

// KindOf returns the kind of the first Error in the chain, OK for nil, Internal for any other error.
func KindOf(err error) Kind {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is of the kind.
func Is(err error, k Kind) bool { return err != nil && KindOf(err) == k }
