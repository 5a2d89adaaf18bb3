package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"signaldevice/broker/identity"
	"signaldevice/device"
)

// NewDevice is a device to register.
type NewDevice struct {
	ID           device.ID // "": the registry mints one
	RegistryID   string    // "": the default registry
	Name         string    // "": the id
	Description  string
	Labels       device.Labels
	Certificates []string // PEM, that the device brings
	CSR          string   // PEM; "": none
}

// Registration is a registered device.
type Registration struct {
	Device      *Snapshot
	Certificate string // PEM of the certificate that was signed for a CSR, else ""
	Repeated    bool   // Enrol: the code had been spent by the same key before
}

// Patch says what Update changes. A nil field stays as it is.
type Patch struct {
	Name        *string
	Description *string
	Labels      *device.Labels
}

// Create registers a device. Invalid, with every fault; InvalidCertificate and InvalidCSR, with a fault that names the
// place; DeviceExists: the id or the name is taken; CertificateInUse: a device has one of the certificates.
func (r *Registry) Create(ctx context.Context, d NewDevice) (Registration, error) {
	d.ID = cmp.Or(d.ID, newID())
	d.RegistryID = cmp.Or(d.RegistryID, DefaultID)
	d.Name = cmp.Or(d.Name, string(d.ID))
	rec, signed, err := r.newRecord(d)
	if err != nil {
		return Registration{}, err
	}
	next, err := rec.snapshot(d.ID, 0)
	if err != nil {
		return Registration{}, fmt.Errorf("registry: create: %w", err)
	}
	err = r.write(ctx, func(t *table) (*change, error) {
		if err := r.mayAdd(t, next); err != nil {
			return nil, err
		}
		// An id that is used again keeps the code that its former device spent.
		rec.Code = t.graves[d.ID]
		return &change{subject: deviceSubject(d.ID), data: marshal(rec)}, nil
	})
	if err != nil {
		return Registration{}, err
	}
	return Registration{Device: next, Certificate: signed}, nil
}

// newRecord checks everything that can be checked without the table, and signs the CSR.
func (r *Registry) newRecord(d NewDevice) (rec deviceRecord, signed string, err error) {
	var f faults
	if err := d.ID.Validate(); err != nil {
		f.add("id", "must have 1 to 50 letters, digits, '-' and '_'")
	}
	f.registry(d.RegistryID)
	f.name(d.Name)
	f.description(d.Description)
	f.labels(d.Labels)
	given := len(d.Certificates)
	if d.CSR != "" {
		given++
	}
	if given > MaxCertificates {
		f.add("certificates", "must be at most %d", MaxCertificates)
	}
	if err := f.err(); err != nil {
		return rec, "", err
	}
	now := r.cfg.Clock()
	rec = deviceRecord{
		RegistryID: d.RegistryID, Name: d.Name, Description: d.Description,
		Labels: maps.Clone(d.Labels), CreatedAt: now.UTC(),
	}
	for i, text := range d.Certificates {
		c, err := r.cfg.Identity.CheckCertificate(text)
		if err != nil {
			return rec, "", at(err, fmt.Sprintf("certificates[%d]", i))
		}
		if rec.has(c.Fingerprint) {
			return rec, "", device.Errorf(device.CertificateInUse, "one of the certificates is there twice")
		}
		rec.add(c, now)
	}
	if d.CSR != "" {
		csr, err := identity.ParseCSR(d.CSR)
		if err != nil {
			return rec, "", at(err, "csr")
		}
		if signed, err = r.sign(&rec, csr, d.ID, now); err != nil {
			return rec, "", err
		}
	}
	return rec, signed, nil
}

func (r *Registry) sign(rec *deviceRecord, csr *x509.CertificateRequest, id device.ID, now time.Time) (string, error) {
	c, err := r.cfg.Identity.SignCSR(csr, id)
	if err != nil {
		return "", fmt.Errorf("registry: %w", err)
	}
	rec.add(c, now)
	return c.PEM, nil
}

func (rec deviceRecord) has(fingerprint string) bool {
	return slices.ContainsFunc(rec.Certificates, func(c certificateRecord) bool { return c.Fingerprint == fingerprint })
}

// at gives an error that has no fault yet the place it was found at.
func at(err error, location string) error {
	var e *device.Error
	if errors.As(err, &e) && len(e.Faults) == 0 {
		e.Faults = []device.Fault{{Location: location, Message: e.Message}}
	}
	return err
}

// mayAdd checks a new device against the table.
func (r *Registry) mayAdd(t *table, next *Snapshot) error {
	if _, ok := t.devices[next.ID]; ok {
		return device.Errorf(device.DeviceExists, "a device with this id exists")
	}
	if _, ok := t.names[next.nameKey()]; ok {
		return errNameTaken()
	}
	if len(t.devices) >= r.cfg.MaxDevices {
		return device.Errorf(device.RateLimited, "the registry is full: it holds %d devices", len(t.devices))
	}
	for _, hash := range next.hashes {
		if _, ok := t.certs[hash]; ok {
			return errCertificateTaken()
		}
	}
	return nil
}

