package e2e

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"signaldevice/testserver/pki"
)

// A crash between two steps of the API is made from outside: a proxy holds the one call that follows the first step,
// and the test kills the process while it waits.

// holdFirst returns a hook that holds the first call until its caller is gone, and closes reached when it does.
func holdFirst(reached chan struct{}) func(gone <-chan struct{}) {
	var once sync.Once
	return func(gone <-chan struct{}) {
		once.Do(func() {
			close(reached)
			<-gone
		})
	}
}

// brokerProxy forwards every gRPC call to the broker, bytes untouched, and runs hooks by method name. It ends the mTLS
// of the API with a certificate of its own CA and connects with the service's certificate.
type brokerProxy struct {
	addr, ca string // where it listens, and the file of its CA
	broker   *grpc.ClientConn

	mu     sync.Mutex
	before map[string]func(gone <-chan struct{}) // the broker has not got the call yet
	after  map[string]func(gone <-chan struct{}) // the broker has answered, the API does not know it yet
}

func startBrokerProxy(t *testing.T, b *brokerProcess) *brokerProxy {
	t.Helper()
	cert, caFile := serverCert(t)
	p := &brokerProxy{
		ca:     caFile,
		broker: dialBroker(t, b.process, loadKeyPair(t, b.Service)),
		before: map[string]func(<-chan struct{}){},
		after:  map[string]func(<-chan struct{}){},
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAnyClientCert})),
		grpc.ForceServerCodec(rawCodec{}),
		grpc.UnknownServiceHandler(p.forward),
	)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = server.Serve(l) // ends with Stop
	}()
	t.Cleanup(func() { server.Stop(); <-stopped })
	return p
}

// hook sets what happens around the calls of one method. nil: nothing.
func (p *brokerProxy) hook(method string, before, after func(gone <-chan struct{})) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.before[method], p.after[method] = before, after
}

func (p *brokerProxy) run(hooks map[string]func(<-chan struct{}), method string, gone <-chan struct{}) {
	p.mu.Lock()
	fn := hooks[method]
	p.mu.Unlock()
	if fn != nil {
		fn(gone)
	}
}

// forward handles one call. Every call of the broker has one request message.
func (p *brokerProxy) forward(_ any, down grpc.ServerStream) error {
	full, _ := grpc.MethodFromServerStream(down)
	method := full[strings.LastIndexByte(full, '/')+1:]
	ctx := down.Context()
	var message []byte
	if err := down.RecvMsg(&message); err != nil {
		return err
	}
	p.run(p.before, method, ctx.Done())
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = metadata.NewOutgoingContext(ctx, md)
	}
	up, err := p.broker.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, full, grpc.ForceCodec(rawCodec{}))
	if err != nil {
		return err
	}
	if err := up.SendMsg(&message); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := up.CloseSend(); err != nil {
		return err
	}
	for answered := false; ; answered = true {
		var message []byte
		err := up.RecvMsg(&message)
		if !answered {
			p.run(p.after, method, ctx.Done())
		}
		if errors.Is(err, io.EOF) {
			down.SetTrailer(up.Trailer())
			return nil
		}
		if err != nil {
			down.SetTrailer(up.Trailer())
			return status.Convert(err).Err()
		}
		if err := down.SendMsg(&message); err != nil {
			return err
		}
	}
}

// rawCodec passes messages through as bytes.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return *v.(*[]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (rawCodec) Name() string                       { return "proto" }

// serverCert makes a CA and a certificate for 127.0.0.1, and returns the latter with the file of the former.
func serverCert(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	ca, err := pki.NewAuthority()
	if err != nil {
		t.Fatal(err)
	}
	pair, err := ca.Issue("proxy")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	return cert, write(t, filepath.Join(t.TempDir(), "proxy-ca.pem"), string(ca.PEM))
}

// tcpGate forwards connections to a server and swallows, once armed, the first bytes towards it that contain a mark,
// with all that follows them.
type tcpGate struct {
	addr string

	mu      sync.Mutex
	mark    []byte
	reached chan struct{}
}

func startTCPGate(t *testing.T, server string) *tcpGate {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &tcpGate{addr: l.Addr().String()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			down, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", server)
			if err != nil {
				down.Close()
				continue
			}
			wg.Go(func() { defer down.Close(); _, _ = io.Copy(down, up) })
			wg.Go(func() { defer up.Close(); g.forward(up, down) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return g
}

// arm sets the mark; reached is closed when it has come.
func (g *tcpGate) arm(mark string, reached chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mark, g.reached = []byte(mark), reached
}

// trips reports whether the gate was armed and data holds the mark. It trips once.
func (g *tcpGate) trips(data []byte) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reached == nil || !bytes.Contains(data, g.mark) {
		return false
	}
	close(g.reached)
	g.reached = nil
	return true
}

func (g *tcpGate) forward(up, down net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := down.Read(buf)
		if err != nil {
			return
		}
		if g.trips(buf[:n]) {
			_, _ = io.Copy(io.Discard, down)
			return
		}
		if _, err := up.Write(buf[:n]); err != nil {
			return
		}
	}
}
