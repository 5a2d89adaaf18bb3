package httpapi

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

// The exact bodies that clients see.

const (
	certificates = `[{"fingerprint":"` + fingerprint + `","not_after":"2026-11-24T12:00:00.123Z"}]`
	deviceJSON   = `{"id":"cam-1","name":"taxi-17","description":"","labels":{"fleet":"north"},"certificates":` + certificates +
		`,"created_at":"2026-11-24T12:00:00.123Z","online":true,"since":"2026-11-24T12:00:00.123Z","last_seen":null}`
)

func registrationJSON(certificate string) string {
	return `{"id":"cam-1","name":"taxi-17","labels":{"fleet":"north"},"certificates":` + certificates + certificate +
		`,"ca":"the CA","mqtt":"ssl://broker:8883","topics":{"commands":"$devices/cam-1/commands","events":"$devices/cam-1/events"}}`
}

func requestJSON() string {
	return `{"request_id":"` + string(requestID) + `","device_id":"cam-1","client":"alice","command":"ping","state":"delivered",` +
		`"cause":null,"hold":false,"created_at":"2026-11-24T12:00:00.123Z","sent_at":"2026-11-24T12:00:00.123Z",` +
		`"deliver_by":"2026-11-24T12:00:10.123Z","reply_by":"2026-11-24T12:00:30.123Z","replies":1,"late":false,"timeline":[` +
		`{"state":"sent","at":"2026-11-24T12:00:00.123Z","cause":null},` +
		`{"state":"no_reply","at":"2026-11-24T12:00:00.123Z","cause":"too late"}]}`
}

func replyJSON(result string) string {
	return `{"request_id":"` + string(requestID) + `","device_id":"cam-1","command":"ping","status":"ok","result":` + result +
		`,"error":null,"seq":0,"final":true,"late":false,"received_at":"2026-11-24T12:00:00.123Z"}`
}

func (h *harness) asked(want any) {
	h.t.Helper()
	if !reflect.DeepEqual(h.service.input, want) {
		h.t.Errorf("the service was asked\n%#v\nwant\n%#v", h.service.input, want)
	}
}

func TestDevices_Enrol(t *testing.T) {
	h := newHarness(t)
	r := func() *http.Request {
		return call("POST", "/v1/enrol", `{"code":"c","csr":"s","name":"n"}`, withHeader("Authorization"))
	}
	h.answers(r(), 201, registrationJSON(`,"certificate":"signed"`))
	h.asked(dispatch.Enrolment{Code: "c", CSR: "s", Name: "n"})
	h.service.repeated = true
	h.answers(r(), 200, registrationJSON(`,"certificate":"signed"`))
	h.service.called()
	h.fails(call("POST", "/v1/enrol?x=1", `{"code":"c","csr":"s"}`), 422, device.Invalid)
}

func TestDevices_Register(t *testing.T) {
	h := newHarness(t)
	res := h.answers(call("POST", "/v1/devices", `{"name":"taxi-17","csr":"signed","labels":{"fleet":"north"}}`), 201,
		registrationJSON(`,"certificate":"signed"`))
	if got := res.Header.Get("Location"); got != "/v1/devices/cam-1" {
		t.Errorf("Location %q", got)
	}
	h.asked(dispatch.NewDevice{Name: "taxi-17", Labels: device.Labels{"fleet": "north"}, Credential: dispatch.Credential{CSR: "signed"}})
	h.answers(call("POST", "/v1/devices", `{"name":"taxi-17","certificate":"own"}`), 201, registrationJSON(""))
	h.asked(dispatch.NewDevice{Name: "taxi-17", Credential: dispatch.Credential{Certificate: "own"}})
	h.service.called()
	h.fails(call("POST", "/v1/devices?x=1", `{"name":"a","csr":"s"}`), 422, device.Invalid)
}

func TestDevices_ListAndGet(t *testing.T) {
	h := newHarness(t)
	h.answers(call("GET", "/v1/devices", ""), 200, `{"items":[`+deviceJSON+`],"next_cursor":null}`)
	h.service.next = "more"
	h.answers(call("GET", "/v1/devices", ""), 200, `{"items":[`+deviceJSON+`],"next_cursor":"more"}`)
	h.answers(call("GET", "/v1/devices/cam-1", ""), 200, deviceJSON)
	h.asked(testDevice)
}

func TestDevices_Delete(t *testing.T) {
	h := newHarness(t)
	h.answers(call("DELETE", "/v1/devices/cam-1", ""), 204, "")
	h.asked(testDevice)
}

