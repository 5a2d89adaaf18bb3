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
