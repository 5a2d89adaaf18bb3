package testserver

import (
	"testing"

	"signaldevice/testserver/child"
)

// RedisServer is a running redis-server.
type RedisServer struct {
	*process
	URL  string // redis://127.0.0.1:port
	Addr string // 127.0.0.1:port
}

// Redis starts a redis-server that keeps an append-only file with an fsync every second, writes no snapshots and
// evicts nothing. args are options of redis-server ("--maxmemory", "10mb") and win over these defaults.
func Redis(t testing.TB, args ...string) *RedisServer {
	t.Helper()
	p := start(t, child.Redis(args...))
	return &RedisServer{process: p, Addr: p.child.Addr(), URL: "redis://" + p.child.Addr()}
}
