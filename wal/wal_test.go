package wal

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

func TestLogReturnsWhatWasAppended(t *testing.T) {
	for _, stop := range []struct {
		name string
		do   func(*testing.T, *WAL)
	}{
		{"after a clean stop", func(t *testing.T, w *WAL) { mustClose(t, w) }},
		{"after a crash", func(_ *testing.T, w *WAL) { w.Abandon() }},
	} {
		t.Run(stop.name, func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(tempDir(t), "data", "wal")}
			w := mustCreate(t, cfg)
			var want []raftpb.Entry
			last := uint64(1)
			for i := range uint64(60) {
				e := entriesOf(2, last+1, last+1+i%3, 100)
				mustAppend(t, w, state(2, 7, last), e)
				want, last = append(want, e...), e[len(e)-1].Index
			}
			stop.do(t, w)
			for range 3 { // each start must leave a log that starts
				var rec Recovered
				w, rec = mustOpen(t, cfg)
				wantEqual(t, "identity", rec.Identity, testIdentity)
				wantEqual(t, "snapshot", rec.Snapshot, metaAt(1, 1))
				wantEqual(t, "entries", rec.Entries, want)
				if rec.HardState.Term != 2 || rec.HardState.Vote != 7 || rec.HardState.Commit < 117 || rec.Repaired != nil {
					t.Errorf("Open() recovered %v, repaired %v", rec.HardState, rec.Repaired)
				}
				e := entriesOf(2, last+1, last+1, 100)
				mustAppend(t, w, raftpb.HardState{}, e)
				want, last = append(want, e...), last+1
				stop.do(t, w)
			}
		})
	}
}

func TestCreateIsAllOrNothing(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	eachOperation(t, syscall.EIO, func(fsys fsx.FS, failing operation) {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		w, err := Create(Config{Dir: dir, FS: fsys}, testIdentity, metaAt(1, 1), state(1, 0, 1))
		if err == nil {
			w.Abandon()
		}
		found, existsErr := Exists(dir)
		if existsErr != nil {
			t.Fatalf("Exists() = %v", existsErr)
		}
		if !found {
			if err == nil {
				t.Errorf("Create() with %v failing = nil, and there is no log", failing)
			}
			return
		}
		w, rec := mustOpen(t, Config{Dir: dir})
		w.Abandon()
		wantEqual(t, "snapshot", rec.Snapshot, metaAt(1, 1))
		wantEqual(t, "hard state", rec.HardState, state(1, 0, 1))
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	mustCreate(t, Config{Dir: dir}).Abandon()
	if _, err := Create(Config{Dir: dir}, testIdentity, metaAt(1, 1), state(1, 0, 1)); !errors.Is(err, ErrExists) {
		t.Errorf("Create() over a log = %v, want ErrExists", err)
	}
}

// TestUnreadableDirectoryIsNotAMissingLog is row D8 for the directory itself: a
// log that cannot be listed is there, as far as anybody knows.
func TestUnreadableDirectoryIsNotAMissingLog(t *testing.T) {
	for _, cause := range []error{syscall.EIO, syscall.EACCES, syscall.EMFILE, syscall.ENOTDIR} {
		t.Run(cause.Error(), func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
			mustCreate(t, cfg).Abandon()
			before := takeImage(t, cfg.Dir)
			cfg.FS = &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, _ string) error {
				if op == fsxtest.OpList {
					return cause
				}
				return nil
			}}
			for doing, call := range map[string]func() error{
				"exists()":  func() error { _, err := exists(cfg.FS, cfg.Dir); return err },
				"Open()":    func() error { _, _, err := Open(cfg, newest); return err },
				"Create()":  func() error { _, err := Create(cfg, testIdentity, metaAt(1, 1), state(1, 0, 1)); return err },
				"inspect()": func() error { _, err := inspect(cfg.FS, cfg.Dir, false); return err },
				"salvage()": func() error { _, err := salvage(cfg.FS, cfg.Dir, nil); return err },
			} {
				if err := call(); !errors.Is(err, ErrIO) || !errors.Is(err, cause) {
					t.Errorf("%s of a directory that cannot be listed = %v, want ErrIO and %v", doing, err, cause)
				}
			}
			wantEqual(t, "files", takeImage(t, cfg.Dir), before)
		})
	}
}

