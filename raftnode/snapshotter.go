package raftnode

import (
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// catchUpEntries is how many entries below a snapshot stay in memory, for
// followers that are only a little behind.
const catchUpEntries = 5000

// capture is a pinned state that is to become a snapshot file.
type capture struct {
	meta  raftpb.SnapshotMetadata
	write func(io.Writer) error
}

// snapshotLoop writes captured states to disk, one at a time, beside
// everything else.
func (n *Node) snapshotLoop() {
	for {
		select {
		case <-n.stop:
			return
		case shot := <-n.shots:
			if err := n.takeSnapshot(shot); err != nil {
				n.fail(err)
				return
			}
		}
	}
}

func (n *Node) takeSnapshot(shot capture) error {
	began := time.Now()
	n.snapMu.Lock()
	err := n.cfg.Snapshots.Save(shot.meta, shot.write)
	n.snapMu.Unlock()
	if errors.Is(err, syscall.ENOSPC) {
		n.logger.Error("snapshot put off: the disk is full", "raftIndex", shot.meta.Index, "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("raftnode: save snapshot at raft index %d: %w", shot.meta.Index, err)
	}
	recorded := make(chan struct{})
	n.appends.put(appendItem{job: func() error {
		defer close(recorded)
		return n.recordSnapshot(shot.meta)
	}})
	select {
	case <-recorded:
	case <-n.stop:
		return nil
	}
	if n.dead.Load() {
		return nil
	}
	n.snapMu.Lock()
	releaseTo, err := n.cfg.Snapshots.Prune()
	n.snapMu.Unlock()
	if err != nil {
		return fmt.Errorf("raftnode: prune snapshots: %w", err)
	}
	if releaseTo > 0 {
		if err := n.cfg.Log.Release(releaseTo); err != nil {
			return fmt.Errorf("raftnode: release the log up to raft index %d: %w", releaseTo, err)
		}
	}
	n.logger.Info("snapshot saved", "raftIndex", shot.meta.Index, "took", time.Since(began))
	return nil
}

// recordSnapshot notes a saved snapshot in the log and lets go of the entries
// below it. It runs on the append loop.
func (n *Node) recordSnapshot(meta raftpb.SnapshotMetadata) error {
	if newest, err := n.storage.Snapshot(); err == nil && newest.Metadata.Index >= meta.Index {
		return nil // a newer one was installed meanwhile
	}
	if err := n.cfg.Log.SaveSnapshot(meta); err != nil {
		return fmt.Errorf("raftnode: record snapshot at raft index %d: %w", meta.Index, err)
	}
	if _, err := n.storage.CreateSnapshot(meta.Index, &meta.ConfState, nil); err != nil {
		return fmt.Errorf("raftnode: snapshot of the storage at raft index %d: %w", meta.Index, err)
	}
	if meta.Index <= catchUpEntries {
		return nil
	}
	if err := n.storage.Compact(meta.Index - catchUpEntries); err != nil && !errors.Is(err, raft.ErrCompacted) {
		return fmt.Errorf("raftnode: compact the storage: %w", err)
	}
	return nil
}
