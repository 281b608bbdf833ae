package wal

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

// prewriting is a log whose operations on its segments are seen, and fail on
// demand.
type prewriting struct {
	*WAL
	last   uint64 // raft index
	writes int    // in advance
	fail   func(op string) error
	said   bytes.Buffer
}

func newPrewriting(t *testing.T, segmentBytes int64) *prewriting {
	t.Helper()
	t.Cleanup(SetSegmentBytes(segmentBytes))
	p := &prewriting{last: 1}
	p.WAL = mustCreate(t, Config{
		Dir: filepath.Join(tempDir(t), "wal"),
		Log: slog.New(slog.NewTextHandler(&p.said, nil)),
		FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
			if !strings.HasSuffix(name, segmentSuffix) {
				return nil
			}
			if op == fsxtest.OpWrite {
				p.writes++
			}
			if p.fail != nil {
				return p.fail(op)
			}
			return nil
		}},
	})
	return p
}

// append appends one entry. It does so once the next segment is allocated, without
// which the log would be opened again at the end of this one, and written in
// advance anew.
func (p *prewriting) append(t *testing.T, size int) {
	t.Helper()
	awaitSpare(t, p.WAL)
	p.last++
	mustAppend(t, p.WAL, state(1, 0, p.last-1), entriesOf(1, p.last, p.last, size))
}

// wantReadBack opens the log again, as after a crash.
func (p *prewriting) wantReadBack(t *testing.T) {
	t.Helper()
	p.fail = nil
	p.Abandon()
	if _, rec := mustOpen(t, p.cfg); rec.LastRaftIndex != p.last || uint64(len(rec.Entries)) != p.last-1 {
		t.Errorf("Open() found %d entries up to %d, want up to %d", len(rec.Entries), rec.LastRaftIndex, p.last)
	}
}

// TestPrewrittenAhead holds that each batch finds its place written, that this
// costs few writes, and that it begins again with each segment.
func TestPrewrittenAhead(t *testing.T) {
	const segmentBytes = 4 * prewriteBytes
	p := newPrewriting(t, segmentBytes)
	segments := map[string]bool{}
	for len(segments) < 3 {
		segment, used := p.segment, p.used
		p.append(t, 1000)
		if p.segment == segment && p.prewritten < min(p.used, segmentBytes) {
			t.Fatalf("%d bytes are used, and %d were written in advance", p.used, p.prewritten)
		}
		if p.segment != segment && p.prewritten != 0 {
			t.Fatalf("in a new segment %d bytes count as written, %d in the old one", p.prewritten, used)
		}
		segments[p.segment] = true
	}
	if perSegment := segmentBytes/len(blankBlock) + 1; p.writes > 3*perSegment {
		t.Errorf("%d writes in advance for 2 segments and a bit, want %d at most each", p.writes, perSegment)
	}
	p.wantReadBack(t)
}

// TestPrewritingFails holds that a batch does not fail with what was to be
// written in advance, that nothing is said twice, and that the next segment is
// written in advance again.
func TestPrewritingFails(t *testing.T) {
	for _, op := range []string{fsxtest.OpEdit, fsxtest.OpRead, fsxtest.OpWrite, "short write"} {
		t.Run(op, func(t *testing.T) {
			p := newPrewriting(t, 2*prewriteBytes)
			p.fail = func(this string) error {
				switch {
				case this == op:
					return syscall.EIO
				case this == fsxtest.OpWrite && op == "short write":
					return fsxtest.ErrShort
				}
				return nil
			}
			first := p.segment
			for p.segment == first {
				p.append(t, 1000)
			}
			if n := strings.Count(p.said.String(), "not written in advance"); n != 1 || !strings.Contains(p.said.String(), first) {
				t.Errorf("the log tells %d times that the segment was not written in advance, want once:\n%s", n, &p.said)
			}
			p.fail, p.writes = nil, 0
			p.append(t, 1000)
			if p.writes == 0 {
				t.Errorf("nothing was written in advance in the next segment")
			}
			p.wantReadBack(t)
		})
	}
}

// TestPrewritingReplacesNothing puts bytes where there should be zeros: they are
// left alone.
func TestPrewritingReplacesNothing(t *testing.T) {
	p := newPrewriting(t, 2*prewriteBytes)
	at := p.used + 5000
	write := func(b []byte) {
		f, err := os.OpenFile(p.path(), os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.WriteAt(b, at)
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	mark := []byte("somebody's")
	write(mark)
	p.append(t, 1000)
	found, err := os.ReadFile(p.path())
	if err != nil {
		t.Fatal(err)
	}
	if got := found[at : at+int64(len(mark))]; !bytes.Equal(got, mark) {
		t.Errorf("%q is at %d, want %q", got, at, mark)
	}
	if p.writes > 0 {
		t.Errorf("%d writes in advance, want none", p.writes)
	}
	write(make([]byte, len(mark)))
	p.wantReadBack(t)
}

// TestLargeBatchesAreNotPrewritten holds that a batch which would not gain by it
// does not pay for it, and that small ones behind it are written in advance again.
func TestLargeBatchesAreNotPrewritten(t *testing.T) {
	p := newPrewriting(t, 4*prewriteBytes)
	p.append(t, prewriteMaxBatch)
	if p.writes > 0 {
		t.Errorf("%d writes in advance for a large batch, want none", p.writes)
	}
	p.append(t, 1000)
	if p.writes == 0 || p.prewritten < p.used {
		t.Errorf("%d writes in advance for a small batch, up to %d of %d, want it covered", p.writes, p.prewritten, p.used)
	}
	p.wantReadBack(t)
}

// TestPrewritingStaysInTheFile holds that a file that is shorter than segments
// are does not grow.
func TestPrewritingStaysInTheFile(t *testing.T) {
	p := newPrewriting(t, 2*prewriteBytes)
	size := p.used + 8000
	if err := os.Truncate(p.path(), size); err != nil {
		t.Fatal(err)
	}
	p.append(t, 1000)
	if info, err := os.Stat(p.path()); err != nil || info.Size() != size {
		t.Errorf("the segment has %d bytes (%v), want %d", info.Size(), err, size)
	}
	p.wantReadBack(t)
}

// TestNothingIsPrewrittenAfterAnError holds that a log that has failed is not
// touched any more.
func TestNothingIsPrewrittenAfterAnError(t *testing.T) {
	p := newPrewriting(t, 2*prewriteBytes)
	if err := p.Append(raftpb.HardState{}, entriesOf(1, 9, 9, 50)); err == nil {
		t.Fatal("Append() of an entry behind a gap = nil")
	}
	if err := p.SaveSnapshot(metaAt(1, 1)); err == nil {
		t.Fatal("SaveSnapshot() after an error = nil")
	}
	if p.writes > 0 {
		t.Errorf("%d writes in advance, want none", p.writes)
	}
}
