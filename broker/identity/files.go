package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	pemCertificate = "CERTIFICATE"
	pemKey         = "PRIVATE KEY" // PKCS #8
)

// pair is a certificate and its key, as two files of one name.
type pair struct {
	dir, name string
	cert      *x509.Certificate
	key       crypto.Signer
}

func (p *pair) certPath() string { return filepath.Join(p.dir, p.name+".pem") }
func (p *pair) keyPath() string  { return filepath.Join(p.dir, p.name+".key") }

func (p *pair) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCertificate, Bytes: p.cert.Raw})
}

// signer makes a certificate for a key.
type signer func(key crypto.Signer) (der []byte, err error)

// openPair reads both files. Where both are missing it makes a key, and where the certificate is missing it has one
// made for the key: that is also how a first start that was killed in between goes on. A certificate without its key
// is an error, since only the operator can tell where the key went. With a nil signer nothing is made: what is missing
// is an error.
func openPair(dir, name string, sign signer) (pair, error) {
	p := pair{dir: dir, name: name}
	cert, certErr := readBlock(p.certPath(), pemCertificate)
	key, keyErr := readBlock(p.keyPath(), pemKey)
	noCert, noKey := errors.Is(certErr, fs.ErrNotExist), errors.Is(keyErr, fs.ErrNotExist)
	var err error
	switch {
	case certErr != nil && (!noCert || sign == nil):
		err = certErr
	case keyErr != nil && (!noKey || sign == nil):
		err = keyErr
	case noKey && !noCert:
		err = fmt.Errorf("%s is missing beside %s: restore it, or remove both to start anew", p.keyPath(), p.certPath())
	case noKey:
		err = p.makeKey()
	default:
		err = p.parseKey(key)
	}
	if err == nil && noCert {
		err = p.renew(sign)
	} else if err == nil {
		err = p.parseCert(cert)
	}
	return p, err
}

func (p *pair) parseCert(der []byte) (err error) {
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("%s: %w", p.certPath(), err)
	}
	if !equalKeys(p.cert.PublicKey, p.key.Public()) {
		return fmt.Errorf("%s does not belong to %s", p.certPath(), p.keyPath())
	}
	return nil
}

// renew makes a certificate for the key that is there and replaces the file.
func (p *pair) renew(sign signer) error {
	der, err := sign(p.key)
	if err != nil {
		return fmt.Errorf("make %s: %w", p.certPath(), err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return fmt.Errorf("make %s: %w", p.certPath(), err)
	}
	return writeFile(p.certPath(), p.pem(), 0o644)
}

func (p *pair) makeKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	p.key = key
	return writeFile(p.keyPath(), pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), 0o600)
}

func (p *pair) parseKey(der []byte) error {
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return fmt.Errorf("%s: %w", p.keyPath(), err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return fmt.Errorf("%s: this kind of key cannot sign", p.keyPath())
	}
	p.key = signer
	return nil
}

// readBlock reads a file that holds exactly one PEM block of the kind.
func readBlock(path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	der, err := decodeOne(string(text), kind)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return der, nil
}

// writeFile replaces a file in one step, so that a kill or a power cut leaves the old content or the new one, never a
// part. The temporary name is fixed: what a killed process left is overwritten, not gathered.
func writeFile(path string, content []byte, mode fs.FileMode) error {
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp) // the first error is the one to tell
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename in the folder survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
