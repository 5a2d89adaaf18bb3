package audit

import (
	"context"
	"crypto/rand"

	"signaldevice/device"
)

// Refusal is a call that the HTTP edge refused by itself, before anything was asked for.
type Refusal struct {
	Origin
	Client     device.ClientID // "" where it is not known
	Method     string          // of HTTP
	Route      string          // the pattern of the path, never the path; "none" where it has none
	Device     device.ID       // that the path names; "" where it names none
	Code       device.Kind
	Suppressed int64 // refusals before this one that got no line
}

// Refused writes one line about a call that the HTTP edge refused. The call stays refused where it cannot be written;
// the program's log then tells.
func (s *Service) Refused(ctx context.Context, r Refusal) {
	e := Entry{
		Audit: rand.Text(), Event: RefusedAtEdge, Client: r.Client, Role: r.Role, Address: r.Address, HTTPRequest: r.HTTPRequest,
		Method: r.Method, Route: r.Route, Device: named(r.Device), Result: Refused, Code: r.Code, Suppressed: r.Suppressed,
	}
	if err := s.write(e); err != nil {
		s.errors.ErrorContext(ctx, "audit line of a refused call lost", "http_request", e.HTTPRequest, "code", e.Code, "error", err)
	}
}
