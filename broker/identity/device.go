package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"signaldevice/device"
)

// MaxPEM is the most bytes of PEM text that a certificate or a CSR may have.
const MaxPEM = 16 << 10

// Limits of RSA keys. The upper one is crypto/tls's own: a longer key could never finish a handshake.
const (
	minRSABits = 2048
	maxRSABits = 8192
)

// maxAhead is how far in the future a brought certificate may begin: a factory's clock may be ahead of ours.
const maxAhead = 24 * time.Hour

// Fingerprint returns the name of a certificate: 40 lower-case hex digits, the SHA-1 of its DER (iot-core.md,
// "Certificates"). It is an identifier only; whoever must be sure compares the whole certificate.
func Fingerprint(der []byte) string {
	sum := sha1.Sum(der)
	return hex.EncodeToString(sum[:])
}

// CheckCertificate reads a certificate that a device brings. The answer holds it as one PEM block in normal form.
// InvalidCertificate, with a sentence that names the fault: not exactly one CERTIFICATE block, over 16 KB, not an X.509
// certificate, expired or not valid for another day, a weak or unknown key, only for servers, or one of this broker's
// own CAs.
func (id *Identity) CheckCertificate(pemText string) (device.Certificate, error) {
	cert, err := id.checkCertificate(pemText)
	if err != nil {
		return device.Certificate{}, device.Errorf(device.InvalidCertificate, "the certificate %s", err)
	}
	return certificate(cert), nil
}

// CheckBrought is CheckCertificate as far as it goes without a broker's identity, at a given time: it does not know the
// broker's own CAs.
func CheckBrought(pemText string, now time.Time) (device.Certificate, error) {
	cert, err := checkBrought(pemText, now)
	if err != nil {
		return device.Certificate{}, device.Errorf(device.InvalidCertificate, "the certificate %s", err)
	}
	return certificate(cert), nil
}

func (id *Identity) checkCertificate(pemText string) (*x509.Certificate, error) {
	cert, err := checkBrought(pemText, id.clock())
	if err != nil {
		return nil, err
	}
	if equalKeys(cert.PublicKey, id.device.key.Public()) || equalKeys(cert.PublicKey, id.service.key.Public()) {
		return nil, errors.New("is one of this broker's own CAs")
	}
	return cert, nil
}

func checkBrought(pemText string, now time.Time) (*x509.Certificate, error) {
	der, err := decodeOne(pemText, pemCertificate)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, errors.New("is not a well-formed X.509 certificate")
	}
	switch {
	case now.After(cert.NotAfter):
		return nil, fmt.Errorf("expired on %s", cert.NotAfter.UTC().Format(time.RFC3339))
	case now.Add(maxAhead).Before(cert.NotBefore):
		return nil, fmt.Errorf("is not valid before %s", cert.NotBefore.UTC().Format(time.RFC3339))
	case !forClients(cert):
		return nil, errors.New("is for servers: its extended key usage does not allow client authentication")
	}
	if err := checkKey(cert.PublicKey); err != nil {
		return nil, err
	}
	return cert, nil
}

// ParseCSR reads a certificate signing request. InvalidCSR, with a sentence that names the fault: not exactly one
// CERTIFICATE REQUEST block, over 16 KB, not a PKCS #10 request, a signature that is not by its own key, or a weak or
// unknown key.
func ParseCSR(pemText string) (*x509.CertificateRequest, error) {
	csr, err := parseCSR(pemText)
	if err != nil {
		return nil, device.Errorf(device.InvalidCSR, "the certificate signing request %s", err)
	}
	return csr, nil
}

func parseCSR(pemText string) (*x509.CertificateRequest, error) {
	der, err := decodeOne(pemText, "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST") // RFC 7468, 7
	if err != nil {
		return nil, err
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, errors.New("is not a well-formed PKCS #10 request")
	}
	if err := checkKey(csr.PublicKey); err != nil {
		return nil, err
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, errors.New("is not signed by the key it names")
	}
	return csr, nil
}

// SignCSR makes a client certificate of the device CA for the key of the request, valid for ten years. Nothing else of
// the request is used: the subject is the device's id.
func (id *Identity) SignCSR(csr *x509.CertificateRequest, dev device.ID) (device.Certificate, error) {
	der, err := id.device.sign(deviceTemplate(dev), csr.PublicKey, id.clock(), deviceLifetime)
	if err != nil {
		return device.Certificate{}, fmt.Errorf("identity: sign a request: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return device.Certificate{}, fmt.Errorf("identity: sign a request: %w", err)
	}
	return certificate(cert), nil
}

func certificate(cert *x509.Certificate) device.Certificate {
	return device.Certificate{
		Fingerprint: Fingerprint(cert.Raw),
		PEM:         string(pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: cert.Raw})),
		NotAfter:    cert.NotAfter.UTC(),
	}
}

// forClients reports whether the certificate may be a TLS client's. One without the extension may be anyone's
// (RFC 5280, 4.2.1.12).
func forClients(cert *x509.Certificate) bool {
	if len(cert.ExtKeyUsage) == 0 && len(cert.UnknownExtKeyUsage) == 0 {
		return true
	}
	return slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) ||
		slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
}

func checkKey(pub crypto.PublicKey) error {
	switch key := pub.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits || bits > maxRSABits {
			return fmt.Errorf("has an RSA key of %d bits: %d to %d are allowed", bits, minRSABits, maxRSABits)
		}
	case *ecdsa.PublicKey:
		if key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
			return errors.New("has an ECDSA key on another curve than P-256 and P-384")
		}
	case ed25519.PublicKey:
	default:
		return errors.New("has another kind of key than RSA, ECDSA and Ed25519")
	}
	return nil
}

func equalKeys(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}

// decodeOne returns the content of the one PEM block that the text holds. Nothing but white space may be around it, so
// that no two readers can take different certificates from one text.
func decodeOne(text string, kinds ...string) ([]byte, error) {
	if len(text) > MaxPEM {
		return nil, fmt.Errorf("is longer than %d bytes of PEM", MaxPEM)
	}
	text = strings.TrimSpace(text)
	if text == "" {
		return nil, errors.New("is empty")
	}
	if n := strings.Count(text, "-----BEGIN "); n > 1 {
		return nil, fmt.Errorf("has %d PEM blocks: one is wanted", n)
	}
	block, rest := pem.Decode([]byte(text))
	switch {
	case block == nil || !slices.Contains(kinds, block.Type) || len(block.Headers) > 0:
		return nil, fmt.Errorf("is not a PEM block of the type %s", kinds[0])
	case !strings.HasPrefix(text, "-----BEGIN "):
		return nil, errors.New("has other text before its PEM block")
	case len(rest) > 0:
		return nil, errors.New("has other text after its PEM block")
	}
	return block.Bytes, nil
}
