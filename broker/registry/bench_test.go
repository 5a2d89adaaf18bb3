package registry

import (
	"fmt"
	"testing"
)

func BenchmarkByCertificate(b *testing.B) {
	r := alone(b)
	cert := newCert(b)
	create(b, r, NewDevice{Certificates: []string{cert}})
	raw := der(b, cert)
	for b.Loop() {
		if _, err := r.ByCertificate(raw); err != nil {
			b.Fatal(err)
		}
	}
}

// One write after another on one node with fsync: checked, stored, applied.
func BenchmarkCreate(b *testing.B) {
	r := alone(b)
	cert := newCert(b)
	for b.Loop() {
		s := create(b, r, NewDevice{Certificates: []string{cert}})
		if err := r.RemoveCertificate(b.Context(), s.ID, s.Certificates[0].Fingerprint); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen10000Devices(b *testing.B) {
	js := connect(b, startServer(b, b.TempDir()))
	id := openIdentity(b)
	node(b, Config{JetStream: js, Identity: id}).Close()
	for i := range 10_000 {
		rec := deviceRecord{RegistryID: DefaultID, Name: fmt.Sprintf("cam-%d", i)}
		rec.Certificates = []certificateRecord{fakeCert(i)}
		if _, err := js.PublishAsync(deviceSubject(newID()), marshal(rec)); err != nil {
			b.Fatal(err)
		}
		if i%1000 == 999 {
			<-js.PublishAsyncComplete()
		}
	}
	for b.Loop() {
		node(b, Config{JetStream: js, Identity: id}).Close()
	}
}
