package child

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Redis returns a redis-server that keeps an append-only file with an fsync every second, writes no snapshots and evicts
// nothing. options are those of redis-server ("--maxmemory", "10mb") and win over these defaults.
func Redis(options ...string) Program {
	return Program{
		Name: "redis-server",
		Path: RedisPath(),
		Args: func(dir string, port int) ([]string, error) {
			return append([]string{
				"--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir,
				"--appendonly", "yes", "--appendfsync", "everysec",
				"--maxmemory-policy", "noeviction", "--save", "",
			}, options...), nil
		},
		Ready: RedisReady,
	}
}

// RedisPathVariable is an environment variable: the path of what runs in place of redis-server, a valkey-server for
// instance.
const RedisPathVariable = "SIGNAL_DEVICE_TEST_REDIS"

// RedisPath returns what RedisPathVariable says, "" for redis-server as it is found.
func RedisPath() string { return os.Getenv(RedisPathVariable) }

// RedisReady is a Ready for every kind of redis-server: it answers a PING and has loaded its data. An answer that asks
// for a password counts.
func RedisReady(p *Process, within time.Duration) error {
	answer, err := RedisDo(p.Addr(), within, "PING")
	if err != nil {
		return err
	}
	if strings.HasPrefix(answer, "-LOADING") {
		return fmt.Errorf("redis says %s", answer)
	}
	return nil
}

// RedisDo sends one command over a connection of its own and returns the first line of the answer, as it is on the wire.
func RedisDo(addr string, within time.Duration, command string) (string, error) {
	conn, err := net.DialTimeout("tcp", addr, within) //nolint:noctx // within is its limit
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
