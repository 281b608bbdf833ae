package daemon

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// boundSilence bounds for how long what was sent on the connections of a listener
// may stay unacknowledged, which they inherit from it (RFC 5482).
func boundSilence(_, _ string, raw syscall.RawConn) error {
	var err error
	failed := raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(silenceMax.Milliseconds()))
	})
	if failed != nil {
		return failed
	}
	return os.NewSyscallError("setsockopt", err)
}
