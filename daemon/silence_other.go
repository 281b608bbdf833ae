//go:build !linux

package daemon

import "syscall"

// boundSilence does nothing: the system's own bound counts, and keep-alive probes.
func boundSilence(_, _ string, _ syscall.RawConn) error { return nil }
