package identity

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"

	"signaldevice/device"
)

// Peer is what a gRPC connection's client certificate says. It is the AuthInfo of connections that were made with
// ServerCredentials.
type Peer struct {
	credentials.TLSInfo
	role     Role
	notAfter time.Time
	fault    error
}

// Role returns the role of the client at the given time. Unauthenticated: there is no certificate, it is not one of the
// service CA, it is not for clients, or it has expired. Forbidden: it is a device's, or it carries no known role.
func (p Peer) Role(now time.Time) (Role, error) {
	if p.fault != nil {
		return "", p.fault
	}
	if now.After(p.notAfter) {
		return "", device.Errorf(device.Unauthenticated, "the client certificate has expired")
	}
	return p.role, nil
}

// ServerCredentials are for the gRPC listener: TLS 1.3, with a client certificate asked for but not required. The
// certificate is verified once a connection. A bad one does not fail the handshake, where a client sees only a broken
// connection: it is kept as the Peer's fault, and each call is answered with a status that says why.
func (id *Identity) ServerCredentials() credentials.TransportCredentials {
	return serverCredentials{
		TransportCredentials: credentials.NewTLS(&tls.Config{
			Certificates: []tls.Certificate{id.server},
			MinVersion:   tls.VersionTLS13,
			// No ClientCAs: a list of them in the handshake makes clients hide a certificate of another CA.
			ClientAuth: tls.RequestClientCert,
		}),
		identity: id,
	}
}

type serverCredentials struct {
	credentials.TransportCredentials
	identity *Identity
}

func (c serverCredentials) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := c.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		return nil, nil, err
	}
	return conn, c.identity.peer(info.(credentials.TLSInfo)), nil
}

func (c serverCredentials) Clone() credentials.TransportCredentials {
	return serverCredentials{c.TransportCredentials.Clone(), c.identity}
}

func (id *Identity) peer(info credentials.TLSInfo) Peer {
	p := Peer{TLSInfo: info}
	if len(info.State.PeerCertificates) == 0 {
		p.fault = device.Errorf(device.Unauthenticated, "a client certificate is needed")
		return p
	}
	leaf := info.State.PeerCertificates[0]
	p.notAfter = leaf.NotAfter
	p.role, p.fault = id.roleOf(leaf)
	return p
}

func (id *Identity) roleOf(leaf *x509.Certificate) (Role, error) {
	if leaf.CheckSignatureFrom(id.device.cert) == nil {
		return "", device.Errorf(device.Forbidden, "a device's certificate gives no access here")
	}
	pool := x509.NewCertPool()
	pool.AddCert(id.service.cert)
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots:       pool,
		CurrentTime: id.clock(),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err != nil {
		return "", device.Wrap(device.Unauthenticated, err, "the client certificate is not a valid one of this broker's service CA")
	}
	for _, uri := range leaf.URIs {
		name, ok := strings.CutPrefix(uri.String(), roleScheme+":role:")
		if role := Role(name); ok && (role == RoleService || role == RoleOperator) {
			return role, nil
		}
	}
	return "", device.Errorf(device.Forbidden, "the client certificate carries no known role")
}
