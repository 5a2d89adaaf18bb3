package migrate_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"go.uber.org/goleak"

	"signaldevice/migrate"
	"signaldevice/migrate/migratetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func validCert(t testing.TB) string {
	t.Helper()
	_, text := migratetest.Certificate(t, time.Now().AddDate(5, 0, 0))
	return text
}

// files are an export that a test changes before it is read.
type files map[string]string

func (f files) fs() fstest.MapFS {
	out := fstest.MapFS{}
	for name, data := range f {
		out[name] = &fstest.MapFile{Data: []byte(data)}
	}
	return out
}

// certList is the list of certificates that the vendor's tool prints for a device.
func certList(t testing.TB, id string, pems ...string) string {
	t.Helper()
	rows := []map[string]string{}
	for _, p := range pems {
		rows = append(rows, map[string]string{
			"device_id": id, "fingerprint": "0123", "certificate_data": p, "created_at": "2024-05-29T17:14:18.804Z",
		})
	}
	data, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// validExport has two devices in one registry.
func validExport(t testing.TB) files {
	t.Helper()
	return files{
		"registries.json": `[{"id":"are0reg","folder_id":"b1g","created_at":"2024-05-28T16:08:30Z","name":"north","status":"ACTIVE"}]`,
		"devices-are0reg.json": `[
  {"id":"are0one","registry_id":"are0reg","name":"taxi-1","description":"front","status":"ACTIVE","labels":{"depot":"a"}},
  {"id":"are0two","registry_id":"are0reg","name":"taxi-2","status":"ACTIVE"}
]`,
		"device-certs-are0reg/are0one.json": certList(t, "are0one", validCert(t)),
		"device-certs-are0reg/are0two.json": certList(t, "are0two", validCert(t)),
	}
}

func read(t testing.TB, f files, only ...string) *migrate.Export {
	t.Helper()
	x, err := migrate.Read(f.fs(), only...)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// ids lists the devices of an export.
func ids(x *migrate.Export) string {
	var out []string
	for _, r := range x.Registries {
		for _, d := range r.Devices {
			out = append(out, string(d.ID))
		}
	}
	return strings.Join(out, " ")
}

// lines are findings as people read them.
func lines(findings []migrate.Finding) []string {
	var out []string
	for _, f := range findings {
		out = append(out, f.Error())
	}
	return out
}

func wantLine(t testing.TB, what string, findings []migrate.Finding, want string) {
	t.Helper()
	if !slices.Contains(lines(findings), want) {
		t.Errorf("%s:\n  %s\nwant\n  %s", what, strings.Join(lines(findings), "\n  "), want)
	}
}
