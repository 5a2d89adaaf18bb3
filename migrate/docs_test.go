package migrate_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"signaldevice/migrate"
)

// exportScript is the script that docs/migration.md tells people to run.
func exportScript(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile("../docs/migration.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(doc), "```bash\n#!/usr/bin/env bash\n")
	script, _, closed := strings.Cut(rest, "\n```\n")
	if !found || !closed {
		t.Fatal("docs/migration.md has no script")
	}
	file := filepath.Join(t.TempDir(), "export.sh")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// fakeYC stands in for the vendor's tool: it knows the commands that the script may call, with the syntax of the vendor's
// reference, and answers from $ANSWERS. A command whose file in $FAIL is there fails once, after some output.
const fakeYC = `#!/bin/sh
echo "yc $*" >>"$ANSWERS/calls"
case "$*" in
"config get folder-id") echo b1gfolder; exit ;;
"iot registry list --folder-id b1gfolder "*) list=registries ;;
"iot broker list --folder-id b1gfolder "*) list=empty ;;
"iot device list --registry-id $5 --limit 20000 --folder-id b1gfolder "*) list=devices-$5 ;;
"iot registry certificate list --registry-id $6 --folder-id b1gfolder "*) list=empty ;;
"iot registry list-device-topic-aliases $4 --folder-id b1gfolder "*) list=aliases-$4 ;;
"iot registry yds-export list --registry-id $6 --folder-id b1gfolder "*) list=empty ;;
"iot device certificate list --device-id $6 --folder-id b1gfolder "*) list=certs-$6 ;;
*) echo "ERROR: unknown command: yc $*" >&2; exit 2 ;;
esac
case "$*" in
*" --format json") file=$ANSWERS/$list.json ;;
*" --jq .[].id") file=$ANSWERS/$list.ids ;;
*) echo "ERROR: unknown flag: yc $*" >&2; exit 2 ;;
esac
if [ -e "$ANSWERS/fail-$list" ]; then
	rm "$ANSWERS/fail-$list"
	printf '[{"device'
	echo "ERROR: rpc error: code = Unavailable" >&2
	exit 1
fi
cat "$file"
`

func writeAll(t *testing.T, dir string, files files) {
	t.Helper()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o700); err != nil {
			t.Fatal(err)
		}
	}
}

// The script of the documentation saves what Read reads, whatever fails on the way.
func TestDocs_ExportScript(t *testing.T) {
	answers, bin, work := t.TempDir(), t.TempDir(), t.TempDir()
	valid := validExport(t)
	writeAll(t, bin, files{"yc": fakeYC})
	writeAll(t, answers, files{
		"registries.json":      strings.Replace(valid["registries.json"], "[{", `[{"id":"are1reg","name":"south","labels":{"id":"are9"}},{`, 1),
		"registries.ids":       "are1reg\nare0reg\n",
		"devices-are0reg.json": valid["devices-are0reg.json"],
		"devices-are0reg.ids":  "\"are0one\"\r\n\"are0two\"\r\n", // as another version of the tool might print them
		"devices-are1reg.json": "[]",
		"devices-are1reg.ids":  "",
		"aliases-are0reg.json": `[{"device_id":"are0two","topic_prefix":"$devices/are0two/commands","alias":"do"}]`,
		"aliases-are1reg.json": "null\n",
		"certs-are0one.json":   valid["device-certs-are0reg/are0one.json"],
		"certs-are0two.json":   valid["device-certs-are0reg/are0two.json"],
		"empty.json":           "[]\n",
		"fail-certs-are0one":   "",
		"fail-devices-are1reg": "",
	})
	script := exportScript(t)
	run := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "bash", append([]string{script}, args...)...)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "ANSWERS="+answers)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}

	out, err := run()
	if err == nil || !strings.Contains(out, "not saved: device-certs-are0reg/are0one.json\n") ||
		!strings.Contains(out, "not saved: devices-are1reg.json\n") || !strings.Contains(out, "2 lists could not be saved: run this again\n") {
		t.Fatalf("%v:\n%s", err, out)
	}
	half, err := migrate.Read(os.DirFS(filepath.Join(work, "iot-export")))
	if err != nil {
		t.Fatal(err)
	}
	if ids(half) != "are0two" || len(half.Faults) != 2 {
		t.Errorf("half an export: %q, faults %q", ids(half), lines(half.Faults))
	}

	if out, err := run(); err != nil || !strings.Contains(out, "saved in ") {
		t.Fatalf("%v:\n%s", err, out)
	}
	x, err := migrate.Read(os.DirFS(filepath.Join(work, "iot-export")))
	if err != nil {
		t.Fatal(err)
	}
	if ids(x) != "are0one are0two" || len(x.Registries) != 2 || len(x.Faults) > 0 {
		t.Errorf("%q in %d registries, faults %q", ids(x), len(x.Registries), lines(x.Faults))
	}
	wantLine(t, "notes", x.Notes, "device taxi-2 (are0two): has topic aliases, and must name topics in full: do for $devices/are0two/commands")
	wantLine(t, "notes", x.Notes, "registry south (are1reg): has labels of its own: there is one registry here, without labels")
	if p := plan(x); len(p.Moves) != 2 || len(p.Moves[0].Certificates) != 1 {
		t.Errorf("moves %+v", p.Moves)
	}
	calls, err := os.ReadFile(filepath.Join(answers, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(calls), "yc iot device certificate list --device-id are0two"); n != 1 {
		t.Errorf("what was saved was asked for %d times", n)
	}

	// Another cloud folder, into another result.
	if out, err := run("other", "b1gother"); err == nil || !strings.Contains(out, "unknown command: yc iot registry list --folder-id b1gother") {
		t.Errorf("%v:\n%s", err, out)
	}
}
