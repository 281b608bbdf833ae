package daemon

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/httpapi"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/wal"
)

// The seams between the packages fit.
var (
	_ raftnode.Log       = (*wal.WAL)(nil)
	_ raftnode.Snapshots = (*snap.Snapshots)(nil)
	_ raftnode.Snapshots = thriftySnapshots{}
	_ raftnode.Machine   = (*server.Machine)(nil)
	_ raftnode.Receiver  = (*raftnode.Node)(nil)
	_ server.Proposer    = (*raftnode.Node)(nil)
	_ httpapi.Backend    = (*backend)(nil)
)

// backend shows a daemon to the HTTP front end.
type backend struct {
	*server.Server
	daemon   *Daemon
	stopping atomic.Bool
}

// Status implements [httpapi.Cluster].
func (b *backend) Status() httpapi.Status { return memberList{b.daemon}.Status() }

// Leader implements [httpapi.Cluster].
func (b *backend) Leader() uint64 { return b.daemon.node.Leader() }

// Ready implements [httpapi.Cluster].
func (b *backend) Ready(ctx context.Context) error {
	if b.stopping.Load() {
		return httpapi.ErrStopping
	}
	err := b.daemon.node.Read(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raftnode.ErrStopped):
		return httpapi.ErrStopping
	case errors.Is(err, raftnode.ErrBehind):
		return httpapi.ErrBehind
	default:
		return &deimos.Error{Code: deimos.CodeLeaderElection, Cause: deimos.CauseNoLeader}
	}
}
