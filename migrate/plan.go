package migrate

import (
	"cmp"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"

	"signaldevice/broker/identity"
	"signaldevice/device"
)

// Labels that a moved device is given, where it has none of that name and fewer than maxLabels: the name of its old
// registry (the id where it had none), and the id.
const (
	RegistryLabel   = "iot-core-registry"
	RegistryIDLabel = "iot-core-registry-id"
)

// Limits of the broker's that the plan fits devices into.
const (
	maxName   = 50
	maxLabels = 64
)

// Plan says what becomes of each device of an export.
type Plan struct {
	Registries int             // that are moved
	Devices    int             // of those, that could be read
	Moves      []device.Device // to be written, in the order of the export
	Present    int             // there already, as the export has them
	Faults     []Finding       // what is not moved, though it should be
	Warnings   []Finding       // certificates that are left out, and devices that cannot connect
	Notes      []Finding       // what has no place in the broker
}

// NewPlan decides what to write into a broker that holds the given devices.
//
// A device is moved whole or not at all: one that is damaged, or whose certificate another one has, is a fault, and is
// moved by a later run once the export is mended. Only a certificate that would admit nobody, because it has expired or
// because the broker refuses its kind, is left out, with a warning. A device that is there with everything that the
// export has is present, whatever else it was given since; where something of it is missing or is different, that is a
// fault, and it is left as it is: whoever changed it here knew more than an old export does.
func NewPlan(x *Export, there []device.Device, now time.Time) *Plan {
	p := &planner{
		plan:   &Plan{Registries: len(x.Registries), Faults: slices.Clone(x.Faults), Notes: slices.Clone(x.Notes)},
		now:    now,
		there:  map[device.ID]device.Device{},
		names:  map[string]device.ID{},
		owners: map[string]device.ID{},
	}
	for _, d := range there {
		p.there[d.ID] = d
		p.claim(d)
	}
	for _, r := range x.Registries {
		for _, d := range r.Devices {
			p.plan.Devices++
			if f := p.add(r, d); f != nil {
				p.plan.Faults = append(p.plan.Faults, *f)
			}
		}
	}
	return p.plan
}

type planner struct {
	plan   *Plan
	now    time.Time
	there  map[device.ID]device.Device
	names  map[string]device.ID // who has a name, there or in the plan
	owners map[string]device.ID // who has a certificate, by fingerprint
}

// claim notes whose a device's name and certificates are.
func (p *planner) claim(d device.Device) {
	p.names[d.Name] = d.ID
	for _, c := range d.Certificates {
		p.owners[c.Fingerprint] = d.ID
	}
}

// add plans one device, or tells why it is not moved.
func (p *planner) add(r Registry, d Device) *Finding {
	certificates, left, fault := p.certificates(d)
	if fault != nil {
		return fault
	}
	next := device.Device{
		ID: d.ID, Description: printable(d.Description), Labels: p.labels(r, d), Certificates: certificates,
	}
	old, present := p.there[d.ID]
	if present {
		fault = p.compare(old, next, d, namesOf(r, d))
	} else {
		fault = p.move(next, d, namesOf(r, d))
	}
	if fault != nil {
		return fault
	}
	p.plan.Warnings = append(p.plan.Warnings, left...)
	if len(certificates)+len(old.Certificates) == 0 {
		p.plan.Warnings = append(p.plan.Warnings, Finding{d.place(), cannotConnect(len(left))})
	}
	return nil
}

// compare counts a device that is there, under any name that a run may have given it.
func (p *planner) compare(old, next device.Device, d Device, names []string) *Finding {
	next.Name = names[0]
	if slices.Contains(names, old.Name) {
		next.Name = old.Name
	}
	if parts := differences(old, next); len(parts) > 0 {
		return differs(d.place(), parts)
	}
	p.plan.Present++
	return nil
}

