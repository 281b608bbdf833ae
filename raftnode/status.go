package raftnode

import (
	"time"

	"go.etcd.io/raft/v3"
)

// Status is what a node knows about itself and its cluster at one moment.
type Status struct {
	// ID is the member's own id, Leader the leader's, 0 while none is known.
	ID, Leader uint64
	Term       uint64
	// Committed and Applied are raft indexes.
	Committed, Applied uint64
	State              raft.StateType
	// LeaderChanges counts the leaders that this process has seen.
	LeaderChanges uint64
	// Pending counts the proposals that wait for their outcome, Failed those
	// that ended without one.
	Pending int
	Failed  uint64

	// handingOver is whether a leader has asked another voter to lead.
	handingOver bool
	// clusterTime stands still while there is no leader; with one, cluster time
	// is monotonic time plus clockOffset.
	clusterTime, clockOffset time.Duration
}

// IsLeader reports whether the member leads.
func (s Status) IsLeader() bool { return s.State == raft.StateLeader }
