// Package migratetest makes exports of Yandex IoT Core for tests: folders as the script of docs/migration.md leaves them,
// and cameras with the keys that belong to them. It is not safe for concurrent use.
package migratetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"signaldevice/device"
)

// Registry is the id of the one registry in an export; its name is RegistryName.
const (
	Registry     = "are0registry"
	RegistryName = "north"
)

// Camera is a device of an export with its key.
type Camera struct {
	ID          device.ID
	Name        string
	Certificate tls.Certificate
}

// Export writes an export of n devices into dir, each with a description, a label and one certificate, and returns them.
func Export(t testing.TB, dir string, n int) []Camera {
	t.Helper()
	certs := filepath.Join(dir, "device-certs-"+Registry)
	if err := os.MkdirAll(certs, 0o700); err != nil {
		t.Fatal(err)
	}
	cameras := make([]Camera, n)
	devices := make([]map[string]any, n)
	for i := range cameras {
		cert, text := Certificate(t, time.Now().AddDate(5, 0, 0))
		c := Camera{ID: device.ID(fmt.Sprintf("are0camera%010d", i)), Name: fmt.Sprintf("taxi-%d", i), Certificate: cert}
		cameras[i] = c
		devices[i] = map[string]any{
			"id": c.ID, "registry_id": Registry, "created_at": "2024-05-28T16:08:30.938Z", "name": c.Name, "status": "ACTIVE",
			"description": "car " + c.Name, "labels": map[string]string{"depot": fmt.Sprint("d", i%3)},
		}
		write(t, filepath.Join(certs, string(c.ID)+".json"), []map[string]any{{
			"device_id": c.ID, "fingerprint": "65e5b050069da5ca5996a4a8a9251409", "created_at": "2024-05-29T17:14:18.804Z",
			"certificate_data": text,
		}})
	}
	write(t, filepath.Join(dir, "devices-"+Registry+".json"), devices)
	write(t, filepath.Join(dir, "registries.json"), []map[string]any{{
		"id": Registry, "folder_id": "b1gfolder", "created_at": "2024-05-28T16:08:30.938Z", "name": RegistryName, "status": "ACTIVE",
	}})
	return cameras
}

func write(t testing.TB, file string, list any) {
	t.Helper()
	data, err := json.MarshalIndent(list, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(data, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Certificate makes a self-signed certificate with its key, valid for ten years until notAfter, and its PEM.
func Certificate(t testing.TB, notAfter time.Time) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "camera"}, NotBefore: notAfter.AddDate(-10, 0, 0), NotAfter: notAfter,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
