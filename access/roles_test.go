package access

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"signaldevice/catalogue"
	"signaldevice/device"
)

// validRoles uses every field. Tests change one thing in it.
const validRoles = `roles:
  dispatcher:
    description: Looks after the north fleet.
    permissions: [commands.status, "fleet.*", devices.register]
    labels: {fleet: north}
  owner: {permissions: ["*"]}
clients:
  "https://login.example.org|alice": dispatcher
`

func editRoles(t *testing.T, before, after string) string {
	t.Helper()
	if !strings.Contains(validRoles, before) {
		t.Fatalf("the valid file has no %q", before)
	}
	return strings.Replace(validRoles, before, after, 1)
}

// authorizer returns an Authorizer of a file with the text, and its log.
func authorizer(t testing.TB, text string) (*Authorizer, *bytes.Buffer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "roles.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a, err := OpenAuthorizer(AuthorizerConfig{Path: path, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return a, &log
}

func TestAuthorizer_Names(t *testing.T) {
	a, _ := authorizer(t, validRoles)
	if got := fmt.Sprint(a.Names()); got != "[dispatcher owner]" {
		t.Errorf("got %s", got)
	}
}

func TestAuthorizer_GrantsWhatTheRoleSays(t *testing.T) {
	a, _ := authorizer(t, validRoles)
	c := a.Caller(Identity{Client: "bob", Role: "dispatcher"})
	if c.Client != "bob" || !reflect.DeepEqual(c.Labels, device.Labels{"fleet": "north"}) {
		t.Errorf("got %+v", c)
	}
	tests := map[string]bool{
		"commands.status":        true,
		"commands.status.more":   false,
		"commands":               false,
		"commands.settings":      false,
		"devices.register":       true,
		"devices.delete":         false,
		"fleet.north":            true,
		"fleet.north.stop":       false,
		"fleet":                  false,
		"fleets.north":           false,
		"my.fleet.north":         false,
		"*":                      false,
		"":                       false,
		device.PermReadAll:       false,
		"commands.status ":       false,
		"COMMANDS.STATUS":        false,
		"commands.danger.reboot": false,
	}
	for permission, want := range tests {
		if got := c.May(permission); got != want {
			t.Errorf("May(%q) = %t, want %t", permission, got, want)
		}
	}
}

func TestAuthorizer_ARoleThatDoesNotExistMayNothing(t *testing.T) {
	a, log := authorizer(t, validRoles)
	for range 3 {
		c := a.Caller(Identity{Client: "eve", Role: "boss"})
		if c.Client != "eve" || c.May != nil {
			t.Errorf("got %+v", c)
		}
		if (device.Labels{"fleet": "north"}).Match(c.Labels) || (device.Labels{}).Match(c.Labels) {
			t.Error("a device matches the labels of no role")
		}
	}
	if got := strings.Count(log.String(), "role=boss"); got != 1 {
		t.Errorf("the log tells %d times:\n%s", got, log)
	}
}

func TestAuthorizer_RoleOf(t *testing.T) {
	a, _ := authorizer(t, validRoles)
	if role, ok := a.RoleOf("https://login.example.org|alice"); role != "dispatcher" || !ok {
		t.Errorf("got %q and %t", role, ok)
	}
	if role, ok := a.RoleOf("alice"); role != "" || ok {
		t.Errorf("got %q and %t for a client who is not there", role, ok)
	}
}

