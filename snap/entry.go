package snap

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

const (
	suffix            = ".snap"
	receivedSuffix    = ".received.snap"
	brokenSuffix      = ".broken"
	transferSuffix    = ".snap.db"
	transferTempStart = "tmp"
)

// entry is what the name of a snapshot file tells.
type entry struct {
	name        string
	index, term uint64 // raft's
	received    bool
}

func entryOf(meta raftpb.SnapshotMetadata, received bool) entry {
	end := suffix
	if received {
		end = receivedSuffix
	}
	return entry{
		name:     fmt.Sprintf("%016x-%016x%s", meta.Index, meta.Term, end),
		index:    meta.Index,
		term:     meta.Term,
		received: received,
	}
}

// parseName reads a name back. Names that are not exactly what entryOf writes
// are not snapshots.
func parseName(name string) (entry, bool) {
	stem, received := strings.CutSuffix(name, receivedSuffix)
	if !received {
		stem = strings.TrimSuffix(name, suffix)
	}
	indexHex, termHex, _ := strings.Cut(stem, "-")
	index, err := strconv.ParseUint(indexHex, 16, 64)
	if err != nil {
		return entry{}, false
	}
	term, err := strconv.ParseUint(termHex, 16, 64)
	if err != nil {
		return entry{}, false
	}
	e := entryOf(raftpb.SnapshotMetadata{Index: index, Term: term}, received)
	return e, e.name == name
}

// receivedName is the name under which the transport leaves a snapshot.
func receivedName(raftIndex uint64) string {
	return fmt.Sprintf("%016x%s", raftIndex, transferSuffix)
}

// unfinished reports whether a crash may have left a file of this name.
func unfinished(name string) bool {
	return strings.HasSuffix(name, fsx.TempSuffix) || strings.HasSuffix(name, transferSuffix) ||
		strings.HasPrefix(name, transferTempStart)
}

// scan returns the snapshots in the directory by their names, newest first; of
// two with the same raft index and term the one taken here comes first.
func (s *Snapshots) scan() ([]entry, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, ioError("list", s.dir, err)
	}
	var found []entry
	for _, name := range names {
		if e, ok := parseName(name); ok {
			found = append(found, e)
		}
	}
	slices.SortFunc(found, func(a, b entry) int {
		return cmp.Or(cmp.Compare(b.index, a.index), cmp.Compare(b.term, a.term), cmp.Compare(len(a.name), len(b.name)))
	})
	return found, nil
}

func (e entry) same(other entry) bool { return e.index == other.index && e.term == other.term }

func (e entry) in(metas []raftpb.SnapshotMetadata) bool {
	return slices.ContainsFunc(metas, func(m raftpb.SnapshotMetadata) bool { return m.Index == e.index && m.Term == e.term })
}

func contains(found []entry, meta raftpb.SnapshotMetadata) bool {
	return slices.ContainsFunc(found, func(e entry) bool { return e.index == meta.Index && e.term == meta.Term })
}

// matches checks that a file holds what its name promises.
func (e entry) matches(path string, meta raftpb.SnapshotMetadata) error {
	if meta.Index == e.index && meta.Term == e.term {
		return nil
	}
	return &DamageError{File: path, Err: fmt.Errorf("it holds raft index %d of term %d instead of what its name says", meta.Index, meta.Term)}
}
