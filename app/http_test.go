package app

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Peers that stall in the middle of a call fail no stop, and leave the steps below their time.
func TestServeHTTP_StalledCallsAreCutAtTheStop(t *testing.T) {
	tests := map[string]struct {
		call   string
		handle func(http.ResponseWriter, *http.Request) error
	}{
		"a body that does not come": {
			"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n",
			func(_ http.ResponseWriter, r *http.Request) error {
				_, err := io.ReadAll(r.Body)
				return err
			},
		},
		"an answer that nobody reads": {
			"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
			func(w http.ResponseWriter, _ *http.Request) error {
				for {
					if _, err := w.Write(make([]byte, 1<<20)); err != nil {
						return err
					}
				}
			},
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var log bytes.Buffer
			a := newApp(slog.New(slog.NewTextHandler(&log, nil)))
			var left error
			a.onStop("below", func(ctx context.Context) error { left = ctx.Err(); return nil })
			begun, ended := make(chan struct{}), make(chan error, 1)
			addr, err := a.serveHTTP(t.Context(), "http", anyPort, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				close(begun)
				ended <- test.handle(w, r)
			}), nil)
			if err != nil {
				t.Fatal(err)
			}
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, test.call); err != nil {
				t.Fatal(err)
			}
			<-begun

			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := a.Stop(ctx); err != nil {
				t.Errorf("stop: %v", err)
			}

			if left != nil {
				t.Errorf("the step below had no time: %v", left)
			}
			if err := <-ended; err == nil {
				t.Error("the call went well")
			}
			if !strings.Contains(log.String(), "were cut") {
				t.Errorf("the log does not say so: %s", log.String())
			}
		})
	}
}
