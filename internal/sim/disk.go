package sim

import (
	"errors"
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

// errDamaged and errNoSnapshot are why a start is refused with exit code 65.
var (
	errDamaged    = errors.New("sim: the log is damaged in the middle")
	errNoSnapshot = errors.New("sim: no snapshot fits the log")
)

// logBatch is what one fsync of the log covers.
type logBatch struct {
	hs       raftpb.HardState // empty: unchanged
	entries  []raftpb.Entry
	snapshot *raftpb.SnapshotMetadata
}

// snapFile is a snapshot file.
type snapFile struct {
	meta raftpb.SnapshotMetadata
	data []byte
	// named says that the directory was synced after the rename.
	named bool
	// sum is the checksum of what should be in the file.
	sum uint64
}

func (f *snapFile) sound() bool { return hashBytes(fnvOffset, f.data) == f.sum }

// disk is the data directory of a member. It keeps what is durable apart from
// what is only written, record by record: a torn batch is cut off where it
// begins, as package wal does it.
type disk struct {
	exists      bool // the directory holds a member
	incarnation deimos.Incarnation

	hs        raftpb.HardState
	entries   []raftpb.Entry // contiguous, the last write of an index counts
	snapshots []raftpb.SnapshotMetadata
	pending   *logBatch
	// written is the newest hard state that was written or kept for later.
	written raftpb.HardState

	files    []snapFile // by rising index
	received []snapFile
	// damaged is set by a bit flip in the durable middle of the log.
	damaged bool
	// syncs counts the fsyncs of the log.
	syncs int
}

// image is a copy of all that is durable.
func (d *disk) image() *disk {
	c := *d
	c.entries = slices.Clone(d.entries)
	c.snapshots = slices.Clone(d.snapshots)
	c.files = slices.Clone(d.files)
	c.received, c.pending = nil, nil
	c.written = c.hs
	return &c
}

// create makes the directory of a first member, or, with an empty snapshot,
// that of a member which joins.
func (d *disk) create(inc deimos.Incarnation, meta raftpb.SnapshotMetadata, hs raftpb.HardState) {
	d.exists, d.incarnation = true, inc
	d.hs, d.written = hs, hs
	d.snapshots = []raftpb.SnapshotMetadata{meta}
}

// write begins a batch. It reports false when there is nothing to sync: a
// commit index alone waits for the next batch.
func (d *disk) write(b logBatch) bool {
	if b.snapshot == nil && len(b.entries) == 0 {
		if raft.IsEmptyHardState(b.hs) {
			return false
		}
		if b.hs.Term == d.written.Term && b.hs.Vote == d.written.Vote {
			d.written.Commit = b.hs.Commit
			return false
		}
	}
	if !raft.IsEmptyHardState(b.hs) {
		d.written = b.hs
	}
	b.hs = d.written
	d.pending = &b
	return true
}

// writeCommit begins a batch of the commit index that was kept for later. It
// reports false when there is none.
func (d *disk) writeCommit() bool {
	if d.written.Commit <= d.hs.Commit {
		return false
	}
	d.pending = &logBatch{hs: d.written}
	return true
}

// sync makes the batch durable.
func (d *disk) sync() {
	b := d.pending
	d.pending = nil
	d.syncs++
	d.apply(b)
}

func (d *disk) apply(b *logBatch) {
	if b == nil {
		return
	}
	d.hs = b.hs
	if b.snapshot != nil {
		d.record(*b.snapshot)
	}
	// One batch may hold an index twice: the appends of two leaders may share an
	// fsync.
	for _, e := range b.entries {
		switch {
		case len(d.entries) == 0 || e.Index > d.last()+1 || e.Index < d.entries[0].Index:
			d.entries = append(d.entries[:0:0], e)
		default:
			d.entries = append(d.entries[:e.Index-d.entries[0].Index], e)
		}
	}
}

// record notes a snapshot. One that the entries do not agree with was received
// from a peer and has replaced all of them: as in package wal, the log goes on
// from it, and no more from an older one.
func (d *disk) record(meta raftpb.SnapshotMetadata) {
	if !d.agrees(meta) {
		d.entries, d.snapshots = nil, nil
	}
	d.snapshots = append(d.snapshots, meta)
}

// agrees reports whether the log reaches as far as a snapshot and has no entry
// of another term in its place.
func (d *disk) agrees(meta raftpb.SnapshotMetadata) bool {
	switch {
	case meta.Index > max(d.last(), d.newest().Index):
		return false
	case len(d.entries) == 0 || meta.Index < d.entries[0].Index:
		return true
	}
	return d.entries[meta.Index-d.entries[0].Index].Term == meta.Term
}

// last is the raft index of the last durable entry, 0 if there is none.
func (d *disk) last() uint64 {
	if n := len(d.entries); n > 0 {
		return d.entries[n-1].Index
	}
	return 0
}

// end is the raft index and the term at which what is durable ends, in the log
// or with a snapshot.
func (d *disk) end() (raftIndex, term uint64) {
	newest := d.newest()
	if n := len(d.entries); n > 0 && d.entries[n-1].Index >= newest.Index {
		return d.entries[n-1].Index, d.entries[n-1].Term
	}
	return newest.Index, newest.Term
}

// newest is the newest snapshot that the log names.
func (d *disk) newest() raftpb.SnapshotMetadata {
	if n := len(d.snapshots); n > 0 {
		return d.snapshots[n-1]
	}
	return raftpb.SnapshotMetadata{}
}

// holds reports whether an entry is durable here, in the log or in a snapshot.
func (d *disk) holds(raftIndex, term uint64) bool {
	if n := len(d.entries); n > 0 && raftIndex >= d.entries[0].Index && raftIndex <= d.entries[n-1].Index {
		return d.entries[raftIndex-d.entries[0].Index].Term == term
	}
	return d.newest().Index >= raftIndex
}

// tail describes the end of the durable log, for people.
func (d *disk) tail() string {
	s := ""
	for _, e := range d.entries[max(len(d.entries)-6, 0):] {
		s += fmt.Sprintf(" %d/%d", e.Index, e.Term)
	}
	return s
}

// crash drops what was not durable. Of a batch that was written and not synced
// all may have reached the disk, or too little to count.
func (d *disk) crash(reached bool, nameKept func() bool) {
	if reached {
		d.apply(d.pending)
	}
	d.pending = nil
	d.written = d.hs
	d.received = nil
	d.files = slices.DeleteFunc(d.files, func(f snapFile) bool { return !f.named && !nameKept() })
	for i := range d.files {
		d.files[i].named = true // what a start finds, it can rely on
	}
}

// recovered is what a start finds.
type recovered struct {
	snapshot raftpb.SnapshotMetadata
	body     []byte // nil for a member that joins
	hs       raftpb.HardState
	entries  []raftpb.Entry
}

// recover chooses the newest sound snapshot that the log names, and the entries
// behind it.
func (d *disk) recover() (recovered, error) {
	if d.damaged {
		return recovered{}, errDamaged
	}
	var rec recovered
	if newest := d.newest(); newest.Index > 0 {
		f := d.choose()
		if f == nil {
			return recovered{}, fmt.Errorf("%w: %d files, records %v", errNoSnapshot, len(d.files), indexesOf(d.snapshots))
		}
		rec.snapshot, rec.body = f.meta, f.data
		d.settle(f.meta.Index)
	}
	after := rec.snapshot.Index + 1
	for i := range d.entries {
		if d.entries[i].Index >= after {
			rec.entries = slices.Clone(d.entries[i:])
			break
		}
	}
	if len(rec.entries) > 0 && rec.entries[0].Index != after {
		return recovered{}, fmt.Errorf("%w: snapshot at raft index %d, the log begins at %d", errNoSnapshot, rec.snapshot.Index, rec.entries[0].Index)
	}
	d.raise(rec.snapshot)
	if rec.hs = d.written; len(rec.entries) == 0 {
		d.hs = d.written // package wal then writes where the log ends
	}
	return rec, nil
}

// raise brings the hard state up to a snapshot that was recorded just before the
// state that goes with it. The record says so for ever, so the term counts as
// durable; the commit index waits for the next batch.
func (d *disk) raise(snapshot raftpb.SnapshotMetadata) {
	if d.hs.Term < snapshot.Term {
		d.hs.Term, d.hs.Vote = snapshot.Term, 0
	}
	d.written = d.hs
	d.written.Commit = max(d.hs.Commit, snapshot.Index)
}

func (d *disk) choose() *snapFile {
	for i := len(d.files) - 1; i >= 0; i-- {
		f := &d.files[i]
		if d.named(f) && f.sound() {
			return f
		}
	}
	return nil
}

// settle removes the files that are of no use after a start from a snapshot:
// newer ones, which are not sound or not in the log, and older ones that the log
// does not name.
func (d *disk) settle(chosen uint64) {
	d.files = slices.DeleteFunc(slices.Clone(d.files), func(f snapFile) bool { return f.meta.Index > chosen || !d.named(&f) })
}

// named reports whether the log names the snapshot of the file.
func (d *disk) named(f *snapFile) bool {
	return slices.ContainsFunc(d.snapshots, func(m raftpb.SnapshotMetadata) bool { return m.Index == f.meta.Index && m.Term == f.meta.Term })
}

func indexesOf(metas []raftpb.SnapshotMetadata) []uint64 {
	out := make([]uint64, len(metas))
	for i := range metas {
		out[i] = metas[i].Index
	}
	return out
}

// addFile puts a snapshot file under its final name.
func (d *disk) addFile(f snapFile) {
	d.files = slices.DeleteFunc(d.files, func(o snapFile) bool { return o.meta.Index == f.meta.Index })
	d.files = append(d.files, f)
	slices.SortFunc(d.files, func(a, b snapFile) int { return int(a.meta.Index) - int(b.meta.Index) })
}

// nameFiles syncs the directory.
func (d *disk) nameFiles() {
	for i := range d.files {
		d.files[i].named = true
	}
}

// file returns the file of a snapshot.
func (d *disk) file(raftIndex uint64) *snapFile {
	for i := range d.files {
		if d.files[i].meta.Index == raftIndex {
			return &d.files[i]
		}
	}
	return nil
}

// prune keeps two snapshots and lets go of the log below the older one.
func (d *disk) prune() {
	newest := d.newest().Index
	d.received = slices.DeleteFunc(d.received, func(f snapFile) bool { return f.meta.Index <= newest })
	if len(d.files) < 2 {
		return
	}
	d.files = slices.Clone(d.files[len(d.files)-2:])
	releaseTo := d.files[0].meta.Index
	n := 0
	for n < len(d.entries) && d.entries[n].Index <= releaseTo {
		n++
	}
	d.entries = d.entries[n:]
	d.snapshots = slices.DeleteFunc(slices.Clone(d.snapshots), func(m raftpb.SnapshotMetadata) bool { return m.Index < releaseTo })
}

// take removes a received file.
func (d *disk) take(raftIndex uint64) (snapFile, bool) {
	for i, f := range d.received {
		if f.meta.Index == raftIndex {
			d.received = slices.Delete(d.received, i, i+1)
			return f, true
		}
	}
	return snapFile{}, false
}
