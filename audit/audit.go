// Package audit writes down who asked for which change: one line before the call and one after it.
//
// It promises that no call which changes something goes on before its first line, the intent, was written to the file:
// where it cannot be written, the call is refused with device.AuditUnavailable and nothing happens. The second line, the
// outcome, has the same audit id. An intent without an outcome means that the process ended in between, or that the
// outcome could not be written, which the program's log then tells; the call itself keeps its true answer.
//
// Lines hold names and ids only: no token, enrolment code, certificate, CSR, arguments or reply. Text of the caller that
// does not have the shape of a name is left out. Written means handed to the operating system: a line survives the death
// of the process, and not a power cut.
//
// A call that the HTTP edge refuses by itself, without a known credential, over the rate, or with a body that breaks a
// rule, reaches no device and gives one line of its own; the edge limits their rate. Calls that only read are otherwise
// not audited. The package does not rotate its file.
//
// A Service and a Log are safe for concurrent use.
package audit

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// Event tells what a line is.
type Event string

// The two lines of a call, and the only one of a call that the HTTP edge refused.
const (
	Intent        Event = "intent"
	Outcome       Event = "outcome"
	RefusedAtEdge Event = "refused"
)

// Action is what was asked for.
type Action string

// The actions that are audited.
const (
	SendCommand         Action = "command.send"
	CancelRequest       Action = "request.cancel"
	RegisterDevice      Action = "device.register"
	EnrolDevice         Action = "device.enrol"
	DeleteDevice        Action = "device.delete"
	AddCertificate      Action = "certificate.add"
	RevokeCertificate   Action = "certificate.revoke"
	CreateEnrolmentCode Action = "enrolment_code.create"
)

// Result is how a call ended.
type Result string

// The results. An unknown one may or may not have happened.
const (
	Accepted Result = "accepted"
	Refused  Result = "refused"
	Unknown  Result = "unknown"
)

// Entry is one line of the audit log. A field that does not apply, or is not known yet, is left out.
type Entry struct {
	Time        string           `json:"time"`  // RFC 3339, UTC, milliseconds
	Audit       string           `json:"audit"` // the same in both lines of a call, and in no others
	Event       Event            `json:"event"`
	Action      Action           `json:"action,omitzero"` // left out of a refusal at the edge
	Method      string           `json:"method,omitzero"` // of a refusal at the edge
	Route       string           `json:"route,omitzero"`  // the same
	Client      device.ClientID  `json:"client,omitzero"` // left out of an enrolment: its credential is the code
	Role        string           `json:"role,omitzero"`
	Address     string           `json:"address,omitzero"` // of the peer of the connection, with its port
	HTTPRequest string           `json:"http_request,omitzero"`
	Device      device.ID        `json:"device,omitzero"`
	Name        string           `json:"name,omitzero"` // of a device that is registered or enrolled
	Command     string           `json:"command,omitzero"`
	Request     device.RequestID `json:"request,omitzero"`
	Fingerprint string           `json:"fingerprint,omitzero"`
	Result      Result           `json:"result,omitzero"`     // of an outcome
	Code        device.Kind      `json:"code,omitzero"`       // of an outcome that is not accepted
	Suppressed  int64            `json:"suppressed,omitzero"` // refusals at the edge before this one without a line
}

// Config is what a Service is made from. Service and Log are needed.
type Config struct {
	Service dispatch.Service // what is audited
	Log     *Log
	Errors  *slog.Logger     // where lines that could not be written are told; default: slog.Default()
	Clock   func() time.Time // default: time.Now
}

// Service is a dispatch.Service that audits every call that changes something, and passes the others through.
type Service struct {
	dispatch.Service
	log    *Log
	errors *slog.Logger
	clock  func() time.Time
}

// New returns an audited service.
func New(cfg Config) *Service {
	s := &Service{Service: cfg.Service, log: cfg.Log, errors: cmp.Or(cfg.Errors, slog.Default()), clock: cfg.Clock}
	if s.clock == nil {
		s.clock = time.Now
	}
	return s
}

// audited runs call between the two lines of e. call may add to e what it learns.
func (s *Service) audited(ctx context.Context, e Entry, call func(e *Entry) error) error {
	origin := originOf(ctx)
	e.Audit, e.Event = rand.Text(), Intent
	e.Role, e.Address, e.HTTPRequest = origin.Role, origin.Address, origin.HTTPRequest
	if err := s.write(e); err != nil {
		return device.Wrap(device.AuditUnavailable, err, "the call could not be audited, so it was not made")
	}
	if origin.Audited != nil {
		*origin.Audited = true
	}
	err := call(&e)
	e.Event, e.Result, e.Code = Outcome, resultOf(err), device.KindOf(err)
	if lost := s.write(e); lost != nil {
		s.errors.ErrorContext(ctx, "audit outcome lost", "audit", e.Audit, "result", e.Result, "code", e.Code, "error", lost)
	}
	return err
}

