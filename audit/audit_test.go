package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
	"signaldevice/dispatch"
)

const (
	cam         = device.ID("d4f2c8a1b7e34590")
	fingerprint = "3f786850e387550fdab836ed7e6dc881de23001b"
	canary      = "CANARY"
)

var (
	noon   = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	panel  = dispatch.Caller{Client: "panel"}
	origin = Origin{Role: "operator", Address: "192.0.2.7:51034", HTTPRequest: "EKFMO2VQ3BVFNMPWDOGHMVJXK4"}
)

func mint(t *testing.T) device.RequestID {
	t.Helper()
	ring, err := device.NewKeyRing(device.NewKey(1))
	if err != nil {
		t.Fatal(err)
	}
	return ring.Mint(noon, device.MailboxOf("panel"), cam, noon)
}

// fakeService answers every call with something good, or with err. before runs inside of each.
type fakeService struct {
	dispatch.Service
	request device.RequestID
	err     error
	before  func()
}

func answer[T any](s *fakeService, good T) (T, error) {
	s.before()
	if s.err != nil {
		return *new(T), s.err
	}
	return good, nil
}

func (s *fakeService) registration() dispatch.Registration {
	return dispatch.Registration{
		Device:      device.Device{ID: cam, Name: "taxi-17", Certificates: []device.Certificate{{Fingerprint: fingerprint, PEM: canary}}},
		Certificate: canary,
	}
}

func (s *fakeService) Send(context.Context, dispatch.Caller, dispatch.SendInput) (dispatch.SendResult, error) {
	return answer(s, dispatch.SendResult{
		Request: device.Request{ID: s.request, Device: cam, Command: "reboot"},
		Replies: []dispatch.Reply{{Reply: device.Reply{Body: []byte(canary)}, Answer: device.Answer{Result: json.RawMessage(`"` + canary + `"`)}}},
	})
}

func (s *fakeService) Cancel(context.Context, dispatch.Caller, device.RequestID) (device.Request, error) {
	return answer(s, device.Request{ID: s.request, Device: cam, Command: "reboot"})
}

func (s *fakeService) Register(context.Context, dispatch.Caller, dispatch.NewDevice) (dispatch.Registration, error) {
	return answer(s, s.registration())
}

func (s *fakeService) Enrol(context.Context, dispatch.Enrolment) (dispatch.Registration, error) {
	return answer(s, s.registration())
}

func (s *fakeService) CreateEnrolmentCode(context.Context, dispatch.Caller, dispatch.NewCode) (dispatch.Code, error) {
	return answer(s, dispatch.Code{Code: canary})
}

func (s *fakeService) DeleteDevice(context.Context, dispatch.Caller, device.ID) error {
	_, err := answer(s, 0)
	return err
}

func (s *fakeService) AddCertificate(context.Context, dispatch.Caller, device.ID, dispatch.Credential) (device.Certificate, error) {
	return answer(s, device.Certificate{Fingerprint: fingerprint, PEM: canary})
}

func (s *fakeService) RevokeCertificate(context.Context, dispatch.Caller, device.ID, string) error {
	_, err := answer(s, 0)
	return err
}

// audited is a call that must be audited, and what its lines say besides what all lines say.
type audited struct {
	call    func(ctx context.Context, s dispatch.Service) error
	intent  Entry
	outcome Entry // of an accepted call
}

