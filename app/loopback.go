package app

import (
	"net"
	"net/http"
	"strings"
)

// onlyLoopbackHosts refuses calls that name another host than this machine. A page from elsewhere whose name was made
// to point here (DNS rebinding) still sends that name.
func onlyLoopbackHosts(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !isLoopback(hostOf(r.Host)) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusMisdirectedRequest)
			_, _ = w.Write([]byte(`{"status":421,"title":"Misdirected Request","code":"wrong_host",` +
				`"detail":"a demonstration answers only to localhost and loopback addresses"}` + "\n"))
			return
		}
		h.ServeHTTP(w, r)
	})
}

// hostOf returns the host of a Host header without its port.
func hostOf(header string) string {
	if host, _, err := net.SplitHostPort(header); err == nil {
		return host
	}
	return strings.Trim(header, "[]")
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
