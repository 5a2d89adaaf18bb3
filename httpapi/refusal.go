package httpapi

import (
	"net/http"
	"strings"

	"signaldevice/audit"
	"signaldevice/device"
)

// Lines about refused calls that one client, and all callers without a known credential together, may cause: so that
// nobody fills the disk with what is refused.
const (
	refusalRate  = 1 // a second
	refusalBurst = 50
)

// refuse marks a call that the edge itself turned away: for its credential, its rate, or the page that made it.
func (w *answer) refuse(err error) error {
	w.refused = w.refused || err != nil
	return err
}

// refusedHere reports whether the edge refused the call by itself and the audit log should know: whatever it refused for
// who called or how often, and of calls that change something also what broke a rule.
func (w *answer) refusedHere(r *http.Request, route string) bool {
	if w.err == nil || w.status < 400 || w.status >= 500 || w.status == statusClientGone {
		return false
	}
	changes := route != "none" && (r.Method == http.MethodPost || r.Method == http.MethodDelete)
	return w.refused || changes && !w.audited
}

// auditRefusal has a call written down that the edge refused by itself, at a limited rate.
func (a *API) auditRefusal(w *answer, r *http.Request, route string) {
	if a.cfg.Refused == nil || !w.refusedHere(r, route) {
		return
	}
	a.refusals.Add(1)
	if a.refusalLines.take(string(w.client), a.cfg.Clock()) != nil {
		a.cfg.Metrics.refusalSuppressed()
		return
	}
	refusal := audit.Refusal{
		Origin: w.origin(r, w.role), Client: w.client, Method: knownMethod(r.Method), Route: route,
		Code: device.KindOf(w.err), Suppressed: a.refusals.Swap(0) - 1,
	}
	if strings.HasPrefix(route, "/v1/devices/") {
		refusal.Device = device.ID(r.PathValue("id"))
	}
	a.cfg.Refused(r.Context(), refusal)
}
