package testserver

import (
	"net"
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

// RedisReplica starts a replica of the master and returns once it keeps up. It reaches the master at the address, which
// may be that of a proxy. args are as for Redis.
func RedisReplica(t testing.TB, master *RedisServer, addr string, args ...string) *RedisServer {
	t.Helper()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	master.do("CONFIG SET repl-diskless-sync-delay 0")
	replica := Redis(t, append([]string{"--replicaof", host, port}, args...)...)
	t.Cleanup(replica.Kill) // as long as it writes its first append-only file it refuses SIGTERM
	replica.awaitAnswer("WAIT 1 100", master.Addr, func(answer string) bool { return answer == ":1" })
	return replica
}