func TestAuthorizer_ReloadKeepsTheOldRolesWhenTheNewAreBad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "roles.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(validRoles)
	a, err := OpenAuthorizer(AuthorizerConfig{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	write("roles: {}")
	if err := a.Reload(); err == nil {
		t.Error("a bad file gave no error")
	}
	if !a.Caller(Identity{Role: "owner"}).May("anything") {
		t.Error("the old roles are gone")
	}
	write("roles: {owner: {permissions: []}}")
	if err := a.Reload(); err != nil {
		t.Error(err)
	}
	if a.Caller(Identity{Role: "owner"}).May("anything") {
		t.Error("the old permission is still there")
	}
}

func TestLoadRoles_RefusesAndNamesTheLine(t *testing.T) {
	tests := map[string]struct{ file, want string }{
		"an unknown field":             {editRoles(t, "labels:", "label:"), `line 5: unknown field "label"`},
		"an unknown field at the top":  {editRoles(t, "clients:", "users:"), `line 7: unknown field "users"`},
		"a role that is there twice":   {editRoles(t, "  owner:", "  dispatcher:"), `line 6: "dispatcher" is there twice in roles, first on line 2`},
		"a client that is there twice": {validRoles + `  "https://login.example.org|alice": owner` + "\n", `line 9: "https://login.example.org|alice" is there twice in clients, first on line 8`},
		"a field that is there twice":  {editRoles(t, "labels: {fleet: north}", "permissions: []"), `line 5: mapping key "permissions" already defined at line 4`},
		"no roles":                     {"roles: {}", "the file must have at least one role"},
		"no file":                      {"", "no documents"},
		"a list of roles":              {"roles: []", "line 1: roles must be a mapping"},
		"a name with a space":          {editRoles(t, "  owner:", "  the owner:"), "line 6: role must match"},
		"a name that is a list":        {editRoles(t, "  owner:", "  [a]:"), "line 6: a name in roles must be text"},
		"a role that is text":          {editRoles(t, "{permissions: [\"*\"]}", "all"), "line 6: cannot take !!str `all` as a mapping of fields"},
		"a wildcard within a word":     {editRoles(t, "commands.status", `"commands.st*"`), `line 4: permission "commands.st*" must be words`},
		"a wildcard in the middle":     {editRoles(t, "commands.status", `"*.status"`), `line 4: permission "*.status" must be words`},
		"a permission with a space":    {editRoles(t, "commands.status", `"commands status"`), `line 4: permission "commands status" must be words`},
		"a bad permission in a merge":  {"roles:\n  a: &a {permissions: [a b]}\n  b:\n    <<: *a\n", `line 4: permission "a b" must be words`},
		"an empty permission":          {editRoles(t, "commands.status", `""`), `line 4: permission "" must be words`},
		"a label that no device has":   {editRoles(t, "fleet: north", "Fleet: north"), `line 5: label "Fleet" can be on no device`},
		"a client of no role":          {editRoles(t, "alice\": dispatcher", "alice\": boss"), `line 8: client "https://login.example.org|alice" has role "boss", which is not in this file`},
		"a client of two roles":        {editRoles(t, "alice\": dispatcher", "alice\": [a, b]"), "line 8: cannot take !!seq as text"},
		"a client with a space":        {editRoles(t, "|alice", " alice"), "line 8: client must hold visible characters only"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r, err := LoadRoles([]byte(tt.file))
			if r != nil || err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

func TestLoadRoles_Limits(t *testing.T) {
	lines := func(head string, n int, line string) string {
		var b strings.Builder
		b.WriteString(head)
		for i := range n {
			fmt.Fprintf(&b, line, i)
		}
		return b.String()
	}
	const one = "roles: {a: {permissions: []}}\n#"
	tests := map[string]struct{ within, beyond string }{
		"roles":             {lines("roles:\n", 200, "  r%d: {}\n"), lines("roles:\n", 201, "  r%d: {}\n")},
		"permissions":       {lines("roles:\n  a:\n    permissions:\n", 500, "      - p%d\n"), lines("roles:\n  a:\n    permissions:\n", 501, "      - p%d\n")},
		"labels":            {lines("roles:\n  a:\n    labels:\n", 64, "      l%d: x\n"), lines("roles:\n  a:\n    labels:\n", 65, "      l%d: x\n")},
		"clients":           {lines("roles: {a: {}}\nclients:\n", 10_000, "  c%d: a\n"), lines("roles: {a: {}}\nclients:\n", 10_001, "  c%d: a\n")},
		"letters of a name": {"roles: {" + strings.Repeat("r", 64) + ": {}}", "roles: {" + strings.Repeat("r", 65) + ": {}}"},
		"bytes":             {one + strings.Repeat("x", 1<<20-len(one)), one + strings.Repeat("x", 1<<20-len(one)+1)},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if _, err := LoadRoles([]byte(tt.within)); err != nil {
				t.Errorf("at the limit: %v", err)
			}
			if _, err := LoadRoles([]byte(tt.beyond)); err == nil {
				t.Error("beyond the limit: no error")
			}
		})
	}
}

// The roles and the catalogue that are built in have to agree on the names of permissions.
func TestDefaultRoles_FitTheDefaultCatalogue(t *testing.T) {
	commands, err := catalogue.Load(catalogue.Default())
	if err != nil {
		t.Fatal(err)
	}
	a, err := OpenAuthorizer(AuthorizerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	admin, operator, viewer := a.Caller(Identity{Role: "admin"}), a.Caller(Identity{Role: "operator"}), a.Caller(Identity{Role: "viewer"})
	for _, cmd := range commands.Commands() {
		if !admin.May(cmd.Permission) {
			t.Errorf("admin may not send %s", cmd.Name)
		}
		if got := operator.May(cmd.Permission); got == cmd.Danger {
			t.Errorf("operator may send %s: %t, dangerous: %t", cmd.Name, got, cmd.Danger)
		}
		if viewer.May(cmd.Permission) {
			t.Errorf("viewer may send %s", cmd.Name)
		}
	}
	for _, permission := range []string{device.PermRegister, device.PermDelete, device.PermCertificates, device.PermEnrolment, device.PermReadAll} {
		if !admin.May(permission) || operator.May(permission) || viewer.May(permission) {
			t.Errorf("%s: admin %t, operator %t, viewer %t", permission, admin.May(permission), operator.May(permission), viewer.May(permission))
		}
	}
	for name, c := range map[string]device.Labels{"admin": admin.Labels, "operator": operator.Labels, "viewer": viewer.Labels} {
		if len(c) > 0 {
			t.Errorf("%s may touch only %v", name, c)
		}
	}
}

func TestCaller_AllocatesNothing(t *testing.T) {
	a, _ := authorizer(t, validRoles)
	id := Identity{Client: "bob", Role: "dispatcher"}
	if n := testing.AllocsPerRun(100, func() { a.Caller(id).May("fleet.north") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzLoadRoles(f *testing.F) {
	for _, file := range []string{validRoles, defaultRoles, "roles: {a: {permissions: [a.*]}}", "roles: &a {b: {}}\nclients: *a", ""} {
		f.Add([]byte(file))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		r, err := LoadRoles(file)
		if err != nil {
			return
		}
		for name, role := range r.roles {
			if all := role.may(""); all != role.may("*") {
				t.Fatalf("role %q grants permissions that nothing can have", name)
			}
		}
		for client, role := range r.clients {
			if r.roles[role] == nil {
				t.Fatalf("client %q has no role", client)
			}
		}
	})
}

func BenchmarkMay(b *testing.B) {
	a, _ := authorizer(b, string(DefaultRoles()))
	for name, role := range map[string]string{"all": "admin", "wildcard": "operator", "denied": "viewer"} {
		may := a.Caller(Identity{Role: role}).May
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				may("commands.settings")
			}
		})
	}
}

func BenchmarkCaller(b *testing.B) {
	a, _ := authorizer(b, string(DefaultRoles()))
	b.ReportAllocs()
	for b.Loop() {
		a.Caller(Identity{Client: "panel", Role: "operator"})
	}
}
