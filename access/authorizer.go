package access

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
	"signaldevice/dispatch"
)

// maxToldRoles bounds how many unknown roles are remembered as told of.
const maxToldRoles = 1000

// noDevice is a condition that no device meets, because "!" cannot be the key of a label.
var noDevice = device.Labels{"!": "no role"}

// AuthorizerConfig says which roles an Authorizer keeps up with.
type AuthorizerConfig struct {
	Path     string      // of roles.yaml; "": the roles that the program was built with, which never change
	Reloaded func(error) // if not nil, told of each version after the first: nil, or what is wrong with it
	Log      *slog.Logger
}

// Authorizer tells what an identity may do, by the newest good version of roles.yaml.
type Authorizer struct {
	file *configfile.Live[Roles]
	log  *slog.Logger

	mu   sync.Mutex
	told map[string]bool // unknown roles that the log has
}

// OpenAuthorizer loads the roles, which must be good. From then on a bad version is reported and the one before it stays.
func OpenAuthorizer(c AuthorizerConfig) (*Authorizer, error) {
	file, err := configfile.Open(configfile.Config[Roles]{
		Path:     c.Path,
		Default:  DefaultRoles(),
		MaxBytes: maxRolesBytes,
		Parse:    LoadRoles,
		Reloaded: c.Reloaded,
		Log:      c.Log,
	})
	if err != nil {
		return nil, err
	}
	return &Authorizer{file: file, log: c.Log, told: map[string]bool{}}, nil
}

// Reload reads the roles now. When it returns an error, the version before stays.
func (a *Authorizer) Reload() error { return a.file.Reload() }

// Watch reads the roles again within about a second of each change, until ctx ends.
func (a *Authorizer) Watch(ctx context.Context) { a.file.Watch(ctx) }

// Caller returns what the identity may do now. A role that does not exist may do nothing and touch no device; the log
// tells of it once.
func (a *Authorizer) Caller(id Identity) dispatch.Caller {
	role, ok := a.file.Current().roles[id.Role]
	if !ok {
		a.tell(id)
		return dispatch.Caller{Client: id.Client, Labels: noDevice}
	}
	return dispatch.Caller{Client: id.Client, Labels: role.labels, May: role.may}
}

// Names returns the names of all roles that there are now, sorted.
func (a *Authorizer) Names() []string { return slices.Sorted(maps.Keys(a.file.Current().roles)) }

// RoleOf returns the role of a client who logs in, false where roles.yaml gives it none.
func (a *Authorizer) RoleOf(client device.ClientID) (string, bool) {
	return a.file.Current().RoleOf(client)
}

func (a *Authorizer) tell(id Identity) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.told[id.Role] || len(a.told) >= maxToldRoles {
		return
	}
	a.told[id.Role] = true
	a.log.Warn("a client has a role that does not exist, it may do nothing", "client", id.Client, "role", id.Role)
}
