package httpapi

import (
	"net/http"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

type healthBody struct {
	Status string `json:"status"`
}

type readyBody struct {
	Status   string       `json:"status"`
	Degraded []outageBody `json:"degraded"`
}

type outageBody struct {
	Dependency string `json:"dependency"`
	Since      string `json:"since"`
	Reason     string `json:"reason,omitempty"`
}

// healthRoutes are on both listeners and need no token. Both answer 200 as long as the process serves at all: without
// its dependencies an instance still does what it can, and taking it away would help nobody. Only one that is about to
// stop is not ready.
func healthRoutes(service dispatch.Service, stopping func() bool) []route {
	return []route{
		{"GET", "/healthz", func(w *answer, r *http.Request) error {
			return w.json(http.StatusOK, healthBody{Status: "ok"})
		}},
		{"GET", "/readyz", func(w *answer, r *http.Request) error {
			if stopping() {
				return device.Errorf(kindStopping, "send new calls to another instance")
			}
			return w.json(http.StatusOK, readiness(service.Degraded(time.Now())))
		}},
	}
}

func readiness(outages []dispatch.Outage) readyBody {
	body := readyBody{Status: "ok", Degraded: make([]outageBody, len(outages))}
	for i, o := range outages {
		body.Status = "degraded"
		body.Degraded[i] = outageBody{Dependency: o.Dependency, Since: stamp(o.Since), Reason: o.Reason}
	}
	return body
}
