package snap

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// The number of snapshots that are kept.
const (
	MaxSnapshotsDefault = 5
	MaxSnapshotsMin     = 2
)

// Config says where snapshots are and how many are kept.
type Config struct {
	Dir          string       // required: made with mode 0700 if missing
	MaxSnapshots int          // files that Prune keeps, at least 2; 0: 5
	Log          *slog.Logger // nil: discard
	FS           fsx.FS       // nil: the operating system
}

// Snapshots is the directory of snapshot files. Save, Discard, Prune and
// Install must not run at the same time; Load, Open and Check may run beside
// them, from any goroutine; the rest is for a member that starts.
type Snapshots struct {
	dir  string
	keep int
	log  *slog.Logger
	fs   fsx.FS
}

// Open opens the directory and removes what a crash left unfinished: temporary
// files, and received files that were never installed.
func Open(cfg Config) (*Snapshots, error) {
	if cfg.Dir == "" {
		return nil, errors.New("snap: open: no directory was given")
	}
	if cfg.MaxSnapshots == 0 {
		cfg.MaxSnapshots = MaxSnapshotsDefault
	}
	if cfg.MaxSnapshots < MaxSnapshotsMin {
		return nil, fmt.Errorf("snap: open %s: %d snapshots are too few, at least %d are kept", cfg.Dir, cfg.MaxSnapshots, MaxSnapshotsMin)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.FS == nil {
		cfg.FS = fsx.OS{}
	}
	s := &Snapshots{dir: cfg.Dir, keep: cfg.MaxSnapshots, log: cfg.Log, fs: cfg.FS}
	if err := s.fs.MakeDir(s.dir); err != nil {
		return nil, ioError("make directory", s.dir, err)
	}
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, ioError("list", s.dir, err)
	}
	var stale []string
	for _, name := range names {
		if unfinished(name) {
			stale = append(stale, name)
		}
	}
	if err := s.remove(stale); err != nil {
		return nil, err
	}
	return s, nil
}

// List returns the metadata of all snapshots, newest first. It checks the
// headers and not the bodies.
func (s *Snapshots) List() ([]raftpb.SnapshotMetadata, error) {
	found, err := s.scan()
	if err != nil {
		return nil, err
	}
	var metas []raftpb.SnapshotMetadata
	for i, e := range found {
		if i > 0 && e.same(found[i-1]) {
			continue
		}
		meta, _, err := s.open(e, nil)
		if err != nil {
			return nil, err
		}
		metas = append(metas, meta)
	}
	return metas, nil
}

// Newest returns the metadata of the newest snapshot that is among allowed, by
// raft index and term, and whose file is right from the first byte to the last.
// A file that is not is renamed to *.broken, with a line in the log, and the
// next older one is tried. [ErrNone] tells that none is left; an [ErrVersion]
// or [ErrIO] ends the search.
func (s *Snapshots) Newest(allowed []raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
	found, err := s.scan()
	if err != nil {
		return raftpb.SnapshotMetadata{}, err
	}
	var chosen raftpb.SnapshotMetadata
	for _, e := range found {
		if !e.in(allowed) {
			continue
		}
		meta, err := s.verifyEntry(e)
		var damage *DamageError
		switch {
		case err == nil:
			chosen = meta
		case errors.As(err, &damage):
			s.log.Error("snapshot is damaged, trying an older one", "file", s.path(e.name), "keptAs", e.name+brokenSuffix, "error", err)
			if err := s.rename(e.name, e.name+brokenSuffix); err != nil {
				return raftpb.SnapshotMetadata{}, err
			}
			continue
		default:
			return raftpb.SnapshotMetadata{}, err
		}
		break
	}
	for _, a := range allowed {
		if a.Index > chosen.Index && !contains(found, a) {
			s.log.Warn("snapshot named in the log is missing", "raftIndex", a.Index, "raftTerm", a.Term, "directory", s.dir)
		}
	}
	if chosen.Index == 0 {
		return chosen, fmt.Errorf("snap: %s: %w", s.dir, ErrNone)
	}
	return chosen, nil
}

// Settle makes the directory fit the log that was recovered: chosen is what
// Newest returned, recorded are the snapshots that the log names, and
// lastRaftIndex is the last index that the log holds. Snapshots above chosen
// that the log does not name were never relied on, and are removed. One that
// this member took itself above the end of the log proves that the log has
// lost its end: that is a [DamageError], and nothing is removed.
func (s *Snapshots) Settle(chosen raftpb.SnapshotMetadata, recorded []raftpb.SnapshotMetadata, lastRaftIndex uint64) error {
	found, err := s.scan()
	if err != nil {
		return err
	}
	var stale []string
	for _, e := range found {
		if !e.received && e.index > lastRaftIndex {
			return lostEnd(s.path(e.name), e.index, lastRaftIndex)
		}
		if e.index > chosen.Index && !e.in(recorded) {
			stale = append(stale, e.name)
		}
	}
	return s.remove(stale)
}

