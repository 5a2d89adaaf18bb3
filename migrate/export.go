package migrate

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"signaldevice/device"
)

// The files of an export, which docs/migration.md makes. The layout is that of the vendor's own migration guide, so that
// what was saved after that guide can be moved too.
const (
	registriesFile = "registries.json"
	brokersFile    = "brokers.json"
)

func devicesFile(registry string) string       { return "devices-" + registry + ".json" }
func registryCertsFile(registry string) string { return "registry-certs-" + registry + ".json" }
func aliasesFile(registry string) string       { return "aliases-" + registry + ".json" }
func streamsFile(registry string) string       { return "yds-exports-" + registry + ".json" }
func certsFolder(registry string) string       { return "device-certs-" + registry }
func certsFile(registry string, id device.ID) string {
	return certsFolder(registry) + "/" + string(id) + ".json"
}

// toolLimit is how many entries the vendor's tool prints of a list when it is not told otherwise.
const toolLimit = 1000

// Finding is one line for whoever moves devices: where something was found, and what it is.
type Finding struct {
	Place string // a file and a place in it, or a device or registry
	Text  string
}

// Error joins place and text.
func (f Finding) Error() string { return f.Place + ": " + f.Text }

// Export is what a folder of IoT Core's lists holds.
type Export struct {
	Registries []Registry
	Faults     []Finding // what could not be read: what they are about is in none of the registries
	Notes      []Finding // what is there and is not moved, or not wholly
}

// Registry is one of IoT Core's registries with its devices.
type Registry struct {
	ID      string
	Name    string // "": none
	Devices []Device
}

// Device is one of IoT Core's devices. It was read whole, with the list of its certificates.
type Device struct {
	ID           device.ID
	Name         string // "": none
	Description  string
	Labels       device.Labels
	Certificates []Certificate
}

// Certificate is one certificate of a device, as it was registered.
type Certificate struct {
	Place string // its file and place in it
	PEM   string
}

// place names a device for people.
func (d Device) place() string { return placeOf(d.Name, d.ID) }

func placeOf(name string, id device.ID) string {
	if name == "" || name == string(id) {
		return "device " + string(id)
	}
	return fmt.Sprintf("device %s (%s)", name, id)
}

func (r Registry) place() string {
	if r.Name == "" {
		return "registry " + r.ID
	}
	return fmt.Sprintf("registry %s (%s)", r.Name, r.ID)
}

