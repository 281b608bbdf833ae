package wal

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
	etcdwalpb "go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// MaxWALsDefault is how many segments are kept that nothing needs any more.
const MaxWALsDefault = 5

// Identity says whose log it is. It stands in every segment.
type Identity struct {
	ClusterID, MemberID uint64
	// Incarnation is the random number that was made with the data directory.
	Incarnation [16]byte
}

// Config says where the log is and how it is kept.
type Config struct {
	Dir string // required: the directory of the log
	// MaxWALs is how many whole segments are kept that no snapshot needs, for
	// the operator; 0: 5, negative: none.
	MaxWALs int
	Log     *slog.Logger // nil: discard
	FS      fsx.FS       // for the files this package opens itself; nil: the operating system
	// ObserveFsync is told how long each batch took from its first byte to the
	// return of its fsync. It is called on the goroutine of the append; nil:
	// nobody is told.
	ObserveFsync func(time.Duration)
}

func (c *Config) fill() error {
	if c.Dir == "" {
		return errors.New("wal: no directory was given")
	}
	c.Dir = filepath.Clean(c.Dir)
	if c.MaxWALs == 0 {
		c.MaxWALs = MaxWALsDefault
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.FS == nil {
		c.FS = fsx.OS{}
	}
	return nil
}

// WAL is an open log. Append, SaveSnapshot and Close are called by one
// goroutine, Release and Abandon by any.
type WAL struct {
	cfg  Config
	zap  *zap.Logger
	lock *lock

	mu  sync.Mutex // guards what follows; held through each fsync
	log *etcdwal.WAL
	// state is the newest known. Term and vote are written; the commit index
	// may be ahead of what is.
	state raftpb.HardState
	// savedCommit is a commit index that is known to be durable.
	savedCommit uint64
	// last is the raft index of the last entry, or of a snapshot above it.
	last uint64
	// snapshot is the newest that is recorded; zero if there is none.
	snapshot raftpb.SnapshotMetadata
	// segment is the file that is written, and used at least as many bytes as
	// are in it. Up to prewritten it needs no new blocks.
	segment    string
	used       int64
	prewritten int64
	err        error // the first error; final
}

// Append makes entries and the hard state durable with one fsync. An empty
// hard state means unchanged; one that differs in its commit index alone is
// remembered, and written with the next batch. Of entries with the same raft
// index the last counts. Entries must follow on the log and may not replace
// committed ones. Any error is final.
func (w *WAL) Append(hs raftpb.HardState, entries []raftpb.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if raft.IsEmptyHardState(hs) {
		hs = w.state
	}
	hs.Commit = max(hs.Commit, w.state.Commit)
	entries = survivors(entries)
	if err := w.check(hs, entries); err != nil {
		return w.fail(err)
	}
	if len(entries) == 0 && hs.Term == w.state.Term && hs.Vote == w.state.Vote {
		w.state.Commit = hs.Commit
		return nil
	}
	last := w.last
	if n := len(entries); n > 0 {
		last = entries[n-1].Index
	}
	written := hs
	written.Commit = min(hs.Commit, last)
	size := recordSizeMax(written.Size())
	for i := range entries {
		size += recordSizeMax(entries[i].Size())
	}
	size, err := w.batch("append to", size, func() error { return w.log.Save(written, entries) })
	if err != nil {
		return err
	}
	w.state, w.last, w.savedCommit = hs, last, written.Commit
	return w.follow(size)
}

// survivors leaves out entries that later ones in the same batch replace.
func survivors(entries []raftpb.Entry) []raftpb.Entry {
	for i := 1; i < len(entries); i++ {
		if entries[i].Index == entries[i-1].Index+1 {
			continue
		}
		kept := append([]raftpb.Entry(nil), entries[:i]...)
		for _, e := range entries[i:] {
			for len(kept) > 0 && kept[len(kept)-1].Index >= e.Index {
				kept = kept[:len(kept)-1]
			}
			kept = append(kept, e)
		}
		return kept
	}
	return entries
}

// check holds a batch against what a reader will accept, so that nothing is
// written that could not be read back.
func (w *WAL) check(hs raftpb.HardState, entries []raftpb.Entry) error {
	switch {
	case hs.Term < w.state.Term:
		return fmt.Errorf("wal: append to %s: the term falls from %d to %d", w.path(), w.state.Term, hs.Term)
	case hs.Term == w.state.Term && w.state.Vote != 0 && hs.Vote != w.state.Vote:
		return fmt.Errorf("wal: append to %s: the vote of term %d changes from %x to %x", w.path(), hs.Term, w.state.Vote, hs.Vote)
	case len(entries) > 0 && raft.IsEmptyHardState(hs):
		return fmt.Errorf("wal: append to %s: entries without a hard state", w.path())
	}
	next, term := w.last+1, uint64(1)
	for i := range entries {
		e := &entries[i]
		if i == 0 {
			next = min(next, e.Index)
		}
		if e.Index != next || e.Index <= min(w.state.Commit, w.last) || e.Term < term || e.Term > hs.Term {
			return fmt.Errorf("wal: append to %s: entry %d of term %d does not fit behind raft index %d, commit %d, term %d",
				w.path(), e.Index, e.Term, w.last, w.state.Commit, hs.Term)
		}
		next, term = e.Index+1, e.Term
	}
	return nil
}

// SaveSnapshot records durably that a verified snapshot file exists. A snapshot
// above the end of the log replaces all of it. Any error is final.
func (w *WAL) SaveSnapshot(meta raftpb.SnapshotMetadata) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if meta.Index == 0 || meta.Term == 0 {
		return w.fail(fmt.Errorf("wal: record a snapshot in %s: raft index %d and term %d must be above 0", w.path(), meta.Index, meta.Term))
	}
	record := etcdSnapshot(meta)
	size, err := w.batch("record a snapshot in", recordSizeMax(record.Size()), func() error { return w.log.SaveSnapshot(record) })
	if err != nil {
		return err
	}
	w.last = max(w.last, meta.Index)
	w.state.Commit = max(w.state.Commit, meta.Index)
	if meta.Index >= w.snapshot.Index {
		w.snapshot = meta
	}
	return w.follow(size)
}

