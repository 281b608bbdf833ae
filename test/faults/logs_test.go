package faults

import (
	"fmt"
	"math"
	"path/filepath"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"github.com/marsevilspirit/deimos/wal"
)

// logOf reads back which values the log of a stopped member holds, and whether
// it reaches back to the beginning.
func logOf(dataDir string) (values map[string]bool, whole bool, err error) {
	oldest := func(found []raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
		if len(found) == 0 {
			return raftpb.SnapshotMetadata{}, fmt.Errorf("faults: the log in %s has no beginning", dataDir)
		}
		return found[0], nil
	}
	w, recovered, err := wal.Open(wal.Config{Dir: filepath.Join(dataDir, "wal")}, oldest)
	if err != nil {
		return nil, false, err
	}
	values = map[string]bool{}
	for _, e := range recovered.Entries {
		if e.Type != raftpb.EntryNormal || len(e.Data) < raftnode.PrefixBytes {
			continue
		}
		var c serverpb.Command
		if err := c.Unmarshal(e.Data[raftnode.PrefixBytes:]); err != nil {
			return nil, false, fmt.Errorf("faults: entry %d of %s: %w", e.Index, dataDir, err)
		}
		if c.Kind == serverpb.KindWrite && c.Write.Value != "" {
			values[c.Write.Value] = true
		}
	}
	return values, recovered.Snapshot.Index <= 1, w.Close()
}

// judgeLogs looks for every acknowledged write in the logs of all members, as
// far back as these go.
func (c *cluster) judgeLogs(ops []*op) (whole int) {
	var acks []*op
	for _, o := range ops {
		if o.Outcome == acked && o.Value != "" {
			acks = append(acks, o)
		}
	}
	slices.SortFunc(acks, func(a, b *op) int { return int(int64(a.Index) - int64(b.Index)) })
	for _, m := range c.inside() {
		values, all, err := logOf(m.dataDir())
		if err != nil {
			c.violate("lost write", "the log of %s: %v", m.name, err)
			continue
		}
		begins := uint64(math.MaxUint64)
		if all {
			whole++
			begins = 0
		}
		for _, o := range acks {
			if values[o.Value] {
				begins = min(begins, o.Index)
			} else if o.Index >= begins {
				c.violate("lost write", "it is not in the log of %s: %v", m.name, o)
			}
		}
	}
	return whole
}
