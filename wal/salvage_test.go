package wal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// endOf returns what was durable at the end of a segment.
func (h history) endOf(segment string) (last batchEnd) {
	for _, e := range h.ends {
		if e.segment <= segment {
			last = e
		}
	}
	return last
}

// entries returns all entries of the log.
func (h history) entries(t testing.TB) map[uint64]raftpb.Entry {
	t.Helper()
	dir := filepath.Join(tempDir(t), "wal")
	h.im.put(t, dir)
	s, err := Salvage(dir, []raftpb.SnapshotMetadata{metaAt(1, 1)})
	if err != nil {
		t.Fatalf("Salvage() of a whole log = %v", err)
	}
	w, rec, err := Open(Config{Dir: dir}, func(m []raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) { return m[0], nil })
	if err != nil {
		t.Fatal(err)
	}
	w.Abandon()
	wantEqual(t, "entries of a whole log", s.Entries, rec.Entries)
	if s.LastRaftIndex != rec.LastRaftIndex || s.SeenRaftIndex != rec.LastRaftIndex || s.LostBytes != 0 || s.Identity != rec.Identity ||
		s.Term != rec.HardState.Term || s.CommitRaftIndex != rec.HardState.Commit {
		t.Errorf("Salvage() of a whole log = %+v, want what Open() finds, %+v", s, rec)
	}
	all := map[uint64]raftpb.Entry{}
	for _, e := range s.Entries {
		all[e.Index] = e
	}
	return all
}

// wantTrue holds that everything that was salvaged was once written, without a
// gap.
func wantTrue(t *testing.T, what string, s *Salvaged, all map[uint64]raftpb.Entry) {
	t.Helper()
	if s.Identity != testIdentity || s.LastRaftIndex != s.Snapshot.Index+uint64(len(s.Entries)) {
		t.Fatalf("%s: Salvage() = %d entries from the snapshot at %d to %d of %+v", what, len(s.Entries), s.Snapshot.Index, s.LastRaftIndex, s.Identity)
	}
	for i, e := range s.Entries {
		if want := all[s.Snapshot.Index+1+uint64(i)]; !gocmp.Equal(e, want) {
			t.Fatalf("%s: entry %d after the snapshot at %d is %v, want %v", what, i, s.Snapshot.Index, e, want)
		}
	}
}

// TestSalvageKeepsWhatPrecedesTheDamage is row D3, and what a snapshot and the
// segments behind the damage add to it.
func TestSalvageKeepsWhatPrecedesTheDamage(t *testing.T) {
	h := makeHistory(t, 60)
	all := h.entries(t)
	segments := h.im.segments()
	last := h.ends[len(h.ends)-1].rec.LastRaftIndex
	middle := func(im image, segment string) { im[segment][h.endOf(segment).end/2] ^= 1 }
	own := h.ends[len(h.ends)-1].rec.Snapshots
	newestOwn := own[len(own)-1]
	first := []raftpb.SnapshotMetadata{metaAt(1, 1)}
	for _, tt := range []struct {
		name  string
		sound []raftpb.SnapshotMetadata
		harm  func(image)
		from  uint64 // the snapshot
		last  uint64
	}{
		{"nothing damaged", first, func(image) {}, 1, last},
		{"head of a segment", first, func(im image) { im[segments[2]][3] ^= 1 }, 1, h.endOf(segments[1]).rec.LastRaftIndex},
		{"missing segment", first, func(im image) { delete(im, segments[2]) }, 1, h.endOf(segments[1]).rec.LastRaftIndex},
		{"middle of the newest", first, func(im image) { im[h.im.newest()][h.ends[len(h.ends)-3].end+20] ^= 1 }, 1, h.ends[len(h.ends)-3].rec.LastRaftIndex},
		{"marker", first, func(im image) { im[markerName] = []byte("bad") }, 1, last},
		{"a snapshot above the damage", append(first, metaAt(last-1, 9)), func(im image) { middle(im, h.im.newest()) }, last - 1, last - 1},
		{"a snapshot, and whole segments behind the damage", append(first, newestOwn), func(im image) { im[segments[0]][3] ^= 1 }, newestOwn.Index, last},
		{"a snapshot, and whole segments behind a gap", append(first, newestOwn), func(im image) { delete(im, segments[0]) }, newestOwn.Index, last},
		{"a lost end that a snapshot holds", append(first, metaAt(last+7, 9)), func(image) {}, last + 7, last + 7},
		{"a snapshot that contradicts the log", append(first, metaAt(last, 1)), func(image) {}, 1, last},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(tempDir(t), "wal")
			im := h.im.clone()
			tt.harm(im)
			im.put(t, dir)
			s, err := Salvage(dir, tt.sound)
			if err != nil {
				t.Fatalf("Salvage() = %v", err)
			}
			wantTrue(t, tt.name, s, all)
			if s.Snapshot.Index != tt.from || s.LastRaftIndex != tt.last {
				t.Errorf("Salvage() = from %d to %d, want from %d to %d", s.Snapshot.Index, s.LastRaftIndex, tt.from, tt.last)
			}
			if lost := s.LastRaftIndex < last; lost && (s.SeenRaftIndex < last-1 || s.LostBytes == 0) {
				t.Errorf("Salvage() = entries up to %d seen and %d bytes lost, want it to see that the log had gone on to %d", s.SeenRaftIndex, s.LostBytes, last)
			}
			wantEqual(t, "files", takeImage(t, dir), im)
		})
	}
}

