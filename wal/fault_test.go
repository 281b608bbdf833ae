package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sys/unix"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

// replaceFile puts another file behind the descriptor that this process has
// open for path, so that etcd's package meets the errors of that one.
func replaceFile(t *testing.T, path, with string) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skipf("no list of open files: %v", err)
	}
	other, err := os.OpenFile(with, os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no %s: %v", with, err)
	}
	defer func() { _ = other.Close() }()
	found := false
	for _, fd := range fds {
		target, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil || target != path {
			continue
		}
		var n int
		if _, err := fmt.Sscan(fd.Name(), &n); err != nil {
			t.Fatal(err)
		}
		if err := unix.Dup2(int(other.Fd()), n); err != nil {
			t.Fatal(err)
		}
		found = true
	}
	if !found {
		t.Fatalf("%s is not open", path)
	}
}

// TestFailedWriteOrSyncIsFinal has the segment replaced by a device that fails
// the write (full) or the sync (null): nothing is acknowledged afterwards, the
// file does not change any more, and the next start reads what was durable.
func TestFailedWriteOrSyncIsFinal(t *testing.T) {
	for _, tt := range []struct {
		name, device string
		call         func(*WAL) error
	}{
		{"write of an append", "/dev/full", func(w *WAL) error { return w.Append(raftpb.HardState{}, entriesOf(1, 10, 10, 50)) }},
		{"sync of an append", "/dev/null", func(w *WAL) error { return w.Append(raftpb.HardState{}, entriesOf(1, 10, 10, 50)) }},
		{"write of a vote", "/dev/full", func(w *WAL) error { return w.Append(state(5, 3, 9), nil) }},
		{"sync of a vote", "/dev/null", func(w *WAL) error { return w.Append(state(5, 3, 9), nil) }},
		{"write of a snapshot record", "/dev/full", func(w *WAL) error { return w.SaveSnapshot(metaAt(9, 1)) }},
		{"sync of a snapshot record", "/dev/null", func(w *WAL) error { return w.SaveSnapshot(metaAt(9, 1)) }},
		{"write of a close", "/dev/full", (*WAL).Close},
		{"sync of a close", "/dev/null", (*WAL).Close},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
			w := mustCreate(t, cfg)
			mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 9, 50))
			before := takeImage(t, cfg.Dir)
			replaceFile(t, w.path(), tt.device)
			first := tt.call(w)
			if !errors.Is(first, ErrIO) || !strings.Contains(first.Error(), w.path()) {
				t.Fatalf("the call returned %v, want ErrIO with the name of the segment", first)
			}
			for _, again := range []error{
				w.Append(raftpb.HardState{}, entriesOf(1, 10, 10, 50)), w.SaveSnapshot(metaAt(9, 1)), w.Release(5), w.Close(),
			} {
				if again == nil || (again != first && !errors.Is(again, ErrClosed)) {
					t.Errorf("a later call returned %v, want the first error", again)
				}
			}
			wantEqual(t, "files", takeImage(t, cfg.Dir), before)
			_, rec := mustOpen(t, cfg)
			wantEqual(t, "entries", rec.Entries, entriesOf(1, 2, 9, 50))
		})
	}
}

// limitFileSize makes writes and allocations beyond n bytes of any file fail
// until the test ends or the returned function is called.
func limitFileSize(t *testing.T, n uint64) (lift func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
		t.Skipf("no limit of file sizes: %v", err)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: old.Max}); err != nil {
		t.Skipf("no limit of file sizes: %v", err)
	}
	lift = func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &old); err != nil {
			t.Errorf("lift the limit of file sizes: %v", err)
		}
		signal.Reset(syscall.SIGXFSZ)
	}
	t.Cleanup(lift)
	return lift
}

// fill appends until the next batch may end the segment, and returns the last
// raft index.
func fill(t *testing.T, w *WAL, last uint64) uint64 {
	t.Helper()
	for w.used+600 < testSegmentBytes {
		last++
		mustAppend(t, w, state(1, 0, last-1), entriesOf(1, last, last, 100))
	}
	return last
}

// awaitSpare waits until the next segment is allocated.
func awaitSpare(t *testing.T, w *WAL) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		ready, err := w.spareReady()
		if err != nil {
			t.Fatal(err)
		}
		if ready {
			return
		}
		runtime.Gosched()
	}
	t.Fatal("the next segment was not allocated")
}