func TestDevices_Certificates(t *testing.T) {
	h := newHarness(t)
	h.answers(call("POST", "/v1/devices/cam-1/certificates", `{"csr":"s"}`), 201,
		`{"fingerprint":"`+fingerprint+`","not_after":"2026-11-24T12:00:00.123Z","certificate":"signed"}`)
	h.asked(dispatch.Credential{CSR: "s"})
	h.answers(call("POST", "/v1/devices/cam-1/certificates", `{"certificate":"own"}`), 201,
		`{"fingerprint":"`+fingerprint+`","not_after":"2026-11-24T12:00:00.123Z"}`)
	h.answers(call("DELETE", "/v1/devices/cam-1/certificates/"+fingerprint, ""), 204, "")
	h.asked(fingerprint)
	h.service.called()
	for name, f := range map[string]string{
		"too short": fingerprint[1:], "too long": fingerprint + "0", "upper case": strings.ToUpper(fingerprint), "not hex": "g" + fingerprint[1:],
	} {
		t.Run(name, func(t *testing.T) {
			h.t = t
			h.fails(call("DELETE", "/v1/devices/cam-1/certificates/"+f, ""), 404, device.CertificateUnknown)
		})
	}
}

func TestDevices_CreateEnrolmentCode(t *testing.T) {
	h := newHarness(t)
	h.answers(call("POST", "/v1/enrolment-codes", `{"name":"n","labels":{"a":"b"},"expires_in":1.5}`), 201,
		`{"code":"one-time","expires_at":"2026-11-24T12:00:00.123Z"}`)
	h.asked(dispatch.NewCode{Name: "n", Labels: device.Labels{"a": "b"}, ExpiresIn: 1500 * time.Millisecond})
	h.answers(call("POST", "/v1/enrolment-codes", `{}`), 201, `{"code":"one-time","expires_at":"2026-11-24T12:00:00.123Z"}`)
	h.asked(dispatch.NewCode{})
	h.service.called()
	h.fails(call("POST", "/v1/enrolment-codes?x=1", `{}`), 422, device.Invalid)
}

// An id reaches the service whole, whatever is in it: it cannot lead to another route. Whether there is such a device,
// the service says.
func TestIDs_ComeAsTheyAre(t *testing.T) {
	h := newHarness(t)
	for escaped, id := range map[string]string{
		"cam-1":            "cam-1",
		"a%20b":            "a b",
		"a%2fcommands":     "a/commands",
		"%2e%2e":           "..",
		"a%0d%0aX-Evil:1":  "a\r\nX-Evil:1",
		"a%00":             "a\x00",
		"%ff":              "\xff",
		"%2b":              "+",
		"a+b":              "a+b",
		"%7Bid%7D":         "{id}",
		"a%3Fwait%3D1%23x": "a?wait=1#x",
	} {
		h.do(call("GET", "/v1/devices/"+escaped, ""))
		h.asked(device.ID(id))
		h.do(call("GET", "/v1/requests/"+escaped, ""))
		h.asked(device.RequestID(id))
		if got := h.service.called(); !reflect.DeepEqual(got, []string{"Device", "Request"}) {
			t.Errorf("%s: calls %v", escaped, got)
		}
	}
}

func TestCommands_List(t *testing.T) {
	h := newHarness(t)
	h.answers(call("GET", "/v1/commands", ""), 200, `{"commands":[`+
		`{"name":"ping","title":"Ping","description":"Says pong.","group":"Basics","permission":"commands.ping","danger":false,`+
		`"hold":false,"deliver_within":10,"reply_within":30,"reply":{"kind":"json"},"args":{},"allowed":true},`+
		`{"name":"set_volume","title":"Volume","description":"","group":"Sound","permission":"commands.set_volume","danger":true,`+
		`"hold":true,"deliver_within":1.5,"reply_within":60,"reply":{"kind":"text"},"args":`+string(goodCommands()[1].Args)+`,"allowed":false}]}`)
	h.answers(call("GET", "/v1/commands?device=cam-1", ""), 200, `{"commands":[`+
		`{"name":"ping","title":"Ping","description":"Says pong.","group":"Basics","permission":"commands.ping","danger":false,`+
		`"hold":false,"deliver_within":10,"reply_within":30,"reply":{"kind":"json"},"args":{},"allowed":true}]}`)
	h.asked(testDevice)
	h.service.err = device.Errorf(device.DeviceNotFound, "no such device")
	if res := h.do(call("GET", "/v1/commands?device=cam-2", "")); res.StatusCode != 404 {
		t.Errorf("a device that does not exist: %d\n%s", res.StatusCode, res.body)
	}
}

