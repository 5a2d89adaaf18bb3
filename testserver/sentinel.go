package testserver

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"signaldevice/testserver/child"
)

// Sentinel is a running Redis Sentinel that watches one master.
type Sentinel struct {
	*process
	URL  string // redis://127.0.0.1:port?master_set=main
	Addr string // 127.0.0.1:port, of the Sentinel
}

// RedisSentinel starts a Sentinel for the master, which it takes for dead after half a second. Then it makes a replica
// the master, where there is one.
func RedisSentinel(t testing.TB, master *RedisServer) *Sentinel {
	t.Helper()
	host, masterPort, _ := net.SplitHostPort(master.Addr)
	p := start(t, child.Program{
		Name: "redis-server",
		Path: child.RedisPath(),
		Args: func(dir string, port int) ([]string, error) {
			file := filepath.Join(dir, "sentinel.conf")
			text := fmt.Sprintf("port %d\nbind 127.0.0.1\nsentinel monitor main %s %s 1\n"+
				"sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 3000\n", port, host, masterPort)
			return []string{file, "--sentinel"}, os.WriteFile(file, []byte(text), 0o600)
		},
		Ready: child.RedisReady,
	})
	return &Sentinel{process: p, Addr: p.child.Addr(), URL: "redis://" + p.child.Addr() + "?master_set=main"}
}
