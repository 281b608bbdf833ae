package sim

import (
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// The defects of the driver layer that [Config].Defect switches on. They stand
// for mistakes in the loops of raftnode.Node, in package server, wal or snap,
// whose work the driver does here.
const (
	// DefectAckEarly counts the leader's own entries before their fsync.
	DefectAckEarly = "ack-before-fsync"
	// DefectAppendEarly confirms appends to the leader before their fsync.
	DefectAppendEarly = "append-answer-before-fsync"
	// DefectVoteEarly sends votes before they are durable.
	DefectVoteEarly = "vote-before-fsync"
	// DefectIgnoreSync drops the error of a failed fsync and goes on.
	DefectIgnoreSync = "fsync-error-dropped"
	// DefectNoDirSync names a snapshot in the log without a sync of its
	// directory.
	DefectNoDirSync = "no-directory-fsync"
	// DefectCommitLost lets configuration changes take effect before their
	// commit index is durable.
	DefectCommitLost = "commit-not-saved"
	// DefectSnapshotLabel labels snapshots one raft index too low.
	DefectSnapshotLabel = "snapshot-label"
	// DefectReadLeader lets a leader answer from its own state.
	DefectReadLeader = "leader-reads-locally"
	// DefectReadBehind answers reads before their index is applied.
	DefectReadBehind = "read-not-applied"
	// DefectTimeoutSuccess answers a timed-out write as a success.
	DefectTimeoutSuccess = "timeout-is-success"
	// DefectProposeTwice proposes a write again that has timed out.
	DefectProposeTwice = "propose-twice"
	// DefectIncarnation lets a wiped member in under its old id.
	DefectIncarnation = "incarnation-not-compared"
)

// Defects are all of them.
var Defects = []string{
	DefectAckEarly, DefectAppendEarly, DefectVoteEarly, DefectIgnoreSync, DefectNoDirSync, DefectCommitLost, DefectSnapshotLabel,
	DefectReadLeader, DefectReadBehind, DefectTimeoutSuccess, DefectProposeTwice, DefectIncarnation,
}

// early sends, for a defect, responses that should wait for the fsync.
func (w *world) early(p *process, items []appendItem) {
	var want func(m *raftpb.Message) bool
	switch w.cfg.Defect {
	case DefectAckEarly:
		want = func(m *raftpb.Message) bool { return m.Type == raftpb.MsgStorageAppendResp }
	case DefectAppendEarly:
		want = func(m *raftpb.Message) bool { return m.Type == raftpb.MsgAppResp }
	case DefectVoteEarly:
		want = func(m *raftpb.Message) bool { return m.Type == raftpb.MsgVoteResp }
	default:
		return
	}
	for i := range items {
		m := &items[i].message
		var now, later []raftpb.Message
		for _, r := range m.Responses {
			if want(&r) {
				now = append(now, r)
			} else {
				later = append(later, r)
			}
		}
		if len(now) == 0 {
			continue
		}
		p.must(p.storage.Append(m.Entries))
		if hs := hardStateOf(m); !raft.IsEmptyHardState(hs) {
			p.must(p.storage.SetHardState(hs))
		}
		m.Responses = later
		p.respond(now)
	}
}
