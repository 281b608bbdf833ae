package wal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"

	etcdwalpb "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/wal/walmeta"
)

// Verdict is what an inspection finds.
type Verdict int

// The verdicts.
const (
	// Clean: every byte is accounted for.
	Clean Verdict = iota
	// Torn: the last batch was cut short by a crash. It was never
	// acknowledged, and [Open] cuts it off.
	Torn
	// Damaged: something was lost that may have been acknowledged. [Open]
	// refuses.
	Damaged
)

// String returns the verdict as one word.
func (v Verdict) String() string {
	switch v {
	case Clean:
		return "clean"
	case Torn:
		return "torn"
	case Damaged:
		return "damaged"
	}
	return fmt.Sprintf("verdict %d", int(v))
}

// Segment is one file of the log.
type Segment struct {
	Name      string
	SizeBytes int64
	// UsedBytes is where its last good record ends.
	UsedBytes int64
}

// Report is what the log holds, as far as it is good.
type Report struct {
	Verdict  Verdict
	Identity Identity
	Segments []Segment
	// Snapshots are those that the log can go on from, oldest first. The zero
	// value among them is the beginning of a log that began empty.
	Snapshots []raftpb.SnapshotMetadata
	// HardState is the last one. Its commit index may be behind.
	HardState raftpb.HardState
	// FirstRaftIndex and LastRaftIndex are the entries that the log holds;
	// the first is above the last when it holds none.
	FirstRaftIndex, LastRaftIndex uint64
	// CleanStop tells that the log was closed in order, so that nothing in it
	// can be torn.
	CleanStop bool
	// TornFile, TornOffset and TornBytes tell what a crash cut short.
	TornFile              string
	TornOffset, TornBytes int64
	// Damage is the first bad place; nil unless the verdict is Damaged. The rest
	// of the report is then about what precedes it.
	Damage *DamageError

	newest *segment
	ahead  *ahead // has read the newest
	crc    uint32
}

// Inspect reads the whole log in dir and judges it. It changes nothing, takes
// no lock, and may be called from any goroutine; the verdict on a log that is
// being written means nothing. Its errors are [ErrNotFound], [ErrIO] and
// [ErrVersion]; damage is a verdict, not an error.
func Inspect(dir string) (*Report, error) {
	r, err := inspect(fsx.OS{}, dir, false)
	if r != nil {
		r.newest, r.ahead = nil, nil // as large as segments, and of use to this package alone
	}
	return r, err
}