func TestCommands_Send(t *testing.T) {
	h := newHarness(t)
	accepted := `{"request_id":"` + string(requestID) + `","device_id":"cam-1","command":"ping","state":"delivered",` +
		`"sent_at":"2026-11-24T12:00:00.123Z","reply_by":"2026-11-24T12:00:30.123Z"`
	res := h.answers(call("POST", sendPath, `{"command":"ping","args":{"b":1, "a":2}}`, withHeader("Idempotency-Key", "k")), 202, accepted+`}`)
	if got := res.Header.Get("Location"); got != "/v1/requests/"+string(requestID) {
		t.Errorf("Location %q", got)
	}
	h.asked(dispatch.SendInput{Device: testDevice, Command: "ping", Args: []byte(`{"b":1, "a":2}`), IdempotencyKey: "k"})

	h.service.sent.Request.SentAt, h.service.sent.Request.State = time.Time{}, device.StateHeld
	h.answers(call("POST", sendPath, `{"command":"ping"}`), 202,
		strings.NewReplacer(`"delivered"`, `"held"`, `"sent_at":"2026-11-24T12:00:00.123Z"`, `"sent_at":null`).Replace(accepted)+`}`)

	h.service.sent = dispatch.SendResult{Request: goodRequest(), Replies: []dispatch.Reply{goodReply(`{"pong":true}`)}}
	h.service.sent.Request.State = device.StateAnswered
	res = h.answers(call("POST", sendPath, `{"command":"ping"}`, withHeader("Prefer", "wait=5")), 200,
		strings.ReplaceAll(accepted, `"delivered"`, `"answered"`)+`,"replies":[`+replyJSON(`{"pong":true}`)+`]}`)
	if res.Header.Get("Preference-Applied") != "wait=5" || res.Header.Get("Location") != "" {
		t.Errorf("headers %v", res.Header)
	}
	h.service.called()
	h.fails(call("POST", sendPath+"?wait=5", `{"command":"ping"}`), 422, device.Invalid)
}

func TestReplies_Read(t *testing.T) {
	h := newHarness(t)
	path := "/v1/devices/cam-1/replies"
	h.answers(call("GET", path, ""), 200, `{"replies":[],"answered":false,"requests":[],"source":"broker"}`)
	h.asked(dispatch.RepliesInput{Device: testDevice, IDs: []device.RequestID{}})

	failed := goodReply("")
	failed.Answer = device.Answer{Status: device.StatusError, Error: &device.AnswerError{Code: "busy", Message: "later"}}
	failed.Seq, failed.Final, failed.Late, failed.Command = 3, false, true, ""
	h.service.replies = dispatch.Replies{
		Source: dispatch.SourceCache, Answered: true,
		Replies:  []dispatch.Reply{goodReply(`[1,"<img onerror=alert(1)>"]`), failed},
		Requests: []dispatch.RequestState{{ID: requestID, State: device.StateAnswered}, {ID: "other", State: device.StateNotFound}},
	}
	h.answers(call("GET", path+"?request_id="+string(requestID)+"&request_id=other&wait=60", ""), 200,
		`{"replies":[`+replyJSON(`[1,"<img onerror=alert(1)>"]`)+`,`+
			`{"request_id":"`+string(requestID)+`","device_id":"cam-1","command":"","status":"error","result":null,`+
			`"error":{"code":"busy","message":"later"},"seq":3,"final":false,"late":true,"received_at":"2026-11-24T12:00:00.123Z"}],`+
			`"answered":true,"requests":[{"request_id":"`+string(requestID)+`","state":"answered"},{"request_id":"other","state":"not_found"}],`+
			`"source":"cache"}`)
	h.asked(dispatch.RepliesInput{Device: testDevice, IDs: []device.RequestID{requestID, "other"}, Wait: time.Minute})
}

func TestReplies_AsManyIDsAsAllowed(t *testing.T) {
	h := newHarness(t)
	id := strings.Repeat("x", 120)
	if res := h.do(call("GET", "/v1/devices/cam-1/replies?"+strings.Repeat("request_id="+id+"&", 100)+"wait=0", "")); res.StatusCode != 200 {
		t.Fatalf("%d %s", res.StatusCode, res.body)
	}
	if got := len(h.service.input.(dispatch.RepliesInput).IDs); got != 100 {
		t.Errorf("%d ids", got)
	}
}

