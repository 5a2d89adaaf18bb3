package migrate_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
	"signaldevice/migrate"
	"signaldevice/migrate/migratetest"
)

func plan(x *migrate.Export, there ...device.Device) *migrate.Plan {
	return migrate.NewPlan(x, there, time.Now())
}

// fingerprint is the SHA-1 of a certificate's DER, in hex.
func fingerprint(text string) string {
	block, _ := pem.Decode([]byte(text))
	sum := sha1.Sum(block.Bytes)
	return hex.EncodeToString(sum[:])
}

// oneDevice is an export of one device with these certificates.
func oneDevice(pems ...string) *migrate.Export {
	d := migrate.Device{ID: "are0one", Name: "taxi-1", Description: "front", Labels: device.Labels{"depot": "a"}}
	for i, p := range pems {
		d.Certificates = append(d.Certificates, migrate.Certificate{Place: fmt.Sprintf("certs.json: [%d]", i), PEM: p})
	}
	return &migrate.Export{Registries: []migrate.Registry{{ID: "are0reg", Name: "north", Devices: []migrate.Device{d}}}}
}

func TestPlan_DeviceKeepsEverything(t *testing.T) {
	first, second := validCert(t), validCert(t)
	p := plan(oneDevice(first, second))
	if len(p.Moves) != 1 || p.Devices != 1 || p.Registries != 1 || len(p.Faults)+len(p.Warnings)+len(p.Notes) > 0 {
		t.Fatalf("%+v", p)
	}
	d := p.Moves[0]
	labels := device.Labels{"depot": "a", "iot-core-registry": "north", "iot-core-registry-id": "are0reg"}
	if d.ID != "are0one" || d.Name != "taxi-1" || d.Description != "front" || !maps.Equal(d.Labels, labels) {
		t.Errorf("%+v", d)
	}
	if len(d.Certificates) != 2 || d.Certificates[0].PEM != first || d.Certificates[1].PEM != second {
		t.Errorf("certificates %+v", d.Certificates)
	}
}

func TestPlan_Certificates(t *testing.T) {
	good := validCert(t)
	_, expired := migratetest.Certificate(t, time.Now().Add(-time.Hour))
	_, lastDay := migratetest.Certificate(t, time.Now().Add(time.Hour))
	damaged := strings.Replace(good, "\nMII", "\nNII", 1)
	tests := map[string]struct {
		pems     []string
		moved    int // certificates; -1: the device is not moved
		fault    string
		warnings []string
	}{
		"one":                   {[]string{good}, 1, "", nil},
		"one that is set twice": {[]string{good, good}, 1, "", nil},
		"one that expires soon": {[]string{lastDay}, 1, "", nil},
		"none": {nil, 0, "", []string{
			"device taxi-1 (are0one): cannot connect until it is given a certificate: it had none, and passwords are not moved",
		}},
		"an expired one beside a good one": {[]string{expired, good}, 1, "", []string{
			"device taxi-1 (are0one): certificate " + fingerprint(expired) + " is left out: it expired on ",
		}},
		"only an expired one": {[]string{expired}, 0, "", []string{
			"device taxi-1 (are0one): certificate " + fingerprint(expired) + " is left out: it expired on ",
			"device taxi-1 (are0one): cannot connect until it is given a new certificate: it has none left",
		}},
		"a weak key": {[]string{weakCert(t)}, 0, "", []string{
			" is left out: it has an RSA key of 1024 bits",
			"it has none left",
		}},
		"no PEM":         {[]string{good, "x"}, -1, "certs.json: [1]: is damaged: certificate_data is not PEM", nil},
		"cut off":        {[]string{good[:len(good)/2]}, -1, "certs.json: [0]: is damaged: certificate_data is not PEM", nil},
		"damaged inside": {[]string{damaged}, -1, "certs.json: [0]: is damaged: certificate_data is not an X.509 certificate", nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := plan(oneDevice(tt.pems...))
			if tt.moved < 0 {
				if len(p.Moves) > 0 || len(p.Faults) != 1 {
					t.Errorf("moves %v, faults %v", p.Moves, lines(p.Faults))
				}
				wantLine(t, "faults", p.Faults, tt.fault)
				return
			}
			if len(p.Moves) != 1 || len(p.Moves[0].Certificates) != tt.moved || len(p.Faults) > 0 {
				t.Fatalf("moves %v, faults %v", p.Moves, lines(p.Faults))
			}
			if len(p.Warnings) != len(tt.warnings) {
				t.Errorf("warnings %q, want %q", lines(p.Warnings), tt.warnings)
			}
			all := strings.Join(lines(p.Warnings), "\n")
			for _, want := range tt.warnings {
				if !strings.Contains(all, want) {
					t.Errorf("warnings\n%s\nwant %q", all, want)
				}
			}
		})
	}
}