// SaveCommit makes durable that the log is committed up to raftIndex, of which
// Append may not have been told, or which it has only remembered. Nothing is
// written if it is durable. Any error is final.
func (w *WAL) SaveCommit(raftIndex uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if raftIndex > w.last {
		return w.fail(fmt.Errorf("wal: record the commit index in %s: it ends at raft index %d, before %d", w.path(), w.last, raftIndex))
	}
	w.state.Commit = max(w.state.Commit, raftIndex)
	commit := w.begin().Commit
	if commit <= w.savedCommit {
		return nil
	}
	size, err := w.batch("record the commit index in", 0, w.log.Sync)
	if err != nil {
		return err
	}
	w.savedCommit = commit
	return w.follow(size)
}

func etcdSnapshot(meta raftpb.SnapshotMetadata) etcdwalpb.Snapshot {
	s := etcdwalpb.Snapshot{Index: meta.Index, Term: meta.Term}
	if meta.Index > 0 {
		s.ConfState = &meta.ConfState
	}
	return s
}

// batch writes the state that begins a batch and what save writes behind it,
// and syncs both. It is told how many bytes save writes at most, and returns how
// many all of it takes at most.
func (w *WAL) batch(doing string, bytes int64, save func() error) (size int64, err error) {
	begin := w.begin()
	size = bytes + recordSizeMax(begin.Size())
	if err := w.makeRoom(size); err != nil {
		return size, w.fail(err)
	}
	w.prewrite(size)
	start := time.Now()
	err = guard(func() error {
		if err := w.log.Save(begin, nil); err != nil {
			return err
		}
		return save()
	})
	if err != nil {
		return size, w.fail(ioError(doing, w.path(), err))
	}
	w.used += size
	if w.cfg.ObserveFsync != nil {
		w.cfg.ObserveFsync(time.Since(start))
	}
	return size, nil
}