func TestHalfCreatedLogDoesNotExist(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	image{segmentName{}.String(): []byte("half")}.put(t, dir+stagingSuffix)
	if found, err := Exists(dir); found || err != nil {
		t.Errorf("Exists() of a log that is being created = %v, %v, want false", found, err)
	}
	if _, _, err := Open(Config{Dir: dir}, newest); !errors.Is(err, ErrNotFound) {
		t.Errorf("Open() = %v, want ErrNotFound", err)
	}
	mustCreate(t, Config{Dir: dir})
}

func TestJoiningMemberBeginsWithAnEmptyLog(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
	w, err := Create(cfg, testIdentity, raftpb.SnapshotMetadata{}, raftpb.HardState{})
	if err != nil {
		t.Fatalf("Create() = %v", err)
	}
	w.Abandon()
	w, rec := mustOpen(t, cfg)
	wantEqual(t, "hard state", rec.HardState, raftpb.HardState{})
	mustAppend(t, w, state(3, 0, 0), entriesOf(2, 1, 4, 10))
	if err := w.SaveSnapshot(metaAt(100, 3)); err != nil {
		t.Fatalf("SaveSnapshot() = %v", err)
	}
	mustAppend(t, w, state(3, 0, 100), entriesOf(3, 101, 102, 10))
	w.Abandon()
	_, rec = mustOpen(t, cfg)
	wantEqual(t, "snapshots", rec.Snapshots, []raftpb.SnapshotMetadata{metaAt(100, 3)})
	wantEqual(t, "entries", rec.Entries, entriesOf(3, 101, 102, 10))
}

func TestReceivedSnapshotReplacesTheLog(t *testing.T) {
	for _, tt := range []struct {
		name  string
		at    uint64
		after []raftpb.Entry
	}{
		{"above the end", 50, nil},
		{"above the end, entries follow", 50, entriesOf(6, 51, 53, 10)},
		{"against uncommitted entries", 4, nil},
		{"against uncommitted entries, entries follow", 4, entriesOf(6, 5, 5, 10)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
			w := mustCreate(t, cfg)
			mustAppend(t, w, state(5, 1, 2), entriesOf(5, 2, 9, 10))
			if err := w.SaveSnapshot(metaAt(tt.at, 3)); err != nil { // an older term than the entries have
				t.Fatalf("SaveSnapshot() = %v", err)
			}
			mustAppend(t, w, state(6, 0, tt.at), tt.after)
			w.Abandon()
			_, rec := mustOpen(t, cfg)
			wantEqual(t, "snapshot", rec.Snapshot, metaAt(tt.at, 3))
			if len(rec.Entries) != len(tt.after) {
				t.Errorf("Open() returned entries %v, want %v", rec.Entries, tt.after)
			}
			if len(rec.Snapshots) != 1 {
				t.Errorf("snapshots to go on from = %v, want the received one", rec.Snapshots)
			}
		})
	}
}

func TestSnapshotRecordedBeforeItsHardStateCounts(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
	w := mustCreate(t, cfg)
	mustAppend(t, w, state(2, 9, 1), entriesOf(2, 2, 3, 10))
	if err := w.SaveSnapshot(metaAt(80, 4)); err != nil {
		t.Fatalf("SaveSnapshot() = %v", err)
	}
	w.Abandon()
	_, rec := mustOpen(t, cfg)
	wantEqual(t, "snapshot", rec.Snapshot, metaAt(80, 4))
	wantEqual(t, "hard state", rec.HardState, state(4, 0, 80))
}

