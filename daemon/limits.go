package daemon

import (
	"fmt"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/marsevilspirit/deimos/httpapi"
)

const (
	// filesReserved is how many file descriptors no connection gets: they are for
	// the log, snapshots, dials to peers and what the process itself needs.
	filesReserved = 128
	// clientConnsMax and peerConnsMax bound the connections of the two ports
	// where the system allows more files. A member keeps a handful of connections
	// to each other one.
	clientConnsMax = 1 << 18
	peerConnsMax   = 512
	// peerHeadMaxBytes bounds the head of a request between members.
	peerHeadMaxBytes = 16 << 10
)

// connLimits says how many connections the two ports may have.
type connLimits struct{ client, peer int }

// connLimitsOf shares out what the system lets the process open.
func connLimitsOf(files uint64, listeners int) (connLimits, error) {
	files = min(files, clientConnsMax+peerConnsMax+filesReserved)
	l := connLimits{peer: min(peerConnsMax, int(files)/4)}
	l.client = int(files) - filesReserved - l.peer
	if least := listeners + 1; l.client < least || l.peer < least {
		return l, Usagef("the process may open %d files, which leaves too few for connections: raise the limit (ulimit -n), to 1024 or more", files)
	}
	return l, nil
}

func connLimitsNow(listeners int) (connLimits, error) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return connLimits{}, fmt.Errorf("daemon: limit of open files: %w", err)
	}
	return connLimitsOf(uint64(limit.Cur), listeners) //nolint:unconvert // its type differs from system to system
}

// checkOpenFiles refuses a limit under which a daemon cannot serve. It comes before
// anything is opened: a start that runs out of files on its way fails with
// whatever needed one, and has changed what it opened before.
func checkOpenFiles(cfg *Config) error {
	_, err := connLimitsNow(max(len(cfg.URLs.ListenClient), len(cfg.URLs.ListenPeer)))
	return err
}

// boundClients bounds the connections of a server of the client port, whose
// listeners have to be those of the result.
func boundClients(s *http.Server, listeners []net.Listener, metrics prometheus.Registerer) (*httpapi.Conns, error) {
	limits, err := connLimitsNow(len(listeners))
	if err != nil {
		return nil, err
	}
	return bound(s, httpapi.ConnsConfig{Max: limits.client, Registerer: metrics})
}

// boundPeers does the same for the peer port.
func boundPeers(s *http.Server, listeners []net.Listener) (*httpapi.Conns, error) {
	limits, err := connLimitsNow(len(listeners))
	if err != nil {
		return nil, err
	}
	return bound(s, httpapi.ConnsConfig{Max: limits.peer})
}

func bound(s *http.Server, cfg httpapi.ConnsConfig) (*httpapi.Conns, error) {
	conns, err := httpapi.NewConns(cfg)
	if err != nil {
		return nil, err
	}
	s.ConnState = conns.ConnState
	return conns, nil
}
