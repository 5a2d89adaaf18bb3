package broker

import (
	"context"
	"net"
	"time"
)

// When a peer that has gone without a word is given up. The kernel asks: gRPC's own pings go by the wall clock, and cut
// everybody off when that is set back.
const (
	peerSilent = 20 * time.Second // until it is asked
	peerAsked  = 5 * time.Second  // between two questions
	peerGone   = 30 * time.Second // without an answer to anything
)

// listenForCallers opens the listener for gRPC.
func listenForCallers(ctx context.Context, addr string) (net.Listener, error) {
	config := net.ListenConfig{
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: peerSilent, Interval: peerAsked, Count: int((peerGone - peerSilent) / peerAsked),
		},
		Control: giveUpUnanswered,
	}
	return config.Listen(ctx, "tcp", addr)
}
