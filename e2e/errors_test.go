package e2e

import (
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every refusal of the API's table, from outside: a clear code at the right status, nothing changed, and the next good
// call works (I10).

// testCatalogue has one command with arguments that can be wrong in several ways and as long as one likes.
const testCatalogue = `
commands:
  - name: ping
    title: Ping
    permission: commands.test
    args: {type: object, additionalProperties: false}
  - name: get_status
    title: Status
    permission: commands.test
    args: {type: object, additionalProperties: false}
  - name: configure
    title: Configure
    permission: commands.test
    args:
      type: object
      properties:
        volume: {type: integer, minimum: 0, maximum: 100}
        mode: {type: string, enum: [day, night]}
        enabled: {type: boolean}
        note: {type: string}
      additionalProperties: false
`

func startSystemWithTestCatalogue(t *testing.T) *system {
	return startSystem(t, "--catalogue", write(t, filepath.Join(t.TempDir(), "commands.yaml"), testCatalogue))
}

func TestRegistrationIsRefused(t *testing.T) {
	s := startSystem(t)
	taken := s.admin.newDevice("taken")
	takenPEM := toPEM("CERTIFICATE", taken.cert.Certificate[0])
	good := toPEM("CERTIFICATE", selfSigned(t, "good").Certificate[0])
	csr := newCSR(t)

	tests := map[string]struct {
		as     api
		body   map[string]any
		status int
		code   string
	}{
		"certificate that is no PEM":   {s.admin, map[string]any{"name": "n", "certificate": "hello"}, 422, "invalid_certificate"},
		"certificate cut short":        {s.admin, map[string]any{"name": "n", "certificate": good[:len(good)/2]}, 422, "invalid_certificate"},
		"a CSR in place of one":        {s.admin, map[string]any{"name": "n", "certificate": csr}, 422, "invalid_certificate"},
		"certificate already in use":   {s.admin, map[string]any{"name": "n", "certificate": takenPEM}, 409, "certificate_in_use"},
		"CSR that is no PEM":           {s.admin, map[string]any{"name": "n", "csr": "hello"}, 422, "invalid_csr"},
		"CSR with a bent signature":    {s.admin, map[string]any{"name": "n", "csr": bend(csr)}, 422, "invalid_csr"},
		"name already in use":          {s.admin, map[string]any{"name": "taken", "certificate": good}, 409, "device_exists"},
		"a caller who may not":         {s.alice, map[string]any{"name": "n", "certificate": good}, 403, "forbidden"},
		"nobody":                       {api{t: t, base: s.admin.base}, map[string]any{"name": "n", "certificate": good}, 401, "unauthenticated"},
		"a token that does not exist":  {api{t: t, base: s.admin.base, token: "x"}, map[string]any{"name": "n", "certificate": good}, 401, "unauthenticated"},
		"a field that does not exist":  {s.admin, map[string]any{"name": "n", "certificate": good, "colour": "red"}, 400, "malformed_json"},
		"a name that cannot be a name": {s.admin, map[string]any{"name": "a b", "certificate": good}, 422, "invalid_request"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			tt.as.call("POST", "/v1/devices", tt.body).refused(tt.status, tt.code)
			if got := s.admin.devices(); !slices.Equal(got, []string{taken.ID}) {
				t.Errorf("the devices are now %v, want only %s", got, taken.ID)
			}
		})
	}
	s.admin.call("POST", "/v1/devices", map[string]any{"name": "n", "certificate": good}).into(http.StatusCreated, nil)
}

// bend changes one character in the last full line of a PEM: the signature's.
func bend(pem string) string {
	lines := strings.Split(strings.TrimSpace(pem), "\n")
	line := []byte(lines[len(lines)-3])
	if line[10] == 'A' {
		line[10] = 'B'
	} else {
		line[10] = 'A'
	}
	lines[len(lines)-3] = string(line)
	return strings.Join(lines, "\n") + "\n"
}

func TestEnrolmentCodeIsSpentOnce(t *testing.T) {
	s := startSystem(t)
	var made struct {
		Code string `json:"code"`
	}
	s.admin.call("POST", "/v1/enrolment-codes", map[string]any{"name": "once"}).into(http.StatusCreated, &made)
	stranger := api{t: t, base: s.admin.base}
	csr := newCSR(t)
	other := newCSR(t)

	stranger.call("POST", "/v1/enrol", map[string]any{"code": made.Code, "csr": "hello"}).refused(422, "invalid_csr")
	stranger.call("POST", "/v1/enrol", map[string]any{"code": made.Code + "x", "csr": csr}).refused(403, "invalid_code")
	var first, again registration
	stranger.call("POST", "/v1/enrol", map[string]any{"code": made.Code, "csr": csr}).into(http.StatusCreated, &first)
	stranger.call("POST", "/v1/enrol", map[string]any{"code": made.Code, "csr": csr}).into(http.StatusOK, &again)
	if first.ID != again.ID || first.Certificate != again.Certificate {
		t.Errorf("the same code and key made device %s and then %s, or another certificate", first.ID, again.ID)
	}
	stranger.call("POST", "/v1/enrol", map[string]any{"code": made.Code, "csr": other}).refused(403, "invalid_code")
	if got := s.admin.devices(); !slices.Equal(got, []string{first.ID}) {
		t.Errorf("the devices are %v, want only %s", got, first.ID)
	}
	s.admin.call("DELETE", "/v1/devices/"+first.ID, nil).into(http.StatusNoContent, nil)
	stranger.call("POST", "/v1/enrol", map[string]any{"code": made.Code, "csr": csr}).refused(403, "invalid_code")
}