// inspect inspects a log. If copies says so and the last stop was not clean, it
// has the newest segment copied meanwhile; what became of the copy is in the
// report, which [prepare] takes. An error or damage leaves no copy.
func inspect(fsys fsx.FS, dir string, copies bool) (*Report, error) {
	r := &Report{}
	err := r.read(fsys, dir, copies)
	if err != nil || !copies {
		// An error of the removal would hide what was found. A copy that is
		// still there is a leftover, as after a crash.
		if left := r.ahead.discard(); err == nil {
			err = left
		}
	}
	if errors.As(err, &r.Damage) {
		r.Verdict = Damaged
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return r, nil
}

func (r *Report) read(fsys fsx.FS, dir string, copies bool) error {
	if err := mustExist(fsys, dir, "inspect"); err != nil {
		return err
	}
	marker, err := readMarker(fsys, dir)
	var badMarker *DamageError
	if err != nil && !errors.As(err, &badMarker) {
		return err
	}
	r.CleanStop = marker != nil || badMarker != nil
	names, gap := listSegments(fsys, dir)
	if gap != nil && len(names) == 0 {
		return gap
	}
	s := newScan(names[0])
	defer s.fill(r)
	older := names
	if gap == nil {
		older = names[:len(names)-1]
		r.ahead = readAhead(fsys, dir, names[len(older)], copies && !r.CleanStop)
	}
	var memory []byte // of one older segment after the other
	for _, name := range older {
		seg, err := readSegment(fsys, dir, name, memory)
		if err != nil {
			return err
		}
		if err := r.segment(s, seg, false); err != nil {
			return err
		}
		memory = seg.data
	}
	if gap == nil {
		if r.newest, err = r.ahead.segment(); err != nil {
			return err
		}
		if err := r.segment(s, r.newest, true); err != nil {
			return err
		}
	}
	var damage *DamageError
	if errors.As(gap, &damage) {
		damage.RaftIndex = s.last + 1
	}
	if gap != nil {
		return gap
	}
	s.fill(r)
	if err := marker.check(r); err != nil {
		return err
	}
	if len(r.Snapshots) == 0 {
		return &DamageError{File: dir, RaftIndex: s.base + 1, Err: errors.New("the log names no snapshot that it can go on from")}
	}
	if badMarker != nil {
		return badMarker
	}
	return nil
}

// segment reads one segment and decides what a bad place in it means.
func (r *Report) segment(s *scan, seg *segment, newest bool) error {
	before := s.clone()
	at, bad := s.segment(seg)
	r.Segments = append(r.Segments, Segment{Name: seg.name.String(), SizeBytes: seg.size, UsedBytes: at})
	settled := !newest || r.CleanStop
	if bad == nil && settled && seg.size%frameBytes != 0 {
		bad = fmt.Errorf("the file has %d bytes, which no log leaves", seg.size)
	}
	if bad == nil {
		return nil
	}
	damage := &DamageError{File: seg.path, Offset: at, RaftIndex: s.last + 1, Err: bad}
	switch {
	case errors.Is(bad, ErrVersion):
		return fmt.Errorf("wal: %s: %w", seg.path, bad)
	case settled, s.records < segmentHead, seg.laterBatch(at):
		return damage
	}
	cut := s.batch
	r.Verdict = Torn
	r.TornFile, r.TornOffset, r.TornBytes = seg.path, cut, seg.end-cut
	r.Segments[len(r.Segments)-1].UsedBytes = cut
	*s = *before
	good := &segment{name: seg.name, path: seg.path, size: seg.size, end: min(cut, seg.end), data: seg.data[:cut:cut]}
	if _, bad := s.segment(good); bad != nil {
		return damage
	}
	return nil
}

// scan is the state of a reader that goes through all segments.
type scan struct {
	first    segmentName
	metadata []byte
	identity Identity
	crc      uint32
	state    raftpb.HardState
	// The log holds the entries above base up to last.
	base, baseTerm, last uint64
	// floor is the highest raft index that is known to be committed.
	floor     uint64
	terms     []termRun
	snapshots []raftpb.SnapshotMetadata
	// kept are the entries above keepAbove; nil: none are kept.
	keepAbove *uint64
	kept      []raftpb.Entry

	// Of the segment that is being read:
	records   int    // how many were good
	batch     int64  // where the batch that is being read begins
	open      bool   // whether entries of it were read
	batchTerm uint64 // the term of its last entry
}

// termRun says that entries from a raft index on have a term.
type termRun struct{ first, term uint64 }

func newScan(first segmentName) *scan {
	s := &scan{first: first}
	if first.index > 0 {
		s.base = first.index - 1
	}
	s.last = s.base
	return s
}

func (s *scan) clone() *scan {
	c := *s
	c.terms = slices.Clone(s.terms)
	c.snapshots = slices.Clone(s.snapshots)
	return &c
}

// segment reads a segment to its end, or to the first bad record, whose offset
// it returns with what is wrong.
func (s *scan) segment(seg *segment) (at int64, bad error) {
	s.records, s.batch, s.open, s.batchTerm = 0, 0, false, 0
	for at < seg.end {
		r, ok := seg.record(at)
		if !ok {
			return at, errors.New("there is no record where one begins")
		}
		if err := s.record(seg, r); err != nil {
			return at, err
		}
		at += r.size
		s.records++
		if r.endsBatch() || s.records == segmentHead {
			s.batch, s.open, s.batchTerm = at, false, 0
		}
	}
	if s.records < segmentHead {
		return at, errors.New("the head of the segment is missing")
	}
	if s.open {
		return at, errors.New("the last entries have no state record behind them")
	}
	return at, nil
}

func (s *scan) record(seg *segment, r record) error {
	if r.kind == kindCRC {
		if s.records != 0 {
			return errors.New("a segment begins inside another")
		}
		if seg.name != s.first && r.crc != s.crc {
			return errors.New("the segment does not continue the one before it")
		}
		s.crc = r.crc
		return nil
	}
	crc := crc32.Update(s.crc, castagnoli, r.data)
	if crc != r.crc {
		return errors.New("the record does not match its checksum")
	}
	if (s.records == 0) || (s.records == 1) != (r.kind == kindMetadata) {
		return fmt.Errorf("a record of type %d is not expected here", r.kind)
	}
	var err error
	switch r.kind {
	case kindMetadata:
		err = s.takeMetadata(r.data)
	case kindEntry:
		err = s.takeEntry(r.data)
	case kindState:
		err = s.takeState(r.data)
	case kindSnapshot:
		err = s.takeSnapshot(seg, r.data)
	}
	if err != nil {
		return err
	}
	s.crc = crc
	return nil
}

func (s *scan) takeMetadata(data []byte) error {
	if s.metadata == nil {
		identity, err := decodeIdentity(data)
		if err != nil {
			return err
		}
		s.metadata, s.identity = bytes.Clone(data), identity
		return nil
	}
	if !bytes.Equal(s.metadata, data) {
		return errors.New("the segment belongs to another member")
	}
	return nil
}

// takeEntry checks an entry against the rules of raft, because the type of a
// record is not covered by its checksum.
func (s *scan) takeEntry(data []byte) error {
	v, payload, ok := threeNumbers(data)
	kind, term, index := raftpb.EntryType(v[0]), v[1], v[2]
	switch {
	case !ok, kind < 0, kind > raftpb.EntryConfChangeV2, !isPayload(payload):
		return errors.New("the record does not hold an entry")
	case term == 0, index == 0, kind == raftpb.EntryConfChange && len(payload) == 0:
		return errors.New("the entry is not one that raft makes")
	case index > s.last+1:
		return fmt.Errorf("the entry has raft index %d and the one before it %d", index, s.last)
	case index <= s.floor:
		return fmt.Errorf("the entry replaces raft index %d, which was committed", index)
	case term < s.batchTerm:
		return fmt.Errorf("the entry has term %d after term %d", term, s.batchTerm)
	}
	s.open, s.batchTerm, s.last = true, term, index
	for len(s.terms) > 0 && s.terms[len(s.terms)-1].first >= index {
		s.terms = s.terms[:len(s.terms)-1]
	}
	if k := len(s.terms); k == 0 || s.terms[k-1].term != term {
		s.terms = append(s.terms, termRun{first: index, term: term})
	}
	return s.keep(index, data)
}

// keep keeps an entry, and no other from its raft index on.
func (s *scan) keep(index uint64, data []byte) error {
	if s.keepAbove == nil {
		return nil
	}
	for n := len(s.kept); n > 0 && s.kept[n-1].Index >= index; n-- {
		s.kept = s.kept[:n-1]
	}
	if index <= *s.keepAbove {
		return nil
	}
	var e raftpb.Entry
	if err := e.Unmarshal(data); err != nil {
		return fmt.Errorf("the record does not hold an entry: %w", err)
	}
	s.kept = append(s.kept, e)
	return nil
}

func (s *scan) takeState(data []byte) error {
	v, rest, ok := threeNumbers(data)
	next := raftpb.HardState{Term: v[0], Vote: v[1], Commit: v[2]}
	switch {
	case !ok, len(rest) > 0, next.Term == 0:
		return errors.New("the record does not hold a state")
	case next.Term < s.state.Term, next.Term < s.batchTerm:
		return fmt.Errorf("the state has term %d after term %d", next.Term, max(s.state.Term, s.batchTerm))
	case next.Commit < s.state.Commit:
		return fmt.Errorf("the commit index falls from %d to %d", s.state.Commit, next.Commit)
	case next.Commit > s.last:
		return fmt.Errorf("the commit index %d is above the end of the log, %d", next.Commit, s.last)
	case next.Term == s.state.Term && s.state.Vote != 0 && next.Vote != s.state.Vote:
		return fmt.Errorf("the vote of term %d changes", next.Term)
	}
	s.state = next
	s.floor = max(s.floor, next.Commit)
	return nil
}

// takeSnapshot takes a snapshot record. A snapshot that does not agree with
// the entries before it was received from a peer and replaced all of them.
func (s *scan) takeSnapshot(seg *segment, data []byte) error {
	var snap etcdwalpb.Snapshot
	if err := snap.Unmarshal(data); err != nil {
		return fmt.Errorf("the record does not hold a snapshot: %w", err)
	}
	if snap.Index == 0 {
		if snap.Term != 0 || seg.name.seq != 0 || s.records != segmentHead {
			return errors.New("a snapshot without raft index is not expected here")
		}
		s.snapshots = append(s.snapshots, raftpb.SnapshotMetadata{})
		return nil
	}
	if snap.Term == 0 || snap.ConfState == nil {
		return errors.New("the snapshot is not complete")
	}
	if s.open {
		return errors.New("a snapshot is not expected inside a batch")
	}
	for _, m := range s.snapshots {
		if m.Index == snap.Index && m.Term != snap.Term {
			return fmt.Errorf("the snapshot at raft index %d has term %d after term %d", snap.Index, snap.Term, m.Term)
		}
	}
	if snap.Index > s.last || !s.agrees(snap.Index, snap.Term) {
		s.base, s.baseTerm, s.last = snap.Index, snap.Term, snap.Index
		s.terms, s.kept = s.terms[:0], nil
	}
	s.floor = max(s.floor, snap.Index)
	s.snapshots = append(s.snapshots, raftpb.SnapshotMetadata{Index: snap.Index, Term: snap.Term, ConfState: *snap.ConfState})
	return nil
}

// agrees reports whether the log does not contradict that the entry at a raft
// index, which is not above the last, has a term.
func (s *scan) agrees(index, term uint64) bool {
	if index < s.base {
		return true
	}
	if index == s.base {
		return s.baseTerm == 0 || s.baseTerm == term
	}
	for _, run := range slices.Backward(s.terms) {
		if run.first <= index {
			return run.term == term
		}
	}
	return false
}

// fill writes what was read into a report.
func (s *scan) fill(r *Report) {
	r.Identity, r.HardState, r.crc = s.identity, s.state, s.crc
	r.FirstRaftIndex, r.LastRaftIndex, r.Snapshots = s.base+1, s.last, nil
	for _, m := range s.snapshots {
		usable := m.Index >= s.base && (m.Index != s.base || s.baseTerm == 0 || m.Term == s.baseTerm)
		known := slices.ContainsFunc(r.Snapshots, func(o raftpb.SnapshotMetadata) bool { return o.Index == m.Index && o.Term == m.Term })
		if usable && !known {
			r.Snapshots = append(r.Snapshots, m)
		}
	}
	slices.SortFunc(r.Snapshots, func(a, b raftpb.SnapshotMetadata) int {
		if a.Index < b.Index {
			return -1
		}
		return 1
	})
}

// logFormat is the version of what this package writes into etcd's log.
const logFormat = 1

func encodeIdentity(id Identity) ([]byte, error) {
	m := walmeta.Identity{Format: logFormat, ClusterID: id.ClusterID, MemberID: id.MemberID, Incarnation: id.Incarnation[:]}
	return m.Marshal()
}

func decodeIdentity(data []byte) (Identity, error) {
	var m walmeta.Identity
	if err := m.Unmarshal(data); err != nil {
		return Identity{}, fmt.Errorf("the record does not hold an identity: %w", err)
	}
	if m.Format > logFormat {
		return Identity{}, fmt.Errorf("%w: the log has version %d, this binary reads version %d; start the version that wrote it", ErrVersion, m.Format, logFormat)
	}
	id := Identity{ClusterID: m.ClusterID, MemberID: m.MemberID}
	if m.Format == 0 || copy(id.Incarnation[:], m.Incarnation) != len(m.Incarnation) || len(m.Incarnation) != len(id.Incarnation) {
		return Identity{}, errors.New("the identity is not complete")
	}
	return id, nil
}