// A reply that was taken reaches its client, even where its result is JSON that others would refuse.
func TestReplies_PassOnWhatADeviceSaid(t *testing.T) {
	for name, tt := range map[string]struct{ result, want string }{
		"fields twice":      {`{"a":1,"a":2}`, `{"a":1,"a":2}`},
		"invalid UTF-8":     {"\"\xff\"", "\"\ufffd\""},
		"half a surrogate":  {`"\ud800"`, "\"\ufffd\""},
		"an enormous float": {`1e400`, `1e400`},
		"blanks":            {" { } ", `{}`},
		"nothing":           {``, `null`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			h.service.replies.Replies = []dispatch.Reply{goodReply(tt.result)}
			rec := httptest.NewRecorder() // a validator would refuse some of this too
			h.api.ServeHTTP(rec, call("GET", "/v1/devices/cam-1/replies", ""))
			if want := `"result":` + tt.want + `,`; rec.Code != 200 || !strings.Contains(rec.Body.String(), want) {
				t.Errorf("%d %s, want %s", rec.Code, rec.Body, want)
			}
		})
	}
}

func TestRequests_ListGetAndCancel(t *testing.T) {
	h := newHarness(t)
	one := "/v1/requests/" + string(requestID)
	h.answers(call("GET", "/v1/requests", ""), 200, `{"items":[`+requestJSON()+`],"next_cursor":null}`)
	h.asked(dispatch.RequestFilter{Limit: 100})
	h.service.next = "more"
	h.answers(call("GET", "/v1/requests?device=cam-1&limit=5&cursor=c", ""), 200, `{"items":[`+requestJSON()+`],"next_cursor":"more"}`)
	h.asked(dispatch.RequestFilter{Device: testDevice, Limit: 5, Cursor: "c"})
	h.answers(call("GET", "/v1/requests?state=held&state=no_reply&command=ping&client=bob&since=2026-11-24T09:30:00.5%2B01:00&until=2026-11-24T10:00:00Z", ""),
		200, `{"items":[`+requestJSON()+`],"next_cursor":"more"}`)
	h.asked(dispatch.RequestFilter{
		Limit: 100, States: []device.State{device.StateHeld, device.StateNoReply}, Command: "ping", Client: "bob",
		Since: time.Date(2026, 11, 24, 8, 30, 0, 5e8, time.UTC), Until: time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC),
	})
	h.answers(call("GET", one, ""), 200, requestJSON())
	h.asked(requestID)
	h.answers(call("DELETE", one, ""), 200,
		strings.NewReplacer(`"state":"delivered"`, `"state":"cancelled"`, `"sent_at":"2026-11-24T12:00:00.123Z"`, `"sent_at":null`).Replace(requestJSON()))
}

// An error of the service reaches the caller from every operation, as the document says it may.
func TestHandlers_PassErrorsOn(t *testing.T) {
	h := newHarness(t)
	h.service.err = &device.Error{Kind: device.BrokerUnavailable}
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/enrol", `{"code":"c","csr":"s"}`},
		{"POST", "/v1/devices", `{"name":"a","csr":"s"}`},
		{"GET", "/v1/devices", ""},
		{"GET", "/v1/devices/cam-1", ""},
		{"DELETE", "/v1/devices/cam-1", ""},
		{"POST", "/v1/devices/cam-1/certificates", `{"csr":"s"}`},
		{"DELETE", "/v1/devices/cam-1/certificates/" + fingerprint, ""},
		{"POST", "/v1/enrolment-codes", `{}`},
		{"POST", sendPath, `{"command":"ping"}`},
		{"GET", "/v1/devices/cam-1/replies", ""},
		{"GET", "/v1/requests", ""},
		{"GET", "/v1/requests/" + string(requestID), ""},
		{"DELETE", "/v1/requests/" + string(requestID), ""},
	} {
		res := h.do(call(c.method, c.path, c.body))
		if res.StatusCode != 503 || res.problem(t).Code != "broker_unavailable" {
			t.Errorf("%s %s: %d %s", c.method, c.path, res.StatusCode, res.body)
		}
	}
}

func TestStamp_IsMillisecondsInUTC(t *testing.T) {
	east := time.FixedZone("", 3*3600)
	for want, in := range map[string]time.Time{
		"2026-11-24T12:00:00.123Z": noon,
		"2026-11-24T09:00:00.000Z": time.Date(2026, 11, 24, 12, 0, 0, 999, east),
	} {
		if got := stamp(in); got != want {
			t.Errorf("%v: %s, want %s", in, got, want)
		}
	}
	if got := fmt.Sprint(stampOrNull(time.Time{})); got != "<nil>" {
		t.Errorf("the zero time: %s", got)
	}
}