// auditedCalls has every such call by the method's name. Each brings secrets.
func auditedCalls(id device.RequestID) map[string]audited {
	secret := dispatch.Credential{Certificate: canary, CSR: canary}
	registered := Entry{Device: cam, Name: "taxi-17", Fingerprint: fingerprint}
	with := func(e Entry, a Action, c device.ClientID) Entry { e.Action, e.Client = a, c; return e }
	return map[string]audited{
		"Send": {
			func(ctx context.Context, s dispatch.Service) error {
				_, err := s.Send(ctx, panel, dispatch.SendInput{Device: cam, Command: "reboot", Args: json.RawMessage(`{"pin":"` + canary + `"}`), IdempotencyKey: canary})
				return err
			},
			Entry{Action: SendCommand, Client: "panel", Device: cam, Command: "reboot"},
			Entry{Action: SendCommand, Client: "panel", Device: cam, Command: "reboot", Request: id},
		},
		"Cancel": {
			func(ctx context.Context, s dispatch.Service) error { _, err := s.Cancel(ctx, panel, id); return err },
			Entry{Action: CancelRequest, Client: "panel", Request: id},
			Entry{Action: CancelRequest, Client: "panel", Request: id, Device: cam, Command: "reboot"},
		},
		"Register": {
			func(ctx context.Context, s dispatch.Service) error {
				_, err := s.Register(ctx, panel, dispatch.NewDevice{Name: "taxi-17", Credential: secret})
				return err
			},
			Entry{Action: RegisterDevice, Client: "panel", Name: "taxi-17"},
			with(registered, RegisterDevice, "panel"),
		},
		"Enrol": {
			func(ctx context.Context, s dispatch.Service) error {
				_, err := s.Enrol(ctx, dispatch.Enrolment{Code: canary, CSR: canary})
				return err
			},
			Entry{Action: EnrolDevice},
			with(registered, EnrolDevice, ""),
		},
		"CreateEnrolmentCode": {
			func(ctx context.Context, s dispatch.Service) error {
				_, err := s.CreateEnrolmentCode(ctx, panel, dispatch.NewCode{Name: "taxi-17"})
				return err
			},
			Entry{Action: CreateEnrolmentCode, Client: "panel", Name: "taxi-17"},
			Entry{Action: CreateEnrolmentCode, Client: "panel", Name: "taxi-17"},
		},
		"DeleteDevice": {
			func(ctx context.Context, s dispatch.Service) error { return s.DeleteDevice(ctx, panel, cam) },
			Entry{Action: DeleteDevice, Client: "panel", Device: cam},
			Entry{Action: DeleteDevice, Client: "panel", Device: cam},
		},
		"AddCertificate": {
			func(ctx context.Context, s dispatch.Service) error {
				_, err := s.AddCertificate(ctx, panel, cam, secret)
				return err
			},
			Entry{Action: AddCertificate, Client: "panel", Device: cam},
			Entry{Action: AddCertificate, Client: "panel", Device: cam, Fingerprint: fingerprint},
		},
		"RevokeCertificate": {
			func(ctx context.Context, s dispatch.Service) error {
				return s.RevokeCertificate(ctx, panel, cam, fingerprint)
			},
			Entry{Action: RevokeCertificate, Client: "panel", Device: cam, Fingerprint: fingerprint},
			Entry{Action: RevokeCertificate, Client: "panel", Device: cam, Fingerprint: fingerprint},
		},
	}
}

func newService(fake *fakeService, log *Log) *Service {
	if fake.before == nil {
		fake.before = func() {}
	}
	return New(Config{Service: fake, Log: log, Errors: slog.New(slog.DiscardHandler), Clock: func() time.Time { return noon }})
}

func entries(t *testing.T, text string) []Entry {
	t.Helper()
	var list []Entry
	for line := range strings.Lines(text) {
		var e Entry
		d := json.NewDecoder(strings.NewReader(line))
		d.DisallowUnknownFields()
		if err := d.Decode(&e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		list = append(list, e)
	}
	return list
}

// complete adds what every line of a call has.
func complete(e Entry, audit string, event Event, result Result, code device.Kind) Entry {
	e.Time, e.Audit, e.Event, e.Result, e.Code = "2026-11-24T12:00:00.000Z", audit, event, result, code
	e.Role, e.Address, e.HTTPRequest = origin.Role, origin.Address, origin.HTTPRequest
	return e
}

func TestService_WritesIntentBeforeTheCallAndOutcomeAfterIt(t *testing.T) {
	id := mint(t)
	ends := map[string]struct {
		err    error
		result Result
		code   device.Kind
	}{
		"accepted":              {nil, Accepted, ""},
		"forbidden":             {device.Errorf(device.Forbidden, canary), Refused, device.Forbidden},
		"device offline":        {device.Wrap(device.DeviceOffline, errors.New(canary), canary), Refused, device.DeviceOffline},
		"cut on its way":        {device.Errorf(device.OutcomeUnknown, canary), Unknown, device.OutcomeUnknown},
		"a fault without kind":  {errors.New(canary), Unknown, device.Internal},
		"the client went away":  {context.Canceled, Unknown, device.Internal},
		"broker is not reached": {device.Errorf(device.BrokerUnavailable, canary), Refused, device.BrokerUnavailable},
	}
	for method, tt := range auditedCalls(id) {
		for name, end := range ends {
			t.Run(method+", "+name, func(t *testing.T) {
				var out bytes.Buffer
				before := -1
				fake := &fakeService{request: id, err: end.err, before: func() { before = out.Len() }}
				err := tt.call(WithOrigin(t.Context(), origin), newService(fake, NewLog(&out)))
				if !errors.Is(err, end.err) {
					t.Errorf("the caller gets %v, want %v", err, end.err)
				}
				got := entries(t, out.String())
				if len(got) != 2 || got[0].Audit == "" {
					t.Fatalf("lines %s", out.String())
				}
				outcome := tt.outcome
				if end.err != nil {
					outcome = tt.intent // nothing was learned
				}
				want := []Entry{
					complete(tt.intent, got[0].Audit, Intent, "", ""),
					complete(outcome, got[0].Audit, Outcome, end.result, end.code),
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("got\n%+v\nwant\n%+v", got, want)
				}
				if first := strings.Index(out.String(), "\n") + 1; before != first {
					t.Errorf("%d bytes were written before the call, want the first line, %d", before, first)
				}
				if strings.Contains(out.String(), canary) {
					t.Errorf("a secret is in %s", out.String())
				}
			})
		}
	}
}

// A call that is added to dispatch.Service has to be put on one of the two sides.
func TestService_EveryCallIsAuditedOrReads(t *testing.T) {
	reads := map[string]bool{
		"Commands": true, "CommandsOf": true, "Replies": true, "Request": true, "Requests": true,
		"Subscribe": true, "Device": true, "Devices": true, "Degraded": true,
	}
	calls := auditedCalls(mint(t))
	for m := range reflect.TypeFor[dispatch.Service]().Methods() {
		if _, audited := calls[m.Name]; audited == reads[m.Name] {
			t.Errorf("%s: audited %v, reads %v", m.Name, audited, reads[m.Name])
		}
	}
}

func TestService_LeavesOutTextThatIsNoName(t *testing.T) {
	for name, text := range map[string]string{
		"a token with a point": canary + ".x", "a line break": canary + "\n", "65 characters": canary + strings.Repeat("x", 59),
		"another alphabet": canary + "ж", "not UTF-8": canary + "\xff",
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			s := newService(&fakeService{err: device.Errorf(device.Invalid, "no")}, NewLog(&out))
			_, err := s.Send(t.Context(), panel, dispatch.SendInput{Device: device.ID(text), Command: text})
			errs := []error{err, s.DeleteDevice(t.Context(), panel, device.ID(text)), s.RevokeCertificate(t.Context(), panel, cam, text)}
			_, err = s.Cancel(t.Context(), panel, device.RequestID(text))
			errs = append(errs, err)
			_, err = s.Register(t.Context(), panel, dispatch.NewDevice{Name: text})
			errs = append(errs, err)
			_, err = s.Enrol(t.Context(), dispatch.Enrolment{Name: text})
			errs = append(errs, err)
			_, err = s.CreateEnrolmentCode(t.Context(), panel, dispatch.NewCode{Name: text})
			for _, err := range append(errs, err) {
				if !device.Is(err, device.Invalid) {
					t.Errorf("got %v", err)
				}
			}
			if got := entries(t, out.String()); len(got) != 14 || strings.Contains(out.String(), canary) {
				t.Errorf("%d lines, want 14 without the text: %s", len(got), out.String())
			}
		})
	}
	if long := strings.Repeat("x", maxNamed); named(long) != long {
		t.Error("a name of 64 characters was left out")
	}
}

