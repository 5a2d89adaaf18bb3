package camera

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
)

// Identity is what a registered camera knows of itself and of its broker.
type Identity struct {
	ID     string // the device id; "": unknown, and the topics are the broker's `$me/device/…`
	Name   string
	Broker string // ssl://host:port; the host must be in the broker's certificate
	Topics Topics // empty: made from ID

	Certificate []byte // PEM, the camera's own, perhaps with its chain
	Key         []byte // PEM
	CA          []byte // PEM, what the broker's certificate is verified with
}

// Topics are the two MQTT topics of a camera.
type Topics struct {
	Commands string `json:"commands"` // broker to camera
	Events   string `json:"events"`   // camera to broker
}

// topics returns the topics, or those of the contract where none are given.
func (i Identity) topics() Topics {
	if i.Topics != (Topics{}) {
		return i.Topics
	}
	base := "$me/device"
	if i.ID != "" {
		base = "$devices/" + i.ID
	}
	return Topics{Commands: base + "/commands", Events: base + "/events"}
}

// validate reports what is missing. Keys and certificates are checked by tls.
func (i Identity) validate() error {
	if _, err := i.address(); err != nil {
		return err
	}
	if t := i.topics(); t.Commands == "" || t.Events == "" {
		return errors.New("identity: both topics are needed, or none")
	}
	_, err := i.tls()
	return err
}

// address returns host:port of the broker.
func (i Identity) address() (string, error) {
	u, err := url.Parse(i.Broker)
	if err != nil || u.Scheme != "ssl" {
		return "", errors.New("identity: the broker's address must be ssl://host:port")
	}
	if _, _, err := net.SplitHostPort(u.Host); err != nil {
		return "", fmt.Errorf("identity: the broker's address: %w", err)
	}
	return u.Host, nil
}

func (i Identity) tls() (*tls.Config, error) {
	pair, err := tls.X509KeyPair(i.Certificate, i.Key)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(i.CA) {
		return nil, errors.New("identity: the broker's CA holds no certificate")
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair},
		RootCAs:      roots,
		MinVersion:   tls.VersionTLS12,
	}, nil
}

// newKey returns a fresh ECDSA P-256 key as PEM (PKCS #8).
func newKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// newCSR returns a certificate signing request (PKCS #10, PEM) for the key.
func newCSR(keyPEM []byte, name string) ([]byte, error) {
	block, _ := pem.Decode(keyPEM)
	if block == nil {
		return nil, errors.New("the key is not PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// folder is where a camera keeps its identity. An empty name keeps nothing.
type folder string

// The files of a folder. The description is written last: where it is, all others are.
const (
	keyFile         = "key.pem"
	certificateFile = "certificate.pem"
	caFile          = "ca.pem"
	descriptionFile = "camera.json"
)

// description is the content of descriptionFile.
type description struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Broker string `json:"mqtt"`
	Topics Topics `json:"topics"`
}

// load returns the identity of an enrolled camera; false: it has not enrolled yet.
func (f folder) load() (Identity, bool, error) {
	text, found, err := f.read(descriptionFile)
	if err != nil || !found {
		return Identity{}, false, err
	}
	var d description
	if err := json.Unmarshal(text, &d); err != nil {
		return Identity{}, false, fmt.Errorf("%s: %w", descriptionFile, err)
	}
	i := Identity{ID: d.ID, Name: d.Name, Broker: d.Broker, Topics: d.Topics}
	for name, content := range map[string]*[]byte{keyFile: &i.Key, certificateFile: &i.Certificate, caFile: &i.CA} {
		if *content, _, err = f.read(name); err != nil {
			return Identity{}, false, err
		}
	}
	return i, true, i.validate()
}

// key returns the folder's key, made now where there is none. It is on disk before a code is spent on it: a camera that
// dies while it enrols comes back with the same key and so as the same device.
func (f folder) key() ([]byte, error) {
	key, found, err := f.read(keyFile)
	if err != nil || found {
		return key, err
	}
	if key, err = newKey(); err != nil {
		return nil, err
	}
	return key, f.write(keyFile, key)
}

func (f folder) store(i Identity) error {
	text, err := json.MarshalIndent(description{ID: i.ID, Name: i.Name, Broker: i.Broker, Topics: i.Topics}, "", "  ")
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name    string
		content []byte
	}{{caFile, i.CA}, {certificateFile, i.Certificate}, {descriptionFile, append(text, '\n')}} {
		if err := f.write(file.name, file.content); err != nil {
			return err
		}
	}
	return nil
}

func (f folder) read(name string) (content []byte, found bool, err error) {
	if f == "" {
		return nil, false, nil
	}
	content, err = os.ReadFile(filepath.Join(string(f), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return content, err == nil, err
}

// write replaces a file as a whole, readable by its owner only.
func (f folder) write(name string, content []byte) error {
	if f == "" {
		return nil
	}
	if err := os.MkdirAll(string(f), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(string(f), name+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(string(f), name))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}