// TestSalvageNeverInventsOrDropsMoreThanItMust flips a bit at many places of a
// log: what is salvaged was written, and reaches to the batch with the bad place
// at least.
func TestSalvageNeverInventsOrDropsMoreThanItMust(t *testing.T) {
	h := makeHistory(t, 60)
	all := h.entries(t)
	dir := filepath.Join(tempDir(t), "wal")
	h.im.put(t, dir)
	own := h.ends[len(h.ends)-1].rec.Snapshots
	tried, whole := 0, 0
	for _, segment := range h.im.segments() {
		begins := int64(0)
		for _, e := range h.ends {
			if e.segment != segment {
				continue
			}
			for at := begins + 3; at < e.end; at += 29 {
				bad := h.im.clone()[segment]
				bad[at] ^= 0x10
				if err := os.WriteFile(filepath.Join(dir, segment), bad, fsx.FileMode); err != nil {
					t.Fatal(err)
				}
				what := fmt.Sprintf("flip at %d of %s", at, segment)
				durable := uint64(0)
				for _, b := range h.ends {
					if b.segment < segment || b.segment == segment && b.end <= begins {
						durable = b.rec.LastRaftIndex
					}
				}
				s, err := Salvage(dir, own)
				if err != nil {
					t.Fatalf("%s: Salvage() = %v", what, err)
				}
				wantTrue(t, what, s, all)
				if s.LastRaftIndex < max(durable, own[len(own)-1].Index) {
					t.Fatalf("%s: Salvage() = end %d; %d was durable before", what, s.LastRaftIndex, durable)
				}
				tried++
				if s.LostBytes == 0 {
					whole++
				}
			}
			begins = e.end
		}
		if err := os.WriteFile(filepath.Join(dir, segment), h.im[segment], fsx.FileMode); err != nil {
			t.Fatal(err)
		}
	}
	if tried < 500 || whole == 0 || whole == tried {
		t.Errorf("void: of %d damaged logs %d lost nothing", tried, whole)
	}
}

// TestSalvageKeepsTheEntriesOfABatchBeforeTheDamage holds that an entry is not
// given up for one that was written with it.
func TestSalvageKeepsTheEntriesOfABatchBeforeTheDamage(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	w := mustCreate(t, Config{Dir: dir})
	mustAppend(t, w, state(3, 0, 1), entriesOf(3, 2, 11, 50))
	mustAppend(t, w, state(3, 0, 11), entriesOf(3, 12, 12, 50))
	w.Abandon()
	im := takeImage(t, dir)
	im[im.newest()][bytes.Index(im[im.newest()], []byte("entry 8 of"))] ^= 1
	im.put(t, dir)
	s, err := Salvage(dir, []raftpb.SnapshotMetadata{metaAt(1, 1)})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, "entries", s.Entries, entriesOf(3, 2, 7, 50))
	if s.Term != 3 || s.SeenRaftIndex != 12 || s.LostBytes == 0 {
		t.Errorf("Salvage() = term %d, entries up to %d seen, %d bytes lost, want term 3, 12 and some", s.Term, s.SeenRaftIndex, s.LostBytes)
	}
}