// begin is the state that begins a batch: what is durable, with the newest
// commit index. It may not name an entry that the log does not hold yet.
func (w *WAL) begin() raftpb.HardState {
	hs := w.state
	hs.Commit = min(hs.Commit, w.last)
	if hs.Term == 0 {
		return raftpb.HardState{} // a log that began empty and has seen no term
	}
	return hs
}

// Release tells that no snapshot needs the entries up to raftIndex any more.
// Segments with nothing above it are removed, but for the newest few of them
// that the Config keeps. Any error is final.
func (w *WAL) Release(raftIndex uint64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	if err := guard(func() error { return w.log.ReleaseLockTo(raftIndex) }); err != nil {
		return w.fail(ioError("release segments of", w.cfg.Dir, err))
	}
	segments, err := listSegments(w.cfg.FS, w.cfg.Dir)
	if err != nil {
		return w.fail(err)
	}
	needed := len(segments) - 1
	for i, s := range segments {
		if s.index >= raftIndex {
			needed = i - 1
			break
		}
	}
	for _, s := range segments[:max(needed-max(w.cfg.MaxWALs, 0), 0)] {
		path := filepath.Join(w.cfg.Dir, s.String())
		if err := w.cfg.FS.Remove(path); err != nil {
			return w.fail(ioError("remove", path, err))
		}
		// One sync for each: names that go in another order would leave a gap.
		if err := w.cfg.FS.SyncDir(w.cfg.Dir); err != nil {
			return w.fail(ioError("sync directory", w.cfg.Dir, err))
		}
		w.cfg.Log.Debug("log segment removed", "file", path)
	}
	return nil
}

// Close stops cleanly: everything is synced, the marker that nothing can be
// torn is written, and the locks are released. After a failed call there is no
// clean stop: Close releases the locks and returns that call's error. A second
// call, or one after Abandon, returns [ErrClosed].
func (w *WAL) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		err := w.err
		w.abandon()
		return err
	}
	err := guard(func() error {
		if err := w.log.Save(w.begin(), nil); err != nil {
			return err
		}
		return w.log.Close()
	})
	if err != nil {
		err = ioError("close", w.path(), err)
		w.err = err
		w.abandon()
		return err
	}
	w.log = nil
	err = writeMarker(w.cfg.FS, w.cfg.Dir)
	w.err = fmt.Errorf("wal: %s: %w", w.cfg.Dir, ErrClosed)
	return errors.Join(err, w.lock.release())
}

// Abandon releases files and locks as a crash would: nothing is synced and no
// marker is written. It is for a process that stops because something failed,
// and for tests. It may be called more than once.
func (w *WAL) Abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abandon()
}

func (w *WAL) abandon() {
	if w.log != nil {
		log := w.log
		w.log = nil
		log.SetUnsafeNoFsync()
		if err := guard(log.Close); err != nil {
			w.cfg.Log.Debug("abandoned log did not close", "directory", w.cfg.Dir, "error", err)
		}
	}
	if err := w.lock.release(); err != nil {
		w.cfg.Log.Debug("lock of an abandoned log was not released", "directory", w.cfg.Dir, "error", err)
	}
	w.err = fmt.Errorf("wal: %s: %w", w.cfg.Dir, ErrClosed)
}

// fail makes the first error final.
func (w *WAL) fail(err error) error {
	if w.err == nil {
		w.err = err
	}
	return w.err
}

func (w *WAL) path() string { return filepath.Join(w.cfg.Dir, w.segment) }

// guard turns a panic of etcd's package, or a fatal call to its logger, into
// an error.
func guard(call func() error) (err error) {
	defer func() {
		switch v := recover().(type) {
		case nil:
		case error:
			err = fmt.Errorf("panic: %w", v)
		default:
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	return call()
}
