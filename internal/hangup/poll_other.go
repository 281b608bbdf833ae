//go:build !linux

package hangup

import "syscall"

// hungUp reports nothing: poll(2) does not tell a half-closed connection everywhere.
func hungUp(syscall.RawConn) bool { return false }
