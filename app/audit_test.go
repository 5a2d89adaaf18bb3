package app

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signaldevice/access"
	"signaldevice/audit"
)

func auditLines(t *testing.T, path string) (lines []audit.Entry, text string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		var e audit.Entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		lines = append(lines, e)
	}
	return lines, string(data)
}

func TestStandalone_AuditsChangesAndReopensOnReload(t *testing.T) {
	api, broker := testOptions(t)
	api.Audit = filepath.Join(t.TempDir(), "audit.log")
	a, err := Standalone(t.Context(), api, broker)
	if err != nil {
		t.Fatal(err)
	}
	defer stop(t, a)
	tokens := map[string]string{}
	for _, role := range []string{"admin", "viewer"} {
		if tokens[role], err = access.CreateToken(filepath.Join(broker.Data, tokensFile), "the-"+role, role, time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	base := "http://" + a.Ready().HTTP

	status, made := post(t, base+"/v1/enrolment-codes", tokens["admin"], `{"name":"taxi-17"}`)
	var code struct{ Code string }
	if err := json.Unmarshal([]byte(made), &code); err != nil || status != http.StatusCreated {
		t.Fatalf("%d %s", status, made)
	}
	if status, body := post(t, base+"/v1/enrol", "", `{"code":"`+code.Code+`","csr":"CANARY"}`); status != http.StatusUnprocessableEntity {
		t.Errorf("enrolment with a bad CSR: %d %s", status, body)
	}
	if status, body := post(t, base+"/v1/devices/cam-1/commands", tokens["viewer"], `{"command":"ping","args":{"x":"CANARY"}}`); status != http.StatusForbidden {
		t.Errorf("a viewer sends: %d %s", status, body)
	}
	if status, body := get(t, base+"/v1/devices", tokens["viewer"]); status != http.StatusOK {
		t.Errorf("a viewer reads: %d %s", status, body)
	}

	lines, text := auditLines(t, api.Audit)
	type told struct {
		action       audit.Action
		client, role string
		result       audit.Result
		code         string
	}
	var got []told
	for _, e := range lines {
		if e.Event == audit.Outcome {
			got = append(got, told{e.Action, string(e.Client), e.Role, e.Result, string(e.Code)})
		}
		if !strings.HasPrefix(e.Address, "127.0.0.1:") || e.HTTPRequest == "" {
			t.Errorf("%+v does not say where it came from", e)
		}
	}
	want := []told{
		{audit.CreateEnrolmentCode, "the-admin", "admin", audit.Accepted, ""},
		{audit.EnrolDevice, "", "", audit.Refused, "invalid_csr"},
		{audit.SendCommand, "the-viewer", "viewer", audit.Refused, "forbidden"},
	}
	if len(lines) != 2*len(want) || len(got) != len(want) || got[0] != want[0] || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for _, secret := range []string{"CANARY", code.Code, tokens["admin"], tokens["viewer"]} {
		if strings.Contains(text, secret) {
			t.Errorf("a secret is in the audit log: %s", text)
		}
	}

	if err := os.Rename(api.Audit, api.Audit+".1"); err != nil {
		t.Fatal(err)
	}
	if err := a.Reload(); err != nil {
		t.Fatal(err)
	}
	post(t, base+"/v1/enrolment-codes", tokens["admin"], `{}`)
	post(t, base+"/v1/enrolment-codes", "CANARY", `{}`)
	lines, text = auditLines(t, api.Audit)
	if len(lines) != 3 || lines[2].Event != audit.RefusedAtEdge || lines[2].Code != "unauthenticated" || strings.Contains(text, "CANARY") {
		t.Errorf("the new file has %d lines, want two about a change and one about a call by nobody: %s", len(lines), text)
	}
	if lines, _ := auditLines(t, api.Audit+".1"); len(lines) != 2*len(want) {
		t.Errorf("the old file has %d lines", len(lines))
	}
}

func TestStandalone_DoesNotStartWithoutItsAuditLog(t *testing.T) {
	api, broker := testOptions(t)
	api.Audit = filepath.Join(t.TempDir(), "none", "audit.log")
	if a, err := Standalone(t.Context(), api, broker); err == nil {
		stop(t, a)
		t.Error("it started without the audit log that it was told to write")
	} else if !strings.Contains(err.Error(), "audit log") {
		t.Errorf("the error does not name the cause: %v", err)
	}
}