func TestCommitAloneIsNotWritten(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	syncs := 0
	w := mustCreate(t, Config{Dir: dir, ObserveFsync: func(time.Duration) { syncs++ }})
	mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 4, 10))
	before, syncsBefore := takeImage(t, dir), syncs
	for commit := uint64(2); commit <= 4; commit++ {
		mustAppend(t, w, state(1, 0, commit), nil)
		mustAppend(t, w, raftpb.HardState{}, nil)
	}
	wantEqual(t, "files after commits alone", takeImage(t, dir), before)
	if syncs != syncsBefore {
		t.Errorf("syncs of commits alone = %d, want 0", syncs-syncsBefore)
	}
	mustAppend(t, w, raftpb.HardState{}, entriesOf(1, 5, 5, 10))
	if syncs != syncsBefore+1 {
		t.Errorf("syncs of one batch = %d, want 1", syncs-syncsBefore)
	}
	w.Abandon()
	if _, rec := mustOpen(t, Config{Dir: dir}); rec.HardState.Commit != 4 {
		t.Errorf("commit index behind the next batch = %d, want 4", rec.HardState.Commit)
	}
}

func TestReplacedEntriesInOneBatchAreLeftOut(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
	w := mustCreate(t, cfg)
	mustAppend(t, w, state(2, 0, 1), entriesOf(2, 2, 6, 10))
	group := append(entriesOf(2, 7, 9, 10), entriesOf(3, 4, 5, 10)...)
	mustAppend(t, w, state(3, 0, 1), append(group, entriesOf(3, 6, 6, 10)...))
	w.Abandon()
	_, rec := mustOpen(t, cfg)
	wantEqual(t, "entries", rec.Entries, append(entriesOf(2, 2, 3, 10), entriesOf(3, 4, 6, 10)...))
}

func TestAppendRefusesWhatCouldNotBeRead(t *testing.T) {
	for _, tt := range []struct {
		name    string
		hs      raftpb.HardState
		entries []raftpb.Entry
	}{
		{"gap", state(2, 0, 3), entriesOf(2, 6, 6, 1)},
		{"gap inside", state(2, 0, 3), append(entriesOf(2, 5, 5, 1), entriesOf(2, 7, 7, 1)...)},
		{"committed entry replaced", state(3, 0, 3), entriesOf(3, 3, 4, 1)},
		{"term falls", state(1, 0, 3), nil},
		{"vote changes", state(2, 8, 3), nil},
		{"entry above the term", state(2, 7, 3), entriesOf(3, 5, 5, 1)},
		{"entry without term", state(2, 7, 3), entriesOf(0, 5, 5, 1)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := filepath.Join(tempDir(t), "wal")
			w := mustCreate(t, Config{Dir: dir})
			mustAppend(t, w, state(2, 7, 3), entriesOf(2, 2, 4, 10))
			before := takeImage(t, dir)
			err := w.Append(tt.hs, tt.entries)
			if err == nil {
				t.Fatalf("Append(%v, %v) = nil, want an error", tt.hs, tt.entries)
			}
			if again := w.Append(raftpb.HardState{}, entriesOf(2, 5, 5, 1)); again != err {
				t.Errorf("Append() after it = %v, want the same error", again)
			}
			if err := w.Close(); err == nil {
				t.Errorf("Close() after it = nil, want the error")
			}
			wantEqual(t, "files", takeImage(t, dir), before)
		})
	}
}

func TestSecondOpenIsLockedOut(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
	w := mustCreate(t, cfg)
	before := takeImage(t, cfg.Dir)
	for _, open := range []func() error{
		func() error { _, _, err := Open(cfg, newest); return err },
		func() error { _, err := Create(cfg, testIdentity, metaAt(1, 1), state(1, 0, 1)); return err },
	} {
		err := open()
		var locked *LockedError
		if !errors.Is(err, ErrLocked) || !errors.As(err, &locked) || locked.PID != os.Getpid() {
			t.Errorf("opening a log in use = %v, want ErrLocked with this process", err)
		}
	}
	wantEqual(t, "files", takeImage(t, cfg.Dir), before)
	mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 2, 10))
	mustClose(t, w)
	if err := w.Append(raftpb.HardState{}, entriesOf(1, 3, 3, 10)); !errors.Is(err, ErrClosed) {
		t.Errorf("Append() after Close() = %v, want ErrClosed", err)
	}
	if err := w.Close(); !errors.Is(err, ErrClosed) {
		t.Errorf("second Close() = %v, want ErrClosed", err)
	}
}

