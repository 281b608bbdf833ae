package wal

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// Salvaged is what a member can go on from although its log is damaged: a
// snapshot, and the entries that follow it without a gap.
type Salvaged struct {
	Identity Identity
	Snapshot raftpb.SnapshotMetadata
	Entries  []raftpb.Entry
	// LastRaftIndex is that of the last entry, or of the snapshot if there is none.
	LastRaftIndex uint64
	// CommitRaftIndex is up to where this is known to be committed.
	CommitRaftIndex uint64
	// Term is the highest that any part of the log names.
	Term uint64
	// SeenRaftIndex is the highest raft index of which there is a trace in the log.
	// Entries above LastRaftIndex up to it are lost, and maybe more.
	SeenRaftIndex uint64
	// LostBytes is how much of the log follows its last entry.
	LostBytes int64
}

// Salvage reads what can be read of the log in dir. sound are the snapshots
// whose files are right, in any order. Of a log that is damaged in several places
// it takes the stretch that reaches furthest, and a snapshot that reaches further
// than all of them is enough by itself: what it holds was applied once, and
// therefore committed.
//
// Nothing is changed, and no lock is taken. It may be called from any goroutine.
// The errors are [ErrNotFound], [ErrIO], [ErrVersion], and [ErrNothingSalvaged].
func Salvage(dir string, sound []raftpb.SnapshotMetadata) (*Salvaged, error) {
	return salvage(fsx.OS{}, dir, sound)
}

func salvage(fsys fsx.FS, dir string, sound []raftpb.SnapshotMetadata) (*Salvaged, error) {
	if err := mustExist(fsys, dir, "salvage"); err != nil {
		return nil, err
	}
	names, err := namedSegments(fsys, dir)
	if err != nil {
		return nil, err
	}
	w := &wreck{fsys: fsys, dir: dir, names: names, ends: make([]int64, len(names))}
	var best *stretch
	var from raftpb.SnapshotMetadata
	var metadata []byte
	out := &Salvaged{}
	for first := 0; first < len(names); {
		s, err := w.read(first, nil)
		if err != nil {
			return nil, err
		}
		first = s.next
		if s.metadata == nil {
			continue
		}
		if metadata == nil {
			metadata = s.metadata
		}
		if !bytes.Equal(metadata, s.metadata) {
			continue // another member's
		}
		out.Term = max(out.Term, s.state.Term, s.batchTerm)
		out.SeenRaftIndex = max(out.SeenRaftIndex, s.last)
		if m, ok := s.newest(sound); ok && (best == nil || max(m.Index, s.last) >= out.LastRaftIndex) {
			best, from, out.LastRaftIndex = s, m, max(m.Index, s.last)
		}
	}
	if best == nil {
		return nil, fmt.Errorf("wal: salvage %s: %w", dir, ErrNothingSalvaged)
	}
	out.Identity, out.Snapshot = best.identity, from
	out.Term = max(out.Term, from.Term)
	out.CommitRaftIndex = max(best.state.Commit, from.Index)
	out.SeenRaftIndex = max(out.SeenRaftIndex, w.seen)
	out.LostBytes = w.behind(best)
	if from.Index < best.last {
		again, err := w.read(best.head, &from.Index)
		if err != nil {
			return nil, err
		}
		if n := len(again.kept); again.last != best.last || uint64(n) != best.last-from.Index || again.kept[n-1].Index != best.last {
			return nil, fmt.Errorf("wal: salvage %s: it changes while it is read", dir)
		}
		out.Entries = again.kept
	}
	return out, nil
}

// namedSegments returns all files that have the name of a segment, in order and
// whether or not there is a gap between them.
func namedSegments(fsys fsx.FS, dir string) ([]segmentName, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, ioError("list", dir, err)
	}
	var segments []segmentName
	for _, name := range names {
		if n, ok := parseSegmentName(name); ok && strings.HasSuffix(name, segmentSuffix) {
			segments = append(segments, n)
		}
	}
	return segments, nil
}

// wreck is a log that may be damaged anywhere.
type wreck struct {
	fsys  fsx.FS
	dir   string
	names []segmentName
	// ends is where the zeros at the end of each segment begin, as far as it was
	// read.
	ends []int64
	// seen is the highest raft index of an entry behind a bad place.
	seen uint64
}

// stretch is a part of a log that can be read from the head of a segment to its
// end or to a bad place. The entries of a batch that precede the bad place in it
// count: those behind it are proof that all of the batch was durable, and if there
// are none, it may be kept as well as not.
type stretch struct {
	*scan
	// head and tail are the places of its first and last segment among all, and
	// end is where it ends in the last one.
	head, tail int
	end        int64
	next       int // where the next stretch may begin
}

// read reads the stretch that begins with a segment. Entries above keepAbove are
// kept, none if it is nil.
func (w *wreck) read(first int, keepAbove *uint64) (*stretch, error) {
	s := &stretch{scan: newScan(w.names[first]), head: first, tail: first}
	s.keepAbove = keepAbove
	var memory []byte // of one segment after the other
	for i := first; i < len(w.names); i++ {
		s.next = i
		if i > first && w.names[i].seq != w.names[i-1].seq+1 {
			return s, nil
		}
		seg, err := readSegment(w.fsys, w.dir, w.names[i], memory)
		if err != nil {
			return nil, err
		}
		w.ends[i] = seg.end
		at, bad := s.segment(seg)
		if errors.Is(bad, ErrVersion) {
			return nil, fmt.Errorf("wal: %s: %w", seg.path, bad)
		}
		if bad == nil && i < len(w.names)-1 && seg.size%frameBytes != 0 {
			bad = errors.New("the end of the segment is missing")
		}
		if bad != nil && i > first && s.records < segmentHead {
			return s, nil // its head does not continue the segment before it, but may begin a stretch
		}
		s.tail, s.end, s.next = i, at, i+1
		if bad != nil {
			w.seen = max(w.seen, seg.lastEntry(at))
			return s, nil
		}
		memory = seg.data
	}
	return s, nil
}

// newest returns the newest snapshot that the stretch can go on from, or that
// makes it needless.
func (s *stretch) newest(sound []raftpb.SnapshotMetadata) (newest raftpb.SnapshotMetadata, ok bool) {
	for _, m := range sound {
		fits := m.Index > s.last || m.Index >= s.base && s.agrees(m.Index, m.Term)
		if fits && m.Index > newest.Index {
			newest, ok = m, true
		}
	}
	return newest, ok
}

// behind returns how many bytes of the log follow a stretch.
func (w *wreck) behind(s *stretch) int64 {
	n := max(w.ends[s.tail]-s.end, 0)
	for _, end := range w.ends[s.tail+1:] {
		n += end
	}
	return n
}