func (s *Service) write(e Entry) error {
	e.Time = s.clock().UTC().Format("2006-01-02T15:04:05.000Z")
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return s.log.write(append(line, '\n'))
}

func resultOf(err error) Result {
	switch device.KindOf(err) {
	case device.OK:
		return Accepted
	case device.OutcomeUnknown, device.Internal:
		return Unknown
	default:
		return Refused
	}
}

// Send audits a command; see dispatch.Service.
func (s *Service) Send(ctx context.Context, c dispatch.Caller, in dispatch.SendInput) (out dispatch.SendResult, err error) {
	e := Entry{Action: SendCommand, Client: c.Client, Device: named(in.Device), Command: named(in.Command)}
	err = s.audited(ctx, e, func(e *Entry) (err error) {
		out, err = s.Service.Send(ctx, c, in)
		e.Request = out.Request.ID
		return err
	})
	return out, err
}

// Cancel audits the cancelling of a request; see dispatch.Service.
func (s *Service) Cancel(ctx context.Context, c dispatch.Caller, id device.RequestID) (out device.Request, err error) {
	e := Entry{Action: CancelRequest, Client: c.Client, Request: id}
	if _, err := id.Claims(); err != nil {
		e.Request = ""
	}
	err = s.audited(ctx, e, func(e *Entry) (err error) {
		out, err = s.Service.Cancel(ctx, c, id)
		e.Device, e.Command = out.Device, out.Command
		return err
	})
	return out, err
}

// Register audits the registration of a device; see dispatch.Service.
func (s *Service) Register(ctx context.Context, c dispatch.Caller, d dispatch.NewDevice) (out dispatch.Registration, err error) {
	e := Entry{Action: RegisterDevice, Client: c.Client, Name: named(d.Name)}
	err = s.audited(ctx, e, func(e *Entry) (err error) {
		out, err = s.Service.Register(ctx, c, d)
		e.registered(out)
		return err
	})
	return out, err
}

// Enrol audits the enrolment of a device; see dispatch.Service.
func (s *Service) Enrol(ctx context.Context, in dispatch.Enrolment) (out dispatch.Registration, err error) {
	e := Entry{Action: EnrolDevice, Name: named(in.Name)}
	err = s.audited(ctx, e, func(e *Entry) (err error) {
		out, err = s.Service.Enrol(ctx, in)
		e.registered(out)
		return err
	})
	return out, err
}

// registered adds what a registration made. The name may have come with the enrolment code.
func (e *Entry) registered(r dispatch.Registration) {
	e.Device, e.Name = r.Device.ID, cmp.Or(r.Device.Name, e.Name)
	if len(r.Device.Certificates) > 0 {
		e.Fingerprint = r.Device.Certificates[0].Fingerprint
	}
}

// CreateEnrolmentCode audits the making of an enrolment code, and not the code; see dispatch.Service.
func (s *Service) CreateEnrolmentCode(ctx context.Context, c dispatch.Caller, n dispatch.NewCode) (out dispatch.Code, err error) {
	e := Entry{Action: CreateEnrolmentCode, Client: c.Client, Name: named(n.Name)}
	err = s.audited(ctx, e, func(*Entry) (err error) {
		out, err = s.Service.CreateEnrolmentCode(ctx, c, n)
		return err
	})
	return out, err
}

// DeleteDevice audits the removal of a device; see dispatch.Service.
func (s *Service) DeleteDevice(ctx context.Context, c dispatch.Caller, id device.ID) error {
	e := Entry{Action: DeleteDevice, Client: c.Client, Device: named(id)}
	return s.audited(ctx, e, func(*Entry) error { return s.Service.DeleteDevice(ctx, c, id) })
}

// AddCertificate audits the adding of a certificate; see dispatch.Service.
func (s *Service) AddCertificate(ctx context.Context, c dispatch.Caller, id device.ID, cred dispatch.Credential) (out device.Certificate, err error) {
	e := Entry{Action: AddCertificate, Client: c.Client, Device: named(id)}
	err = s.audited(ctx, e, func(e *Entry) (err error) {
		out, err = s.Service.AddCertificate(ctx, c, id, cred)
		e.Fingerprint = out.Fingerprint
		return err
	})
	return out, err
}

// RevokeCertificate audits the revoking of a certificate; see dispatch.Service.
func (s *Service) RevokeCertificate(ctx context.Context, c dispatch.Caller, id device.ID, fingerprint string) error {
	e := Entry{Action: RevokeCertificate, Client: c.Client, Device: named(id), Fingerprint: named(fingerprint)}
	return s.audited(ctx, e, func(*Entry) error { return s.Service.RevokeCertificate(ctx, c, id, fingerprint) })
}

// maxNamed is the length of the longest name there is, a command's.
const maxNamed = 64

// named returns text that has the shape of a name, and else nothing: it may be a secret in the wrong place.
func named[T ~string](text T) T {
	if len(text) > maxNamed {
		return ""
	}
	for _, c := range []byte(text) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return ""
		}
	}
	return text
}
