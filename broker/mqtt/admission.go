package mqtt

import (
	"context"
	"net"
	"time"

	"golang.org/x/time/rate"
)

// longestWait is how long a connection may wait for its turn: half of what devices commonly give an attempt to connect,
// so that none gives up in the line and is then served for nothing.
const longestWait = 5 * time.Second

// admission lets connections in one after the other, at a bounded rate: ten thousand devices that come back at once must
// leave the processors to the calls of everyone else. How long a handshake takes is the network's affair and bounds
// nothing: devices far away hold up nobody.
type admission struct {
	line    chan net.Conn
	limiter *rate.Limiter
}

func newAdmission(perSecond int) *admission {
	return &admission{
		line:    make(chan net.Conn, perSecond*int(longestWait/time.Second)),
		limiter: rate.NewLimiter(rate.Limit(perSecond), 1),
	}
}

// join puts a connection in the line. It reports false where the connection would wait longer than longestWait.
func (a *admission) join(c net.Conn) bool {
	select {
	case a.line <- c:
		return true
	default:
		return false
	}
}

// run admits those in the line, first come first served, until ctx ends. admit must not block.
func (a *admission) run(ctx context.Context, admit func(net.Conn)) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-a.line:
			if a.limiter.Wait(ctx) != nil {
				return
			}
			admit(c)
		}
	}
}
