// Package rpc serves the broker's own gRPC services and guards all services on its gRPC listener.
//
// ServerOptions is the guard: TLS with client certificates, a role for each call, one translation of errors. The servers
// check their input against the limits of the proto, call the broker's parts and answer with device.Errors, which the
// guard translates. They keep nothing of their own. Everything here is safe for concurrent use.
package rpc

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"log/slog"
	"math"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"signaldevice/broker/identity"
	"signaldevice/device"
)

const (
	maxMessage        = 4 << 20 // bytes of a received message; ResourceExhausted beyond
	streamWindow      = 1 << 20 // fixed: windows that adapt cost a ping for nearly every call
	connectionWindow  = 4 << 20
	handshakeTimeout  = 10 * time.Second
	maxStreams        = 1000            // open calls on one connection
	keepaliveLeast    = 5 * time.Second // a client that asks more often is disconnected
	bearerPrefix      = "bearer "       // RFC 6750, 2.1; the scheme in any case
	authorizationName = "authorization"
)

// Guard says who may call.
type Guard struct {
	Identity *identity.Identity
	Token    string           // a bearer token for IoT Core's services, for clients that cannot have a certificate; "": none
	Clock    func() time.Time // nil: time.Now
	Log      *slog.Logger     // nil: slog.Default()
}

// ServerOptions make a gRPC server that is guarded: TLS 1.3 with the broker's certificate, RoleInterceptors, every error
// through ToStatus, and bounds on messages and calls. Whether an idle caller is still there is the listener's affair.
func ServerOptions(g Guard) []grpc.ServerOption {
	if g.Log == nil {
		g.Log = slog.Default()
	}
	unaryRole, streamRole := RoleInterceptors(g)
	unaryErrors, streamErrors := errorInterceptors(g.Log)
	return []grpc.ServerOption{
		grpc.Creds(g.Identity.ServerCredentials()),
		grpc.ChainUnaryInterceptor(unaryErrors, unaryRole),
		grpc.ChainStreamInterceptor(streamErrors, streamRole),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connectionWindow),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: math.MaxInt64}), // never: it would go by the wall clock
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: keepaliveLeast, PermitWithoutStream: true}),
	}
}

// RoleInterceptors let a call through when the caller's certificate has the role for its service: `service` may call
// signaldevice.broker.v1 and reflection, `operator` everything. Endpoint discovery and health are open to anyone. The
// expiry of the certificate is looked at on each call; a stream that is open then goes on. Unauthenticated: no valid
// certificate. Forbidden: a device's, or the wrong role.
func RoleInterceptors(g Guard) (grpc.UnaryServerInterceptor, grpc.StreamServerInterceptor) {
	if g.Clock == nil {
		g.Clock = time.Now
	}
	unary := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		role, err := g.admit(ctx, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(context.WithValue(ctx, roleKey{}, role), req)
	}
	stream := func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if _, err := g.admit(ss.Context(), info.FullMethod); err != nil {
			return err
		}
		return handler(srv, ss)
	}
	return unary, stream
}

type roleKey struct{}

// isOperator tells, within a unary call, whether RoleInterceptors found the role operator.
func isOperator(ctx context.Context) bool { return ctx.Value(roleKey{}) == identity.RoleOperator }

// admit decides on one call. method is "/package.Service/Method". The role is "" where none was needed.
func (g *Guard) admit(ctx context.Context, method string) (identity.Role, error) {
	service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if isOpen(service) || strings.HasPrefix(service, "yandex.cloud.") && g.hasToken(ctx) {
		return "", nil
	}
	role, err := g.role(ctx)
	if err != nil {
		return "", err
	}
	if role == identity.RoleOperator || role == identity.RoleService && isForService(service) {
		return role, nil
	}
	return "", device.Errorf(device.Forbidden, "the role %q may not call this service", role)
}

// isOpen reports whether anyone may call: IoT Core's clients look endpoints up before they authenticate.
func isOpen(service string) bool {
	return service == "yandex.cloud.endpoint.ApiEndpointService" || service == "grpc.health.v1.Health"
}

func isForService(service string) bool {
	return strings.HasPrefix(service, "signaldevice.broker.v1.") || strings.HasPrefix(service, "grpc.reflection.")
}

func (g *Guard) role(ctx context.Context) (identity.Role, error) {
	if p, ok := peer.FromContext(ctx); ok {
		if caller, ok := p.AuthInfo.(identity.Peer); ok {
			return caller.Role(g.Clock())
		}
	}
	return "", device.Errorf(device.Unauthenticated, "a client certificate is needed")
}

func (g *Guard) hasToken(ctx context.Context) bool {
	values := metadata.ValueFromIncomingContext(ctx, authorizationName)
	if g.Token == "" || len(values) != 1 || len(values[0]) < len(bearerPrefix) || !strings.EqualFold(values[0][:len(bearerPrefix)], bearerPrefix) {
		return false
	}
	// Hashes have one length, so the time taken tells nothing of the token's.
	got, want := sha256.Sum256([]byte(values[0][len(bearerPrefix):])), sha256.Sum256([]byte(g.Token))
	return subtle.ConstantTimeCompare(got[:], want[:]) == 1
}
