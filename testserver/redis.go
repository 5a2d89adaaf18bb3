package testserver

import (
	"bufio"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"
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
	p := start(t, program{
		name: "redis-server",
		args: func(dir string, port int) []string {
			return append([]string{
				"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
				"--appendonly", "yes", "--appendfsync", "everysec",
				"--maxmemory-policy", "noeviction", "--save", "",
			}, args...)
		},
		ready: redisReady,
	})
	return &RedisServer{process: p, Addr: p.addr, URL: "redis://" + p.addr}
}

// redisReady reports nil once the server answers a PING and has loaded its data. An answer that asks for a password
// counts.
func redisReady(addr string, within time.Duration) error {
	answer, err := redisDo(addr, within, "PING")
	if err != nil {
		return err
	}
	if strings.HasPrefix(answer, "-LOADING") {
		return fmt.Errorf("redis says %s", answer)
	}
	return nil
}

// redisDo sends one command over a connection of its own and returns the first line of the answer.
func redisDo(addr string, within time.Duration, command string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, within)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		return "", err
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", command); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}
