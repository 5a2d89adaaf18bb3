// Package identity keeps the broker's two certificate authorities and everything they sign.
//
// The device CA signs the CSRs of devices. The service CA signs the broker's server certificate and the certificates of
// gRPC clients, with their role inside. Neither says who a device is: a device is known by its registered certificate
// alone, whoever signed it, and that is package registry's business.
//
// Everything lives in one folder, as pairs NAME.pem and NAME.key: device-ca, service-ca, server, service, operator; and
// ca.pem, the service CA's certificate, which clients need to trust the broker. The nodes of a cluster share the two
// CA pairs. Open makes what is missing and never replaces a key. A key is written before its certificate, so a start
// that was cut short is finished by the next one. One process at a time may open a folder.
//
// An Identity does not change after Open and is safe for concurrent use. A process that runs for years must be
// restarted before its server certificate ends: renewal happens in Open.
package identity

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"signaldevice/device"
)

// How long certificates live. A device's certificate outlives the car that the camera is built into, because a camera
// that cannot renew must not fall silent: an operator revokes it instead.
const (
	caLifetime     = 20 * 365 * 24 * time.Hour
	deviceLifetime = 10 * 365 * 24 * time.Hour
	leafLifetime   = 2 * 365 * 24 * time.Hour // server and gRPC clients
	renewBefore    = 30 * 24 * time.Hour
	backdate       = 24 * time.Hour // a camera's clock may be behind ours
)

// Role is what a gRPC client may do, as its certificate says.
type Role string

// The roles of gRPC clients.
const (
	RoleService  Role = "service"  // the API
	RoleOperator Role = "operator" // administration, and IoT Core's services
)

// roleScheme and the role make the URI in the subject alternative name that holds a client's role.
const roleScheme = "signal-device"

// Config says what Open needs besides the folder.
type Config struct {
	Hosts []string         // names and addresses of the broker, besides localhost, 127.0.0.1 and ::1
	Clock func() time.Time // nil: time.Now
}

// Identity is an opened folder of certificates.
type Identity struct {
	device  authority
	service authority
	server  tls.Certificate
	clock   func() time.Time
}

type authority struct{ pair }

// Open reads the folder, makes what is missing in it, and renews the server's and the clients' certificates that have
// less than 30 days left, or the server's when the hosts changed. A file that cannot be read, is cut short or does not
// belong to its neighbour is an error that names it, and nothing is replaced.
func Open(dir string, cfg Config) (*Identity, error) {
	id, err := open(dir, cfg)
	if err != nil {
		return nil, fmt.Errorf("identity: %w", err)
	}
	return id, nil
}

func open(dir string, cfg Config) (*Identity, error) {
	clock := cfg.Clock
	if clock == nil {
		clock = time.Now
	}
	hosts, err := parseHosts(cfg.Hosts)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	id := &Identity{clock: clock}
	if id.device, err = openAuthority(dir, "device-ca", clock()); err != nil {
		return nil, err
	}
	if id.service, err = openAuthority(dir, "service-ca", clock()); err != nil {
		return nil, err
	}
	if err := openCopy(filepath.Join(dir, "ca.pem"), id.service.pem()); err != nil {
		return nil, err
	}
	server, err := id.openLeaf(dir, "server", serverTemplate(hosts), hosts.match)
	if err != nil {
		return nil, err
	}
	for _, role := range []Role{RoleService, RoleOperator} {
		if _, err := id.openLeaf(dir, string(role), clientTemplate(role), nil); err != nil {
			return nil, err
		}
	}
	id.server = tls.Certificate{Certificate: [][]byte{server.cert.Raw}, PrivateKey: server.key, Leaf: server.cert}
	return id, nil
}

// CA returns the PEM of the certificate that clients and devices trust for the broker's server certificate.
func (id *Identity) CA() string { return string(id.service.pem()) }

// ServerCertificate returns the broker's server certificate with its key, for the MQTT and gRPC listeners.
func (id *Identity) ServerCertificate() tls.Certificate { return id.server }

// IssueTo makes a key and a certificate for a gRPC client of the role and writes them as ROLE.key, ROLE.pem and ca.pem
// into the folder, which it makes if need be. It refuses to touch a key or certificate that is there.
func (id *Identity) IssueTo(dir string, role Role) error {
	if err := id.issueTo(dir, role); err != nil {
		return fmt.Errorf("identity: issue: %w", err)
	}
	return nil
}

// IssueFrom is IssueTo with the service CA of a broker's folder, in which it changes nothing: the broker may be running.
func IssueFrom(brokerDir, dir string, role Role) error {
	ca, err := openPair(brokerDir, "service-ca", nil)
	if err != nil {
		return fmt.Errorf("identity: issue: %w", err)
	}
	id := &Identity{service: authority{ca}, clock: time.Now}
	return id.IssueTo(dir, role)
}

func (id *Identity) issueTo(dir string, role Role) error {
	if role != RoleService && role != RoleOperator {
		return fmt.Errorf("there is no role %q: want %q or %q", role, RoleService, RoleOperator)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, suffix := range []string{".key", ".pem"} {
		path := filepath.Join(dir, string(role)+suffix)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s exists already", path)
		}
	}
	if err := openCopy(filepath.Join(dir, "ca.pem"), id.service.pem()); err != nil {
		return err
	}
	_, err := id.openLeaf(dir, string(role), clientTemplate(role), nil)
	return err
}

