package raftnode

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	// slowDiskMin is how long an append may take on a leader at least.
	slowDiskMin = time.Second
	// slowDiskPause is the time between two hand-overs because of a slow disk.
	slowDiskPause = time.Minute
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
			n.watchDisk(core)
			n.watchSpace(core)
			n.settleDoubts(core)
		case <-n.inbox.wake:
		}
		if n.dead.Load() {
			return
		}
		in = n.inbox.take(in)
		n.turn(core, in)
	}
}

// doubt stands for the proposals that were made before a leader was replaced.
// They may have been lost with it, and are not made again; what has come
// through is applied soon after the new leader's first entry.
type doubt struct {
	upTo uint64        // number of the last of them
	at   time.Duration // when to stop waiting
}

// raiseDoubt is called when another leader has been elected.
func (n *Node) raiseDoubt() {
	n.doubts = append(n.doubts, doubt{upTo: n.inbox.lastSeq(), at: time.Since(n.start) + n.cfg.ElectionTimeout})
}

// settleDoubts tells those who still wait that the outcome of their proposals
// is unknown, instead of letting them wait for their deadlines. What waits in the
// queue even now, behind a disk that hangs, must not be proposed when it is free.
func (n *Node) settleDoubts(core *Core) {
	for len(n.doubts) > 0 && time.Since(n.start) > n.doubts[0].at {
		n.waiters.giveUp(n.doubts[0].upTo, ErrLeaderChanged)
		core.Withdraw(n.doubts[0].upTo)
		n.doubts = n.doubts[1:]
	}
}

// watchDisk gives up leadership when this member's disk has kept an append
// waiting for too long: the others can do better. It does so once in a while
// only, for all disks may be slow.
func (n *Node) watchDisk(core *Core) {
	since := n.appending.Load()
	now := time.Since(n.start)
	paused := now-n.tickedAt > n.cfg.ElectionTimeout/2
	n.tickedAt = now
	if paused { // it was this process that stood still, not the disk
		return
	}
	if since == 0 || now-time.Duration(since) < max(n.cfg.ElectionTimeout, slowDiskMin) || now < n.noHandOverBefore {
		return
	}
	if to := core.TransferLeadership(raft.None); to != raft.None {
		n.noHandOverBefore = now + slowDiskPause
		n.logger.Warn("leadership is given up: the disk is slow", "appendFor", now-time.Duration(since), "to", fmt.Sprintf("%x", to))
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
		out := core.Outputs()
		// Before anything leaves: what goes to a new member may let it acknowledge
		// a write that is not applied here.
		n.alone.Store(core.AloneFrom())
		n.dispatch(out)
		if !n.readers.waiting() {
			break
		}
	}
	n.publish(core)
	if leaderless := core.leaderless(); leaderless != n.leaderless {
		n.leaderless = leaderless
		if leaderless {
			n.logger.Warn("no leader for an election timeout: writes and linearizable reads are refused", "term", core.term())
		}
	}
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
	for _, m := range out.Applies {
		n.applies.put(applyItem{message: m})
	}
	// Last: the runtime runs first what was woken last, and the disk takes longest.
	for _, m := range out.Appends {
		n.appends.put(appendItem{message: m})
	}
	n.send(out.Peers)
	n.readers.finish(out.Reads)
	for _, r := range out.Refused {
		out.ProposedBytes += len(r.Proposal.Data)
		n.waiters.refuse(r.Proposal.Seq, r.Err)
	}
	n.inbox.dequeued(out.Proposed+len(out.Refused), out.ProposedBytes)
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
			// Opening a file can take as long as a disk likes. raft has at most
			// one snapshot under way to each peer.
			n.wg.Go(func() { n.sendSnapshot(m) })
		} else {
			ordinary = append(ordinary, m)
		}
	}
	if len(ordinary) > 0 {
		n.sender.Send(ordinary)
	}
}

// sendSnapshot opens the newest snapshot file, which is at least as new as the
// one that raft has in mind, and hands it to the transport. For a member that
// was added since, it has a newer one made first.
func (n *Node) sendSnapshot(m raftpb.Message) {
	meta, size, body, err := n.cfg.Snapshots.Open()
	if err != nil {
		n.logger.Error("cannot open a snapshot to send", "to", fmt.Sprintf("%x", m.To), "error", err)
		n.ReportSnapshot(m.To, raft.SnapshotFailure)
		return
	}
	if !knows(&meta.ConfState, m.To) {
		_ = body.Close() // it was opened for reading
		n.applies.put(applyItem{needs: m.To})
		n.ReportSnapshot(m.To, raft.SnapshotFailure) // raft asks again
		return
	}
	m.Snapshot = &raftpb.Snapshot{Metadata: meta}
	n.sender.SendSnapshot(m, size, body)
}

// publish makes the core's status visible. The status changes rarely, the
// commit index with each batch.
func (n *Node) publish(core *Core) {
	st := core.Status()
	n.committed.Store(st.Committed)
	st.Committed = 0
	if st.Leader != raft.None {
		st.LeaderSince = n.start.Add(st.leadSince)
	}
	if st.Leader != raft.None {
		st.clusterTime = 0
	}
	old := n.status.Load()
	if old != nil && *old == st {
		return
	}
	changed := st // what is stored moves to the heap: only what has changed is to
	n.status.Store(&changed)
	if st.LeaderChanges > 1 && old != nil && old.LeaderChanges != st.LeaderChanges {
		n.raiseDoubt()
	}
	if old != nil && old.Leader != st.Leader {
		if st.Leader == raft.None {
			n.logger.Warn("leader lost", "leader", fmt.Sprintf("%x", old.Leader), "term", st.Term)
		} else {
			n.logger.Info("leader elected", "leader", fmt.Sprintf("%x", st.Leader), "term", st.Term)
		}
	}
}