// Read reads an export: every registry that is not disabled, or those of the given ids, whatever their status. A device
// is in the answer only when everything of it could be read. The error says that the folder is no export, or has no such
// registry.
func Read(folder fs.FS, only ...string) (*Export, error) {
	r := &reader{folder: folder, export: &Export{}, known: map[string]bool{}, files: map[device.ID]string{}}
	rows, err := readList(folder, registriesFile, "registries")
	if errors.Is(err, fs.ErrNotExist) {
		err = Finding{registriesFile, "is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("migrate: the folder is no export: %w", err)
	}
	for _, row := range rows {
		r.keep(r.registry(row, only))
	}
	for _, id := range only {
		if !r.known[id] {
			return nil, fmt.Errorf("migrate: the export has no registry %q, only: %s",
				id, strings.Join(slices.Sorted(maps.Keys(r.known)), ", "))
		}
	}
	if len(only) == 0 {
		r.strayLists()
	}
	r.count(brokersFile, "brokers", brokersFile, "brokers of IoT Core", "there is nothing like them here")
	return r.export, nil
}

// reader gathers an export.
type reader struct {
	folder fs.FS
	export *Export
	known  map[string]bool      // registries, by id
	files  map[device.ID]string // devices that were seen, and the place of each
}

func (r *reader) note(place, format string, args ...any) {
	r.export.Notes = append(r.export.Notes, Finding{place, fmt.Sprintf(format, args...)})
}

// keep keeps an error as a fault of the export.
func (r *reader) keep(err error) {
	if err == nil {
		return
	}
	f, ok := errors.AsType[Finding](err)
	if !ok {
		f = Finding{"export", err.Error()}
	}
	r.export.Faults = append(r.export.Faults, f)
}

// registry reads one registry and everything that belongs to it.
func (r *reader) registry(row *row, only []string) error {
	reg := Registry{ID: string(row.id("id"))}
	if row.fault != nil {
		return row.fault
	}
	if r.known[reg.ID] {
		return Finding{row.place, "is there twice"}
	}
	r.known[reg.ID] = true // from here on its files are not strays, though it may not be readable
	reg.Name = row.text("name")
	status, labels := row.text("status"), row.texts("labels")
	if row.fault != nil {
		return row.fault
	}
	switch {
	case len(only) > 0 && !slices.Contains(only, reg.ID):
		return nil
	case len(only) == 0 && (status == "DISABLED" || status == "DELETING"):
		r.note(reg.place(), "has the status %s: its devices could not connect; --registry %s moves them all the same", status, reg.ID)
		return nil
	}
	if len(labels) > 0 {
		r.note(reg.place(), "has labels of its own: there is one registry here, without labels")
	}
	r.count(registryCertsFile(reg.ID), "certificates", reg.place(), "certificates of its own",
		"a back end connects by gRPC, with a certificate of signal-device broker cert")
	r.count(streamsFile(reg.ID), "data_stream_exports", reg.place(), "exports to data streams", "replies are read through the API")
	if err := r.devices(&reg); err != nil {
		return err
	}
	r.export.Registries = append(r.export.Registries, reg)
	return nil
}

// count notes how many entries a list has that cannot be moved.
func (r *reader) count(file, field, place, what, why string) {
	rows, err := readList(r.folder, file, field)
	f, bad := errors.AsType[Finding](err)
	switch {
	case bad:
		r.note(f.Place, "%s; nothing of it would be moved", f.Text)
	case len(rows) > 0:
		r.note(place, "has %s (%d): %s", what, len(rows), why)
	}
}

// devices reads the devices of a registry with their certificates. The error says that there is no list of them.
func (r *reader) devices(reg *Registry) error {
	file := devicesFile(reg.ID)
	rows, err := readList(r.folder, file, "devices")
	if errors.Is(err, fs.ErrNotExist) {
		return Finding{file, "is missing: the devices of the " + reg.place() + " were not saved"}
	}
	if err != nil {
		return err
	}
	if len(rows) == toolLimit {
		r.note(file, "has exactly %d devices, where the vendor's tool stops unless it is given --limit: there may be more", toolLimit)
	}
	if _, err := fs.Stat(r.folder, certsFolder(reg.ID)); len(rows) > 0 && errors.Is(err, fs.ErrNotExist) {
		return Finding{certsFolder(reg.ID), "is missing: the certificates of the " + reg.place() + " were not saved"}
	}
	aliases := r.aliases(reg.ID)
	for _, row := range rows {
		d, err := r.device(reg.ID, row, aliases)
		if err != nil {
			r.keep(err)
			continue
		}
		reg.Devices = append(reg.Devices, d)
	}
	r.strayCertificates(reg.ID)
	return nil
}

// device reads one device with the list of its certificates.
func (r *reader) device(registry string, row *row, aliases map[device.ID][]string) (d Device, err error) {
	d.ID = row.id("id")
	if row.fault != nil {
		return d, row.fault
	}
	if first, ok := r.files[d.ID]; ok {
		return d, Finding{row.place, fmt.Sprintf("device %s is there twice, first in %s", d.ID, first)}
	}
	r.files[d.ID] = row.place // from here on its list is not a stray, though it may not be readable
	owner := row.text("registry_id")
	d.Name, d.Description, d.Labels = row.text("name"), row.text("description"), row.texts("labels")
	own := row.texts("topic_aliases")
	if row.fault != nil {
		return d, row.fault
	}
	if owner != "" && owner != registry {
		return d, Finding{row.place, fmt.Sprintf("device %s is of another registry", d.ID)}
	}
	if d.Certificates, err = r.certificates(registry, d.ID); err != nil {
		return d, err
	}
	for alias, topic := range own {
		aliases[d.ID] = append(aliases[d.ID], alias+" for "+topic)
	}
	if list := slices.Compact(slices.Sorted(slices.Values(aliases[d.ID]))); len(list) > 0 {
		r.note(d.place(), "has topic aliases, and must name topics in full: %s", strings.Join(list, ", "))
	}
	return d, nil
}

func (r *reader) certificates(registry string, id device.ID) ([]Certificate, error) {
	file := certsFile(registry, id)
	rows, err := readList(r.folder, file, "certificates")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, Finding{file, "is missing: the certificates of this device were not saved"}
	}
	if err != nil {
		return nil, err
	}
	var out []Certificate
	for _, row := range rows {
		owner, pem := row.text("device_id"), row.text("certificate_data")
		switch {
		case row.fault != nil:
			return nil, row.fault
		case owner != "" && owner != string(id):
			return nil, Finding{row.place, "is a certificate of another device"}
		case pem == "":
			return nil, Finding{row.place, "has no certificate_data"}
		}
		out = append(out, Certificate{Place: row.place, PEM: pem})
	}
	return out, nil
}

// aliases reads the topic aliases of a registry's devices. They cannot be moved, so a bad list is only noted.
func (r *reader) aliases(registry string) map[device.ID][]string {
	out := map[device.ID][]string{}
	rows, err := readList(r.folder, aliasesFile(registry), "aliases")
	for _, row := range rows {
		id, alias := row.id("device_id"), row.text("alias")+" for "+row.text("topic_prefix")
		if err = row.fault; err != nil {
			break
		}
		out[id] = append(out[id], alias)
	}
	if f, bad := errors.AsType[Finding](err); bad {
		r.note(f.Place, "%s: perhaps not every topic alias is told here", f.Text)
	}
	return out
}

// strayCertificates finds lists of certificates whose device is in no list.
func (r *reader) strayCertificates(registry string) {
	entries, err := fs.ReadDir(r.folder, certsFolder(registry))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.keep(Finding{certsFolder(registry), "cannot be read: " + cause(err)})
	}
	for _, entry := range entries {
		id, isList := strings.CutSuffix(entry.Name(), ".json")
		if _, known := r.files[device.ID(id)]; isList && !known {
			r.keep(Finding{certsFolder(registry) + "/" + entry.Name(), "belongs to a device that " + devicesFile(registry) + " does not have"})
		}
	}
}

// strayLists finds lists of devices whose registry is not listed.
func (r *reader) strayLists() {
	files, err := fs.Glob(r.folder, devicesFile("*"))
	if err != nil {
		panic(err) // the pattern is constant
	}
	for _, file := range files {
		id := strings.TrimSuffix(strings.TrimPrefix(file, "devices-"), ".json")
		if !r.known[id] {
			r.keep(Finding{file, "belongs to a registry that " + registriesFile + " does not have"})
		}
	}
}
