package identity

import (
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"signaldevice/device"
)

// openssl runs it in a folder and returns the file that it wrote.
func openssl(t *testing.T, dir, out string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "openssl", append(args, "-out", out)...)
	cmd.Dir = dir
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("openssl %v: %v\n%s", args, err, text)
	}
	return read(t, dir, out)
}

func TestCheckCertificate_TakesWhatOpenSSLMakes(t *testing.T) {
	dir := t.TempDir()
	id := mustOpen(t, t.TempDir(), Config{Clock: time.Now})
	tests := map[string]struct {
		args []string
		kind device.Kind
	}{
		"RSA 2048":          {[]string{"-newkey", "rsa:2048"}, device.OK},
		"RSA 1024":          {[]string{"-newkey", "rsa:1024"}, device.InvalidCertificate},
		"P-256":             {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, device.OK},
		"P-384":             {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"}, device.OK},
		"P-521":             {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"}, device.InvalidCertificate},
		"secp256k1":         {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1"}, device.InvalidCertificate},
		"Ed25519":           {[]string{"-newkey", "ed25519"}, device.OK},
		"Ed448":             {[]string{"-newkey", "ed448"}, device.InvalidCertificate},
		"for clients":       {[]string{"-newkey", "ed25519", "-addext", "extendedKeyUsage=clientAuth"}, device.OK},
		"for both":          {[]string{"-newkey", "ed25519", "-addext", "extendedKeyUsage=serverAuth,clientAuth"}, device.OK},
		"for anything":      {[]string{"-newkey", "ed25519", "-addext", "extendedKeyUsage=anyExtendedKeyUsage"}, device.OK},
		"for servers":       {[]string{"-newkey", "ed25519", "-addext", "extendedKeyUsage=serverAuth"}, device.InvalidCertificate},
		"for code signing":  {[]string{"-newkey", "ed25519", "-addext", "extendedKeyUsage=codeSigning"}, device.InvalidCertificate},
		"for a private use": {[]string{"-newkey", "ed25519", "-addext", "extendedKeyUsage=1.3.6.1.4.1.99999.1"}, device.InvalidCertificate},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"req", "-x509", "-nodes", "-subj", "/CN=cam", "-days", "30", "-keyout", "k.pem"}, tt.args...)
			text := openssl(t, dir, "c.pem", args...)
			got, err := id.CheckCertificate(text)
			if device.KindOf(err) != tt.kind {
				t.Fatalf("CheckCertificate: %v, want kind %q", err, tt.kind)
			}
			if err != nil {
				return
			}
			sum := exec.CommandContext(t.Context(), "openssl", "x509", "-noout", "-fingerprint", "-sha1", "-in", filepath.Join(dir, "c.pem"))
			line, err := sum.Output()
			if err != nil {
				t.Fatal(err)
			}
			_, hex, _ := strings.Cut(strings.TrimSpace(string(line)), "=")
			if want := strings.ToLower(strings.ReplaceAll(hex, ":", "")); got.Fingerprint != want {
				t.Errorf("fingerprint %s, openssl says %s", got.Fingerprint, want)
			}
			if strings.TrimSpace(got.PEM) != strings.TrimSpace(text) {
				t.Error("the PEM was changed")
			}
		})
	}
}

// selfSigned makes a certificate with the given life.
func selfSigned(t *testing.T, notBefore, notAfter time.Time) string {
	t.Helper()
	var p pair
	p.dir, p.name = t.TempDir(), "k"
	if err := p.makeKey(); err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "cam"}, NotBefore: notBefore, NotAfter: notAfter}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, p.key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// I10: each fault gets one sentence that names it.
func TestCheckCertificate_NamesTheFault(t *testing.T) {
	dir := t.TempDir()
	id := mustOpen(t, dir, Config{})
	good := selfSigned(t, now.Add(-time.Hour), now.Add(time.Hour))
	other := selfSigned(t, now.Add(-time.Hour), now.Add(time.Hour))
	withTail := func() string {
		block, _ := pem.Decode([]byte(good))
		block.Bytes = append(block.Bytes, 0)
		return string(pem.EncodeToMemory(block))
	}()
	tests := map[string]struct {
		text string
		want string // "": accepted
	}{
		"as made":                       {good, ""},
		"white space around":            {"\r\n " + strings.ReplaceAll(good, "\n", "\r\n") + " \n\n", ""},
		"at the size limit":             {good + strings.Repeat("\n", MaxPEM-len(good)), ""},
		"one byte over the size limit":  {good + strings.Repeat("\n", MaxPEM-len(good)+1), "is longer than 16384 bytes"},
		"empty":                         {"", "is empty"},
		"white space":                   {" \n", "is empty"},
		"no PEM":                        {"hello", "is not a PEM block"},
		"two blocks":                    {good + other, "has 2 PEM blocks"},
		"a broken block and a good one": {"-----BEGIN CERTIFICATE-----\n!\n" + good, "has 2 PEM blocks"},
		"text before":                   {"Certificate:\n" + good, "has other text before"},
		"text after":                    {good + "x", "has other text after"},
		"a key":                         {read(t, dir, "device-ca.key"), "is not a PEM block of the type CERTIFICATE"},
		"headers":                       {strings.Replace(good, "-----\n", "-----\nA: b\n\n", 1), "is not a PEM block"},
		"not a certificate":             {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "is not a well-formed X.509"},
		"bytes after the certificate":   {withTail, "is not a well-formed X.509"},
		"expires right now":             {selfSigned(t, now.Add(-time.Hour), now), ""},
		"expired a second ago":          {selfSigned(t, now.Add(-time.Hour), now.Add(-time.Second)), "expired on 2026-11-24T11:59:59Z"},
		"begins in a day":               {selfSigned(t, now.Add(maxAhead), now.Add(2*maxAhead)), ""},
		"begins a second later":         {selfSigned(t, now.Add(maxAhead+time.Second), now.Add(2*maxAhead)), "is not valid before"},
		"our device CA":                 {read(t, dir, "device-ca.pem"), "is one of this broker's own CAs"},
		"our service CA":                {read(t, dir, "service-ca.pem"), "is one of this broker's own CAs"},
		"our server certificate":        {read(t, dir, "server.pem"), "is for servers"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := id.CheckCertificate(tt.text)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !device.Is(err, device.InvalidCertificate) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("CheckCertificate: %v, want InvalidCertificate with %q", err, tt.want)
			}
		})
	}
}

