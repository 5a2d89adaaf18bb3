package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"signaldevice/device"
)

// Kinds that only this edge knows.
const (
	kindNotFound         device.Kind = "not_found"
	kindMethodNotAllowed device.Kind = "method_not_allowed"
	kindMediaType        device.Kind = "unsupported_media_type"
	kindTimeout          device.Kind = "request_timeout"
	kindStopping         device.Kind = "stopping"
)

// How much of a body that is too large is read behind its answer, and for how long.
const (
	swallowBytes = 4 << 20
	swallowFor   = time.Second
)

// statusClientGone goes to the log and the metrics only: there is nobody left to answer.
const statusClientGone = 499

// problem is the body of every answer that is not 2xx: RFC 9457, with a stable code, every fault of the input, and the
// id by which the call is found in the log.
type problem struct {
	Type      string  `json:"type"`
	Title     string  `json:"title"`
	Status    int     `json:"status"`
	Detail    string  `json:"detail"`
	Code      string  `json:"code"`
	Errors    []fault `json:"errors,omitzero"`
	RequestID string  `json:"request_id"`
}

type fault struct {
	Location string `json:"location"`
	Message  string `json:"message"`
}

// fail is the one place where an error becomes an answer. An error without a known kind is logged whole and shown as
// an internal error.
func (a *API) fail(w *answer, r *http.Request, err error) {
	if r.Context().Err() != nil && errors.Is(err, context.Canceled) {
		w.status = statusClientGone
		return
	}
	writeProblem(w, err)
	if w.status == http.StatusRequestEntityTooLarge {
		swallow(w, r)
	}
}

func writeProblem(w *answer, err error) {
	w.err = err
	if w.status != 0 {
		return // half an answer has left; the log line tells why the rest did not
	}
	var e *device.Error
	if !errors.As(err, &e) {
		e = &device.Error{}
	}
	status, title := classify(e.Kind)
	if status == http.StatusInternalServerError {
		e = &device.Error{Kind: device.Internal, Message: "internal error"} // whatever it says, it is not for the caller
	}
	body := problem{
		Type:      "urn:signal-device:problem:" + string(e.Kind),
		Title:     title,
		Status:    status,
		Detail:    e.Message,
		Code:      string(e.Kind),
		RequestID: w.id,
	}
	if body.Detail == "" {
		body.Detail = title
	}
	for _, f := range e.Faults {
		body.Errors = append(body.Errors, fault(f))
	}
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Bearer realm="signal-device"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", retryAfter(e.RetryAfter))
	case http.StatusRequestTimeout, http.StatusRequestEntityTooLarge:
		w.Header().Set("Connection", "close") // the rest of the body is not worth reading
	}
	w.problem(body)
}

// swallow reads on behind an answer that was given before the whole body was there, within bounds. A client that is
// still writing reads no answer, and a connection closed on it would take the answer away (RFC 9112, section 9.6).
func swallow(w *answer, r *http.Request) {
	control := http.NewResponseController(w)
	if control.Flush() != nil || control.SetReadDeadline(time.Now().Add(swallowFor)) != nil {
		return // a recorder has no connection
	}
	_, _ = io.CopyN(io.Discard, r.Body, swallowBytes) // whatever ends it, the connection is closed next
}

// classify returns the status and the title of a kind; 500 for one that is not known.
func classify(k device.Kind) (status int, title string) {
	switch k {
	case device.Malformed:
		return 400, "The body is not the JSON that is asked for"
	case device.Unauthenticated:
		return 401, "A valid bearer token is needed"
	case device.Forbidden:
		return 403, "The role of this client does not permit it"
	case device.InvalidCode:
		return 403, "The enrolment code is not valid"
	case kindNotFound:
		return 404, "No such path"
	case device.DeviceNotFound:
		return 404, "No such device"
	case device.CertificateUnknown:
		return 404, "The device has no such certificate"
	case device.RequestNotFound:
		return 404, "No such request of this client"
	case kindMethodNotAllowed:
		return 405, "The path takes another method"
	case kindTimeout:
		return 408, "The body did not come in time"
	case device.DeviceExists:
		return 409, "A device of this name exists"
	case device.CertificateInUse:
		return 409, "The certificate belongs to a device"
	case device.DeviceOffline:
		return 409, "The device is offline"
	case device.IdempotencyReused:
		return 409, "The idempotency key was used for another request"
	case device.AlreadyDelivered:
		return 409, "The command has left for the device"
	case device.PayloadTooLarge:
		return 413, "The body is too large"
	case kindMediaType:
		return 415, "The body must be application/json"
	case device.Invalid:
		return 422, "The request breaks a rule"
	case device.InvalidCertificate:
		return 422, "The certificate cannot be used"
	case device.InvalidCSR:
		return 422, "The certificate signing request cannot be used"
	case device.UnknownCommand:
		return 422, "The catalogue has no such command"
	case device.InvalidArguments:
		return 422, "The arguments break the command's schema"
	case device.TooManyUnread:
		return 429, "Too many unread replies of this client at this device"
	case device.RateLimited:
		return 429, "Too many calls"
	case device.BrokerUnavailable:
		return 503, "The broker cannot be reached; nothing happened"
	case device.CacheUnavailable:
		return 503, "The cache cannot be reached; nothing happened"
	case device.CacheFull:
		return 503, "The cache is full; nothing happened"
	case device.Unavailable:
		return 503, "Neither the broker nor the cache can be reached"
	case device.AuditUnavailable:
		return 503, "The audit log cannot be written; nothing happened"
	case kindStopping:
		return 503, "This instance is about to stop"
	case device.OutcomeUnknown:
		return 503, "It may or may not have happened"
	default:
		return 500, "Internal error"
	}
}

// retryAfter is in whole seconds, rounded up, at least one (RFC 9110, section 10.2.3).
func retryAfter(d time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(d.Seconds()))))
}

func panicError(value any) error {
	return fmt.Errorf("httpapi: panic: %v\n%s", value, debug.Stack())
}
