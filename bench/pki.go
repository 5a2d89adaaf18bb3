package bench

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

const certificateLife = 24 * time.Hour

// certificate is a certificate with its key, as PEM.
type certificate struct {
	cert, key []byte
}

// authority signs certificates for Mosquitto, its cameras and its clients. Its key is gone with the process.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	ca := unsigned("bench CA")
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
	return &authority{cert: cert, key: key, pem: toPEM("CERTIFICATE", der)}, nil
}

// issue makes a certificate for a client of that name, and for a server on this machine.
func (a *authority) issue(name string) (certificate, error) {
	return sign(name, a.cert, a.key)
}

// selfSigned makes a certificate as a camera's factory may.
func selfSigned(name string) (certificate, error) { return sign(name, nil, nil) }

// sign makes a key and a certificate for it; without an issuer the key signs its own.
func sign(name string, issuer *x509.Certificate, issuerKey *ecdsa.PrivateKey) (certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return certificate{}, err
	}
	leaf := unsigned(name)
	leaf.KeyUsage = x509.KeyUsageDigitalSignature
	leaf.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	leaf.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	if issuer == nil {
		issuer, issuerKey = leaf, key
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, issuer, key.Public(), issuerKey)
	if err != nil {
		return certificate{}, err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return certificate{}, err
	}
	return certificate{cert: toPEM("CERTIFICATE", der), key: toPEM("PRIVATE KEY", keyDER)}, nil
}

func unsigned(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{ // a serial number is made for it
		Subject:   pkix.Name{CommonName: name},
		NotBefore: now.Add(-time.Hour),
		NotAfter:  now.Add(certificateLife),
	}
}

// clientTLS returns how the owner of the certificate dials a server that the CA knows.
func (c certificate) clientTLS(ca []byte) (*tls.Config, error) {
	pair, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("the CA holds no certificate")
	}
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots, MinVersion: tls.VersionTLS12}, nil
}

// write puts certificate and key into name.pem and name.key of the folder.
func (c certificate) write(dir, name string) (certFile, keyFile string, err error) {
	certFile, keyFile = filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key")
	if err = os.WriteFile(certFile, c.cert, 0o600); err == nil {
		err = os.WriteFile(keyFile, c.key, 0o600)
	}
	return certFile, keyFile, err
}

func toPEM(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