func errNameTaken() error {
	return device.Errorf(device.DeviceExists, "a device with this name exists")
}

func errCertificateTaken() error {
	return device.Errorf(device.CertificateInUse, "a device has this certificate")
}

// Update changes a device's own words and returns it. Invalid, with every fault; DeviceNotFound; DeviceExists: the name
// is taken.
func (r *Registry) Update(ctx context.Context, id device.ID, p Patch) (*Snapshot, error) {
	var f faults
	if p.Name != nil {
		f.name(*p.Name)
	}
	if p.Description != nil {
		f.description(*p.Description)
	}
	if p.Labels != nil {
		f.labels(*p.Labels)
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return r.edit(ctx, id, func(t *table, rec *deviceRecord) error {
		if p.Name != nil {
			if owner, ok := t.names[nameKey{rec.RegistryID, *p.Name}]; ok && owner != id {
				return errNameTaken()
			}
			rec.Name = *p.Name
		}
		if p.Description != nil {
			rec.Description = *p.Description
		}
		if p.Labels != nil {
			rec.Labels = maps.Clone(*p.Labels)
		}
		return nil
	})
}

// AddCertificate gives a device one more certificate: the PEM it brings, or one signed for its CSR. Exactly one of the
// two is not "". InvalidCertificate, InvalidCSR, DeviceNotFound; CertificateInUse: this or another device has it;
// Invalid: it has too many.
func (r *Registry) AddCertificate(ctx context.Context, id device.ID, certificate, csr string) (device.Certificate, error) {
	c, err := r.newCertificate(id, certificate, csr)
	if err != nil {
		return device.Certificate{}, err
	}
	der, err := derOf(c.PEM)
	if err != nil {
		return device.Certificate{}, fmt.Errorf("registry: add a certificate: %w", err)
	}
	hash := sha256.Sum256(der)
	_, err = r.edit(ctx, id, func(t *table, rec *deviceRecord) error {
		if _, ok := t.certs[hash]; ok || rec.has(c.Fingerprint) {
			return errCertificateTaken()
		}
		if len(rec.Certificates) >= MaxCertificates {
			return device.Errorf(device.Invalid, "the device has %d certificates, its limit: remove one first", MaxCertificates)
		}
		rec.add(c, r.cfg.Clock())
		return nil
	})
	return c, err
}

func (r *Registry) newCertificate(id device.ID, certificate, csr string) (device.Certificate, error) {
	if csr == "" {
		c, err := r.cfg.Identity.CheckCertificate(certificate)
		return c, at(err, "certificate")
	}
	request, err := identity.ParseCSR(csr)
	if err != nil {
		return device.Certificate{}, at(err, "csr")
	}
	c, err := r.cfg.Identity.SignCSR(request, id)
	if err != nil {
		return device.Certificate{}, fmt.Errorf("registry: add a certificate: %w", err)
	}
	return c, nil
}

// RemoveCertificate revokes a certificate: it admits nobody from now on. DeviceNotFound, CertificateUnknown.
func (r *Registry) RemoveCertificate(ctx context.Context, id device.ID, fingerprint string) error {
	fingerprint = strings.ToLower(fingerprint)
	_, err := r.edit(ctx, id, func(_ *table, rec *deviceRecord) error {
		if !rec.has(fingerprint) {
			return device.Errorf(device.CertificateUnknown, "the device has no certificate with this fingerprint")
		}
		rec.Certificates = slices.DeleteFunc(rec.Certificates, func(c certificateRecord) bool { return c.Fingerprint == fingerprint })
		return nil
	})
	return err
}

// Delete removes a device with its certificates. DeviceNotFound.
func (r *Registry) Delete(ctx context.Context, id device.ID) error {
	return r.write(ctx, func(t *table) (*change, error) {
		s, ok := t.devices[id]
		if !ok {
			return nil, errNoDevice()
		}
		ttl := tombstoneTTL
		if code, ok := t.codes[s.code]; ok { // the tombstone keeps the code spent: it must outlive it
			ttl = max(ttl, code.ExpiresAt.Sub(r.cfg.Clock())+time.Hour)
		}
		return &change{subject: deviceSubject(id), data: marshal(deviceRecord{Deleted: true, Code: s.code}), ttl: ttl}, nil
	})
}

// edit rewrites a device's record.
func (r *Registry) edit(ctx context.Context, id device.ID, how func(*table, *deviceRecord) error) (*Snapshot, error) {
	var next *Snapshot
	err := r.write(ctx, func(t *table) (*change, error) {
		s, ok := t.devices[id]
		if !ok {
			return nil, errNoDevice()
		}
		rec := s.record()
		if err := how(t, &rec); err != nil {
			return nil, err
		}
		data := marshal(rec)
		var err error
		if next, err = rec.snapshot(id, len(data)); err != nil {
			return nil, fmt.Errorf("registry: edit: %w", err)
		}
		return &change{subject: deviceSubject(id), data: data}, nil
	})
	if err != nil {
		return nil, err
	}
	return next, nil
}