// failing fails from the given write on; that one takes half of its line.
type failing struct {
	bytes.Buffer
	from, to int // writes, counted from 1
	writes   int
}

func (f *failing) Write(p []byte) (int, error) {
	f.writes++
	if f.writes >= f.from && f.writes <= f.to {
		n, _ := f.Buffer.Write(p[:len(p)/2])
		return n, errors.New("disk full")
	}
	return f.Buffer.Write(p)
}

func TestService_RefusesWhatItCannotAudit(t *testing.T) {
	id := mint(t)
	for method, tt := range auditedCalls(id) {
		t.Run(method, func(t *testing.T) {
			called := 0
			s := newService(&fakeService{request: id, before: func() { called++ }}, NewLog(&failing{from: 1, to: 1}))
			err := tt.call(t.Context(), s)
			if !device.Is(err, device.AuditUnavailable) || called != 0 {
				t.Errorf("got %v after %d calls, want a refusal and none", err, called)
			}
			if err := tt.call(t.Context(), s); err != nil || called != 1 {
				t.Errorf("the next good call: %v, %d", err, called)
			}
		})
	}
}

func TestService_TellsOfALostOutcomeAndKeepsTheAnswer(t *testing.T) {
	var log bytes.Buffer
	out := &failing{from: 2, to: 2}
	s := New(Config{
		Service: &fakeService{before: func() {}}, Log: NewLog(out),
		Errors: slog.New(slog.NewTextHandler(&log, nil)),
	})
	if err := s.DeleteDevice(t.Context(), panel, cam); err != nil {
		t.Errorf("a call that was made answers %v", err)
	}
	if !strings.Contains(log.String(), `msg="audit outcome lost"`) || !strings.Contains(log.String(), "disk full") {
		t.Errorf("the log says %s", log.String())
	}
	// The line that was cut short stands alone: those after it can be read.
	if err := s.DeleteDevice(t.Context(), panel, cam); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 {
		t.Fatalf("lines %q", lines)
	}
	entries(t, lines[0]+"\n"+lines[2]+"\n"+lines[3]+"\n")
}

// The example in the documentation is what the code writes.
func TestService_WritesTheDocumentedExample(t *testing.T) {
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	example, _, found := strings.Cut(rest, "```")
	if !found {
		t.Fatal("there is no example")
	}
	var out bytes.Buffer
	s := newService(&fakeService{err: device.Errorf(device.DeviceOffline, "offline")}, NewLog(&out))
	if _, err := s.Send(WithOrigin(t.Context(), origin), panel, dispatch.SendInput{Device: cam, Command: "reboot"}); err == nil {
		t.Fatal("accepted")
	}
	got := strings.ReplaceAll(out.String(), entries(t, out.String())[0].Audit, entries(t, example)[0].Audit)
	if got != example {
		t.Errorf("the code writes\n%s\nthe documentation says\n%s", got, example)
	}
}