func TestSalvageRefusesWhatNobodyCanGoOnFrom(t *testing.T) {
	h := makeHistory(t, 60)
	for name, tt := range map[string]struct {
		sound []raftpb.SnapshotMetadata
		harm  func(image)
	}{
		"no sound snapshot":         {nil, func(image) {}},
		"a snapshot of other terms": {[]raftpb.SnapshotMetadata{metaAt(5, 9)}, func(image) {}},
		"every head is bad": {[]raftpb.SnapshotMetadata{metaAt(1, 1)}, func(im image) {
			for _, s := range im.segments() {
				im[s][3] ^= 1
			}
		}},
	} {
		dir := filepath.Join(tempDir(t), "wal")
		im := h.im.clone()
		tt.harm(im)
		im.put(t, dir)
		if s, err := Salvage(dir, tt.sound); !errors.Is(err, ErrNothingSalvaged) {
			t.Errorf("%s: Salvage() = %+v, %v, want ErrNothingSalvaged", name, s, err)
		}
	}
}

// TestSalvageOfAnotherMembersSegments holds that nobody is given a log that is
// put together of two.
func TestSalvageOfAnotherMembersSegments(t *testing.T) {
	h := makeHistory(t, 60)
	dir := filepath.Join(tempDir(t), "wal")
	other := testIdentity
	other.MemberID++
	w, err := Create(Config{Dir: dir}, other, metaAt(1, 1), state(1, 0, 1))
	if err != nil {
		t.Fatal(err)
	}
	w.Abandon()
	foreign := takeImage(t, dir)
	im := h.im.clone()
	im[h.im.newest()] = foreign[foreign.newest()]
	im.put(t, dir)
	s, err := Salvage(dir, []raftpb.SnapshotMetadata{metaAt(1, 1)})
	if err != nil {
		t.Fatal(err)
	}
	wantTrue(t, "segment of another member", s, h.entries(t))
	if want := h.endOf(im.segments()[len(im.segments())-2]).rec.LastRaftIndex; s.LastRaftIndex != want {
		t.Errorf("Salvage() = end %d, want %d", s.LastRaftIndex, want)
	}
	// A snapshot above all of them is no reason to take the name of the other.
	if s, err = Salvage(dir, []raftpb.SnapshotMetadata{metaAt(s.LastRaftIndex+100, 9)}); err != nil || s.Identity != testIdentity {
		t.Errorf("Salvage() = %+v, %v, want the identity %+v", s, err, testIdentity)
	}
}

func TestSalvageFailsWithTheDisk(t *testing.T) {
	h := makeHistory(t, 30)
	dir := filepath.Join(tempDir(t), "wal")
	eachOperation(t, syscall.EIO, func(fsys fsx.FS, failing operation) {
		h.im.put(t, dir)
		s, err := salvage(fsys, dir, []raftpb.SnapshotMetadata{metaAt(1, 1)})
		if (err == nil) != (failing == operation{}) || err != nil && !errors.Is(err, ErrIO) {
			t.Errorf("salvage() with %v failing = %+v, %v, want ErrIO", failing, s, err)
		}
	})
}

// TestDamagedMarkerIsDamageOfTheMarkerAlone holds that the log behind it is read.
func TestDamagedMarkerIsDamageOfTheMarkerAlone(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	w := mustCreate(t, Config{Dir: dir})
	mustAppend(t, w, state(2, 5, 1), entriesOf(2, 2, 6, 60))
	mustClose(t, w)
	im := takeImage(t, dir)
	im[markerName][3] ^= 1
	im.put(t, dir)
	r, err := Inspect(dir)
	if err != nil || r.Verdict != Damaged || filepath.Base(r.Damage.File) != markerName || r.LastRaftIndex != 6 || len(r.Snapshots) != 1 {
		t.Fatalf("Inspect() = %+v, %v, want damage of the marker, and all entries", r, err)
	}
	// Worse damage is told first, and with the marker nothing is taken for torn.
	end := r.Segments[0].UsedBytes
	clear(im[im.newest()][end-16 : end])
	im.put(t, dir)
	if r, err := Inspect(dir); err != nil || r.Verdict != Damaged || filepath.Base(r.Damage.File) != im.newest() {
		t.Errorf("Inspect() of a log with a bad marker and a bad end = %+v, %v, want damage of the segment", r, err)
	}
}
