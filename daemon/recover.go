package daemon

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/store"
	"github.com/marsevilspirit/deimos/wal"
	"go.etcd.io/raft/v3/raftpb"
)

// bootstrapIndex and bootstrapTerm are the raft position of the snapshot that
// every first member makes for itself. It holds the first members and an empty
// store, so that a start with and one without a past are the same.
const (
	bootstrapIndex = 1
	bootstrapTerm  = 1
)

// storage is the durable half of a member.
type storage struct {
	wal       *wal.WAL
	snapshots *snap.Snapshots
	identity  wal.Identity
	recovered raftnode.Recovered
}

// openStorage opens what the data directory holds, or makes a new member in it,
// and restores the machine from the newest snapshot. find is asked for the
// origin of a member that has no state.
func openStorage(cfg *Config, dir *dataDir, find originFinder, machine *server.Machine, m *metrics) (*storage, error) {
	snapshots, err := snap.Open(snap.Config{Dir: dir.snap(), MaxSnapshots: cfg.Limits.MaxSnapshots, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	walConfig := wal.Config{Dir: dir.wal(), MaxWALs: cfg.Limits.MaxWALs, Log: cfg.Log, ObserveFsync: m.observeFsync}
	s := &storage{snapshots: snapshots}
	held, err := dir.holdsMember()
	if err != nil {
		return nil, err
	}
	if held {
		err = withWayOut(dir, s.open(cfg, walConfig, find, machine))
	} else if err = dir.checkNew(snapshots); err == nil {
		err = s.begin(cfg, dir, walConfig, find, machine)
	}
	if err != nil {
		return nil, err
	}
	if err := dir.endFirstStart(); err != nil {
		s.wal.Abandon()
		return nil, err
	}
	return s, nil
}

// begin makes a member in a directory that holds none.
func (s *storage) begin(cfg *Config, dir *dataDir, walConfig wal.Config, find originFinder, machine *server.Machine) error {
	from, err := find(true)
	if err != nil {
		return err
	}
	machine.Begin(from.members)
	if from.joins {
		return s.join(cfg, walConfig, from)
	}
	return s.create(cfg, dir, walConfig, from, machine)
}

// create makes a new member: first the mark of a first start and its snapshot,
// then its log, whose existence is what says that the directory holds a member.
func (s *storage) create(cfg *Config, dir *dataDir, walConfig wal.Config, from origin, machine *server.Machine) error {
	s.identity = newIdentity(from.clusterID, from.self)
	meta := raftpb.SnapshotMetadata{Index: bootstrapIndex, Term: bootstrapTerm}
	for _, m := range from.members {
		meta.ConfState.Voters = append(meta.ConfState.Voters, m.ID)
	}
	if err := dir.beginFirstStart(); err != nil {
		return err
	}
	if err := s.snapshots.Save(meta, machine.Capture()); err != nil {
		return fmt.Errorf("daemon: make the first snapshot: %w", err)
	}
	hs := raftpb.HardState{Term: bootstrapTerm, Commit: bootstrapIndex}
	log, err := wal.Create(walConfig, s.identity, meta, hs)
	if err != nil {
		return err
	}
	s.wal = log
	s.recovered = raftnode.Recovered{Snapshot: meta, TimeMS: 1, HardState: hs}
	cfg.Log.Info("new member", "dir", cfg.DataDir, "name", cfg.Name, "id", deimos.FormatID(from.self),
		"cluster", deimos.FormatID(from.clusterID), "members", len(from.members))
	return nil
}

// join makes a member that was added to a running cluster: an empty log, which
// the leader fills.
func (s *storage) join(cfg *Config, walConfig wal.Config, from origin) error {
	// What a first start as something else has left is not this member's.
	left, err := s.snapshots.List()
	if err != nil {
		return err
	}
	for _, meta := range left {
		if err := s.snapshots.Discard(meta); err != nil {
			return err
		}
	}
	s.identity = newIdentity(from.clusterID, from.self)
	log, err := wal.Create(walConfig, s.identity, raftpb.SnapshotMetadata{}, raftpb.HardState{})
	if err != nil {
		return err
	}
	s.wal = log
	s.recovered = raftnode.Recovered{TimeMS: 1}
	cfg.Log.Info("new member of a running cluster", "dir", cfg.DataDir, "name", cfg.Name, "id", deimos.FormatID(from.self),
		"cluster", deimos.FormatID(from.clusterID), "members", len(from.members))
	return nil
}

func newIdentity(cluster, member uint64) wal.Identity {
	id := wal.Identity{ClusterID: cluster, MemberID: member}
	_, _ = rand.Read(id.Incarnation[:]) // never fails, it ends the program instead
	return id
}

// newest chooses the snapshot to go on from: none for a member that has joined
// a cluster and was stopped before it got its first one.
func (s *storage) newest(allowed []raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
	if len(allowed) == 1 && allowed[0].Index == 0 {
		return allowed[0], nil
	}
	return s.snapshots.Newest(allowed)
}

// resume recovers a member that has no state yet, and has to know from the
// cluster whom it can talk to.
func (s *storage) resume(cfg *Config, rec wal.Recovered, find originFinder, machine *server.Machine) error {
	fail := func(format string, args ...any) error {
		return &DataDirError{Dir: cfg.DataDir, Err: fmt.Errorf(format, args...)}
	}
	if cfg.InitialClusterState != ClusterStateExisting {
		return fail("it holds a member that was joining a cluster: start it with --initial-cluster-state existing")
	}
	from, err := find(false)
	if err != nil {
		return err
	}
	if from.clusterID != rec.Identity.ClusterID || from.self != rec.Identity.MemberID {
		return fail("it belongs to member %s of cluster %s, and the cluster that was asked lists member %s of cluster %s at these peer URLs: "+
			"choose another --data-dir, or correct --bootstrap-config", deimos.FormatID(rec.Identity.MemberID), deimos.FormatID(rec.Identity.ClusterID),
			deimos.FormatID(from.self), deimos.FormatID(from.clusterID))
	}
	// A snapshot may have got its name, and not its mention in the log.
	if err := s.snapshots.Settle(rec.Snapshot, rec.Snapshots, rec.LastRaftIndex); err != nil {
		return err
	}
	machine.Begin(from.members)
	s.identity = rec.Identity
	s.recovered = raftnode.Recovered{TimeMS: 1, HardState: rec.HardState, Entries: rec.Entries}
	return nil
}

// open recovers a member that has a past. The machine is restored while the log
// is made ready, each of which takes a good part of the start.
func (s *storage) open(cfg *Config, walConfig wal.Config, find originFinder, machine *server.Machine) error {
	began := time.Now()
	restored := func() (int64, error) { return 0, nil }
	w, rec, err := wal.Open(walConfig, func(allowed []raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
		meta, err := s.newest(allowed)
		if err == nil && meta.Index > 0 {
			restored = s.restore(meta.Index, machine)
		}
		return meta, err
	})
	timeMS, restoreErr := restored() // whatever became of the log: nothing may go on behind the end of this function
	if errors.Is(err, snap.ErrNone) {
		return noSnapshotError(filepath.Join(cfg.DataDir, snapName), walConfig.Dir)
	}
	if err != nil {
		return err
	}
	if rec.Snapshot.Index == 0 {
		if err := s.resume(cfg, rec, find, machine); err != nil {
			w.Abandon()
			return err
		}
		s.wal = w
		return nil
	}
	if restoreErr != nil {
		w.Abandon()
		return restoreErr
	}
	if err := s.snapshots.Settle(rec.Snapshot, rec.Snapshots, rec.LastRaftIndex); err != nil {
		w.Abandon()
		return err
	}
	if err := checkOwner(cfg, rec.Identity, machine.Members()); err != nil {
		w.Abandon()
		return err
	}
	s.wal, s.identity = w, rec.Identity
	s.recovered = raftnode.Recovered{Snapshot: rec.Snapshot, TimeMS: timeMS, HardState: rec.HardState, Entries: rec.Entries}
	cfg.Log.Info("member recovered", "dir", cfg.DataDir, "id", deimos.FormatID(rec.Identity.MemberID), "cluster", deimos.FormatID(rec.Identity.ClusterID),
		"snapshotRaftIndex", rec.Snapshot.Index, "snapshotKeys", machine.Store().View().Len(), "entries", len(rec.Entries), "lastRaftIndex", rec.LastRaftIndex, "took", time.Since(began))
	return nil
}

// restore begins to put the machine into the state of a snapshot. Nobody else
// may touch the machine until the function that it returns has been called, which
// waits for the end and returns the cluster time of the snapshot.
func (s *storage) restore(raftIndex uint64, machine *server.Machine) func() (timeMS int64, err error) {
	var timeMS int64
	ended := make(chan error, 1)
	go func() {
		ended <- s.snapshots.Load(raftIndex, func(r io.Reader) (err error) {
			timeMS, err = machine.Restore(raftIndex, r)
			return err
		})
	}()
	return func() (int64, error) {
		if err := <-ended; err != nil {
			return 0, &restoreError{raftIndex: raftIndex, err: err}
		}
		return timeMS, nil
	}
}

// replayed returns the raft index that the member has to apply before it shows
// what it has: the end of its own log, its first snapshot if it has none, or 0.
func (s *storage) replayed() uint64 {
	if s.recovered.Snapshot.Index == 0 {
		return 1
	}
	if len(s.recovered.Entries) == 0 {
		return 0
	}
	return s.recovered.HardState.Commit
}

// checkOwner refuses the directory of another member, such as a copy of it, takes
// over the name that discovery had given to this one, and tells when the directory holds another cluster than the configuration
// describes.
func checkOwner(cfg *Config, id wal.Identity, members []deimos.Member) error {
	for _, m := range members {
		if m.ID == id.MemberID && m.Name != "" && cfg.Discovery.SRV != "" {
			cfg.Name = m.Name // that of the record, which was not looked up again
		}
		if m.ID == id.MemberID && m.Name != "" && m.Name != cfg.Name {
			return &DataDirError{Dir: cfg.DataDir, Err: fmt.Errorf(
				"it belongs to member %q and this is %q: start it with --name %s, or choose another --data-dir", m.Name, cfg.Name, m.Name)}
		}
	}
	if cfg.InitialClusterState == ClusterStateExisting || cfg.ForceNewCluster || len(cfg.Bootstrap) == 0 {
		return nil // the configuration does not say which cluster this is
	}
	first, _ := firstMembers(cfg.Bootstrap, cfg.InitialClusterToken, cfg.Name)
	alone := len(first) == 1 && len(members) > 1 // nobody gave a bootstrap-config
	if configured := clusterID(first, cfg.InitialClusterToken); configured != id.ClusterID && !alone {
		cfg.Log.Warn("the data directory holds another cluster than bootstrap-config and initial-cluster-token describe; they are ignored",
			"dir", cfg.DataDir, "cluster", deimos.FormatID(id.ClusterID), "members", len(members),
			"configured", deimos.FormatID(configured), "configuredMembers", len(first))
	}
	return nil
}

// newMachine returns a machine without members or content, which openStorage
// gives both.
func newMachine(cfg *Config, onMembers func([]deimos.Member)) *server.Machine {
	st := store.New(store.Config{HistoryEvents: cfg.Limits.HistoryEvents, HistoryBytes: int64(cfg.Limits.HistoryBytes)})
	return server.NewMachine(st, nil, onMembers)
}
