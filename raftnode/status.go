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
	// WritesRefused tells that the leader has the cluster take no writes: too few
	// voters have disk space above their reserves, see [Core.WritesRefused].
	WritesRefused bool
	// Pending counts the proposals that wait for their outcome, Failed those
	// that ended without one.
	Pending int
	Failed  uint64

	// LeaderSince is when this member learnt of the leader, the zero time while
	// none is known.
	LeaderSince time.Time

	leadSince time.Duration // the same on the node's own clock
	// handingOver is whether a leader has asked another voter to lead.
	handingOver bool
	// clusterTime stands still while there is no leader; with one, cluster time
	// is monotonic time plus clockOffset.
	clusterTime, clockOffset time.Duration
}

// Progress is what a leader knows of one member.
type Progress struct {
	ID uint64
	// Match is the raft index up to which the member's log is known to be equal.
	Match   uint64
	Learner bool
	// Active tells that the member gave a sign of life within the last election
	// timeout.
	Active bool
	// Space is what the member said of its disk when it last answered a heartbeat
	// of this leader.
	Space Space
}

// Space is what a leader knows of the free space on a member's disk. The order
// is that in which voters are preferred as the next leader.
type Space uint8

// The states of a member's disk.
const (
	SpaceEnough  Space = iota // as much as the reserve, or more
	SpaceUnknown              // it has not said yet
	SpaceLow                  // less than the reserve
)

// IsLeader reports whether the member leads.
func (s Status) IsLeader() bool { return s.State == raft.StateLeader }
