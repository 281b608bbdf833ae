package sim

import (
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/wal"
)

// diskBesideLog does everything twice: to a simulated disk, and to a real log.
type diskBesideLog struct {
	t    *testing.T
	rnd  *mathrand.Rand
	disk *disk
	cfg  wal.Config
	log  *wal.WAL
	hs   raftpb.HardState
	// floor is the highest raft index that was ever committed: no leader replaces
	// it, whatever a start has found.
	floor uint64
	// replaced counts the logs that an installed snapshot has replaced.
	replaced int
	// did is what was done, for people.
	did []string
}

func newDiskBesideLog(t *testing.T, seed uint64) *diskBesideLog {
	d := &diskBesideLog{t: t, rnd: newRand(seed, streamWorld), disk: &disk{}}
	first, hs := raftpb.SnapshotMetadata{Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}}}, raftpb.HardState{Term: 1, Commit: 1}
	d.addFile(first)
	d.disk.create(deimos.Incarnation{1}, first, hs)
	d.cfg = wal.Config{Dir: filepath.Join(inMemory(t), "wal")}
	log, err := wal.Create(d.cfg, wal.Identity{ClusterID: 1, MemberID: 2, Incarnation: [16]byte{1}}, first, hs)
	d.must(err)
	d.log, d.hs, d.floor = log, hs, hs.Commit
	t.Cleanup(func() { d.log.Abandon() })
	return d
}

// inMemory returns a directory where a sync costs nothing, if there is one.
func inMemory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "deimos-sim-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (d *diskBesideLog) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatalf("%v\nafter %q", err, d.did)
	}
}

func (d *diskBesideLog) note(format string, args ...any) {
	d.did = append(d.did, fmt.Sprintf(format, args...))
}

// upTo draws a number between two, both included.
func (d *diskBesideLog) upTo(low, high uint64) uint64 { return low + d.rnd.Uint64N(high-low+1) }

func (d *diskBesideLog) last() uint64 { return max(d.disk.last(), d.disk.newest().Index) }

func (d *diskBesideLog) newTerm() { d.hs.Term, d.hs.Vote = d.hs.Term+1, d.upTo(0, 3) }

func (d *diskBesideLog) save(entries []raftpb.Entry) {
	d.note("append %v, %d entries behind %d", d.hs, len(entries), d.last())
	d.floor = max(d.floor, d.hs.Commit)
	if d.disk.write(logBatch{hs: d.hs, entries: entries}) {
		d.disk.sync()
	}
	d.must(d.log.Append(d.hs, entries))
}

// append writes entries behind what is committed, over what is not.
func (d *diskBesideLog) append() {
	if chance(d.rnd, 0.3) {
		d.newTerm()
	}
	from := d.upTo(d.floor+1, d.last()+1)
	entries := entriesOf(d.hs.Term, from, from+d.upTo(0, 5))
	d.hs.Commit = d.upTo(d.hs.Commit, entries[len(entries)-1].Index)
	d.save(entries)
}

func (d *diskBesideLog) commit() {
	d.hs.Commit = d.upTo(d.hs.Commit, d.last())
	d.save(nil)
}

func (d *diskBesideLog) addFile(meta raftpb.SnapshotMetadata) {
	data := fmt.Appendf(nil, "state at %d", meta.Index)
	d.disk.addFile(snapFile{meta: meta, data: data, named: true, sum: hashBytes(fnvOffset, data)})
}

func (d *diskBesideLog) record(meta raftpb.SnapshotMetadata) {
	meta.ConfState = raftpb.ConfState{Voters: []uint64{1, 2, 3}}
	d.addFile(meta)
	d.disk.write(logBatch{snapshot: &meta})
	d.disk.sync()
	d.must(d.log.SaveSnapshot(meta))
}

// take records a snapshot of this member's own state.
func (d *diskBesideLog) take() {
	if d.hs.Commit <= d.disk.newest().Index {
		return
	}
	index := d.upTo(d.disk.newest().Index+1, d.hs.Commit)
	d.note("take a snapshot at %d", index)
	d.record(raftpb.SnapshotMetadata{Index: index, Term: d.disk.entries[index-d.disk.entries[0].Index].Term})
	d.prune()
}