func TestReleaseKeepsWhatIsNeeded(t *testing.T) {
	for _, tt := range []struct {
		name    string
		maxWALs int
		extra   int
	}{{"none extra", -1, 0}, {"two extra", 2, 2}, {"default", 0, MaxWALsDefault}} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := Config{Dir: filepath.Join(tempDir(t), "wal"), MaxWALs: tt.maxWALs}
			w := mustCreate(t, cfg)
			var last uint64 = 1
			for range 250 {
				mustAppend(t, w, state(1, 0, last), entriesOf(1, last+1, last+1, 150))
				last++
			}
			if err := w.SaveSnapshot(metaAt(150, 1)); err != nil {
				t.Fatalf("SaveSnapshot() = %v", err)
			}
			all := takeImage(t, cfg.Dir).segments()
			if err := w.Release(150); err != nil {
				t.Fatalf("Release() = %v", err)
			}
			left := takeImage(t, cfg.Dir).segments()
			needed := 0
			for _, name := range all {
				if n, _ := parseSegmentName(name); n.index >= 150 {
					needed++
				}
			}
			needed++ // the one that entry 150 is in
			if len(all) < needed+MaxWALsDefault+1 || len(left) != needed+tt.extra {
				t.Errorf("segments left = %d of %d, want %d needed and %d extra", len(left), len(all), needed, tt.extra)
			}
			mustAppend(t, w, raftpb.HardState{}, entriesOf(1, last+1, last+1, 10))
			w.Abandon()
			_, rec := mustOpen(t, cfg)
			if rec.Snapshot.Index != 150 || uint64(len(rec.Entries)) != last+1-150 {
				t.Errorf("Open() after Release = snapshot %d and %d entries, want 150 and %d", rec.Snapshot.Index, len(rec.Entries), last+1-150)
			}
		})
	}
}

func TestReleaseRunsBesideAppend(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal"), MaxWALs: -1}
	w := mustCreate(t, cfg)
	done := make(chan error, 1)
	released := make(chan uint64, 300)
	go func() {
		for index := range released {
			if err := w.Release(index); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	for i := uint64(2); i < 300; i++ {
		mustAppend(t, w, state(1, 0, i-1), entriesOf(1, i, i, 200))
		if i%20 == 0 {
			if err := w.SaveSnapshot(metaAt(i-10, 1)); err != nil {
				t.Fatal(err)
			}
			released <- i - 10
		}
	}
	close(released)
	if err := <-done; err != nil {
		t.Fatalf("Release() = %v", err)
	}
	w.Abandon()
	if _, rec := mustOpen(t, cfg); rec.LastRaftIndex != 299 {
		t.Errorf("last raft index = %d, want 299", rec.LastRaftIndex)
	}
}

func TestOpenAfterFallbackReadsFromTheOlderSnapshot(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "wal")}
	w := mustCreate(t, cfg)
	mustAppend(t, w, state(1, 0, 20), entriesOf(1, 2, 30, 10))
	for _, at := range []uint64{10, 20} {
		if err := w.SaveSnapshot(metaAt(at, 1)); err != nil {
			t.Fatal(err)
		}
	}
	w.Abandon()
	w, rec, err := Open(cfg, func(s []raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
		wantEqual(t, "snapshots", s, []raftpb.SnapshotMetadata{metaAt(1, 1), metaAt(10, 1), metaAt(20, 1)})
		return raftpb.SnapshotMetadata{Index: 10, Term: 1}, nil
	})
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	w.Abandon()
	wantEqual(t, "snapshot", rec.Snapshot, metaAt(10, 1))
	wantEqual(t, "entries", rec.Entries, entriesOf(1, 2, 30, 10)[9:])

	before := takeImage(t, cfg.Dir)
	none := errors.New("nothing verifies")
	if _, _, err := Open(cfg, func([]raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) { return metaAt(0, 0), none }); !errors.Is(err, none) {
		t.Errorf("Open() = %v, want the error of choose", err)
	}
	if _, _, err := Open(cfg, func([]raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) { return metaAt(15, 1), nil }); err == nil {
		t.Errorf("Open() with a snapshot that is not recorded = nil, want an error")
	}
	wantEqual(t, "files", takeImage(t, cfg.Dir), before)
}