func weakCert(t *testing.T) string {
	t.Helper()
	t.Setenv("GODEBUG", "rsa1024min=0")
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestPlan_OneCertificateOfTwoDevices(t *testing.T) {
	shared := validCert(t)
	x := oneDevice(shared)
	x.Registries[0].Devices = append(x.Registries[0].Devices, migrate.Device{
		ID: "are0two", Certificates: []migrate.Certificate{{Place: "two.json: [0]", PEM: shared}},
	})
	p := plan(x)
	if len(p.Moves) != 1 || p.Moves[0].ID != "are0one" || len(p.Faults) != 1 {
		t.Errorf("moves %v", p.Moves)
	}
	wantLine(t, "faults", p.Faults, "two.json: [0]: certificate "+fingerprint(shared)+" of device are0two is one of device are0one already")

	p = plan(oneDevice(shared), device.Device{ID: "cam9", Name: "other", Certificates: []device.Certificate{{Fingerprint: fingerprint(shared), PEM: shared}}})
	wantLine(t, "of one that is there", p.Faults, "certs.json: [0]: certificate "+fingerprint(shared)+" of device are0one is one of device cam9 already")
}

// A run that is repeated, and one that goes on, find what is there.
func TestPlan_WhatIsThere(t *testing.T) {
	cert, newer := validCert(t), validCert(t)
	x := oneDevice(cert)
	base := plan(x).Moves[0]
	with := func(edit func(*device.Device)) device.Device {
		d := base
		d.Labels = maps.Clone(base.Labels)
		edit(&d)
		return d
	}
	tests := map[string]struct {
		there device.Device
		fault string // "": it counts as present
	}{
		"as it was moved":                   {base, ""},
		"moved beside a device of its name": {with(func(d *device.Device) { d.Name = "taxi-1-north" }), ""},
		"with another label since":          {with(func(d *device.Device) { d.Labels["crew"] = "b" }), ""},
		"with a newer certificate too": {with(func(d *device.Device) {
			d.Certificates = append([]device.Certificate{{PEM: newer}}, d.Certificates...)
		}), ""},
		"renamed":                      {with(func(d *device.Device) { d.Name = "cab" }), "name"},
		"described anew":               {with(func(d *device.Device) { d.Description = "" }), "description"},
		"without a label":              {with(func(d *device.Device) { delete(d.Labels, "depot") }), "labels"},
		"with a new label":             {with(func(d *device.Device) { d.Labels["depot"] = "b" }), "labels"},
		"with its certificate revoked": {with(func(d *device.Device) { d.Certificates = nil }), "certificates"},
		"all at once":                  {device.Device{ID: "are0one", Name: "cab"}, "name, description, labels, certificates"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			p := plan(x, tt.there)
			if len(p.Moves) > 0 || p.Present+len(p.Faults) != 1 {
				t.Fatalf("moves %v, present %d, faults %v", p.Moves, p.Present, lines(p.Faults))
			}
			if tt.fault == "" && len(p.Faults) > 0 {
				t.Errorf("faults %v", lines(p.Faults))
			}
			if tt.fault != "" {
				wantLine(t, "faults", p.Faults, "device taxi-1 (are0one): is there, but differs in its "+tt.fault+": it was left as it is")
			}
		})
	}
}

