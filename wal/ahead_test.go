package wal

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

// copyOf is the name that the copy of a segment has until it is taken.
func copyOf(segment string) string { return segment + fsx.TempSuffix }

// tornHistory returns a history whose last batch was cut short, and what a start
// has to find in it.
func tornHistory(t *testing.T) (im image, want batchEnd) {
	t.Helper()
	h := makeHistory(t, 12)
	last := h.ends[len(h.ends)-1]
	clear(h.im[last.segment][last.end-16 : last.end])
	return h.im, h.ends[len(h.ends)-2]
}

// TestRefusedLogHasNoCopy refuses a start after the copy was made: nothing of
// it is left, and the reason is the one that is reported.
func TestRefusedLogHasNoCopy(t *testing.T) {
	errChoose := errors.New("no snapshot will do")
	isDamage := func(err error) bool { _, ok := errors.AsType[*DamageError](err); return ok && !errors.Is(err, ErrIO) }
	flip := func(im image, segment int) { im[im.segments()[segment]][1000] ^= 1 }
	h := makeHistory(t, 60)
	for _, tt := range []struct {
		name   string
		damage func(image)
		choose func([]raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error)
		fails  string // an operation on the copy
		want   func(error) bool
	}{
		{"damage in the oldest segment", func(im image) { flip(im, 0) }, newest, "", isDamage},
		{"damage in the newest segment", func(im image) { flip(im, len(im.segments())-1) }, newest, "", isDamage},
		{"damage, and the copy fails", func(im image) { flip(im, 0) }, newest, fsxtest.OpSync, isDamage},
		{"no snapshot is chosen", func(image) {}, func([]raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
			return raftpb.SnapshotMetadata{}, errChoose
		}, "", func(err error) bool { return errors.Is(err, errChoose) && !errors.Is(err, ErrIO) }},
		{"a snapshot is chosen that is none", func(image) {}, func([]raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
			return metaAt(1<<40, 1), nil
		}, "", func(err error) bool { return err != nil && !errors.Is(err, ErrIO) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			im := h.im.clone()
			tt.damage(im)
			dir := filepath.Join(tempDir(t), "wal")
			im.put(t, dir)
			made := false
			cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
				if name != filepath.Join(dir, copyOf(im.newest())) {
					return nil
				}
				made = made || op == fsxtest.OpSync
				if op == tt.fails {
					return syscall.EIO
				}
				return nil
			}}}
			if _, _, err := Open(cfg, tt.choose); !tt.want(err) {
				t.Errorf("Open() = %v", err)
			}
			if !made {
				t.Errorf("no copy was made")
			}
			wantEqual(t, "files", takeImage(t, dir), im)
			if _, err := os.Stat(filepath.Join(dir, copyOf(im.newest()))); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the copy is still there: %v", err)
			}
		})
	}
}

// TestDamageIsReportedThoughTheCopyStays fails the removal of the copy too. The
// damage is what the operator has to know of, and the next start takes the copy
// for a leftover.
func TestDamageIsReportedThoughTheCopyStays(t *testing.T) {
	h := makeHistory(t, 60)
	im := h.im.clone()
	im[im.segments()[0]][1000] ^= 1
	dir := filepath.Join(tempDir(t), "wal")
	im.put(t, dir)
	left := filepath.Join(dir, copyOf(im.newest()))
	cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
		if op == fsxtest.OpRemove && name == left {
			return syscall.EIO
		}
		return nil
	}}}
	_, _, err := Open(cfg, newest)
	if damage, ok := errors.AsType[*DamageError](err); !ok || !strings.HasSuffix(damage.File, im.segments()[0]) {
		t.Errorf("Open() = %v, want the damage", err)
	}
	if _, err := os.Stat(left); err != nil {
		t.Fatalf("the copy is gone: %v", err)
	}
	h.im.put(t, dir)
	if err := os.WriteFile(left, bytes.Repeat([]byte{0xff}, 2*testSegmentBytes), fsx.FileMode); err != nil {
		t.Fatal(err)
	}
	if _, rec := mustOpen(t, Config{Dir: dir}); rec.LastRaftIndex != h.ends[len(h.ends)-1].rec.LastRaftIndex {
		t.Errorf("last raft index = %d, want %d", rec.LastRaftIndex, h.ends[len(h.ends)-1].rec.LastRaftIndex)
	}
}

// TestCopyHoldsWhatWasInspected changes the file behind the back of a start that
// has read it: what was judged is what is trusted, and not what the file says by
// then.
func TestCopyHoldsWhatWasInspected(t *testing.T) {
	h := makeHistory(t, 12)
	name := h.im.newest()
	dir := filepath.Join(tempDir(t), "wal")
	h.im.put(t, dir)
	var copied []byte
	cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, path string) (err error) {
		switch {
		case op == fsxtest.OpCreate && path == filepath.Join(dir, copyOf(name)):
			err = os.WriteFile(filepath.Join(dir, name), bytes.Repeat([]byte{0xff}, len(h.im[name])), fsx.FileMode)
		case op == fsxtest.OpRename && path == filepath.Join(dir, name):
			copied, err = os.ReadFile(filepath.Join(dir, copyOf(name)))
		}
		return err
	}}}
	_, rec := mustOpen(t, cfg)
	if want := h.ends[len(h.ends)-1].rec.LastRaftIndex; rec.LastRaftIndex != want {
		t.Errorf("last raft index = %d, want %d", rec.LastRaftIndex, want)
	}
	if !bytes.Equal(copied, h.im[name]) {
		t.Errorf("the copy has other bytes than the segment had")
	}
}

