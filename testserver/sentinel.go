package testserver

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// Sentinel is a running Redis Sentinel that watches one master.
type Sentinel struct {
	*process
	URL  string // redis://127.0.0.1:port?master_set=main
	Addr string // 127.0.0.1:port, of the Sentinel
}

// RedisSentinel starts a Sentinel for the master. It knows of no replica, so that nothing ever fails over.
func RedisSentinel(t testing.TB, master *RedisServer) *Sentinel {
	t.Helper()
	host, masterPort, _ := net.SplitHostPort(master.Addr)
	p := start(t, program{
		name: "redis-server",
		args: func(dir string, port int) []string {
			file := filepath.Join(dir, "sentinel.conf")
			text := fmt.Sprintf("port %d\nbind 127.0.0.1\nsentinel monitor main %s %s 1\n", port, host, masterPort)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatalf("sentinel: %v", err)
			}
			return []string{file, "--sentinel"}
		},
		ready: redisReady,
	})
	return &Sentinel{process: p, Addr: p.addr, URL: "redis://" + p.addr + "?master_set=main"}
}
