package access

import (
	_ "embed"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"signaldevice/catalogue/configfile"
	"signaldevice/device"
)

// Limits of roles.yaml.
const (
	maxRolesBytes  = 1 << 20
	maxRoles       = 200
	maxPermissions = 500 // of one role
	maxLabels      = 64  // of one role
	maxClients     = 10_000
)

//go:embed roles.yaml
var defaultRoles string

// DefaultRoles returns the file that is used where none is given: admin, operator and viewer.
func DefaultRoles() []byte { return []byte(defaultRoles) }

// permissionPattern is a permission, or one with a last word of *, or * alone.
var permissionPattern = regexp.MustCompile(`^([A-Za-z0-9_-]+\.)*([A-Za-z0-9_-]+|\*)$`)

// labelKey is what the broker takes as the key of a device's label.
var labelKey = regexp.MustCompile(`^[a-z][-_0-9a-z]{0,62}$`)

// Roles is one version of roles.yaml. It is immutable.
type Roles struct {
	roles   map[string]*role
	clients map[device.ClientID]string
}

type role struct {
	labels device.Labels
	may    func(permission string) bool
}

// LoadRoles reads roles from the bytes of their file. The error is configfile.Faults: every fault, each with its line.
func LoadRoles(data []byte) (*Roles, error) {
	var f struct {
		Roles   yaml.Node `yaml:"roles"`
		Clients yaml.Node `yaml:"clients"`
	}
	if err := configfile.Decode(data, maxRolesBytes, &f); err != nil {
		return nil, err
	}
	r := &Roles{roles: map[string]*role{}, clients: map[device.ClientID]string{}}
	faults := r.readRoles(&f.Roles)
	faults = append(faults, r.readClients(&f.Clients)...)
	if err := faults.Err(); err != nil {
		return nil, err
	}
	return r, nil
}

// RoleOf returns the role that the file gives to a client who logs in, false where it gives none.
func (r *Roles) RoleOf(client device.ClientID) (string, bool) {
	name, ok := r.clients[client]
	return name, ok
}

func (r *Roles) readRoles(node *yaml.Node) configfile.Faults {
	pairs, faults := configfile.Pairs(node, "roles", maxRoles)
	if len(faults) > 0 {
		return faults
	}
	if len(pairs) == 0 {
		return configfile.Faults{configfile.Faultf(node.Line, "the file must have at least one role")}
	}
	for _, p := range pairs {
		if err := checkRoleName(p.Name); err != nil {
			faults = append(faults, configfile.Faultf(p.Line, "%v", err))
		}
		one, bad := readRole(p)
		faults = append(faults, bad...)
		r.roles[p.Name] = one
	}
	return faults
}

func readRole(p configfile.Pair) (*role, configfile.Faults) {
	var e struct {
		Description string            `yaml:"description"`
		Permissions []string          `yaml:"permissions"`
		Labels      map[string]string `yaml:"labels"`
	}
	if faults := configfile.DecodeNode(p.Value, &e); len(faults) > 0 {
		return nil, faults
	}
	var faults configfile.Faults
	if len(e.Permissions) > maxPermissions || len(e.Labels) > maxLabels {
		faults = append(faults, configfile.Faultf(p.Line, "role %s must have at most %d permissions and %d labels", p.Name, maxPermissions, maxLabels))
	}
	for i, permission := range e.Permissions {
		if !permissionPattern.MatchString(permission) {
			faults = append(faults, configfile.Faultf(configfile.Line(p.Value, "permissions", strconv.Itoa(i)), "permission %q must be words with dots between them; only the last word may be *", permission))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(e.Labels)) {
		if !labelKey.MatchString(key) {
			faults = append(faults, configfile.Faultf(configfile.Line(p.Value, "labels"), "label %q can be on no device: its key must match %s", key, labelKey))
		}
	}
	return &role{labels: device.Labels(e.Labels), may: newGrants(e.Permissions).may}, faults
}

func (r *Roles) readClients(node *yaml.Node) configfile.Faults {
	pairs, faults := configfile.Pairs(node, "clients", maxClients)
	for _, p := range pairs {
		var name string
		if bad := configfile.DecodeNode(p.Value, &name); len(bad) > 0 {
			faults = append(faults, bad...)
			continue
		}
		if err := checkClient(p.Name); err != nil {
			faults = append(faults, configfile.Faultf(p.Line, "%v", err))
		}
		if _, ok := r.roles[name]; !ok {
			faults = append(faults, configfile.Faultf(p.Line, "client %q has role %q, which is not in this file", p.Name, name))
		}
		r.clients[device.ClientID(p.Name)] = name
	}
	return faults
}

// grants is a set of permissions, ready to be asked without an allocation.
type grants struct {
	all   bool
	exact map[string]struct{}
	below map[string]struct{} // "commands" for "commands.*"
}

func newGrants(permissions []string) *grants {
	g := &grants{exact: map[string]struct{}{}, below: map[string]struct{}{}}
	for _, p := range permissions {
		if parent, ok := strings.CutSuffix(p, ".*"); ok {
			g.below[parent] = struct{}{}
		} else if p == "*" {
			g.all = true
		} else {
			g.exact[p] = struct{}{}
		}
	}
	return g
}

// may reports whether a permission is among the grants. A * stands for one word, so that commands.* does not hold
// commands.danger.reboot; a * alone stands for everything.
func (g *grants) may(permission string) bool {
	if g.all {
		return true
	}
	if _, ok := g.exact[permission]; ok {
		return true
	}
	dot := strings.LastIndexByte(permission, '.')
	if dot < 0 {
		return false
	}
	_, ok := g.below[permission[:dot]]
	return ok
}
