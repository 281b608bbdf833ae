package daemon

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
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
// and restores the machine from the newest snapshot.
func openStorage(cfg *Config, dir *dataDir, machine *server.Machine, m *metrics) (*storage, error) {
	snapshots, err := snap.Open(snap.Config{Dir: dir.snap(), MaxSnapshots: cfg.Limits.MaxSnapshots, Log: cfg.Log})
	if err != nil {
		return nil, err
	}
	walConfig := wal.Config{Dir: dir.wal(), MaxWALs: cfg.Limits.MaxWALs, Log: cfg.Log, ObserveFsync: m.observeFsync}
	s := &storage{snapshots: snapshots}
	if !wal.Exists(dir.wal()) {
		if err := s.create(cfg, walConfig, machine); err != nil {
			return nil, err
		}
	} else if err := s.open(cfg.Log, walConfig, machine); err != nil {
		return nil, err
	}
	return s, nil
}

// create makes a new member: first its snapshot, then its log, whose existence
// is what says that the directory holds a member.
func (s *storage) create(cfg *Config, walConfig wal.Config, machine *server.Machine) error {
	members, self := firstMembers(cfg.Bootstrap, cfg.InitialClusterToken, cfg.Name)
	s.identity = wal.Identity{ClusterID: clusterID(members, cfg.InitialClusterToken), MemberID: self.ID}
	_, _ = rand.Read(s.identity.Incarnation[:]) // never fails
	meta := raftpb.SnapshotMetadata{Index: bootstrapIndex, Term: bootstrapTerm}
	for _, m := range members {
		meta.ConfState.Voters = append(meta.ConfState.Voters, m.ID)
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
	cfg.Log.Info("new member", "name", cfg.Name, "id", deimos.FormatID(self.ID),
		"cluster", deimos.FormatID(s.identity.ClusterID), "members", len(members))
	return nil
}

// open recovers a member that has a past.
func (s *storage) open(log *slog.Logger, walConfig wal.Config, machine *server.Machine) error {
	began := time.Now()
	w, rec, err := wal.Open(walConfig, s.snapshots.Newest)
	if err != nil {
		return err
	}
	var timeMS int64
	err = s.snapshots.Load(rec.Snapshot.Index, func(r io.Reader) (err error) {
		timeMS, err = machine.Restore(rec.Snapshot.Index, r)
		return err
	})
	if err != nil {
		w.Abandon()
		return &restoreError{raftIndex: rec.Snapshot.Index, err: err}
	}
	if err := s.snapshots.Settle(rec.Snapshot, rec.Snapshots, rec.LastRaftIndex); err != nil {
		w.Abandon()
		return err
	}
	s.wal, s.identity = w, rec.Identity
	s.recovered = raftnode.Recovered{Snapshot: rec.Snapshot, TimeMS: timeMS, HardState: rec.HardState, Entries: rec.Entries}
	log.Info("member recovered", "id", deimos.FormatID(rec.Identity.MemberID), "cluster", deimos.FormatID(rec.Identity.ClusterID),
		"snapshotRaftIndex", rec.Snapshot.Index, "entries", len(rec.Entries), "keys", machine.Store().View().Len(), "took", time.Since(began))
	return nil
}

// newMachine returns the machine in the state of a new cluster; openStorage
// restores over it what a member with a past has.
func newMachine(cfg *Config, onMembers func([]deimos.Member)) *server.Machine {
	st := store.New(store.Config{HistoryEvents: cfg.Limits.HistoryEvents, HistoryBytes: int64(cfg.Limits.HistoryBytes)})
	members, _ := firstMembers(cfg.Bootstrap, cfg.InitialClusterToken, cfg.Name)
	return server.NewMachine(st, members, onMembers)
}
