package broker

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// giveUpUnanswered makes connections of a listener end when what was sent on them is not acknowledged: the kernel would
// send it again for a quarter of an hour, and ask nothing meanwhile (RFC 5482).
func giveUpUnanswered(_, _ string, socket syscall.RawConn) error {
	var failed error
	err := socket.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(peerGone.Milliseconds()))
	})
	return errors.Join(err, failed)
}
