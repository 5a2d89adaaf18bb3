package cache_test

import (
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"signaldevice/cache"
	"signaldevice/device"
	"signaldevice/testserver"
	"signaldevice/testserver/pki"
)

// Every kind of URL leads to the same cache.
func TestOpenRedis_Transports(t *testing.T) {
	dir, err := os.MkdirTemp("", "redis") //nolint:usetesting // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cert, key := selfSigned(t, dir)
	tlsPort := freePort(t)
	server := testserver.Redis(t, "--unixsocket", socket, "--tls-port", tlsPort,
		"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert, "--tls-auth-clients", "no",
		"--requirepass", "secret")
	tests := map[string]string{
		"TCP":               "redis://:secret@" + server.Addr + "/3",
		"Valkey's own name": "valkey://default:secret@" + server.Addr,
		"TLS":               "rediss://:secret@127.0.0.1:" + tlsPort + "?skip_verify=true",
		"Unix socket":       "unix://:secret@" + socket,
	}
	for name, url := range tests {
		t.Run(name, func(t *testing.T) {
			c := open(t, cache.RedisConfig{URL: url})
			if err := c.Ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			put(t, c, reply(device.RequestID(name)))
			if got := take(t, c); len(got.Replies) != 1 {
				t.Errorf("took %d replies", len(got.Replies))
			}
		})
	}
	t.Run("a certificate that nobody vouches for", func(t *testing.T) {
		c := open(t, cache.RedisConfig{URL: "rediss://:secret@127.0.0.1:" + tlsPort})
		if err := c.Ping(t.Context()); err == nil {
			t.Error("the cache is usable")
		}
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// selfSigned writes a certificate for 127.0.0.1 and its key into dir.
func selfSigned(t *testing.T, dir string) (cert, key string) {
	t.Helper()
	pair, err := pki.SelfSigned("redis", time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if cert, key, err = pair.Write(dir, "redis"); err != nil {
		t.Fatal(err)
	}
	return cert, key
}