func TestCommandIsRefused(t *testing.T) {
	s := startSystemWithTestCatalogue(t)
	cam := s.admin.newDevice("live").connect()
	offline := s.admin.newDevice("offline")
	roles := "/v1/devices/" + cam.ID + "/commands"

	tests := map[string]struct {
		as     api
		path   string
		body   string
		status int
		code   string
	}{
		"unknown command":          {s.alice, roles, `{"command":"fly"}`, 422, "unknown_command"},
		"invalid arguments":        {s.alice, roles, `{"command":"ping","args":{"x":1}}`, 422, "invalid_arguments"},
		"a viewer":                 {s.watch, roles, `{"command":"ping"}`, 403, "forbidden"},
		"unknown device":           {s.alice, "/v1/devices/nobody/commands", `{"command":"ping"}`, 404, "device_not_found"},
		"offline device":           {s.alice, "/v1/devices/" + offline.ID + "/commands", `{"command":"ping"}`, 409, "device_offline"},
		"body that is no JSON":     {s.alice, roles, `{"command":`, 400, "malformed_json"},
		"a field twice":            {s.alice, roles, `{"command":"ping","command":"ping"}`, 400, "malformed_json"},
		"a field twice, in args":   {s.alice, roles, `{"command":"configure","args":{"volume":1,"volume":2}}`, 400, "malformed_json"},
		"data after the body":      {s.alice, roles, `{"command":"ping"} {}`, 400, "malformed_json"},
		"bytes that are no UTF-8":  {s.alice, roles, "{\"command\":\"ping\xff\"}", 400, "malformed_json"},
		"client named in the body": {s.alice, roles, `{"command":"ping","client":"bob"}`, 400, "malformed_json"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := tt.as.call("POST", tt.path, tt.body); got.took > time.Second {
				t.Errorf("refused after %s, want at once", got.took)
			} else {
				got.refused(tt.status, tt.code)
			}
		})
	}
	sent := s.alice.ping(cam.ID)
	if got := cam.next(); got.RequestID != sent.RequestID {
		t.Errorf("the camera received %+v first, want only the good command", got)
	}
}

func TestEveryFaultOfTheArgumentsIsNamed(t *testing.T) {
	s := startSystemWithTestCatalogue(t)
	cam := s.admin.newDevice("strict").connect()

	p := s.alice.call("POST", "/v1/devices/"+cam.ID+"/commands",
		`{"command":"configure","args":{"volume":101,"mode":"dusk","enabled":"yes"}}`).
		refused(http.StatusUnprocessableEntity, "invalid_arguments")

	var places []string
	for _, e := range p.Errors {
		places = append(places, e.Location)
		if e.Message == "" || strings.Contains(e.Message, "dusk") {
			t.Errorf("the fault at %s says %q, want a message without the input", e.Location, e.Message)
		}
	}
	if len(places) != 3 {
		t.Errorf("the faults are at %v, want three places", places)
	}
	for _, want := range []string{"volume", "mode", "enabled"} {
		if !slices.ContainsFunc(places, func(p string) bool { return strings.HasSuffix(p, want) }) {
			t.Errorf("no fault is at %s: %v", want, places)
		}
	}
}

// Limits of one message (iot-core.md: 256 KB).
const maxPayload = 262_144

func TestReplyAtTheSizeLimit(t *testing.T) {
	s := startSystem(t)
	dev := s.admin.newDevice("big")
	cam := dev.connect()
	sent := s.alice.ping(cam.ID)
	frame := len(replyTo(sent.RequestID, 0, true, `""`))
	exact := `"` + strings.Repeat("x", maxPayload-frame) + `"`

	t.Run("one byte over is refused and cuts the connection", func(t *testing.T) {
		over := `"` + strings.Repeat("x", maxPayload-frame+1) + `"`
		token := cam.client.Publish(cam.Topics.Events, 1, false, replyTo(sent.RequestID, 0, true, over))
		waitFor(t, stopTimeout, "the connection to be cut", func() bool { return !cam.client.IsConnected() })
		select {
		case <-token.Done():
			if token.Error() == nil {
				t.Error("the reply was acknowledged")
			}
		default:
		}
		if got := s.alice.poll(cam.ID, "", sent.RequestID); len(got.Replies) != 0 {
			t.Error("the reply was taken")
		}
	})
	t.Run("exactly at the limit is taken", func(t *testing.T) {
		cam := dev.connect()
		cam.answer(sent.RequestID, exact)
		expectOneReply(t, s.alice.poll(cam.ID, "5", sent.RequestID), sent.RequestID, exact)
	})
}

func TestCommandAtTheSizeLimit(t *testing.T) {
	s := startSystemWithTestCatalogue(t)
	cam := s.admin.newDevice("small").connect()
	path := "/v1/devices/" + cam.ID + "/commands"
	configure := func(note int) map[string]any {
		return map[string]any{"command": "configure", "args": map[string]string{"note": strings.Repeat("x", note)}}
	}

	s.alice.call("POST", path, configure(maxPayload)).refused(http.StatusRequestEntityTooLarge, "payload_too_large")
	s.alice.call("POST", path, configure(10*maxPayload)).refused(http.StatusRequestEntityTooLarge, "payload_too_large")
	const envelope = 400 // ids, names and times around the arguments take less
	s.alice.call("POST", path, configure(maxPayload-envelope)).into(http.StatusAccepted, nil)
	if got := cam.next(); len(got.Args) < maxPayload-envelope {
		t.Errorf("the camera received %d bytes of arguments first, want the good command", len(got.Args))
	}
}