func lostEnd(path string, raftIndex, lastRaftIndex uint64) error {
	return &DamageError{File: path, Err: fmt.Errorf(
		"the snapshot holds raft index %d and the log ends at %d, so the log has lost its end", raftIndex, lastRaftIndex)}
}

// Save writes a snapshot: temporary file, sync, read back and verify, rename,
// directory sync. It is durable when Save returns. After an error the older
// snapshots are untouched; an error of write itself is returned wrapped.
func (s *Snapshots) Save(meta raftpb.SnapshotMetadata, write func(io.Writer) error) error {
	if meta.Index == 0 {
		return errors.New("snap: save: a snapshot needs a raft index above 0")
	}
	name := entryOf(meta, false).name
	temp := name + fsx.TempSuffix
	err := s.writeTemp(s.path(temp), meta, write)
	if err == nil {
		err = s.check(s.path(temp), meta, false)
		var damage *DamageError
		if errors.As(err, &damage) {
			err = ioError("read back", s.path(temp), err) // the disk did it, a moment ago
		}
	}
	if err == nil {
		err = s.rename(temp, name)
	}
	if err != nil {
		return errors.Join(err, fsx.RemoveIfExists(s.fs, s.path(temp)))
	}
	return nil
}

func (s *Snapshots) writeTemp(path string, meta raftpb.SnapshotMetadata, write func(io.Writer) error) (err error) {
	f, err := s.fs.Create(path)
	if err != nil {
		return ioError("create", path, err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = ioError("close", path, cerr)
		}
	}()
	e, err := newEncoder(f, meta)
	if err != nil {
		return fmt.Errorf("snap: encode %s: %w", path, err)
	}
	werr := write(e)
	if e.err != nil {
		return ioError("write", path, e.err)
	}
	if werr != nil {
		return fmt.Errorf("snap: fill %s: %w", path, werr)
	}
	if err := e.finish(); err != nil {
		return ioError("write", path, err)
	}
	if err := f.Sync(); err != nil {
		return ioError("sync", path, err)
	}
	return nil
}

// check verifies a whole file and that it is the one for meta.
func (s *Snapshots) check(path string, meta raftpb.SnapshotMetadata, sync bool) error {
	got, err := verify(s.fs, path, sync)
	if err != nil {
		return err
	}
	if got.Index != meta.Index || got.Term != meta.Term {
		return &DamageError{File: path, Err: fmt.Errorf("it holds raft index %d of term %d instead of %d of term %d",
			got.Index, got.Term, meta.Index, meta.Term)}
	}
	return nil
}

// Check verifies the file that the transport received for meta. One that does
// not verify is removed, so that the peer can send it again, and the error is
// a [DamageError].
func (s *Snapshots) Check(meta raftpb.SnapshotMetadata) error {
	received := receivedName(meta.Index)
	err := s.check(s.path(received), meta, false)
	var damage *DamageError
	if errors.As(err, &damage) {
		return errors.Join(err, s.remove([]string{received}))
	}
	return err
}

