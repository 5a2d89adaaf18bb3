// Package pki makes certificates for tests and measurements: of an authority of their own, or self-signed as a camera's
// factory may. Keys are ECDSA P-256. A certificate is valid from an hour ago, for the server at 127.0.0.1 and for clients.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"time"
)

const life = 24 * time.Hour

// Authority signs certificates, valid for a day as its own is. Its key is gone with the process. It is safe for
// concurrent use.
type Authority struct {
	PEM  []byte // its own certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority.
func NewAuthority() (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := template("CA", life)
	ca.IsCA, ca.BasicConstraintsValid = true, true
	ca.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{PEM: toPEM("CERTIFICATE", der), cert: cert, key: key}, nil
}

// Issue makes a key and a certificate for it in that name.
func (a *Authority) Issue(name string) (Pair, error) { return newPair(leaf(name, life), a) }

// Sign returns a certificate, PEM, in that name for the public key of somebody else.
func (a *Authority) Sign(name string, public crypto.PublicKey) ([]byte, error) {
	der, err := x509.CreateCertificate(rand.Reader, leaf(name, life), a.cert, public, a.key)
	return toPEM("CERTIFICATE", der), err
}

// SelfSigned makes a key and a certificate that it signs itself.
func SelfSigned(name string, valid time.Duration) (Pair, error) {
	return newPair(leaf(name, valid), nil)
}

// Pair is a certificate with its key, both PEM.
type Pair struct {
	Cert, Key []byte
}

// newPair makes a key and signs the certificate for it; without an authority the key signs its own.
func newPair(cert *x509.Certificate, by *Authority) (Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, err
	}
	issuer, issuerKey := cert, key
	if by != nil {
		issuer, issuerKey = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, issuer, key.Public(), issuerKey)
	if err != nil {
		return Pair{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{Cert: toPEM("CERTIFICATE", der), Key: toPEM("PRIVATE KEY", keyDER)}, nil
}

// ClientTLS returns how the owner of the pair dials a server that the CA, PEM, knows.
func (p Pair) ClientTLS(ca []byte) (*tls.Config, error) {
	own, err := tls.X509KeyPair(p.Cert, p.Key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, errors.New("the CA holds no certificate")
	}
	return &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// Write puts certificate and key into name.pem and name.key of the folder.
func (p Pair) Write(dir, name string) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	if err = os.WriteFile(certFile, p.Cert, 0o600); err == nil {
		err = os.WriteFile(keyFile, p.Key, 0o600)
	}
	return certFile, keyFile, err
}

func leaf(name string, valid time.Duration) *x509.Certificate {
	cert := template(name, valid)
	cert.KeyUsage = x509.KeyUsageDigitalSignature
	cert.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	cert.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	return cert
}

func template(name string, valid time.Duration) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{ // a serial number is made for it
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour),
		NotAfter:  now.Add(valid),
	}
}

func toPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
