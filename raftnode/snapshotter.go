package raftnode

import (
	"errors"
	"fmt"
	"io"
	"math"
	"syscall"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	// catchUpEntries and catchUpBytes bound the entries below a snapshot that
	// stay in memory, for followers that are only a little behind.
	catchUpEntries = 5000
	catchUpBytes   = 64 << 20
	// snapshotBytes is how much may be applied since the last snapshot, whatever
	// the count of entries, because all of it is in memory a second time.
	snapshotBytes = 256 << 20
	// snapshotPause is the time between a snapshot that was put off and the next
	// try.
	snapshotPause = time.Second
	// snapshotRest is for how many times as long as the last snapshot took the next
	// one waits, if that was longer than snapshotRestMin: a large store under many
	// writes would else do little but take snapshots.
	snapshotRest    = 3
	snapshotRestMin = 100 * time.Millisecond
)

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
	defer func() { n.restAfter(time.Since(began)) }()
	n.snapMu.Lock()
	err := n.cfg.Snapshots.Save(shot.meta, shot.write)
	n.snapMu.Unlock()
	if errors.Is(err, syscall.ENOSPC) {
		n.logger.Error("snapshot put off: the disk is full", "raftIndex", shot.meta.Index, "error", err)
		n.applies.put(applyItem{putOff: &shot.meta})
		return nil
	}
	if err != nil {
		return fmt.Errorf("raftnode: save snapshot at raft index %d: %w", shot.meta.Index, err)
	}
	recorded := make(chan bool, 1)
	n.appends.put(appendItem{job: func() error {
		ok, err := n.recordSnapshot(shot.meta)
		recorded <- ok
		return err
	}})
	ok := false
	select {
	case ok = <-recorded:
	case <-n.stop:
		return nil
	}
	n.snapMu.Lock()
	defer n.snapMu.Unlock()
	if !ok {
		if n.stopping() {
			return nil
		}
		if err := n.cfg.Snapshots.Discard(shot.meta); err != nil {
			return fmt.Errorf("raftnode: discard snapshot at raft index %d: %w", shot.meta.Index, err)
		}
		return nil
	}
	n.logger.Info("snapshot saved", "raftIndex", shot.meta.Index, "took", time.Since(began))
	return n.prune()
}

// restAfter tells the apply loop when it may capture again after a snapshot that
// took so long.
func (n *Node) restAfter(took time.Duration) {
	rest := time.Duration(0)
	if took > snapshotRestMin {
		rest = snapshotRest * took
	}
	n.captureFrom.Store(int64(time.Since(n.start) + rest))
}

// prune removes what no start will need. The caller holds snapMu.
func (n *Node) prune() error {
	releaseTo, err := n.cfg.Snapshots.Prune()
	if err != nil {
		return fmt.Errorf("raftnode: prune snapshots: %w", err)
	}
	if releaseTo > 0 {
		if err := n.cfg.Log.Release(releaseTo); err != nil {
			return fmt.Errorf("raftnode: release the log up to raft index %d: %w", releaseTo, err)
		}
	}
	return nil
}

// recordSnapshot notes a saved snapshot in the log and lets go of the entries
// below it. It runs on the append loop, and reports false when a newer one was
// installed meanwhile.
func (n *Node) recordSnapshot(meta raftpb.SnapshotMetadata) (bool, error) {
	if newest, err := n.storage.Snapshot(); err == nil && newest.Metadata.Index >= meta.Index {
		return false, nil
	}
	if err := n.cfg.Log.SaveSnapshot(meta); err != nil {
		return false, fmt.Errorf("raftnode: record snapshot at raft index %d: %w", meta.Index, err)
	}
	if _, err := n.storage.CreateSnapshot(meta.Index, &meta.ConfState, nil); err != nil {
		return false, fmt.Errorf("raftnode: snapshot of the storage at raft index %d: %w", meta.Index, err)
	}
	keepFrom, err := n.catchUpFrom(meta.Index)
	if err != nil {
		return false, fmt.Errorf("raftnode: compact the storage: %w", err)
	}
	if err := n.storage.Compact(keepFrom - 1); err != nil && !errors.Is(err, raft.ErrCompacted) {
		return false, fmt.Errorf("raftnode: compact the storage: %w", err)
	}
	return true, nil
}

// catchUpFrom returns the raft index of the first entry that stays in memory
// below a snapshot.
func (n *Node) catchUpFrom(snapshot uint64) (uint64, error) {
	first, err := n.storage.FirstIndex()
	if err != nil {
		return 0, err
	}
	if snapshot >= catchUpEntries {
		first = max(first, snapshot-catchUpEntries+1)
	}
	if first > snapshot {
		return first, nil
	}
	entries, err := n.storage.Entries(first, snapshot+1, math.MaxUint64)
	if err != nil {
		return 0, err
	}
	bytes := 0
	for i := len(entries) - 1; i >= 0; i-- {
		if bytes += len(entries[i].Data); bytes > catchUpBytes {
			return entries[i].Index + 1, nil
		}
	}
	return first, nil
}
