package load

import (
	"time"

	"golang.org/x/sys/unix"
)

// processCPU returns the processor time that this process has used.
func processCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(unix.TimevalToNsec(u.Utime) + unix.TimevalToNsec(u.Stime))
}

// filesReserve is how many open files are needed for other things than
// connections.
const filesReserve = 64

// checkOpenFiles checks that the process may have so many connections.
func checkOpenFiles(c *Config) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil // then it shows when they are made
	}
	name, n := "connections", c.Connections
	if c.Work == WatchFanout {
		name, n = "watchers", c.Watchers
	}
	if uint64(n+filesReserve) > uint64(limit.Cur) {
		return invalid(name, "%d are more than the limit of %d open files allows, see ulimit -n", n, limit.Cur)
	}
	return nil
}