func TestFilesArePrivateWhateverTheUmask(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	cfg := Config{Dir: filepath.Join(tempDir(t), "data", "wal")}
	w := mustCreate(t, cfg)
	mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 90, 100))
	mustAppend(t, w, state(1, 0, 1), entriesOf(1, 91, 91, 100))
	mustClose(t, w)
	err := filepath.WalkDir(filepath.Dir(cfg.Dir), func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		want := os.FileMode(fsx.FileMode)
		if d.IsDir() {
			want = fsx.DirMode
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("mode of %s = %v, want %v", path, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestErrorsAreOneSentence(t *testing.T) {
	for _, err := range []error{
		&DamageError{File: "/d/wal/x.wal", Offset: 7, RaftIndex: 3, Err: errors.New("bad")},
		&LockedError{Dir: "/d/wal", PID: 12},
		ioError("append to", "/d/wal/x.wal", syscall.EIO),
	} {
		if s := err.Error(); !strings.HasPrefix(s, "wal: ") || strings.Contains(s, "\n") || !strings.Contains(s, "/d/wal") {
			t.Errorf("Error() = %q, want one line that names the file", s)
		}
	}
}

func TestSaveCommitMakesTheCommitIndexDurable(t *testing.T) {
	for _, save := range []bool{false, true} {
		cfg := Config{Dir: filepath.Join(tempDir(t), "data", "wal")}
		w := mustCreate(t, cfg)
		mustAppend(t, w, state(2, 7, 1), entriesOf(2, 2, 5, 100))
		mustAppend(t, w, state(2, 7, 4), nil)
		if save {
			for range 2 { // the second time there is nothing to do
				// It knows more than the log has been told so far.
				if err := w.SaveCommit(5); err != nil {
					t.Fatal(err)
				}
			}
			mustAppend(t, w, state(2, 7, 4), nil) // that was on its way
		}
		w.Abandon()
		again, rec := mustOpen(t, cfg)
		if got := rec.HardState.Commit == 5; got != save {
			t.Errorf("commit index after a crash = %d with SaveCommit %v, want 5 only with it", rec.HardState.Commit, save)
		}
		again.Abandon()
	}
}

func TestSaveCommitRefusesWhatTheLogDoesNotHold(t *testing.T) {
	w := mustCreate(t, Config{Dir: filepath.Join(tempDir(t), "data", "wal")})
	mustAppend(t, w, state(2, 7, 1), entriesOf(2, 2, 5, 100))
	if err := w.SaveCommit(6); err == nil || !strings.Contains(err.Error(), "ends at raft index 5, before 6") {
		t.Errorf("SaveCommit(6) of a log up to 5 = %v, want a refusal", err)
	}
	if err := w.Append(state(2, 7, 5), nil); err == nil {
		t.Error("Append() after that = nil, want the first error: it is final")
	}
	w.Abandon()
}

func TestASnapshotReplacesAnEntryOfAnotherTerm(t *testing.T) {
	cfg := Config{Dir: filepath.Join(tempDir(t), "data", "wal")}
	w := mustCreate(t, cfg)
	mustAppend(t, w, state(2, 7, 5), entriesOf(2, 2, 9, 100)) // 6 to 9 are not committed
	if err := w.SaveSnapshot(raftpb.SnapshotMetadata{Index: 9, Term: 3, ConfState: metaAt(1, 1).ConfState}); err != nil {
		t.Fatal(err)
	}
	want := entriesOf(3, 10, 12, 100)
	mustAppend(t, w, state(3, 7, 9), want)
	w.Abandon()
	for range 2 {
		again, rec := mustOpen(t, cfg)
		wantEqual(t, "snapshot", rec.Snapshot.Index, uint64(9))
		wantEqual(t, "entries", rec.Entries, want)
		again.Abandon()
	}
}
