package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"signaldevice/testserver"
)

// A call whose answer is lost after it had its effect is told as such, is counted, and may be repeated as
// docs/operations.md says: this is the column outcome_unknown of its table. The broker has done what it was asked, and a
// proxy keeps its answer until the API gives up.

func TestOutcomeUnknown_OfTheBroker(t *testing.T) {
	b := startBroker(t)
	tok := newTokens(t, b.data)
	proxy := startBrokerProxy(t, b)
	p := start(t, b.serveThrough(proxy.addr, proxy.ca, "--tokens", tok.file)...)
	admin := tok.admin.on(t, p)
	metrics := &system{process: p}
	const unknown = "signal_device_outcome_unknown_total"

	// repeated makes one call twice, and expects that the second one is answered so.
	repeated := func(t *testing.T, method string, call func() answer) answer {
		t.Helper()
		before := metrics.metric(unknown)
		proxy.hook(method, nil, holdFirst(make(chan struct{})))
		first := call()
		first.refused(http.StatusServiceUnavailable, "outcome_unknown")
		if first.header.Get("Retry-After") == "" || first.took > answerWithin {
			t.Errorf("refused after %s with Retry-After %q", first.took, first.header.Get("Retry-After"))
		}
		if counted := metrics.metric(unknown) - before; counted != 1 {
			t.Errorf("%g calls were counted as unknown, want one", counted)
		}
		return call()
	}
	on := func(t *testing.T) api { return tok.admin.on(t, p) }

	t.Run("a command with a key is one request", func(t *testing.T) {
		cam := admin.newDevice("keyed").connect()
		var again accepted
		repeated(t, "Send", func() answer {
			return on(t).call("POST", "/v1/devices/"+cam.ID+"/commands", `{"command":"ping"}`, "Idempotency-Key: k")
		}).into(http.StatusAccepted, &again)
		if got := cam.next(); got.RequestID != again.RequestID || len(cam.Commands) > 0 {
			t.Errorf("the camera got %s and %d more, the client was told of %s", got.RequestID, len(cam.Commands), again.RequestID)
		}
	})
	t.Run("a command without a key is found in the list", func(t *testing.T) {
		cam := admin.newDevice("keyless").connect()
		proxy.hook("Send", nil, holdFirst(make(chan struct{})))
		on(t).call("POST", "/v1/devices/"+cam.ID+"/commands", `{"command":"ping"}`).refused(http.StatusServiceUnavailable, "outcome_unknown")
		var list struct {
			Items []struct {
				RequestID string `json:"request_id"`
			} `json:"items"`
		}
		on(t).call("GET", "/v1/requests?device="+cam.ID, nil).into(http.StatusOK, &list)
		if got := cam.next(); len(list.Items) != 1 || list.Items[0].RequestID != got.RequestID {
			t.Errorf("the camera got %s, the list has %+v", got.RequestID, list.Items)
		}
	})
	t.Run("a held command is cancelled once", func(t *testing.T) {
		away := admin.newDevice("away")
		update := map[string]any{"command": "update_firmware", "args": map[string]string{
			"version": "1.2.3", "url": "https://example.org/1.2.3.bin", "sha256": strings.Repeat("0a", 32),
		}}
		var held accepted
		on(t).call("POST", "/v1/devices/"+away.ID+"/commands", update).into(http.StatusAccepted, &held)
		repeated(t, "Cancel", func() answer { return on(t).call("DELETE", "/v1/requests/"+held.RequestID, nil) }).into(http.StatusOK, nil)
	})
	t.Run("an enrolment is one device", func(t *testing.T) {
		var code struct{ Code string }
		on(t).call("POST", "/v1/enrolment-codes", `{"name":"enrolled"}`).into(http.StatusCreated, &code)
		body := map[string]string{"code": code.Code, "csr": newCSR(t)}
		repeated(t, "EnrolDevice", func() answer { return on(t).call("POST", "/v1/enrol", body) }).into(http.StatusOK, nil)
		on(t).onlyDeviceNamed("enrolled")
	})
	t.Run("another code is made", func(t *testing.T) {
		repeated(t, "CreateEnrolmentCode", func() answer { return on(t).call("POST", "/v1/enrolment-codes", `{}`) }).into(http.StatusCreated, nil)
	})
	t.Run("a device is registered once", func(t *testing.T) {
		body := map[string]any{"name": "registered", "csr": newCSR(t)}
		repeated(t, "CreateDevice", func() answer { return on(t).call("POST", "/v1/devices", body) }).refused(http.StatusConflict, "device_exists")
		on(t).onlyDeviceNamed("registered")
	})
	t.Run("a certificate that the device brings is added once", func(t *testing.T) {
		dev := admin.newDevice("rotating")
		body := map[string]string{"certificate": toPEM("CERTIFICATE", selfSigned(t, "new").Certificate[0])}
		repeated(t, "IssueCertificate", func() answer { return on(t).call("POST", "/v1/devices/"+dev.ID+"/certificates", body) }).
			refused(http.StatusConflict, "certificate_in_use")
	})
	t.Run("a revoked certificate is gone", func(t *testing.T) {
		dev := admin.newDevice("revoked")
		var d struct {
			Certificates []struct{ Fingerprint string }
		}
		on(t).call("GET", "/v1/devices/"+dev.ID, nil).into(http.StatusOK, &d)
		path := fmt.Sprintf("/v1/devices/%s/certificates/%s", dev.ID, d.Certificates[0].Fingerprint)
		repeated(t, "RevokeCertificate", func() answer { return on(t).call("DELETE", path, nil) }).refused(http.StatusNotFound, "certificate_not_found")
	})
	t.Run("a deleted device is gone", func(t *testing.T) {
		dev := admin.newDevice("deleted")
		repeated(t, "DeleteDevice", func() answer { return on(t).call("DELETE", "/v1/devices/"+dev.ID, nil) }).refused(http.StatusNotFound, "device_not_found")
	})
}

// TestOutcomeUnknown_OfTheCache freezes Redis under a poll for everything. What the poll asked for happens when Redis
// thaws: the reply counts as read, and is given by its request id within the grace (I8).
func TestOutcomeUnknown_OfTheCache(t *testing.T) {
	b := startBroker(t)
	redis := testserver.Redis(t)
	tok := newTokens(t, b.data)
	p := start(t, b.serve("--tokens", tok.file, "--redis", redis.URL)...)
	alice, bob := tok.alice.on(t, p), tok.bob.on(t, p)
	cam := tok.admin.on(t, p).newDevice("cam").connect()
	sent := alice.ping(cam.ID)
	cam.answer(sent.RequestID, `"here"`)
	bob.poll(cam.ID, "") // brings it into the cache

	redis.Stop()
	alice.call("GET", pollPath(cam.ID, ""), nil).refused(http.StatusServiceUnavailable, "outcome_unknown")
	if n := (&system{process: p}).metric("signal_device_outcome_unknown_total"); n == 0 {
		t.Error("no call was counted as unknown")
	}
	redis.Continue()
	expectDegraded(t, alice, "", recoverWithin)
	for range 2 {
		expectOneReply(t, alice.poll(cam.ID, "", sent.RequestID), sent.RequestID, `"here"`)
	}
}

// onlyDeviceNamed expects one device of a name.
func (a api) onlyDeviceNamed(name string) {
	a.t.Helper()
	var page struct {
		Items []registration `json:"items"`
	}
	a.call("GET", "/v1/devices?name="+name, nil).into(http.StatusOK, &page)
	if len(page.Items) != 1 {
		a.t.Errorf("%d devices are called %s, want one", len(page.Items), name)
	}
}
