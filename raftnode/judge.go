package raftnode

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// ErrMessage is the kind of error that [Core.Step] returns for a message that
// cannot have come from a sound member. The message has changed nothing.
var ErrMessage = errors.New("raftnode: message refused")

// LostLogError says that the leader counts on entries that this member has
// confirmed and does not hold: its data directory is an older image of itself.
// It must neither vote nor acknowledge any more.
type LostLogError struct {
	// LastIndex is the last raft index of the log, CommitIndex the one that the
	// leader knows this member to hold.
	LastIndex, CommitIndex uint64
}

// Error implements the error interface.
func (e *LostLogError) Error() string {
	return fmt.Sprintf("the log ends at raft index %d, but this member has confirmed raft index %d: "+
		"the data directory was rolled back; remove the member from the cluster and add it again with an empty data directory",
		e.LastIndex, e.CommitIndex)
}

// judge refuses messages that contradict the local log, which raft would
// answer with a panic. lastIndex is the raft index of the last entry of the
// log, term the current term; member tells whether the sender is in the
// configuration that this member knows.
func judge(m *raftpb.Message, term, lastIndex uint64, member bool) error {
	switch {
	case m.Type == raftpb.MsgHeartbeat && m.Term >= term && m.Commit > lastIndex:
		if !member {
			return fmt.Errorf("%w: %x, who is no member here, counts on raft index %d", ErrMessage, m.From, m.Commit)
		}
		return &LostLogError{LastIndex: lastIndex, CommitIndex: m.Commit}
	case m.Type == raftpb.MsgAppResp && !m.Reject && m.Index > lastIndex:
		return fmt.Errorf("%w: %x confirms raft index %d, the log ends at %d", ErrMessage, m.From, m.Index, lastIndex)
	}
	return nil
}

// judgeForm refuses messages that no sound member sends, whatever the state.
func judgeForm(m *raftpb.Message, self uint64) error {
	if m.To != self || m.From == self || m.From == raft.None || raft.IsLocalMsgTarget(m.From) {
		return fmt.Errorf("%w: %s from %x to %x", ErrMessage, m.Type, m.From, m.To)
	}
	// raft takes a message of term 0 for one of its own, and sends only these
	// two without a term.
	if termless := m.Type == raftpb.MsgProp || m.Type == raftpb.MsgReadIndex; termless != (m.Term == 0) {
		return fmt.Errorf("%w: %s of term %d from %x", ErrMessage, m.Type, m.Term, m.From)
	}
	switch m.Type {
	case raftpb.MsgProp:
		return judgeProposal(m.Entries)
	case raftpb.MsgApp:
		return judgeAppend(m)
	case raftpb.MsgSnap:
		if m.Snapshot == nil || m.Snapshot.Metadata.Index == 0 || m.Snapshot.Metadata.Term == 0 {
			return fmt.Errorf("%w: snapshot without metadata from %x", ErrMessage, m.From)
		}
		if !soundConfState(&m.Snapshot.Metadata.ConfState) {
			return fmt.Errorf("%w: snapshot with the configuration %v from %x", ErrMessage, m.Snapshot.Metadata.ConfState, m.From)
		}
	case raftpb.MsgReadIndex, raftpb.MsgReadIndexResp:
		if len(m.Entries) != 1 {
			return fmt.Errorf("%w: %s with %d contexts from %x", ErrMessage, m.Type, len(m.Entries), m.From)
		}
	case raftpb.MsgHeartbeat:
		if len(m.Context) < timeBytes {
			return fmt.Errorf("%w: heartbeat without a cluster time from %x", ErrMessage, m.From)
		}
	case raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp,
		raftpb.MsgAppResp, raftpb.MsgHeartbeatResp, raftpb.MsgTimeoutNow:
	default:
		return fmt.Errorf("%w: %s is for local use only", ErrMessage, m.Type)
	}
	return nil
}

func judgeProposal(entries []raftpb.Entry) error {
	if len(entries) == 0 {
		return fmt.Errorf("%w: empty proposal", ErrMessage)
	}
	for i := range entries {
		switch e := &entries[i]; e.Type {
		case raftpb.EntryNormal:
			if len(e.Data) < PrefixBytes {
				return fmt.Errorf("%w: proposal of %d bytes has no prefix", ErrMessage, len(e.Data))
			}
		default: // configuration changes are proposed by the leader itself
			return fmt.Errorf("%w: proposal of type %s", ErrMessage, e.Type)
		}
	}
	return nil
}

func judgeAppend(m *raftpb.Message) error {
	index, term := m.Index, m.LogTerm
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Index != index+1 || e.Term < term || e.Term > m.Term {
			return fmt.Errorf("%w: entry %d of term %d does not follow %d of term %d", ErrMessage, e.Index, e.Term, index, term)
		}
		index, term = e.Index, e.Term
	}
	return nil
}

// soundConfState reports whether a configuration has voters, names nobody
// twice, and is not the joint one of a change that this package never makes.
func soundConfState(cs *raftpb.ConfState) bool {
	ids := slices.Concat(cs.Voters, cs.Learners)
	slices.Sort(ids)
	return len(cs.Voters) > 0 && len(slices.Compact(ids)) == len(cs.Voters)+len(cs.Learners) &&
		len(cs.VotersOutgoing) == 0 && len(cs.LearnersNext) == 0 && !cs.AutoLeave
}
