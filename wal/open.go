package wal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"go.etcd.io/etcd/client/pkg/v3/fileutil"
	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/zap"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/zaplog"
)

const stagingSuffix = ".new"

// Recovered is what [Open] found in the log.
type Recovered struct {
	Identity Identity
	// Snapshot is what was chosen to go on from.
	Snapshot raftpb.SnapshotMetadata
	// HardState has a commit index of at least that of the snapshot.
	HardState raftpb.HardState
	// Entries are those above the snapshot, without a gap.
	Entries []raftpb.Entry
	// Snapshots are all that the log could have gone on from, oldest first.
	Snapshots []raftpb.SnapshotMetadata
	// LastRaftIndex is the end of the log: of the last entry, or of the snapshot.
	LastRaftIndex uint64
	// Repaired tells what a crash had cut short; nil if nothing was.
	Repaired *Repair
}

// Exists reports whether dir holds a log. A log whose creation was cut short
// does not count. A directory that cannot be read is an [ErrIO]: whether it
// holds a log is not known.
func Exists(dir string) (bool, error) { return exists(fsx.OS{}, dir) }

func exists(fsys fsx.FS, dir string) (bool, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, ioError("list", dir, err)
	}
	return slices.ContainsFunc(names, func(name string) bool { return strings.HasSuffix(name, segmentSuffix) }), nil
}

// mustExist returns [ErrNotFound] for what was to be done with a log that does
// not exist.
func mustExist(fsys fsx.FS, dir, doing string) error {
	found, err := exists(fsys, dir)
	if err == nil && !found {
		err = fmt.Errorf("wal: %s %s: %w", doing, dir, ErrNotFound)
	}
	return err
}

// Create makes a log and opens it. Whatever happens on the way, there is
// either no log or one that begins with the snapshot record first and the hard
// state hs. A zero first, with an empty hs, is for a member that joins a
// cluster and knows nothing yet. The error is [ErrExists] if there is a log.
func Create(cfg Config, id Identity, first raftpb.SnapshotMetadata, hs raftpb.HardState) (*WAL, error) {
	if err := cfg.fill(); err != nil {
		return nil, err
	}
	if hs.Commit != first.Index || (first.Index == 0) != raft.IsEmptyHardState(hs) || hs.Term < first.Term {
		return nil, fmt.Errorf("wal: create %s: the hard state %v does not fit a snapshot at raft index %d", cfg.Dir, hs, first.Index)
	}
	if err := cfg.FS.MakeDir(filepath.Dir(cfg.Dir)); err != nil {
		return nil, ioError("make directory", filepath.Dir(cfg.Dir), err)
	}
	l, err := takeLock(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := create(cfg, id, first, hs); err != nil {
		return nil, errors.Join(err, l.release())
	}
	w, _, err := open(cfg, l, func([]raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) { return first, nil })
	return w, err
}

func create(cfg Config, id Identity, first raftpb.SnapshotMetadata, hs raftpb.HardState) error {
	found, err := exists(cfg.FS, cfg.Dir)
	if err != nil {
		return err
	}
	if found {
		return fmt.Errorf("wal: create %s: %w", cfg.Dir, ErrExists)
	}
	staging := cfg.Dir + stagingSuffix
	for _, dir := range []string{staging, staging + fsx.TempSuffix} {
		if err := os.RemoveAll(dir); err != nil {
			return ioError("remove", dir, err)
		}
	}
	metadata, err := encodeIdentity(id)
	if err != nil {
		return fmt.Errorf("wal: create %s: %w", cfg.Dir, err)
	}
	err = guard(func() error {
		log, err := etcdwal.Create(newZap(cfg.Log), staging, metadata)
		if err != nil {
			return err
		}
		if first.Index > 0 {
			err = log.SaveSnapshot(etcdSnapshot(first))
		}
		if err == nil {
			err = log.Save(hs, nil)
		}
		if err != nil {
			log.SetUnsafeNoFsync()
		}
		return errors.Join(err, log.Close())
	})
	if err == nil {
		err = os.Chmod(staging, fsx.DirMode)
	}
	if err == nil {
		err = publish(cfg, staging)
	}
	if err != nil {
		return errors.Join(ioError("create", cfg.Dir, err), os.RemoveAll(staging))
	}
	return nil
}

// publish gives a complete log its name. An empty directory may have the name.
func publish(cfg Config, staging string) error {
	if err := fsx.RemoveIfExists(cfg.FS, cfg.Dir); err != nil {
		return err
	}
	if err := cfg.FS.Rename(staging, cfg.Dir); err != nil {
		return err
	}
	return cfg.FS.SyncDir(filepath.Dir(cfg.Dir))
}

// Open opens a log. It inspects all of it, lets choose pick one of the
// snapshots that the log can go on from (oldest first; the zero value is the
// beginning of a log that began empty), cuts off a torn batch, and returns
// what is above the snapshot. The errors are [ErrNotFound], [ErrLocked],
// [DamageError], [ErrVersion], [ErrIO], and whatever choose returned; after
// all of them but ErrIO the files of the log are as they were.
func Open(cfg Config, choose func([]raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error)) (*WAL, Recovered, error) {
	if err := cfg.fill(); err != nil {
		return nil, Recovered{}, err
	}
	if err := mustExist(cfg.FS, cfg.Dir, "open"); err != nil {
		return nil, Recovered{}, err
	}
	l, err := takeLock(cfg.Dir)
	if err != nil {
		return nil, Recovered{}, err
	}
	return open(cfg, l, choose)
}

// open opens a log whose lock is held, and releases the lock if it fails.
func open(cfg Config, l *lock, choose func([]raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error)) (w *WAL, rec Recovered, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, l.release())
		}
	}()
	r, err := inspect(cfg.FS, cfg.Dir, true)
	if err != nil {
		return nil, rec, err
	}
	if r.Damage != nil {
		return nil, rec, r.Damage
	}
	defer func() { err = errors.Join(err, r.ahead.discard()) }() // nothing, once prepare has come to it
	rec = Recovered{Identity: r.Identity, HardState: r.HardState, Snapshots: r.Snapshots, LastRaftIndex: r.LastRaftIndex}
	if rec.Snapshot, err = choose(r.Snapshots); err != nil {
		return nil, rec, fmt.Errorf("wal: choose a snapshot for %s: %w", cfg.Dir, err)
	}
	if !named(r.Snapshots, &rec.Snapshot) {
		return nil, rec, fmt.Errorf("wal: open %s: it does not name a snapshot at raft index %d of term %d", cfg.Dir, rec.Snapshot.Index, rec.Snapshot.Term)
	}
	if rec.Repaired, err = prepare(cfg, r); err != nil {
		return nil, rec, err
	}
	w = &WAL{cfg: cfg, zap: newZap(cfg.Log), lock: l, last: r.LastRaftIndex, snapshot: r.Snapshots[len(r.Snapshots)-1]}
	newest := r.Segments[len(r.Segments)-1]
	w.segment, w.used = newest.Name, newest.UsedBytes
	log, read, err := openLog(w.zap, cfg.Dir, rec.Snapshot)
	if err != nil {
		return nil, rec, openError(cfg.Dir, err)
	}
	w.log = log
	if rec.Entries, err = read.above(rec.Snapshot, r); err != nil {
		w.abandon()
		return nil, rec, &DamageError{File: cfg.Dir, RaftIndex: rec.Snapshot.Index + 1, Err: err}
	}
	raise(&rec.HardState, rec.Snapshot)
	w.state = rec.HardState
	if err := w.nameEnd(len(rec.Entries) > 0); err != nil {
		w.abandon()
		return nil, rec, ioError("record a snapshot in", w.path(), err)
	}
	return w, rec, nil
}

