package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/wal"
)

// This file makes a new cluster of the data of one member, when most members of
// the old one are lost for ever. The new log and snapshot are built beside the
// old ones and take their place in steps that can be repeated after a crash. So
// they do when a damaged log is recovered.

const (
	// forcedName holds the complete new log and snapshot until they are in place,
	// and what they replace; it then becomes replacedPrefix and the raft index.
	forcedName     = "forced"
	replacedPrefix = "replaced-"
	// markerName is a file with the id of the cluster that was made here.
	markerName = "forced-cluster"
	// forcedIndexSkip is how far the store index is raised, so that no client sees
	// an index twice that a lost member may have given.
	forcedIndexSkip = 1_000_000
)

// forceNewCluster replaces the member in dir by one that is the only member of
// a new cluster and has everything that this member's log has, committed or
// not: more than that, nobody knows. It does nothing where that was done before,
// and to a member that is alone already, so that a flag that was left in place
// does no harm.
func forceNewCluster(cfg *Config, dir *dataDir) error {
	held, err := dir.holdsMember()
	if err != nil {
		return err
	}
	if !held {
		return Usagef("force-new-cluster: the data directory %s holds no member", cfg.DataDir)
	}
	old := &storage{}
	if old.snapshots, err = snap.Open(snap.Config{Dir: dir.snap(), MaxSnapshots: cfg.Limits.MaxSnapshots, Log: cfg.Log}); err != nil {
		return err
	}
	machine := newMachine(cfg, nil)
	err = old.open(cfg, wal.Config{Dir: dir.wal(), MaxWALs: cfg.Limits.MaxWALs, Log: cfg.Log}, nil, machine)
	if err := withWayOut(dir, err); err != nil {
		return err
	}
	old.wal.Abandon() // nothing is written to it any more
	self, rec := old.identity.MemberID, old.recovered
	before, err := forcedBefore(dir, old.identity.ClusterID)
	if err != nil {
		return err
	}
	if before {
		cfg.Log.Warn("--force-new-cluster is ignored: it has made this cluster already; leave the flag out from now on. "+
			"To make another one, remove the file first", "cluster", deimos.FormatID(old.identity.ClusterID), "file", dir.forcedMarker())
		return nil
	}
	// A start without force would begin with what is known to be committed.
	last := rec.Snapshot
	committed := max(rec.HardState.Commit, last.Index)
	known := slices.IndexFunc(rec.Entries, func(e raftpb.Entry) bool { return e.Index > committed })
	if known < 0 {
		known = len(rec.Entries)
	}
	if err := raftnode.Replay(machine, rec.Entries[:known]); err != nil {
		return err
	}
	lost := machine.Members()
	if len(lost) == 1 && lost[0].ID == self && !lost[0].IsLearner {
		cfg.Log.Warn("--force-new-cluster is ignored: this member is the only one of its cluster; leave the flag out from now on",
			"cluster", deimos.FormatID(old.identity.ClusterID))
		return nil
	}
	if err := raftnode.Replay(machine, rec.Entries[known:]); err != nil {
		return err
	}
	if n := len(rec.Entries); n > 0 {
		last.Index, last.Term = rec.Entries[n-1].Index, rec.Entries[n-1].Term
	}
	index := machine.Store().View().Index()
	machine.Abandon(deimos.Member{ID: self, Name: cfg.Name, PeerURLs: sortedURLs(cfg.URLs.AdvertisePeer)}, last.Index, forcedIndexSkip)
	id := newIdentity(randomNumber()>>1, self)
	next := replacement{machine: machine, identity: id, last: last, term: rec.HardState.Term, newCluster: true}
	if err := next.build(cfg, dir); err != nil {
		return err
	}
	if err := finishForced(dir); err != nil {
		return err
	}
	cfg.Log.Warn("a new cluster was made of this member's data: writes that only lost members had are gone, "+
		"and so are the other members; add new ones",
		"cluster", deimos.FormatID(id.ClusterID), "oldCluster", deimos.FormatID(old.identity.ClusterID),
		"lastDurableRaftIndex", last.Index, "knownCommittedRaftIndex", committed,
		"lastIndex", index, "index", machine.Store().View().Index(), "oldMembers", len(lost))
	return nil
}

// forcedBefore reports whether the cluster was made here.
func forcedBefore(dir *dataDir, cluster uint64) (bool, error) {
	text, err := fsx.ReadFile(fsx.OS{}, dir.forcedMarker(), 64)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return strings.TrimSpace(string(text)) == deimos.FormatID(cluster), ioFailure(err)
}

