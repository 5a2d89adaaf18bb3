package identity

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"path/filepath"
	"testing"
	"time"

	"signaldevice/device"
)

// keyPair loads a certificate and its key from a folder.
func keyPair(t *testing.T, dir, name string) *tls.Certificate {
	t.Helper()
	c, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
	if err != nil {
		t.Fatal(err)
	}
	return &c
}

// signed makes a key and has the CA sign the template for it.
func signed(t *testing.T, a authority, tmpl x509.Certificate, notAfter time.Time) *tls.Certificate {
	t.Helper()
	p := pair{dir: t.TempDir(), name: "k"}
	if err := p.makeKey(); err != nil {
		t.Fatal(err)
	}
	der, err := a.sign(tmpl, p.key.Public(), now, notAfter.Sub(now))
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: p.key}
}

// handshake connects a client with the certificate, or with none, and returns what the server sees.
func handshake(t *testing.T, id *Identity, cert *tls.Certificate, maxVersion uint16) (Peer, error) {
	t.Helper()
	client, server := net.Pipe()
	defer func() { _ = client.Close() }()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(id.CA()))
	cfg := &tls.Config{ServerName: "localhost", RootCAs: roots, NextProtos: []string{"h2"}, Time: id.clock, MaxVersion: maxVersion}
	if cert != nil {
		cfg.Certificates = []tls.Certificate{*cert}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := tls.Client(client, cfg)
		if c.HandshakeContext(t.Context()) == nil {
			_, _ = c.Read(make([]byte, 1)) // the server's session ticket, then its end
		}
	}()
	conn, info, err := id.ServerCredentials().Clone().ServerHandshake(server)
	if err == nil {
		_ = conn.Close()
	}
	_ = server.Close()
	<-done
	if err != nil {
		return Peer{}, err
	}
	return info.(Peer), nil
}

func TestServerCredentials_TellTheRole(t *testing.T) {
	dir, otherDir := t.TempDir(), t.TempDir()
	id := mustOpen(t, dir, Config{})
	mustOpen(t, otherDir, Config{})
	bothUsages := clientTemplate(RoleService)
	bothUsages.ExtKeyUsage = append(bothUsages.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	serverWithRole := clientTemplate(RoleOperator)
	serverWithRole.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	noRole := clientTemplate(RoleService)
	noRole.URIs = nil
	selfMade := selfSignedPair(t, id, clientTemplate(RoleOperator))

	tests := map[string]struct {
		cert *tls.Certificate
		role Role
		kind device.Kind
	}{
		"the API's":                        {keyPair(t, dir, "service"), RoleService, device.OK},
		"an operator's":                    {keyPair(t, dir, "operator"), RoleOperator, device.OK},
		"for clients and servers":          {signed(t, id.service, bothUsages, now.Add(time.Hour)), RoleService, device.OK},
		"none":                             {nil, "", device.Unauthenticated},
		"the server's own":                 {keyPair(t, dir, "server"), "", device.Unauthenticated},
		"a server's with a role":           {signed(t, id.service, serverWithRole, now.Add(time.Hour)), "", device.Unauthenticated},
		"another broker's":                 {keyPair(t, otherDir, "operator"), "", device.Unauthenticated},
		"self-made with a role":            {selfMade, "", device.Unauthenticated},
		"expired":                          {signed(t, id.service, clientTemplate(RoleService), now.Add(-time.Second)), "", device.Unauthenticated},
		"without a role":                   {signed(t, id.service, noRole, now.Add(time.Hour)), "", device.Forbidden},
		"an unknown role":                  {signed(t, id.service, clientTemplate("root"), now.Add(time.Hour)), "", device.Forbidden},
		"a device's":                       {signed(t, id.device, deviceTemplate("are1"), now.Add(time.Hour)), "", device.Forbidden},
		"a device CA's that claims a role": {signed(t, id.device, clientTemplate(RoleOperator), now.Add(time.Hour)), "", device.Forbidden},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			peer, err := handshake(t, id, tt.cert, 0)
			if err != nil {
				t.Fatalf("the handshake failed: %v", err)
			}
			role, err := peer.Role(now)
			if role != tt.role || device.KindOf(err) != tt.kind {
				t.Fatalf("Role: %q, %v, want %q, kind %q", role, err, tt.role, tt.kind)
			}
		})
	}
}

// selfSignedPair copies everything of the service CA's clients but the CA's key.
func selfSignedPair(t *testing.T, id *Identity, tmpl x509.Certificate) *tls.Certificate {
	t.Helper()
	fake := pair{dir: t.TempDir(), name: "ca", cert: id.service.cert}
	if err := fake.makeKey(); err != nil {
		t.Fatal(err)
	}
	copied := *id.service.cert
	copied.PublicKey = fake.key.Public()
	fake.cert = &copied
	return signed(t, authority{fake}, tmpl, now.Add(time.Hour))
}

func TestPeer_ExpiryIsSeenOnAnOpenConnection(t *testing.T) {
	id := mustOpen(t, t.TempDir(), Config{})
	peer, err := handshake(t, id, signed(t, id.service, clientTemplate(RoleService), now.Add(time.Minute)), 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := peer.Role(now.Add(time.Minute)); err != nil {
		t.Errorf("in its last second: %v", err)
	}
	if _, err := peer.Role(now.Add(time.Minute + time.Second)); !device.Is(err, device.Unauthenticated) {
		t.Errorf("a second later: %v, want Unauthenticated", err)
	}
}

func TestServerCredentials_RefuseOldTLS(t *testing.T) {
	dir := t.TempDir()
	id := mustOpen(t, dir, Config{})
	if _, err := handshake(t, id, keyPair(t, dir, "service"), tls.VersionTLS12); err == nil {
		t.Error("TLS 1.2 was taken")
	}
}
