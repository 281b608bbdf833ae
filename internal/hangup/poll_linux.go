package hangup

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// hungUp reports whether nothing more can come on a connection than what is there.
func hungUp(raw syscall.RawConn) bool {
	var events int16
	err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if _, err := unix.Poll(fds, 0); err == nil {
			events = fds[0].Revents
		}
	})
	return err != nil || events&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}
