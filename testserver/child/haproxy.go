package child

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// HAProxy returns a load balancer for HTTP servers (host:port each), which asks each for /readyz five times a second and
// leaves out one that has refused twice. It repeats no call, so that a failed one is seen. /stats;csv tells how it sees
// its servers, by the names s0, s1 ….
func HAProxy(servers ...string) Program {
	return Program{
		Name: "haproxy",
		Args: func(dir string, port int) ([]string, error) {
			var text strings.Builder
			fmt.Fprintf(&text, `defaults
  mode http
  timeout connect 2s
  timeout client 75s
  timeout server 75s
  retries 0
frontend in
  bind 127.0.0.1:%d
  stats enable
  stats uri /stats
  default_backend apis
backend apis
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter 200ms fall 2 rise 1
`, port)
			for i, addr := range servers {
				fmt.Fprintf(&text, "  server s%d %s\n", i, addr)
			}
			file := filepath.Join(dir, "haproxy.cfg")
			if err := os.WriteFile(file, []byte(text.String()), 0o600); err != nil {
				return nil, fmt.Errorf("haproxy: %w", err)
			}
			return []string{"-db", "-f", file}, nil
		},
		Ready: Connects,
	}
}
