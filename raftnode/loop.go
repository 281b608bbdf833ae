package raftnode

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// loop owns the core. It never waits for a disk or a peer.
func (n *Node) loop() {
	core := n.core
	defer func() {
		// raft panics when an invariant is broken; the numbers are in the text.
		if r := recover(); r != nil {
			n.fail(fmt.Errorf("raftnode: invariant broken: %v", r))
		}
	}()
	ticker := time.NewTicker(n.cfg.HeartbeatInterval)
	defer ticker.Stop()
	var in inputs
	n.turn(core, in)
	for {
		select {
		case <-n.stop:
			return
		case <-ticker.C:
			core.Tick(time.Since(n.start))
		case <-n.inbox.wake:
		}
		if n.dead.Load() {
			return
		}
		in = n.inbox.take(in)
		n.turn(core, in)
	}
}

// turn feeds the core with inputs and carries out what it wants.
func (n *Node) turn(core *Core, in inputs) {
	now := time.Since(n.start)
	for _, m := range in.locals {
		if err := core.StepLocal(now, m); err != nil {
			n.fail(err)
			return
		}
	}
	for _, m := range in.peers {
		if err := core.Step(now, m); err != nil && !n.tolerate(err) {
			return
		}
	}
	for _, f := range in.calls {
		f(core)
	}
	core.Propose(now, in.proposals...)
	for {
		n.readers.begin(core)
		n.dispatch(core.Outputs())
		if !n.readers.waiting() {
			break
		}
	}
	n.publish(core)
}

// tolerate reports whether the node can go on after a refused message.
func (n *Node) tolerate(err error) bool {
	if _, lost := err.(*LostLogError); lost { //nolint:errorlint // judge returns it bare
		n.fail(err)
		return false
	}
	n.logger.Warn("message of a peer refused", "error", err)
	return true
}

func (n *Node) dispatch(out Output) {
	for _, m := range out.Appends {
		n.appends.put(appendItem{message: m})
	}
	for _, m := range out.Applies {
		n.applies.put(applyItem{message: m})
	}
	n.send(out.Peers)
	n.readers.finish(out.Reads)
	if len(out.Refused) > 0 {
		bytes := 0
		for _, p := range out.Refused {
			bytes += len(p.Data)
		}
		n.inbox.dequeued(len(out.Refused), bytes)
		n.waiters.refuse(out.Refused, ErrNoLeader)
	}
	n.inbox.dequeued(out.Proposed, out.ProposedBytes)
}

// send gives messages to the transport, snapshots by their own way: a snapshot
// is streamed from its file, never put into a message.
func (n *Node) send(ms []raftpb.Message) {
	if len(ms) == 0 || n.dead.Load() {
		return
	}
	ordinary := ms[:0]
	for _, m := range ms {
		if m.Type == raftpb.MsgSnap {
			n.sendSnapshot(m)
		} else {
			ordinary = append(ordinary, m)
		}
	}
	if len(ordinary) > 0 {
		n.sender.Send(ordinary)
	}
}

// sendSnapshot opens the newest snapshot file, which is at least as new as the
// one that raft has in mind, and hands it to the transport.
func (n *Node) sendSnapshot(m raftpb.Message) {
	meta, size, body, err := n.cfg.Snapshots.Open()
	if err != nil {
		n.logger.Error("cannot open a snapshot to send", "to", fmt.Sprintf("%x", m.To), "error", err)
		n.ReportSnapshot(m.To, raft.SnapshotFailure)
		return
	}
	m.Snapshot = &raftpb.Snapshot{Metadata: meta}
	n.logger.Info("sending a snapshot", "to", fmt.Sprintf("%x", m.To), "raftIndex", meta.Index, "bytes", size)
	n.sender.SendSnapshot(m, size, body)
}

// publish makes the core's status visible. The status changes rarely, the
// commit index with each batch.
func (n *Node) publish(core *Core) {
	st := core.Status()
	n.committed.Store(st.Committed)
	st.Committed = 0
	if st.Leader != raft.None {
		st.clusterTime = 0
	}
	old := n.status.Load()
	if old != nil && *old == st {
		return
	}
	n.status.Store(&st)
	if old != nil && old.Leader != st.Leader {
		if st.Leader == raft.None {
			n.logger.Warn("leader lost", "term", st.Term)
		} else {
			n.logger.Info("leader elected", "leader", fmt.Sprintf("%x", st.Leader), "term", st.Term)
		}
	}
}
