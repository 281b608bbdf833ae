package wal

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

// noSpare is a disk on which the next segment is never seen to be allocated, as
// when there is no space for it.
func noSpare(op, name string) error {
	if op == fsxtest.OpOpen && strings.HasSuffix(name, fsx.TempSuffix) {
		return fs.ErrNotExist
	}
	return nil
}

// TestUsedFollowsTheEndOfTheSegment holds that what counts as used is never less
// than what is in the file, and only a little more even after many batches.
func TestUsedFollowsTheEndOfTheSegment(t *testing.T) {
	const segmentBytes = 1 << 20
	t.Cleanup(SetSegmentBytes(segmentBytes))
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
	w := mustCreate(t, cfg)
	last := uint64(1)
	inspect := func() int64 {
		t.Helper()
		r, err := Inspect(cfg.Dir)
		if err != nil {
			t.Fatal(err)
		}
		end := r.Segments[len(r.Segments)-1].UsedBytes
		if w.used < end {
			t.Fatalf("%d bytes count as used of a segment that has %d", w.used, end)
		}
		return end
	}
	for i := range 2000 {
		var err error
		switch i % 50 {
		case 10:
			err = w.Append(state(w.state.Term+1, 0, last), nil)
		case 20:
			err = w.SaveSnapshot(metaAt(last, w.state.Term))
		case 30:
			err = errors.Join(w.Append(state(w.state.Term, 0, last), nil), w.SaveCommit(last))
		default:
			last++
			err = w.Append(raftpb.HardState{}, entriesOf(w.state.Term, last, last, 30))
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%100 == 0 {
			inspect()
		}
	}
	if end := inspect(); w.used > end+end/50 {
		t.Errorf("%d bytes count as used of a segment that has %d, want at most two percent more", w.used, end)
	}
	if err := w.measure(); err != nil {
		t.Fatal(err)
	}
	if end := inspect(); w.used > end+frameBytes {
		t.Errorf("measure() found %d bytes used of a segment that has %d", w.used, end)
	}
}

// TestLogIsOpenedAgainOnceInASegment holds that a log without a next segment
// pays for it with one batch, and not with each one for the rest of the segment.
func TestLogIsOpenedAgainOnceInASegment(t *testing.T) {
	const segmentBytes = 256 << 10
	t.Cleanup(SetSegmentBytes(segmentBytes))
	var said bytes.Buffer
	w := mustCreate(t, Config{
		Dir: filepath.Join(tempDir(t), "wal"),
		FS:  &fsxtest.Faults{FS: fsx.OS{}, Hook: noSpare},
		Log: slog.New(slog.NewTextHandler(&said, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	last := uint64(1)
	for range 3 {
		said.Reset()
		for segment := w.segment; w.segment == segment; {
			last++
			mustAppend(t, w, state(1, 0, last-1), entriesOf(1, last, last, 100))
		}
		if n := strings.Count(said.String(), "opening the log again"); n != 1 {
			t.Errorf("the log was opened again %d times in one segment, want once", n)
		}
	}
	w.Abandon()
	if _, rec := mustOpen(t, Config{Dir: w.cfg.Dir}); rec.LastRaftIndex != last {
		t.Errorf("Open() = end %d, want %d", rec.LastRaftIndex, last)
	}
}

// TestSegmentThatCannotBeMeasuredIsWritten holds that a batch does not fail with
// what only corrects a number.
func TestSegmentThatCannotBeMeasuredIsWritten(t *testing.T) {
	t.Cleanup(SetSegmentBytes(64 << 10))
	for _, op := range []string{fsxtest.OpOpen, fsxtest.OpRead} {
		t.Run(op, func(t *testing.T) {
			failing := false
			w := mustCreate(t, Config{
				Dir: filepath.Join(tempDir(t), "wal"),
				FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(this, name string) error {
					if failing && this == op && strings.HasSuffix(name, segmentSuffix) {
						return syscall.EIO
					}
					return nil
				}},
			})
			failing = true
			last := uint64(1)
			for segment := w.segment; w.segment == segment; {
				awaitSpare(t, w)
				last++
				mustAppend(t, w, state(1, 0, last-1), entriesOf(1, last, last, 100))
			}
			failing = false
			w.Abandon()
			if _, rec := mustOpen(t, Config{Dir: w.cfg.Dir}); rec.LastRaftIndex != last {
				t.Errorf("Open() = end %d, want %d", rec.LastRaftIndex, last)
			}
		})
	}
}

// TestLargeBatchEndsTheSegmentItself holds that the log is opened again before a
// batch that etcd's package does not hold back to its end.
func TestLargeBatchEndsTheSegmentItself(t *testing.T) {
	w := &WAL{used: SegmentBytes() - 1}
	for size, want := range map[int64]bool{1: false, etcdBufferBytes - 1: false, etcdBufferBytes: true} {
		if got := w.ends(size); got != want {
			t.Errorf("ends(%d) with one byte left = %v, want %v", size, got, want)
		}
	}
}