// named reports whether chosen is one of the snapshots, and completes it.
func named(snapshots []raftpb.SnapshotMetadata, chosen *raftpb.SnapshotMetadata) bool {
	for _, m := range snapshots {
		if m.Index == chosen.Index && m.Term == chosen.Term {
			*chosen = m
			return true
		}
	}
	return false
}

// raise brings a hard state up to a snapshot that was recorded just before the
// state that goes with it. Nothing was promised in a term above the recorded
// one, so no vote is lost.
func raise(hs *raftpb.HardState, snapshot raftpb.SnapshotMetadata) {
	if hs.Term < snapshot.Term {
		hs.Term, hs.Vote = snapshot.Term, 0
	}
	hs.Commit = max(hs.Commit, snapshot.Index)
}

// content is what etcd's package read.
type content struct {
	state   raftpb.HardState
	entries []raftpb.Entry
}

// openLog lets etcd's package read the log above a snapshot and open it for
// writing.
func openLog(lg *zap.Logger, dir string, at raftpb.SnapshotMetadata) (log *etcdwal.WAL, read content, err error) {
	err = guard(func() error {
		var err error
		if log, err = etcdwal.Open(lg, dir, etcdSnapshot(at)); err != nil {
			return err
		}
		_, read.state, read.entries, err = log.ReadAll()
		return err
	})
	if err != nil && log != nil {
		log.SetUnsafeNoFsync()
		err = errors.Join(err, guard(log.Close))
		log = nil
	}
	return log, read, err
}

// above returns the entries above a snapshot after holding what etcd's package
// read against what the inspection saw. Entries behind the end of the log are
// left out: a snapshot from a peer has replaced them.
func (c content) above(snapshot raftpb.SnapshotMetadata, r *Report) ([]raftpb.Entry, error) {
	if c.state != r.HardState {
		return nil, fmt.Errorf("the state %v was read after %v was inspected", c.state, r.HardState)
	}
	count := r.LastRaftIndex - snapshot.Index
	if uint64(len(c.entries)) < count {
		return nil, fmt.Errorf("%d entries were read where %d were inspected", len(c.entries), count)
	}
	entries, term := c.entries[:count:count], snapshot.Term
	for i, e := range entries {
		if e.Index != snapshot.Index+1+uint64(i) || e.Term < term {
			return nil, fmt.Errorf("entry %d of term %d was read at the place of raft index %d after term %d",
				e.Index, e.Term, snapshot.Index+1+uint64(i), term)
		}
		term = e.Term
	}
	return entries, nil
}

// openError tells an error of the operating system from one about content.
func openError(dir string, err error) error {
	var errno syscall.Errno
	var path *fs.PathError
	switch {
	case errors.Is(err, fileutil.ErrLocked):
		return &LockedError{Dir: dir}
	case errors.As(err, &errno), errors.As(err, &path):
		return ioError("open", dir, err)
	}
	return &DamageError{File: dir, Err: err}
}

// newZap makes the logger of etcd's package. Its warning about files that it
// does not know is dropped: those files are this package's.
func newZap(log *slog.Logger) *zap.Logger { return zaplog.New(slog.New(quiet{log.Handler()})) }

type quiet struct{ slog.Handler }

// Handle implements [slog.Handler].
func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == "ignored file in WAL directory" {
		return nil
	}
	return q.Handler.Handle(ctx, r)
}

// WithAttrs implements [slog.Handler].
func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }

// WithGroup implements [slog.Handler].
func (q quiet) WithGroup(name string) slog.Handler { return quiet{q.Handler.WithGroup(name)} }