func TestParseCSR_TakesWhatOpenSSLMakes(t *testing.T) {
	dir := t.TempDir()
	id := mustOpen(t, dir, Config{Clock: time.Now})
	tests := map[string]struct {
		args []string
		kind device.Kind
	}{
		"RSA 2048":  {[]string{"-newkey", "rsa:2048"}, device.OK},
		"RSA 1024":  {[]string{"-newkey", "rsa:1024"}, device.InvalidCSR},
		"P-256":     {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"}, device.OK},
		"P-384":     {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384"}, device.OK},
		"P-521":     {[]string{"-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-521"}, device.InvalidCSR},
		"Ed25519":   {[]string{"-newkey", "ed25519"}, device.OK},
		"old title": {[]string{"-newkey", "ed25519", "-newhdr"}, device.OK},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"req", "-new", "-nodes", "-subj", "/CN=cam/O=Liar", "-keyout", "k.pem"}, tt.args...)
			csr, err := ParseCSR(openssl(t, dir, "r.pem", args...))
			if device.KindOf(err) != tt.kind {
				t.Fatalf("ParseCSR: %v, want kind %q", err, tt.kind)
			}
			if err != nil {
				return
			}
			cert, err := id.SignCSR(csr, "are1")
			if err != nil {
				t.Fatal(err)
			}
			write(t, cert.PEM, dir, "c.pem")
			verify := exec.CommandContext(t.Context(), "openssl", "verify", "-purpose", "sslclient", "-CAfile", "device-ca.pem", "c.pem")
			verify.Dir = dir
			if text, err := verify.CombinedOutput(); err != nil {
				t.Fatalf("openssl verify: %v\n%s", err, text)
			}
			show := exec.CommandContext(t.Context(), "openssl", "x509", "-noout", "-subject", "-in", "c.pem")
			show.Dir = dir
			if text, _ := show.Output(); strings.TrimSpace(string(text)) != "subject=CN = are1" {
				t.Errorf("openssl says %q", text)
			}
			if left := time.Until(cert.NotAfter); left < deviceLifetime-time.Minute || left > deviceLifetime {
				t.Errorf("valid for %v, want %v", left, deviceLifetime)
			}
			if _, err := id.CheckCertificate(cert.PEM); err != nil {
				t.Errorf("our own certificate is refused: %v", err)
			}
		})
	}
}

func TestParseCSR_NamesTheFault(t *testing.T) {
	dir := t.TempDir()
	good := openssl(t, dir, "r.pem", "req", "-new", "-nodes", "-subj", "/CN=cam", "-newkey", "ed25519", "-keyout", "k.pem")
	block, _ := pem.Decode([]byte(good))
	block.Bytes[len(block.Bytes)-1] ^= 1
	forged := string(pem.EncodeToMemory(block))
	tests := map[string]struct{ text, want string }{
		"a forged signature": {forged, "is not signed by the key it names"},
		"empty":              {"", "is empty"},
		"two blocks":         {good + good, "has 2 PEM blocks"},
		"a certificate":      {selfSigned(t, now, now.Add(time.Hour)), "is not a PEM block of the type CERTIFICATE REQUEST"},
		"not a request":      {"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "is not a well-formed PKCS #10"},
		"too long":           {strings.Repeat("x", MaxPEM+1), "is longer than"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseCSR(tt.text)
			if !device.Is(err, device.InvalidCSR) || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("ParseCSR: %v, want InvalidCSR with %q", err, tt.want)
			}
		})
	}
}

func TestSignCSR_SerialsAreRandomAnd128Bits(t *testing.T) {
	id := mustOpen(t, t.TempDir(), Config{})
	seen := map[string]bool{}
	csr, err := ParseCSR(openssl(t, t.TempDir(), "r.pem", "req", "-new", "-nodes", "-subj", "/CN=cam", "-newkey", "ed25519", "-keyout", os.DevNull))
	if err != nil {
		t.Fatal(err)
	}
	for range 20 {
		c, err := id.SignCSR(csr, "are1")
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode([]byte(c.PEM))
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if n := cert.SerialNumber.BitLen(); n != 127 || cert.SerialNumber.Sign() != 1 || seen[cert.SerialNumber.String()] {
			t.Fatalf("serial %v has %d bits, or is not new", cert.SerialNumber, n)
		}
		seen[cert.SerialNumber.String()] = true
	}
}
