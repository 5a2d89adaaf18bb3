package registry

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"maps"
	"time"

	"signaldevice/broker/identity"
	"signaldevice/device"
)

// Limits of an enrolment code's life.
const (
	minCodeLife     = time.Second
	maxCodeLife     = 30 * 24 * time.Hour
	defaultCodeLife = time.Hour
)

// maxCodeLength bounds what is hashed for a guess. Codes are far shorter.
const maxCodeLength = 100

// NewCode is an enrolment code to make.
type NewCode struct {
	Name      string // of the device that spends it; "": its own choice
	Labels    device.Labels
	ExpiresIn time.Duration // 0: 1 h
}

// CreateCode makes a one-time enrolment code. It is returned this once: only its hash is kept. Invalid, with every
// fault; RateLimited: there are too many codes that nobody has used.
func (r *Registry) CreateCode(ctx context.Context, c NewCode) (code string, expiresAt time.Time, err error) {
	if c.ExpiresIn == 0 {
		c.ExpiresIn = defaultCodeLife
	}
	var f faults
	if c.Name != "" {
		f.name(c.Name)
	}
	f.labels(c.Labels)
	if c.ExpiresIn < minCodeLife || c.ExpiresIn > maxCodeLife {
		f.add("expires_in", "must be from 1 second to 30 days")
	}
	if err := f.err(); err != nil {
		return "", time.Time{}, err
	}
	code = newCode()
	expiresAt = r.cfg.Clock().Add(c.ExpiresIn).UTC()
	data := marshal(codeRecord{Name: c.Name, Labels: maps.Clone(c.Labels), ExpiresAt: expiresAt})
	err = r.write(ctx, func(t *table) (*change, error) {
		if n := t.unusedCodes(); n >= r.cfg.MaxCodes {
			return nil, device.Errorf(device.RateLimited, "there are %d unused enrolment codes, the limit", n)
		}
		return &change{subject: codeSubject(hashCode(code)), data: data, ttl: c.ExpiresIn}, nil
	})
	if err != nil {
		return "", time.Time{}, err
	}
	return code, expiresAt, nil
}

func (t *table) unusedCodes() int {
	n := 0
	for hash := range t.codes {
		if _, live := t.liveCode(hash); live && t.spent[hash] == "" {
			n++
		}
	}
	return n
}

// Enrol registers the device that holds the code and the key of the CSR. Spending the code and creating the device are
// one write. The same code and key again, until the code expires, give the same device and certificate. InvalidCSR;
// InvalidCode: unknown, expired, spent by another key, or its device was deleted or its certificate removed since;
// DeviceExists: the name is taken, and the code is not spent. The code's own name wins over the given one.
func (r *Registry) Enrol(ctx context.Context, code, csr, name string) (Registration, error) {
	request, err := identity.ParseCSR(csr)
	if err != nil {
		return Registration{}, at(err, "csr")
	}
	if name != "" {
		var f faults
		f.name(name)
		if err := f.err(); err != nil {
			return Registration{}, err
		}
	}
	if len(code) > maxCodeLength {
		return Registration{}, errInvalidCode()
	}
	e := enrolment{registry: r, hash: hashCode(code), request: request, name: name, id: newID()}
	if err := r.write(ctx, e.decide); err != nil {
		return Registration{}, err
	}
	return e.result, nil
}

func errInvalidCode() error {
	return device.Errorf(device.InvalidCode, "the enrolment code is not valid")
}

// enrolment is one attempt to spend a code.
type enrolment struct {
	registry *Registry
	hash     string
	request  *x509.CertificateRequest
	name     string
	id       device.ID
	signed   device.Certificate // made once, when the code has proved good
	result   Registration
}

func (e *enrolment) decide(t *table) (*change, error) {
	code, ok := t.liveCode(e.hash)
	if !ok {
		return nil, errInvalidCode()
	}
	if id, ok := t.spent[e.hash]; ok {
		return nil, e.repeat(t.devices[id])
	}
	rec, err := e.record(code)
	if err != nil {
		return nil, err
	}
	data := marshal(rec)
	next, err := rec.snapshot(e.id, len(data))
	if err != nil {
		return nil, fmt.Errorf("registry: enrol: %w", err)
	}
	if err := e.registry.mayAdd(t, next); err != nil {
		return nil, err
	}
	e.result = Registration{Device: next, Certificate: e.signed.PEM}
	return &change{subject: deviceSubject(e.id), data: data}, nil
}

// repeat gives the device that the code made to the same key again.
func (e *enrolment) repeat(s *Snapshot) error {
	if s == nil || s.code != e.hash {
		return errInvalidCode()
	}
	i := s.certificate(s.enrolled)
	if i < 0 || !sameKey(s.Certificates[i].PEM, e.request) {
		return errInvalidCode()
	}
	e.result = Registration{Device: s, Certificate: s.Certificates[i].PEM, Repeated: true}
	return nil
}

func sameKey(certificate string, request *x509.CertificateRequest) bool {
	der, err := derOf(certificate)
	if err != nil {
		return false
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return false
	}
	key, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	return ok && key.Equal(request.PublicKey)
}

func (e *enrolment) record(code codeRecord) (deviceRecord, error) {
	if e.signed.PEM == "" {
		var err error
		if e.signed, err = e.registry.cfg.Identity.SignCSR(e.request, e.id); err != nil {
			return deviceRecord{}, fmt.Errorf("registry: enrol: %w", err)
		}
	}
	now := e.registry.cfg.Clock()
	rec := deviceRecord{
		RegistryID: DefaultID, Name: cmp.Or(code.Name, e.name, string(e.id)), Labels: code.Labels,
		CreatedAt: now.UTC(), Code: e.hash, Enrolled: e.signed.Fingerprint,
	}
	rec.add(e.signed, now)
	return rec, nil
}
