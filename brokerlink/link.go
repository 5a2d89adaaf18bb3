// Package brokerlink speaks to the broker over gRPC with a client certificate, and is what package dispatch asks for as
// its Broker.
//
// It keeps one connection to each broker node and uses the first that is ready. It repeats nothing by itself: a call that
// was not sent is BrokerUnavailable, one that was cut after it was sent is OutcomeUnknown where it may have changed
// something. A Link is safe for concurrent use.
package brokerlink

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	brokerv1 "signaldevice/proto/signaldevice/broker/v1"
)

// Config says where the broker is and who calls.
type Config struct {
	Addrs    []string // host:port of each broker node, at least one
	CAFile   string   // PEM of the CA of the broker's server certificate
	CertFile string   // PEM of the client certificate with the role "service", or "operator" for ImportDevice
	KeyFile  string

	// A connection on which nothing comes in for so long is given up, also where nothing is asked: whoever sets it calls Ping
	// more often. 0: an answer may take as long as the call's context allows.
	Silence time.Duration
}

// Silence suits package dispatch. It is more than the 3.1 s that lie between two of its pings at most, and less than TCP
// lets pass between the fourth and the fifth time that it sends a lost packet, so that the end of an outage is noticed
// within 2 s (0.2+0.4+0.8+1.6+3.2 s).
const Silence = 4 * time.Second

// Link is a connection to the broker.
type Link struct {
	conn     *grpc.ClientConn
	requests brokerv1.RequestServiceClient
	queue    brokerv1.QueueServiceClient
	devices  brokerv1.DeviceServiceClient
	health   healthpb.HealthClient
}

const (
	maxMessage = 4 << 20
	// Windows of a fixed size: with windows that adapt, gRPC measures the line with a ping for nearly every answer.
	streamWindow     = maxMessage
	connectionWindow = 4 * maxMessage
)

// Dial prepares the connection. It does not wait for the broker, which may be started later; an unreadable or
// mismatching certificate file is an error that names it. Close ends it.
func Dial(cfg Config) (*Link, error) {
	creds, err := clientCredentials(cfg)
	if err != nil {
		return nil, fmt.Errorf("brokerlink: %w", err)
	}
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("brokerlink: no broker address is given")
	}
	nodes := manual.NewBuilderWithScheme("broker")
	var endpoints []resolver.Endpoint
	for _, addr := range cfg.Addrs {
		endpoints = append(endpoints, resolver.Endpoint{Addresses: []resolver.Address{{Addr: addr, ServerName: host(addr)}}})
	}
	nodes.InitialState(resolver.State{Endpoints: endpoints})
	conn, err := grpc.NewClient("broker:///", grpc.WithResolvers(nodes),
		grpc.WithTransportCredentials(creds),
		grpc.WithDisableRetry(), grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 250 * time.Millisecond},
			MinConnectTimeout: 400 * time.Millisecond, // I7: one attempt at one node
		}),
		grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connectionWindow),
		grpc.WithContextDialer(cfg.connect), // and none of gRPC's own pings: they go by the wall clock, and end when that is set back
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
	)
	if err != nil {
		return nil, fmt.Errorf("brokerlink: %w", err)
	}
	return &Link{
		conn:     conn,
		requests: brokerv1.NewRequestServiceClient(conn),
		queue:    brokerv1.NewQueueServiceClient(conn),
		devices:  brokerv1.NewDeviceServiceClient(conn),
		health:   healthpb.NewHealthClient(conn),
	}, nil
}

// line is a connection that fails once nothing has come in for some time.
type line struct {
	net.Conn
	silence time.Duration
}

func (cfg Config) connect(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil || cfg.Silence == 0 {
		return conn, err
	}
	return line{conn, cfg.Silence}, nil
}

func (l line) Read(p []byte) (int, error) {
	if err := l.SetReadDeadline(time.Now().Add(l.silence)); err != nil {
		return 0, err
	}
	return l.Conn.Read(p)
}

// Close ends the connection; calls under way fail.
func (l *Link) Close() error { return l.conn.Close() }

// Ping asks whether the broker answers.
func (l *Link) Ping(ctx context.Context) error {
	answer, err := l.health.Check(ctx, &healthpb.HealthCheckRequest{})
	if err == nil && answer.Status != healthpb.HealthCheckResponse_SERVING {
		err = errors.New("the broker says that it is not serving")
	}
	return translate(err, read)
}

func clientCredentials(cfg Config) (credentials.TransportCredentials, error) {
	ca, err := os.ReadFile(cfg.CAFile)
	if err != nil {
		return nil, fmt.Errorf("the broker's CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		return nil, fmt.Errorf("the broker's CA: %s holds no certificate", cfg.CAFile)
	}
	cert, err := tls.LoadX509KeyPair(cfg.CertFile, cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("the client certificate: %w", err)
	}
	return credentials.NewTLS(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{cert}}), nil
}

func host(addr string) string {
	if i := strings.LastIndexByte(addr, ':'); i >= 0 {
		return strings.Trim(addr[:i], "[]")
	}
	return addr
}
