//go:build unix

package proxy

import (
	"errors"
	"net"
	"syscall"
)

// hasInput reports whether the end of a connection, or anything else, has
// arrived on it and nobody has read it yet.
func hasInput(conn net.Conn) bool {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	found := false
	// Control does not wait for the Read that net/http has under way.
	if err := raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		found = !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EINTR)
	}); err != nil {
		return true // it is closed
	}
	return found
}