// install records one that a peer has sent, above the end of the log, instead of
// what is there, or in agreement with it.
func (d *diskBesideLog) install() {
	index := d.upTo(d.floor+1, d.last()+6)
	term := d.hs.Term
	switch {
	case index <= d.last() && chance(d.rnd, 0.5):
		term = d.disk.entries[index-d.disk.entries[0].Index].Term
	case chance(d.rnd, 0.5):
		d.newTerm()
		term = d.hs.Term
	}
	d.note("install a snapshot at %d of term %d, the log ends at%s", index, term, d.disk.tail())
	meta := raftpb.SnapshotMetadata{Index: index, Term: term}
	if !d.disk.agrees(meta) {
		d.replaced++
	}
	d.record(meta)
	d.hs.Commit, d.floor = index, index
	if chance(d.rnd, 0.2) { // a crash before the state that goes with it
		return
	}
	d.save(nil)
	d.prune()
}

func (d *diskBesideLog) prune() {
	d.disk.prune()
	if len(d.disk.files) >= 2 {
		d.must(d.log.Release(d.disk.files[0].meta.Index))
	}
}

// restart compares what a start finds, and reports whether one is possible. The
// newest snapshot may have become unreadable.
func (d *diskBesideLog) restart() bool {
	if newest := &d.disk.files[len(d.disk.files)-1]; chance(d.rnd, 0.3) {
		d.note("the snapshot at %d rots", newest.meta.Index)
		newest.data = nil
	}
	d.note("restart")
	d.log.Abandon()
	d.disk.crash(false, nil)
	files := d.disk.files
	log, rec, err := wal.Open(d.cfg, func(allowed []raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
		for i := len(files) - 1; i >= 0; i-- {
			for _, m := range allowed {
				if f := &files[i]; m.Index == f.meta.Index && m.Term == f.meta.Term && f.sound() {
					return m, nil
				}
			}
		}
		return raftpb.SnapshotMetadata{}, errNoSnapshot
	})
	got, simErr := d.disk.recover()
	if err != nil && !errors.Is(err, errNoSnapshot) || errors.Is(err, errNoSnapshot) != errors.Is(simErr, errNoSnapshot) {
		d.t.Fatalf("the disk recovers with %v, the log with %v\nafter %q", simErr, err, d.did)
	}
	if err != nil {
		return false
	}
	d.log = log
	want := recovered{snapshot: rec.Snapshot, hs: rec.HardState, entries: rec.Entries}
	got.body = nil
	bare := cmp.Transformer("bare", func(e raftpb.Entry) [2]uint64 { return [2]uint64{e.Index, e.Term} })
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(recovered{}), cmpopts.EquateEmpty(), bare); diff != "" {
		d.t.Fatalf("the disk recovers something else than the log (-log +disk):\n%s\nafter %q", diff, d.did)
	}
	d.hs = rec.HardState
	return true
}

// run does a number of random steps. It reports false when a restart found no
// snapshot to go on from, which ends the sequence.
func (d *diskBesideLog) run(steps int) bool {
	for range steps {
		switch draw := d.rnd.IntN(20); {
		case draw < 10:
			d.append()
		case draw < 12:
			d.commit()
		case draw < 14:
			d.take()
		case draw < 16:
			d.install()
		default:
			if !d.restart() {
				return false
			}
		}
	}
	return true
}

// TestDiskRecoversWhatTheLogDoes binds the disk of the simulation to package
// wal: one sequence of writes runs through both, and both must recover the same.
func TestDiskRecoversWhatTheLogDoes(t *testing.T) {
	t.Cleanup(wal.SetSegmentBytes(4096))
	const sequences, steps = 150, 40
	refused, replaced := 0, 0
	for seed := range uint64(sequences) {
		d := newDiskBesideLog(t, seed)
		if !d.run(steps) {
			refused++
		}
		replaced += d.replaced
		d.log.Abandon()
	}
	if refused == 0 || refused == sequences || replaced == 0 {
		t.Errorf("of %d sequences %d ended without a snapshot to go on from, and %d logs were replaced; want some of each, and some that went on", sequences, refused, replaced)
	}
}