// A certificate that was moved and has expired since must not make its device look different.
func TestPlan_CertificateThatExpiredSinceTheMove(t *testing.T) {
	_, cert := migratetest.Certificate(t, time.Now().AddDate(1, 0, 0))
	moved := plan(oneDevice(cert)).Moves[0]
	p := migrate.NewPlan(oneDevice(cert), []device.Device{moved}, time.Now().AddDate(2, 0, 0))
	if p.Present != 1 || len(p.Faults) > 0 {
		t.Errorf("present %d, faults %v", p.Present, lines(p.Faults))
	}
}

func TestPlan_NamesOfSeveralRegistries(t *testing.T) {
	long := strings.Repeat("n", 50)
	registry := func(id, name string, devices ...migrate.Device) migrate.Registry {
		return migrate.Registry{ID: id, Name: name, Devices: devices}
	}
	x := &migrate.Export{Registries: []migrate.Registry{
		registry("r1", "north", migrate.Device{ID: "d1", Name: "cam"}, migrate.Device{ID: "d2", Name: long}),
		registry("r2", "south", migrate.Device{ID: "d3", Name: "cam"}, migrate.Device{ID: "d4", Name: long}, migrate.Device{ID: "d5"}),
		registry("r3", "", migrate.Device{ID: "d6", Name: "cam"}),
		registry("r4", "south", migrate.Device{ID: "d7", Name: "cam"}),
	}}
	p := plan(x)
	want := map[device.ID]string{
		"d1": "cam", "d3": "cam-south", "d6": "cam-r3", "d7": "cam-d7",
		"d2": long, "d4": strings.Repeat("n", 44) + "-south", "d5": "d5",
	}
	if len(p.Moves) != len(want) || len(p.Faults) > 0 {
		t.Fatalf("%d moves, faults %v", len(p.Moves), lines(p.Faults))
	}
	for _, d := range p.Moves {
		if d.Name != want[d.ID] || len(d.Name) > 50 {
			t.Errorf("%s is named %q, want %q", d.ID, d.Name, want[d.ID])
		}
	}
	wantLine(t, "notes", p.Notes, "device cam (d3): is named cam-south: another device has its name")

	// Whatever part of it was written, the next run recognises it.
	for i := range p.Moves {
		again := plan(x, p.Moves[i:]...)
		if again.Present != len(p.Moves)-i || len(again.Moves) != i || len(again.Faults) > 0 {
			t.Errorf("from %d on there: present %d, moves %d, faults %v", i, again.Present, len(again.Moves), lines(again.Faults))
		}
	}
	taken := func(names ...string) (there []device.Device) {
		for i, name := range names {
			there = append(there, device.Device{ID: device.ID(fmt.Sprint("other", i)), Name: name})
		}
		return there
	}
	p = plan(oneDevice(), taken("taxi-1", "taxi-1-north", "taxi-1-are0one")...)
	wantLine(t, "no name left", p.Faults, "device taxi-1 (are0one): its name belongs to other devices there")
}

func TestPlan_FitsIntoTheBroker(t *testing.T) {
	x := oneDevice()
	d := &x.Registries[0].Devices[0]
	d.Description = "line one\nline\ttwo"
	d.Labels = device.Labels{}
	for i := range 63 {
		d.Labels[fmt.Sprint("k", i)] = "v"
	}
	p := plan(x)
	got := p.Moves[0]
	if got.Description != "line one line two" {
		t.Errorf("description %q", got.Description)
	}
	if len(got.Labels) != 64 || got.Labels["iot-core-registry"] != "north" {
		t.Errorf("%d labels", len(got.Labels))
	}
	wantLine(t, "notes", p.Notes, "device taxi-1 (are0one): has too many labels to be given iot-core-registry-id")

	d.Labels = device.Labels{"iot-core-registry": "own"}
	if got := plan(x).Moves[0].Labels["iot-core-registry"]; got != "own" {
		t.Errorf("the device's own label became %q", got)
	}
}