func (d *dataDir) forcedMarker() string { return filepath.Join(d.path, markerName) }

// replacement is what a member goes on from that is the only one of its cluster
// from now on: the state of the machine, in a snapshot at the end of a new log.
type replacement struct {
	machine  *server.Machine
	identity wal.Identity
	// last is the raft position of the last entry that the machine has applied, and
	// term the highest in which the old log had promised anything.
	last raftpb.SnapshotMetadata
	term uint64
	// newCluster says that the cluster has got another id.
	newCluster bool
}

// build writes the log and the snapshot of the new member. They count once they
// have the name forcedName. After an error there is nothing.
func (r *replacement) build(cfg *Config, dir *dataDir) (err error) {
	building := filepath.Join(dir.path, forcedName+".tmp")
	if err := os.RemoveAll(building); err != nil {
		return ioFailure(err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, ioFailure(os.RemoveAll(building))) // it may be large, and the disk full
		}
	}()
	fsys := fsx.OS{}
	for _, d := range []string{building, filepath.Join(building, replacedPrefix+"old")} {
		if err := fsys.MakeDir(d); err != nil {
			return ioFailure(err)
		}
	}
	snapshots, err := snap.Open(snap.Config{Dir: filepath.Join(building, snapName), MaxSnapshots: cfg.Limits.MaxSnapshots, Log: cfg.Log})
	if err != nil {
		return err
	}
	meta := raftpb.SnapshotMetadata{Index: r.last.Index, Term: r.last.Term, ConfState: raftpb.ConfState{Voters: []uint64{r.identity.MemberID}}}
	if err := snapshots.Save(meta, r.machine.Capture()); err != nil {
		return err
	}
	hs := raftpb.HardState{Term: max(r.term, meta.Term), Commit: meta.Index}
	log, err := wal.Create(wal.Config{Dir: filepath.Join(building, walName), MaxWALs: cfg.Limits.MaxWALs, Log: cfg.Log}, r.identity, meta, hs)
	if err != nil {
		return err
	}
	if err := log.Close(); err != nil {
		return err
	}
	if r.newCluster {
		marker := []byte(deimos.FormatID(r.identity.ClusterID) + "\n")
		if err := fsx.WriteFile(fsys, filepath.Join(building, markerName), marker); err != nil {
			return ioFailure(err)
		}
	}
	return move(building, filepath.Join(dir.path, forcedName))
}

// finishForced puts a complete new log and snapshot in the place of the old
// ones, which it keeps aside. Each step is taken unless it was taken before a
// crash; with nothing to finish it does nothing.
func finishForced(dir *dataDir) error {
	forced := filepath.Join(dir.path, forcedName)
	if found, err := exists(forced); !found {
		return err
	}
	old := filepath.Join(forced, replacedPrefix+"old")
	for _, name := range []string{walName, snapName, markerName} {
		from, to := filepath.Join(forced, name), filepath.Join(dir.path, name)
		waits, err := exists(from)
		if err != nil {
			return err
		}
		if !waits {
			continue // it is in its place
		}
		if err := moveIfExists(to, filepath.Join(old, name)); err != nil {
			return err
		}
		if err := move(from, to); err != nil {
			return err
		}
	}
	kept, err := unusedName(dir.path)
	if err != nil {
		return err
	}
	if err := moveIfExists(old, kept); err != nil { // it is gone if the last step was cut short
		return err
	}
	return ioFailure(os.RemoveAll(forced))
}

// unusedName returns the first name for what was replaced that nothing has.
func unusedName(dir string) (string, error) {
	for n := 1; ; n++ {
		name := filepath.Join(dir, fmt.Sprintf("%s%d", replacedPrefix, n))
		if found, err := exists(name); !found {
			return name, err
		}
	}
}

// exists reports whether something has a name. An error is an I/O failure: a
// name that cannot be looked up may well be there.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, ioFailure(err)
}

func moveIfExists(from, to string) error {
	found, err := exists(from)
	if !found {
		return err
	}
	return move(from, to)
}

// move renames and makes both names durable.
func move(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return ioFailure(err)
	}
	return ioFailure(errors.Join(fsx.OS{}.SyncDir(filepath.Dir(from)), fsx.OS{}.SyncDir(filepath.Dir(to))))
}

// ioError says that something failed in the data directory.
type ioError struct{ err error }

func (e *ioError) Error() string { return fmt.Sprintf("data directory: %v", e.err) }

func (e *ioError) Unwrap() error { return e.err }

func ioFailure(err error) error {
	if err == nil {
		return nil
	}
	return &ioError{err}
}
