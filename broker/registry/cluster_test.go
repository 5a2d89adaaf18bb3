package registry

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"signaldevice/device"
)

// startCluster starts three servers that keep the stream together. Each must know where all will be, so the ports are
// looked for first.
func startCluster(t *testing.T) []*server.Server {
	t.Helper()
	var ports []int
	var routes []*url.URL
	for range 3 {
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, portOf(t, ln.Addr().String()))
		routes = append(routes, &url.URL{Scheme: "nats", Host: ln.Addr().String()})
		_ = ln.Close()
	}
	servers := make([]*server.Server, len(ports))
	for i, port := range ports {
		servers[i] = newServer(t, &server.Options{
			ServerName: fmt.Sprintf("n%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, StoreDir: t.TempDir(), Routes: routes,
			Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port},
		})
		go servers[i].Start()
	}
	for _, srv := range servers {
		if !srv.ReadyForConnections(20 * time.Second) {
			t.Fatal("a server of the cluster does not start")
		}
	}
	return servers
}

// Three nodes keep one registry: exactly one of them wins each race, a revocation is known everywhere within a second, and
// when the stream's leader dies the others go on.
func TestCluster_ThreeNodes(t *testing.T) {
	servers := startCluster(t)
	id := openIdentity(t)
	var nodes []*Registry
	for _, srv := range servers {
		nodes = append(nodes, node(t, Config{Replicas: 3, JetStream: connect(t, srv, nats.MaxReconnects(0)), Identity: id, CheckEvery: 200 * time.Millisecond}))
	}
	for round := range 10 {
		name, cert := fmt.Sprintf("cam-%d", round), newCert(t)
		won := 0
		for _, err := range race(nodes, func(i int, r *Registry) error {
			_, err := r.Create(t.Context(), NewDevice{Name: fmt.Sprintf("%s-%d", name, i), Certificates: []string{cert}})
			return err
		}) {
			if err == nil {
				won++
				continue
			}
			wantKind(t, "a loser", err, device.CertificateInUse)
		}
		if won != 1 {
			t.Fatalf("round %d: %d won", round, won)
		}
	}
	sameOnBoth(t, nodes[0], nodes[1])
	sameOnBoth(t, nodes[1], nodes[2])

	cert := newCert(t)
	dev := create(t, nodes[0], NewDevice{Name: "revoked", Certificates: []string{cert}})
	if err := nodes[1].RemoveCertificate(ctx(t), dev.ID, dev.Certificates[0].Fingerprint); err != nil {
		t.Fatal(err)
	}
	for _, r := range nodes {
		within(t, time.Second, "the certificate is refused", func() bool { return !admits(t, r, cert, dev.ID) })
	}

	stream, err := nodes[0].js.Stream(ctx(t), Stream)
	if err != nil {
		t.Fatal(err)
	}
	leader := slices.IndexFunc(servers, func(s *server.Server) bool { return s.Name() == stream.CachedInfo().Cluster.Leader })
	stopServer(servers[leader])
	left := append(slices.Clone(nodes[:leader]), nodes[leader+1:]...)
	within(t, 30*time.Second, "a node can write again", func() bool {
		_, err := left[0].Create(ctx(t), NewDevice{Name: "after"})
		return err == nil || device.Is(err, device.DeviceExists)
	})
	within(t, 10*time.Second, "the other one has it", func() bool { _, err := left[1].FindByName(ctx(t), DefaultID, "after"); return err == nil })
	within(t, 10*time.Second, "both are ready", func() bool { return left[0].Ready() == nil && left[1].Ready() == nil })
	within(t, 10*time.Second, "the node of the dead server admits nobody", func() bool { return nodes[leader].Ready() != nil })
	sameOnBoth(t, left[0], left[1])
}