// openAuthority opens or makes a self-signed CA.
func openAuthority(dir, name string, now time.Time) (authority, error) {
	p, err := openPair(dir, name, func(key crypto.Signer) ([]byte, error) {
		t := &x509.Certificate{
			Subject:               pkix.Name{CommonName: "signal-device " + strings.Replace(name, "-ca", " CA", 1)},
			NotBefore:             now.Add(-backdate),
			NotAfter:              now.Add(caLifetime),
			IsCA:                  true,
			BasicConstraintsValid: true,
			MaxPathLenZero:        true, // it signs no other CA
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		return create(t, t, key.Public(), key)
	})
	if err != nil {
		return authority{}, err
	}
	if !p.cert.IsCA {
		return authority{}, fmt.Errorf("%s is not the certificate of a CA", p.certPath())
	}
	if now.After(p.cert.NotAfter) {
		return authority{}, fmt.Errorf("%s expired on %s", p.certPath(), p.cert.NotAfter.Format(time.DateOnly))
	}
	return authority{p}, nil
}

// openLeaf opens or makes a certificate of the service CA. It is made again, for the same key, when it ends soon or
// does not fit.
func (id *Identity) openLeaf(dir, name string, t x509.Certificate, fits func(*x509.Certificate) bool) (pair, error) {
	now := id.clock()
	sign := func(key crypto.Signer) ([]byte, error) { return id.service.sign(t, key.Public(), now, leafLifetime) }
	p, err := openPair(dir, name, sign)
	if err != nil {
		return pair{}, err
	}
	if err := p.cert.CheckSignatureFrom(id.service.cert); err != nil {
		return pair{}, fmt.Errorf("%s was not signed by %s: %w", p.certPath(), id.service.certPath(), err)
	}
	if now.Add(renewBefore).Before(p.cert.NotAfter) && (fits == nil || fits(p.cert)) {
		return p, nil
	}
	err = p.renew(sign)
	return p, err
}

// sign makes a certificate for the public key. It never outlives the CA's own.
func (a authority) sign(t x509.Certificate, pub crypto.PublicKey, now time.Time, lifetime time.Duration) ([]byte, error) {
	t.NotBefore, t.NotAfter = now.Add(-backdate), now.Add(lifetime)
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	return create(&t, a.cert, pub, a.key)
}

func create(t, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) ([]byte, error) {
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] = serial[0]&0x7f | 0x40 // positive, and always 16 bytes long (RFC 5280, 4.1.2.2)
	t.SerialNumber = new(big.Int).SetBytes(serial)
	return x509.CreateCertificate(rand.Reader, t, parent, pub, key)
}

func serverTemplate(h hosts) x509.Certificate {
	return x509.Certificate{
		Subject:     pkix.Name{CommonName: "signal-device broker"},
		DNSNames:    h.names,
		IPAddresses: h.ips,
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

func clientTemplate(role Role) x509.Certificate {
	return x509.Certificate{
		Subject:     pkix.Name{CommonName: "signal-device " + string(role)},
		URIs:        []*url.URL{{Scheme: roleScheme, Opaque: "role:" + string(role)}},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

func deviceTemplate(id device.ID) x509.Certificate {
	return x509.Certificate{
		Subject:     pkix.Name{CommonName: string(id)}, // for people; nothing reads it (iot-core.md, "Certificates")
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// hosts are the names and addresses in a server certificate.
type hosts struct {
	names []string
	ips   []net.IP
}

func parseHosts(extra []string) (hosts, error) {
	var h hosts
	seen := map[string]bool{}
	for _, s := range append([]string{"localhost", "127.0.0.1", "::1"}, extra...) {
		ip := net.ParseIP(s)
		switch {
		case s == "" || len(s) > 253 || ip == nil && strings.ContainsAny(s, " :/@[]"):
			return hosts{}, fmt.Errorf("host %q is neither a name nor an address", s)
		case ip != nil && !seen[ip.String()]:
			h.ips = append(h.ips, ip)
			seen[ip.String()] = true
		case ip == nil && !seen[strings.ToLower(s)]:
			h.names = append(h.names, strings.ToLower(s))
			seen[strings.ToLower(s)] = true
		}
	}
	return h, nil
}

// match reports whether the certificate is for exactly these hosts.
func (h hosts) match(cert *x509.Certificate) bool {
	return slices.Equal(sorted(h.names), sorted(cert.DNSNames)) &&
		slices.Equal(sorted(texts(h.ips)), sorted(texts(cert.IPAddresses)))
}

func texts(ips []net.IP) []string {
	out := make([]string, len(ips))
	for i, ip := range ips {
		out[i] = ip.String()
	}
	return out
}

func sorted(s []string) []string { return slices.Sorted(slices.Values(s)) }

// openCopy writes the content where the file is missing; another content is an error.
func openCopy(path string, content []byte) error {
	got, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return writeFile(path, content, 0o644)
	case err != nil:
		return err
	case !bytes.Equal(got, content):
		return fmt.Errorf("%s is not the certificate of this broker's service CA: remove it to have it written again", path)
	}
	return nil
}
