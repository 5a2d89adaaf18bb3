package testserver

import (
	"testing"

	"signaldevice/testserver/child"
)

// HAProxyServer is a running haproxy.
type HAProxyServer struct {
	*process
	URL string // http://127.0.0.1:port
}

// HAProxy starts a load balancer for HTTP servers, host:port each, which it knows as s0, s1 …; see child.HAProxy.
func HAProxy(t testing.TB, servers ...string) *HAProxyServer {
	t.Helper()
	p := start(t, child.HAProxy(servers...))
	return &HAProxyServer{process: p, URL: "http://" + p.child.Addr()}
}