// TestLogOutlivesAFailedPreallocation keeps etcd's package from allocating the
// next segment, which it then never tries again by itself.
func TestLogOutlivesAFailedPreallocation(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
	w := mustCreate(t, cfg)
	last := uint64(1)
	for range 5 {
		awaitSpare(t, w)
		var inTheWay []string
		for _, name := range []string{"0.tmp", "1.tmp"} {
			path := filepath.Join(cfg.Dir, name)
			if err := errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "x"), 0o700)); err != nil {
				t.Fatal(err)
			}
			inTheWay = append(inTheWay, path)
		}
		if err := w.reopen(); err != nil {
			t.Fatalf("reopen() = %v", err)
		}
		before := w.segment
		last = fill(t, w, last)
		for _, path := range inTheWay {
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
		}
		for w.segment == before {
			last++
			mustAppend(t, w, state(1, 0, last-1), entriesOf(1, last, last, 100))
		}
	}
	w.Abandon()
	if _, rec := mustOpen(t, cfg); rec.LastRaftIndex != last || uint64(len(rec.Entries)) != last-1 {
		t.Errorf("Open() found %d entries up to %d, want up to %d", len(rec.Entries), rec.LastRaftIndex, last)
	}
}

func TestShortWriteIsFinalAndCutAtTheNextStart(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
	w := mustCreate(t, cfg)
	mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 9, 50))
	r, err := Inspect(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	lift := limitFileSize(t, uint64(r.Segments[0].UsedBytes)+100)
	err = w.Append(raftpb.HardState{}, entriesOf(1, 10, 12, 50))
	lift()
	if !errors.Is(err, ErrIO) || !errors.Is(err, syscall.EFBIG) {
		t.Fatalf("Append() = %v, want ErrIO with EFBIG", err)
	}
	w.Abandon()
	_, rec := mustOpen(t, cfg)
	wantEqual(t, "entries", rec.Entries, entriesOf(1, 2, 9, 50))
	if rec.Repaired == nil {
		t.Errorf("Open() repaired nothing, want the half-written batch cut off")
	}
}

// TestReopenAtTheEndOfASegment takes the spare away before every switch, so
// that the log is opened again each time.
func TestReopenAtTheEndOfASegment(t *testing.T) {
	for _, tt := range []struct {
		name string
		more func(*testing.T, *WAL, uint64) uint64
	}{
		{"entries", func(t *testing.T, w *WAL, last uint64) uint64 {
			mustAppend(t, w, state(w.state.Term, 0, last), entriesOf(w.state.Term, last+1, last+1, 60))
			return last + 1
		}},
		{"votes", func(t *testing.T, w *WAL, last uint64) uint64 {
			mustAppend(t, w, state(w.state.Term+1, 0, last), nil)
			return last
		}},
		{"votes behind a received snapshot", func(t *testing.T, w *WAL, last uint64) uint64 {
			if last == 2 {
				last = 40
				if err := w.SaveSnapshot(metaAt(last, w.state.Term)); err != nil {
					t.Fatalf("SaveSnapshot() = %v", err)
				}
			}
			mustAppend(t, w, state(w.state.Term+1, 0, last), nil)
			return last
		}},
		{"own snapshots", func(t *testing.T, w *WAL, last uint64) uint64 {
			mustAppend(t, w, state(w.state.Term, 0, last), entriesOf(w.state.Term, last+1, last+1, 60))
			if err := w.SaveSnapshot(metaAt(last+1, w.state.Term)); err != nil {
				t.Fatalf("SaveSnapshot() = %v", err)
			}
			return last + 1
		}},
		{"received snapshots", func(t *testing.T, w *WAL, last uint64) uint64 {
			if err := w.SaveSnapshot(metaAt(last+10, w.state.Term)); err != nil {
				t.Fatalf("SaveSnapshot() = %v", err)
			}
			mustAppend(t, w, state(w.state.Term+1, 0, last+10), nil)
			return last + 10
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
			w := mustCreate(t, cfg)
			mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 2, 10))
			if err := w.SaveSnapshot(metaAt(2, 1)); err != nil {
				t.Fatal(err)
			}
			last, segments := uint64(2), 0
			for segments < 4 {
				if w.used > testSegmentBytes-300 {
					for _, name := range []string{"0.tmp", "1.tmp"} {
						if err := fsx.RemoveIfExists(fsx.OS{}, filepath.Join(cfg.Dir, name)); err != nil {
							t.Fatal(err)
						}
					}
				}
				before, lastBefore := w.segment, last
				last = tt.more(t, w, last)
				if w.segment != before {
					segments++
					if n, _ := parseSegmentName(w.segment); n.index != last+1 && n.index != lastBefore+1 {
						t.Errorf("segment %s begins with raft index %d, want %d", w.segment, n.index, last+1)
					}
				}
			}
			term := w.state.Term
			w.Abandon()
			_, rec := mustOpen(t, cfg)
			if rec.LastRaftIndex != last || rec.HardState.Term != term || rec.Snapshot.Index+uint64(len(rec.Entries)) != last {
				t.Errorf("Open() = end %d, term %d, snapshot %d, %d entries; want end %d, term %d",
					rec.LastRaftIndex, rec.HardState.Term, rec.Snapshot.Index, len(rec.Entries), last, term)
			}
		})
	}
}

