package app

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// Ready tells a script where a started program listens and which credentials it may use. Addresses are HOST:PORT and
// can be dialled; a program has only those that it listens on.
type Ready struct {
	HTTP       string            `json:"http,omitempty"`
	Admin      string            `json:"admin,omitempty"`
	MQTT       string            `json:"mqtt,omitempty"`
	GRPC       string            `json:"grpc,omitempty"`
	CA         string            `json:"ca,omitempty"`          // path of the broker's CA
	RegistryID string            `json:"registry_id,omitempty"` // the registry that exists from the start
	Service    *KeyPair          `json:"service,omitempty"`
	Operator   *KeyPair          `json:"operator,omitempty"`
	Tokens     map[string]string `json:"tokens,omitempty"` // role → bearer token; only in a demonstration
}

// KeyPair names the files of a certificate and its private key.
type KeyPair struct {
	Cert string `json:"cert"`
	Key  string `json:"key"`
}

// Write puts r into a file that only its owner reads. Whoever sees the file sees all of it.
func (r Ready) Write(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }() // there is one only where the rest failed
	_, err = f.Write(append(data, '\n'))
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("ready file: %w", err)
	}
	return nil
}

// dialable returns an address at which a listener is reached from this machine: one that listens everywhere is reached
// on loopback.
func dialable(addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		return addr.String()
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}
