package daemon

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/wal"
)

// Offline is the data directory of a member that does not run. Nobody else can
// use it until Close. It has one user at a time.
type Offline struct{ dir *dataDir }

// OpenOffline locks a data directory that holds a member. [FailureOf] tells the
// kind of its error.
func OpenOffline(path string) (*Offline, error) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, &DataDirError{Dir: path, Err: errors.New("there is no such directory")}
	}
	dir, err := lockDataDir(path, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	o := &Offline{dir: dir}
	if err := o.check(); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return o, nil
}

// check refuses a directory without a member. One whose log is just being put in
// its place holds one.
func (o *Offline) check() error {
	held, err := o.dir.holdsMember()
	if held || err != nil {
		return err
	}
	replacing, err := o.Replacing()
	if replacing || err != nil {
		return err
	}
	return &DataDirError{Dir: o.dir.path, Err: errors.New("it holds no member")}
}

// Close lets a member use the directory.
func (o *Offline) Close() error { return o.dir.release() }

// Replacing reports whether a recovery, or the making of a new cluster, was cut
// short when it had begun to put the new log in the place of the old one.
// Recover and the next start finish it.
func (o *Offline) Replacing() (bool, error) { return exists(filepath.Join(o.dir.path, forcedName)) }

// LogReport is what is found of a member's log and snapshots.
type LogReport struct {
	DataDir   string
	Log       *wal.Report
	Snapshots []snap.File // newest first
	// Damage is what keeps the member from starting; nil if nothing is damaged.
	Damage error
	// Recovery is what the member can go on from although it is damaged. It is nil
	// if there is no damage, or nothing to go on from, as Hopeless says.
	Recovery *Recovery
	Hopeless error
}

// Recovery is what can be recovered of a damaged log.
type Recovery struct {
	// SnapshotRaftIndex is that of the snapshot that it begins with, Entries how
	// many follow, and LastRaftIndex where it ends.
	SnapshotRaftIndex uint64
	Entries           int
	LastRaftIndex     uint64
	// SeenRaftIndex is the highest raft index of which there is a trace. Entries
	// above LastRaftIndex up to it are lost, and maybe more.
	SeenRaftIndex uint64
	// LostBytes is how much of the log follows what can be recovered.
	LostBytes int64
	// Self is the member, as far as its cluster knows it, and Others are the other
	// members of the cluster.
	Self   deimos.Member
	Others []deimos.Member

	salvaged *wal.Salvaged
	machine  *server.Machine // with all entries
}

// OnlyVoter reports whether nobody else in the cluster can have what is lost.
func (r *Recovery) OnlyVoter() bool {
	return !slices.ContainsFunc(r.Others, func(m deimos.Member) bool { return !m.IsLearner })
}

// Inspect reads all of the log and the snapshots, and changes nothing. Damage is
// in the report, not an error.
func (o *Offline) Inspect() (*LogReport, error) { return inspectLog(o.dir) }

// inspectLog does it for a directory whose lock is held.
func inspectLog(dir *dataDir) (*LogReport, error) {
	r := &LogReport{DataDir: dir.path}
	var err error
	if r.Log, err = wal.Inspect(dir.wal()); err != nil {
		return nil, err
	}
	snapshots := snap.View(dir.snap())
	if r.Snapshots, err = snapshots.Survey(); err != nil {
		return nil, err
	}
	var sound []raftpb.SnapshotMetadata
	for i, f := range r.Snapshots {
		// Of two with the same raft index the first one would be loaded.
		if f.Err == nil && (i == 0 || r.Snapshots[i-1].Meta.Index != f.Meta.Index) {
			sound = append(sound, f.Meta)
		}
	}
	if r.Damage = r.findDamage(dir, sound); r.Damage == nil {
		return r, nil
	}
	salvaged, err := wal.Salvage(dir.wal(), sound)
	if err == nil {
		r.Recovery, err = recoverable(snapshots, salvaged)
	}
	if failure := FailureOf(err); failure == FailureIO || failure == FailureDataDir {
		return nil, err
	}
	r.Hopeless = err
	return r, nil
}

// findDamage returns what a start would end with.
func (r *LogReport) findDamage(dir *dataDir, sound []raftpb.SnapshotMetadata) error {
	if r.Log.Damage != nil {
		return r.Log.Damage
	}
	joining := len(r.Log.Snapshots) == 1 && r.Log.Snapshots[0].Index == 0
	fits := slices.ContainsFunc(r.Log.Snapshots, func(named raftpb.SnapshotMetadata) bool {
		return slices.ContainsFunc(sound, func(m raftpb.SnapshotMetadata) bool { return m.Index == named.Index && m.Term == named.Term })
	})
	if !fits && !joining {
		return noSnapshotError(dir.snap(), dir.wal())
	}
	return snap.CheckEnd(r.Snapshots, r.Log.LastRaftIndex)
}

func noSnapshotError(snapDir, walDir string) error {
	return fmt.Errorf("no snapshot in %s fits the log in %s: %w", snapDir, walDir, snap.ErrNone)
}

// recoverable applies what was salvaged, which also tells who the members are.
func recoverable(snapshots *snap.Snapshots, s *wal.Salvaged) (*Recovery, error) {
	machine := newMachine(&Config{}, nil)
	err := snapshots.Load(s.Snapshot.Index, func(r io.Reader) error {
		_, err := machine.Restore(s.Snapshot.Index, r)
		return err
	})
	if err != nil {
		return nil, &restoreError{raftIndex: s.Snapshot.Index, err: err}
	}
	r := &Recovery{
		SnapshotRaftIndex: s.Snapshot.Index, Entries: len(s.Entries), LastRaftIndex: s.LastRaftIndex,
		SeenRaftIndex: s.SeenRaftIndex, LostBytes: s.LostBytes, salvaged: s, machine: machine,
	}
	// A change of the members that may not have been committed counts for nothing.
	known := slices.IndexFunc(s.Entries, func(e raftpb.Entry) bool { return e.Index > s.CommitRaftIndex })
	if known < 0 {
		known = len(s.Entries)
	}
	if err := raftnode.Replay(machine, s.Entries[:known]); err != nil {
		return nil, err
	}
	for _, m := range machine.Members() {
		if m.ID == s.Identity.MemberID {
			r.Self = m
		} else {
			r.Others = append(r.Others, m)
		}
	}
	if err := raftnode.Replay(machine, s.Entries[known:]); err != nil {
		return nil, err
	}
	if r.Self.ID == 0 || machine.IsRemoved(r.Self.ID) {
		return nil, fmt.Errorf("member %s was removed from its cluster, which does not need this directory any more",
			deimos.FormatID(s.Identity.MemberID))
	}
	return r, nil
}
