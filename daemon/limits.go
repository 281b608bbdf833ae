package daemon

import (
	"fmt"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/marsevilspirit/deimos/httpapi"
)

const (
	// filesReserved is how many file descriptors clients do not get: they are for
	// peers, the log, snapshots and what the process itself needs.
	filesReserved = 128
	// connsMax bounds the client connections where the system allows more files.
	connsMax = 1 << 18
)

// clientConns bounds the connections of clients by what the system lets the
// process open.
func clientConns(listeners []net.Listener, metrics prometheus.Registerer) (*httpapi.Conns, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("daemon: limit of open files: %w", err)
	}
	most := connsMax
	if limit.Cur < connsMax+filesReserved {
		most = int(limit.Cur) - filesReserved
	}
	if most < len(listeners)+1 {
		return nil, Usagef("the process may open %d files, which leaves none for clients: raise the limit (ulimit -n) above %d",
			limit.Cur, filesReserved+len(listeners)+1)
	}
	return httpapi.NewConns(httpapi.ConnsConfig{Max: most, Registerer: metrics})
}