// Install takes over the file that the transport received for meta: it is
// verified, synced, renamed and its directory synced. A file that does not
// verify is removed, so that the peer can send it again, and the error is a
// [DamageError]. To install what is installed already is no error.
func (s *Snapshots) Install(meta raftpb.SnapshotMetadata) error {
	received := receivedName(meta.Index)
	err := s.check(s.path(received), meta, true)
	var damage *DamageError
	switch {
	case err == nil:
		return s.rename(received, entryOf(meta, true).name)
	case errors.As(err, &damage):
		return errors.Join(err, s.remove([]string{received}))
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	found, serr := s.scan()
	if serr != nil {
		return serr
	}
	for _, e := range found {
		if e.index == meta.Index && e.term == meta.Term {
			_, err := s.verifyEntry(e)
			return err
		}
	}
	return err
}

// Load lets read have the body of the snapshot with exactly this raft index.
// Each chunk is verified before its bytes are handed out, and the end of the
// file before Load returns nil; an error may come after read has used a part.
func (s *Snapshots) Load(raftIndex uint64, read func(io.Reader) error) error {
	found, err := s.scan()
	if err != nil {
		return err
	}
	for _, e := range found {
		if e.index != raftIndex {
			continue
		}
		_, _, err := s.open(e, func(d *decoder) error {
			rerr := read(d)
			if d.err != nil && !errors.Is(d.err, io.EOF) {
				return d.err
			}
			if rerr != nil {
				return fmt.Errorf("snap: load %s: %w", s.path(e.name), rerr)
			}
			return d.drain()
		})
		return err
	}
	return fmt.Errorf("snap: load raft index %d from %s: %w", raftIndex, s.dir, ErrNone)
}

// Open opens the newest snapshot for sending. The body is the whole file, as
// Install wants it at the other side, and size is its length in bytes. The
// caller closes the body, which stays readable when the file is pruned.
func (s *Snapshots) Open() (meta raftpb.SnapshotMetadata, size int64, body io.ReadCloser, err error) {
	found, err := s.scan()
	if err != nil {
		return meta, 0, nil, err
	}
	if len(found) == 0 {
		return meta, 0, nil, fmt.Errorf("snap: open the newest in %s: %w", s.dir, ErrNone)
	}
	path := s.path(found[0].name)
	if meta, size, err = s.open(found[0], nil); err != nil {
		return meta, 0, nil, err
	}
	f, err := s.fs.Open(path)
	if err != nil {
		return meta, 0, nil, ioError("open", path, err)
	}
	return meta, size, struct {
		io.Reader
		io.Closer
	}{f, f}, nil
}

// Discard removes a snapshot that was saved and is not to be relied on.
func (s *Snapshots) Discard(meta raftpb.SnapshotMetadata) error {
	return s.remove([]string{entryOf(meta, false).name})
}

// Prune removes all but the newest snapshots, as many as the Config says, and
// received ones that came too late to be installed. It returns the raft index of the second-newest one: no kept snapshot that may
// be needed asks for log entries up to it. It is 0 while there is only one.
func (s *Snapshots) Prune() (releaseTo uint64, err error) {
	found, err := s.scan()
	if err != nil {
		return 0, err
	}
	kept := 0
	var stale []string
	for i, e := range found {
		repeated := i > 0 && e.same(found[i-1])
		if !repeated {
			kept++
		}
		if kept == 2 && !repeated {
			releaseTo = e.index
		}
		if repeated || kept > s.keep {
			stale = append(stale, e.name)
		}
	}
	if len(found) > 0 {
		late, err := s.receivedUpTo(found[0].index)
		if err != nil {
			return 0, err
		}
		stale = append(stale, late...)
	}
	return releaseTo, s.remove(stale)
}

// receivedUpTo returns the received files that are no newer than a snapshot
// that this member has.
func (s *Snapshots) receivedUpTo(raftIndex uint64) ([]string, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, ioError("list", s.dir, err)
	}
	return slices.DeleteFunc(names, func(name string) bool {
		stem, ok := strings.CutSuffix(name, transferSuffix)
		index, err := strconv.ParseUint(stem, 16, 64)
		return !ok || err != nil || index > raftIndex
	}), nil
}

// Verify reads the whole file at path and returns its metadata. It changes
// nothing and may be called from any goroutine.
func Verify(path string) (raftpb.SnapshotMetadata, error) {
	return verify(fsx.OS{}, path, false)
}

// open reads the header of a snapshot, checks it against the name, and lets
// use, if there is one, have the body.
func (s *Snapshots) open(e entry, use func(*decoder) error) (meta raftpb.SnapshotMetadata, size int64, err error) {
	path := s.path(e.name)
	f, err := s.fs.Open(path)
	if err != nil {
		return meta, 0, ioError("open", path, err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = ioError("close", path, cerr)
		}
	}()
	d, err := newDecoder(f, path)
	if err != nil {
		return meta, 0, err
	}
	if err := e.matches(path, d.meta); err != nil {
		return meta, 0, err
	}
	if use != nil {
		err = use(d)
	}
	return d.meta, d.size, err
}

func (s *Snapshots) verifyEntry(e entry) (raftpb.SnapshotMetadata, error) {
	meta, _, err := s.open(e, (*decoder).drain)
	return meta, err
}

func (s *Snapshots) path(name string) string { return filepath.Join(s.dir, name) }

// rename gives a file its final name, durably.
func (s *Snapshots) rename(from, to string) error {
	if err := s.fs.Rename(s.path(from), s.path(to)); err != nil {
		return ioError("rename", s.path(from), err)
	}
	return s.syncDir()
}

// remove removes files, durably.
func (s *Snapshots) remove(names []string) error {
	if len(names) == 0 {
		return nil
	}
	for _, name := range names {
		if err := fsx.RemoveIfExists(s.fs, s.path(name)); err != nil {
			return ioError("remove", s.path(name), err)
		}
	}
	return s.syncDir()
}

func (s *Snapshots) syncDir() error {
	if err := s.fs.SyncDir(s.dir); err != nil {
		return ioError("sync directory", s.dir, err)
	}
	return nil
}