// TestCopyGoesBeforeWhatIsCutOff has a torn log: the copy of all of it is gone
// before anything else takes space, and nothing of it comes back.
func TestCopyGoesBeforeWhatIsCutOff(t *testing.T) {
	im, want := tornHistory(t)
	dir := filepath.Join(tempDir(t), "wal")
	im.put(t, dir)
	var steps []string
	cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
		if slices.Contains([]string{fsxtest.OpCreate, fsxtest.OpSync, fsxtest.OpRename, fsxtest.OpRemove}, op) {
			steps = append(steps, op+" "+filepath.Base(name))
		}
		return nil
	}}}
	_, rec := mustOpen(t, cfg)
	if rec.LastRaftIndex != want.rec.LastRaftIndex || rec.Repaired == nil {
		t.Errorf("Open() = end %d, repaired %v, want %d and a cut", rec.LastRaftIndex, rec.Repaired, want.rec.LastRaftIndex)
	}
	segment := im.newest()
	whole, broken := copyOf(segment), segment+brokenSuffix
	wantEqual(t, "steps", steps, []string{
		"create " + whole, "sync " + whole, "remove " + whole,
		"create " + copyOf(broken), "sync " + copyOf(broken), "rename " + broken,
		"create " + whole, "sync " + whole, "rename " + segment,
	})
}

// TestFailedCopyIsFinal fails an operation on the copy, on a log that needs it
// as it is and on one that is torn: no second copy is tried.
func TestFailedCopyIsFinal(t *testing.T) {
	torn, _ := tornHistory(t)
	for name, im := range map[string]image{"whole": makeHistory(t, 12).im, "torn": torn} {
		for _, fails := range []string{fsxtest.OpCreate, fsxtest.OpWrite, fsxtest.OpTruncate, fsxtest.OpSync} {
			t.Run(name+", "+fails, func(t *testing.T) {
				dir := filepath.Join(tempDir(t), "wal")
				im.put(t, dir)
				count := map[string]int{}
				cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
					if name == filepath.Join(dir, copyOf(im.newest())) {
						count[op]++
						if op == fails {
							return syscall.EIO
						}
					}
					return nil
				}}}
				if _, _, err := Open(cfg, newest); !errors.Is(err, ErrIO) || !errors.Is(err, syscall.EIO) {
					t.Errorf("Open() = %v, want ErrIO with EIO", err)
				}
				if count[fsxtest.OpCreate] != 1 || count[fails] != 1 {
					t.Errorf("operations on the copy: %v, want one attempt", count)
				}
				wantEqual(t, "files", takeImage(t, dir), im)
			})
		}
	}
}

// TestFullDiskCopiesWhenTheLeftoversAreGone has space for a copy only after the
// file that was allocated in advance is gone.
func TestFullDiskCopiesWhenTheLeftoversAreGone(t *testing.T) {
	h := makeHistory(t, 12)
	dir := filepath.Join(tempDir(t), "wal")
	h.im.put(t, dir)
	leftover := filepath.Join(dir, "0.tmp")
	if err := os.WriteFile(leftover, []byte("x"), fsx.FileMode); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, h.im.newest())
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	gone, refused := false, 0
	cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
		switch {
		case name == leftover && op == fsxtest.OpRemove:
			gone = true
		case name == copyOf(path) && op == fsxtest.OpWrite && (!gone || refused == 0): // whichever comes first
			refused++
			return syscall.ENOSPC
		}
		return nil
	}}}
	_, rec := mustOpen(t, cfg)
	if want := h.ends[len(h.ends)-1].rec.LastRaftIndex; rec.LastRaftIndex != want {
		t.Errorf("last raft index = %d, want %d", rec.LastRaftIndex, want)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, after) || refused != 1 {
		t.Errorf("the same file is read = %v after %d refusals, want a copy after 1", os.SameFile(before, after), refused)
	}
}

func TestFullDiskCutsInPlace(t *testing.T) {
	im, want := tornHistory(t)
	dir := filepath.Join(tempDir(t), "wal")
	im.put(t, dir)
	path := filepath.Join(dir, im.newest())
	synced := 0
	cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
		if name == path && op == fsxtest.OpSync {
			synced++
		}
		if name == copyOf(path) && op == fsxtest.OpWrite {
			return syscall.ENOSPC
		}
		return nil
	}}}
	_, rec := mustOpen(t, cfg)
	if rec.LastRaftIndex != want.rec.LastRaftIndex || rec.Repaired == nil || synced != 1 {
		t.Errorf("Open() = end %d, repaired %v, %d syncs in place, want %d, a cut and 1", rec.LastRaftIndex, rec.Repaired, synced, want.rec.LastRaftIndex)
	}
}
