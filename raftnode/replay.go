package raftnode

import (
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
)

// Replay applies entries to a machine outside of a node, in order and whether
// or not they are known to be committed: for a cluster that goes on from the
// log of one member. Configuration changes change the machine's member list
// and nothing else. Errors are those of the machine.
func Replay(m Machine, entries []raftpb.Entry) error {
	for i := range entries {
		e := &entries[i]
		switch e.Type {
		case raftpb.EntryNormal:
			if err := m.Apply([]Entry{decodeEntry(e)}, make([]any, 1)); err != nil {
				return fmt.Errorf("raftnode: replay raft index %d: %w", e.Index, err)
			}
		case raftpb.EntryConfChange:
			var cc raftpb.ConfChange
			if err := cc.Unmarshal(e.Data); err != nil {
				return fmt.Errorf("raftnode: configuration change at raft index %d: %w", e.Index, err)
			}
			if _, _, err := m.ApplyConfChange(Entry{Index: e.Index, Term: e.Term}, cc); err != nil {
				return fmt.Errorf("raftnode: replay configuration change at raft index %d: %w", e.Index, err)
			}
		default:
			return fmt.Errorf("raftnode: entry at raft index %d is of type %s, which this version does not know", e.Index, e.Type)
		}
	}
	return nil
}