// TestStartFailsAtEveryStep makes each operation of a start fail in turn, on a
// log whose copy serves and on one that has to be cut: the error is final, and
// the next start is as good as the first.
func TestStartFailsAtEveryStep(t *testing.T) {
	h := makeHistory(t, 12)
	last, before := h.ends[len(h.ends)-1], h.ends[len(h.ends)-2]
	torn := h.im.clone()
	clear(torn[last.segment][last.end-16 : last.end])
	for _, tt := range []struct {
		name string
		im   image
		want Recovered
	}{
		{"whole", h.im, last.rec},
		{"torn", torn, before.rec},
	} {
		for _, cause := range []error{syscall.EIO, syscall.ENOSPC, fsxtest.ErrShort} {
			t.Run(fmt.Sprintf("%s, %v", tt.name, cause), func(t *testing.T) {
				eachOperation(t, cause, func(fsys fsx.FS, failing operation) {
					dir := filepath.Join(tempDir(t), "wal")
					tt.im.put(t, dir)
					w, _, err := Open(Config{Dir: dir, FS: fsys}, newest)
					if err == nil {
						w.Abandon()
					} else if !errors.Is(err, ErrIO) {
						t.Fatalf("Open() with %v failing = %v, want ErrIO", failing, err)
					}
					w, rec := mustOpen(t, Config{Dir: dir})
					w.Abandon()
					if rec.LastRaftIndex != tt.want.LastRaftIndex || rec.HardState != tt.want.HardState {
						t.Errorf("after %v failed: end %d, %v; want end %d, %v", failing, rec.LastRaftIndex, rec.HardState,
							tt.want.LastRaftIndex, tt.want.HardState)
					}
				})
			})
		}
	}
}

func TestFullDiskRewritesInPlace(t *testing.T) {
	h := makeHistory(t, 12)
	dir := filepath.Join(tempDir(t), "wal")
	h.im.put(t, dir)
	synced := map[string]int{}
	cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
		if op == fsxtest.OpSync {
			synced[name]++
		}
		if op == fsxtest.OpWrite && strings.HasSuffix(name, fsx.TempSuffix) {
			return syscall.ENOSPC
		}
		return nil
	}}}
	_, rec := mustOpen(t, cfg)
	if want := h.ends[len(h.ends)-1].rec.LastRaftIndex; rec.LastRaftIndex != want {
		t.Errorf("last raft index = %d, want %d", rec.LastRaftIndex, want)
	}
	if name := filepath.Join(dir, h.im.newest()); synced[name] != 1 {
		t.Errorf("syncs of %s = %d, want 1", name, synced[name])
	}
}

// TestNewestSegmentIsNotTrustedAfterACrash checks that the file which is read
// after an unclean stop is a new one, synced before it got its name.
func TestNewestSegmentIsNotTrustedAfterACrash(t *testing.T) {
	for _, clean := range []bool{false, true} {
		cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
		w := mustCreate(t, cfg)
		mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 9, 50))
		path := w.path()
		if clean {
			mustClose(t, w)
		} else {
			w.Abandon()
		}
		before, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		var steps []string
		cfg.FS = &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
			if strings.HasPrefix(name, path) && op != fsxtest.OpRead && op != fsxtest.OpOpen || op == fsxtest.OpSyncDir {
				steps = append(steps, op)
			}
			return nil
		}}
		mustOpen(t, cfg)
		after, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if os.SameFile(before, after) != clean {
			t.Errorf("clean stop %v: the same file is read = %v", clean, !clean)
		}
		if want := []string{"create", "write", "truncate", "sync", "rename", "syncdir"}; !clean {
			wantEqual(t, "steps of the copy", steps, want)
		}
	}
}

func TestLeftoversAreNotUsedAgain(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	w := mustCreate(t, Config{Dir: dir})
	w.Abandon()
	im := takeImage(t, dir)
	for _, name := range []string{"0.tmp", "1.tmp"} {
		im[name] = bytes.Repeat([]byte{0xff}, testSegmentBytes)
	}
	im.put(t, dir)
	w, _ = mustOpen(t, Config{Dir: dir})
	last := uint64(1)
	for first := w.segment; w.segment == first; last++ {
		mustAppend(t, w, state(1, 0, last), entriesOf(1, last+1, last+1, 100))
	}
	if r, err := Inspect(dir); err != nil || r.Verdict != Clean {
		t.Errorf("Inspect() after a switch = %+v, %v, want clean", r, err)
	}
}

func TestPanicOfTheLibraryIsAnError(t *testing.T) {
	for _, v := range []any{errors.New("boom"), "boom"} {
		if err := guard(func() error { panic(v) }); err == nil || !strings.Contains(err.Error(), "boom") {
			t.Errorf("guard() with panic(%v) = %v, want an error", v, err)
		}
	}
}
