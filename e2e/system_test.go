package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// system is a standalone program with tokens for the people of the tests.
type system struct {
	*process
	data  string
	admin api // may do everything
	alice api // sends and reads
	bob   api // sends and reads, another client
	watch api // only reads: role viewer
}

// startSystem starts `signal-device standalone` with more flags.
func startSystem(t *testing.T, flags ...string) *system {
	t.Helper()
	data := t.TempDir()
	tokens := newTokens(t, data)
	p := start(t, append([]string{
		"standalone", "--data", data, "--tokens", tokens.file,
		"--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--mqtt", "127.0.0.1:0", "--grpc", "127.0.0.1:0",
		"--rate", "0",
	}, flags...)...)
	return &system{
		process: p, data: data,
		admin: tokens.admin.at(p), alice: tokens.alice.at(p), bob: tokens.bob.at(p), watch: tokens.viewer.at(p),
	}
}

// tokens are bearer tokens as `token create` prints them, and the file of their hashes.
type tokens struct {
	file                      string
	admin, alice, bob, viewer api
}

func newTokens(t *testing.T, dir string) tokens {
	t.Helper()
	file := filepath.Join(dir, "tokens.yaml")
	token := func(client, role string) api {
		out := run(t, "signal-device", "token", "create", "--tokens", file, "--client", client, "--role", role)
		return api{t: t, token: strings.TrimSpace(out)}
	}
	return tokens{
		file:   file,
		admin:  token("root", "admin"),
		alice:  token("alice", "operator"),
		bob:    token("bob", "operator"),
		viewer: token("vera", "viewer"),
	}
}

// brokerProcess is a broker on its own, which comes back at the same addresses.
type brokerProcess struct {
	*process
	data  string
	flags []string
}

func startBroker(t *testing.T) *brokerProcess {
	t.Helper()
	b := &brokerProcess{data: t.TempDir()}
	b.flags = []string{"broker", "--data", b.data, "--mqtt", freeAddr(t), "--grpc", freeAddr(t), "--admin", "127.0.0.1:0"}
	b.process = start(t, b.flags...)
	return b
}

// restart starts the broker again after it was killed.
func (b *brokerProcess) restart() {
	b.t.Helper()
	b.process = start(b.t, b.flags...)
}

// serve returns the command line of an API for this broker.
func (b *brokerProcess) serve(flags ...string) []string {
	return b.serveThrough(b.GRPC, b.CA, flags...)
}

// serveThrough is serve with another address and CA at which the broker is reached.
func (b *brokerProcess) serveThrough(addr, ca string, flags ...string) []string {
	return append([]string{
		"serve", "--http", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--rate", "0",
		"--broker", addr, "--broker-ca", ca, "--broker-cert", b.Service.Cert, "--broker-key", b.Service.Key,
	}, flags...)
}
