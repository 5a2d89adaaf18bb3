package cache

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/iotest"
)

// A cluster's way to another node is noticed in whatever pieces it comes.
func TestFreshConn_NoticesRedirects(t *testing.T) {
	tests := map[string]struct {
		answers  string
		redirect bool
	}{
		"MOVED":        {"*0\r\n-MOVED 3999 127.0.0.1:6381\r\n:1\r\n", true},
		"ASK":          {"-ASK 3999 127.0.0.1:6381\r\n:1\r\n", true},
		"other errors": {"-TRYAGAIN Multiple keys\r\n-NOSCRIPT \r\n:1\r\n", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for how, reader := range map[string]io.Reader{
				"whole":        bytes.NewBufferString(test.answers),
				"byte by byte": iotest.OneByteReader(bytes.NewBufferString(test.answers)),
				"in halves":    iotest.HalfReader(bytes.NewBufferString(test.answers)),
			} {
				l := &link{replicas: 1}
				_, _ = io.Copy(io.Discard, &freshConn{Conn: pieces{reader: reader}, link: l}) // its end is an error, too
				if got := l.redirects.Load() > 0; got != test.redirect {
					t.Errorf("%s: noticed %t, want %t", how, got, test.redirect)
				}
			}
		})
	}
}

// pieces is a connection that is only read.
type pieces struct {
	net.Conn
	reader io.Reader
}

func (p pieces) Read(b []byte) (int, error) { return p.reader.Read(b) }