// move plans a new device under the first name that is free.
func (p *planner) move(next device.Device, d Device, names []string) *Finding {
	i := slices.IndexFunc(names, func(name string) bool { _, taken := p.names[name]; return !taken })
	if i < 0 {
		return &Finding{d.place(), "its name belongs to other devices there"}
	}
	if next.Name = names[i]; i > 0 {
		p.plan.Notes = append(p.plan.Notes, Finding{d.place(), "is named " + next.Name + ": another device has its name"})
	}
	p.claim(next)
	p.plan.Moves = append(p.plan.Moves, next)
	return nil
}

func cannotConnect(left int) string {
	if left > 0 {
		return "cannot connect until it is given a new certificate: it has none left"
	}
	return "cannot connect until it is given a certificate: it had none, and passwords are not moved"
}

func differs(place string, parts []string) *Finding {
	return &Finding{place, "is there, but differs in its " + strings.Join(parts, ", ") + ": it was left as it is"}
}

// certificates returns those that the broker takes, and tells which are left out, or why the device cannot be moved.
func (p *planner) certificates(d Device) (out []device.Certificate, left []Finding, fault *Finding) {
	for _, c := range d.Certificates {
		der, err := readPEM(c.PEM)
		if err != nil {
			return nil, nil, &Finding{c.Place, err.Error()}
		}
		fingerprint := identity.Fingerprint(der)
		if owner, taken := p.owners[fingerprint]; taken && owner != d.ID {
			return nil, nil, &Finding{c.Place, fmt.Sprintf("certificate %s of device %s is one of device %s already", fingerprint, d.ID, owner)}
		}
		checked, err := identity.CheckBrought(c.PEM, p.now)
		switch {
		case err != nil:
			left = append(left, Finding{d.place(), fmt.Sprintf("certificate %s is left out: it %s", fingerprint, strings.TrimPrefix(err.Error(), "the certificate "))})
		case !slices.Contains(out, checked):
			out = append(out, checked)
		}
	}
	return out, left, nil
}

// readPEM returns the DER of a certificate that can be read at all.
func readPEM(text string) ([]byte, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("is damaged: certificate_data is not PEM")
	}
	if _, err := x509.ParseCertificate(block.Bytes); err != nil {
		return nil, errors.New("is damaged: certificate_data is not an X.509 certificate")
	}
	return block.Bytes, nil
}

// labels returns the device's labels with those that name its old registry.
func (p *planner) labels(r Registry, d Device) device.Labels {
	out := device.Labels{}
	maps.Copy(out, d.Labels)
	for _, more := range []struct{ key, value string }{{RegistryLabel, cmp.Or(r.Name, r.ID)}, {RegistryIDLabel, r.ID}} {
		_, own := out[more.key]
		switch {
		case own:
		case len(out) >= maxLabels:
			p.plan.Notes = append(p.plan.Notes, Finding{d.place(), "has too many labels to be given " + more.key})
		default:
			out[more.key] = more.value
		}
	}
	return out
}

// namesOf returns the names that a device may have here, where a name is unique: its own, if need be with its
// registry's, else with its id. So the name depends on who is there first, but a device that is there is recognised.
func namesOf(r Registry, d Device) []string {
	own := cmp.Or(d.Name, string(d.ID))
	return []string{own, suffixed(own, cmp.Or(r.Name, r.ID)), suffixed(own, string(d.ID))}
}

// suffixed shortens the name rather than the suffix.
func suffixed(name, suffix string) string {
	room := max(0, maxName-1-len(suffix))
	name = name[:min(room, len(name))]
	if name == "" {
		return suffix
	}
	return name + "-" + suffix
}

// printable puts a space in the place of everything that the broker takes for unprintable, such as a line break.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, text)
}

// differences names the parts of what a device should be that are missing or different in what is there.
func differences(there, want device.Device) (parts []string) {
	if there.Name != want.Name {
		parts = append(parts, "name")
	}
	if want.Description != "" && there.Description != want.Description {
		parts = append(parts, "description")
	}
	if !there.Labels.Match(want.Labels) {
		parts = append(parts, "labels")
	}
	for _, c := range want.Certificates {
		if !slices.ContainsFunc(there.Certificates, func(t device.Certificate) bool { return t.PEM == c.PEM }) {
			return append(parts, "certificates")
		}
	}
	return parts
}
