package httpapi

import (
	"net/http"
	"strings"

	"signaldevice/audit"
	"signaldevice/device"
)

// authenticated lets only a known client through, and only as often as the rate permits. Who it is comes from the
// credential and from nothing else of the call (I3).
func (a *API) authenticated(h func(w *answer, r *http.Request, who Identity) error) handler {
	return func(w *answer, r *http.Request) error {
		who, err := a.identify(r)
		if err != nil {
			return w.refuse(err)
		}
		w.client, w.role = who.Client, who.Role
		if err := a.clients.take(string(who.Client), a.cfg.Clock()); err != nil {
			return w.refuse(err)
		}
		return h(w, r.WithContext(audit.WithOrigin(r.Context(), w.origin(r, who.Role))), who)
	}
}

// identify gives one and the same error for a token that is missing, malformed or unknown.
func (a *API) identify(r *http.Request) (Identity, error) {
	who, err := a.cfg.Authenticate(r.Context(), bearer(r.Header))
	if device.Is(err, device.Unauthenticated) {
		return Identity{}, &device.Error{Kind: device.Unauthenticated, Err: err}
	}
	return who, err
}

// bearer returns the token of an Authorization header (RFC 6750, section 2.1), "" where there is not exactly one.
func bearer(h http.Header) string {
	values := h.Values("Authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return strings.Trim(token, " ")
}

// administrative lists the permissions that no command names, in the order in which they are shown.
func administrative() []string {
	return []string{
		device.PermRegister, device.PermDelete, device.PermCertificates, device.PermEnrolment, device.PermReadAll,
	}
}

type meBody struct {
	Client      string        `json:"client"`
	Role        string        `json:"role"`
	Labels      device.Labels `json:"labels"`
	Permissions []string      `json:"permissions"`
}

// me tells the caller who it is. What it may send is in the list of commands.
func (a *API) me(w *answer, r *http.Request, who Identity) error {
	if err := noQuery(r); err != nil {
		return err
	}
	body := meBody{Client: string(who.Client), Role: who.Role, Labels: who.Labels}
	for _, p := range administrative() {
		if who.May != nil && who.May(p) {
			body.Permissions = append(body.Permissions, p)
		}
	}
	return w.json(http.StatusOK, body)
}
