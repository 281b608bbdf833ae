package raftnode

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// appendMergeMax bounds the appends that share one fsync.
const appendMergeMax = 64

// appendItem is one piece of work of the append loop: a message of raft, or a
// job that has to be done between appends.
type appendItem struct {
	message raftpb.Message
	job     func() error
}

// appendLoop makes what raft wants durable, in order, and delivers the
// responses afterwards. It alone writes the log and the in-memory storage's
// entries. Its first error ends the node.
func (n *Node) appendLoop() {
	var items []appendItem
	var entries []raftpb.Entry
	for {
		select {
		case <-n.stop:
			return
		case <-n.appends.wake:
		}
		items = n.appends.take(items)
		n.appending.Store(max(1, int64(time.Since(n.start))))
		for rest := items; len(rest) > 0; {
			if n.stopping() {
				return
			}
			count, err := n.appendSome(rest, &entries)
			if err != nil {
				n.fail(err)
				return
			}
			rest = rest[count:]
			n.appending.Store(max(1, int64(time.Since(n.start))))
		}
		n.appending.Store(0)
	}
}

// appendSome carries out the first item, together with as many of the
// following ones as one fsync may cover.
func (n *Node) appendSome(items []appendItem, entries *[]raftpb.Entry) (int, error) {
	if items[0].job != nil {
		return 1, items[0].job()
	}
	if items[0].message.Snapshot != nil {
		return 1, n.installSnapshot(items[0].message)
	}
	count := 0
	var hs raftpb.HardState
	batch := (*entries)[:0]
	for count < len(items) && count < appendMergeMax && items[count].job == nil && items[count].message.Snapshot == nil {
		m := &items[count].message
		if s := hardStateOf(m); !raft.IsEmptyHardState(s) {
			hs = s
		}
		batch = append(batch, m.Entries...)
		count++
	}
	*entries = batch
	if len(batch) > 0 || !raft.IsEmptyHardState(hs) {
		if err := n.cfg.Log.Append(hs, batch); err != nil {
			return 0, fmt.Errorf("raftnode: append %d entries: %w", len(batch), err)
		}
	}
	for i := range items[:count] {
		if err := n.storage.Append(items[i].message.Entries); err != nil {
			return 0, fmt.Errorf("raftnode: append to the storage: %w", err)
		}
	}
	if !raft.IsEmptyHardState(hs) {
		if err := n.storage.SetHardState(hs); err != nil {
			return 0, fmt.Errorf("raftnode: set the hard state: %w", err)
		}
	}
	for i := range items[:count] {
		n.respond(items[i].message.Responses)
	}
	clear(batch)
	return count, nil
}

func hardStateOf(m *raftpb.Message) raftpb.HardState {
	return raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
}

// respond delivers the responses of finished work, to this member's own core
// and to peers.
func (n *Node) respond(responses []raftpb.Message) {
	if n.dead.Load() {
		return
	}
	own := 0
	for _, m := range responses {
		if m.To == n.cfg.ID {
			own++
		}
	}
	if own == len(responses) {
		n.inbox.local(responses...)
		return
	}
	var local, peers []raftpb.Message
	for _, m := range responses {
		if m.To == n.cfg.ID {
			local = append(local, m)
		} else {
			peers = append(peers, m)
		}
	}
	n.inbox.local(local...)
	n.send(peers)
}

// installSnapshot makes a snapshot that the transport has received the state
// of this member: first the file, then the log, then the machine.
func (n *Node) installSnapshot(m raftpb.Message) error {
	meta := m.Snapshot.Metadata
	n.snapMu.Lock()
	defer n.snapMu.Unlock()
	if err := n.cfg.Snapshots.Install(meta); err != nil {
		return fmt.Errorf("raftnode: install snapshot at raft index %d: %w", meta.Index, err)
	}
	if err := n.cfg.Log.SaveSnapshot(meta); err != nil {
		return fmt.Errorf("raftnode: record snapshot at raft index %d: %w", meta.Index, err)
	}
	hs := hardStateOf(&m)
	if err := n.cfg.Log.Append(hs, m.Entries); err != nil {
		return fmt.Errorf("raftnode: append after snapshot: %w", err)
	}
	restored := make(chan error, 1)
	n.applies.put(applyItem{restore: &meta, done: restored})
	select {
	case err := <-restored:
		if err != nil {
			return err
		}
	case <-n.stop:
		return nil
	}
	if err := n.storage.ApplySnapshot(*m.Snapshot); err != nil {
		return fmt.Errorf("raftnode: apply snapshot to the storage: %w", err)
	}
	if err := n.storage.Append(m.Entries); err != nil {
		return fmt.Errorf("raftnode: append to the storage: %w", err)
	}
	if !raft.IsEmptyHardState(hs) {
		if err := n.storage.SetHardState(hs); err != nil {
			return fmt.Errorf("raftnode: set the hard state: %w", err)
		}
	}
	n.logger.Info("snapshot installed", "raftIndex", meta.Index)
	n.respond(m.Responses)
	return n.prune()
}
