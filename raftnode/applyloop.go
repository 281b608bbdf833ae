package raftnode

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// applyItem is one piece of work of the apply loop: committed entries, a
// snapshot to restore, a member that needs a snapshot of now, or news of one
// that was put off.
type applyItem struct {
	message raftpb.Message
	restore *raftpb.SnapshotMetadata
	done    chan error
	needs   uint64
	// putOff describes a captured state that did not become a snapshot.
	putOff *raftpb.SnapshotMetadata
}

// applier is what the apply loop keeps between batches.
type applier struct {
	n *Node
	// at describes the applied state: what a snapshot of it would be.
	at raftpb.SnapshotMetadata
	// snapshot describes the newest snapshot, taken or being taken.
	snapshot raftpb.SnapshotMetadata
	// before describes the one before it, and notBefore is the earliest time of
	// another try when one was put off.
	before    raftpb.SnapshotMetadata
	notBefore time.Time
	bytes     int // applied since snapshot
	entries   []Entry
	results   []any
}

// applyLoop applies what is committed, in order, and wakes the waiters after
// the machine has published. It alone calls the machine.
func (n *Node) applyLoop() {
	from := n.cfg.Recovered.Snapshot
	a := &applier{n: n, at: from, snapshot: from}
	var items []applyItem
	for {
		select {
		case <-n.stop:
			return
		case <-n.applies.wake:
		}
		items = n.applies.take(items)
		for i := range items {
			if n.stopping() {
				return
			}
			if err := a.do(&items[i]); err != nil {
				n.fail(err)
				return
			}
		}
	}
}

func (a *applier) do(item *applyItem) error {
	if item.restore != nil {
		err := a.restore(*item.restore)
		item.done <- err
		return err
	}
	if item.putOff != nil {
		if a.snapshot.Index == item.putOff.Index {
			a.snapshot = a.before
		}
		a.notBefore = time.Now().Add(snapshotPause)
		return nil
	}
	if item.needs != raft.None {
		a.captureFor(item.needs)
		return nil
	}
	if err := a.apply(item.message.Entries); err != nil {
		return err
	}
	a.n.inbox.local(item.message.Responses...)
	a.maybeCapture()
	return nil
}

// apply hands the entries to the machine in as few batches as configuration
// changes allow.
func (a *applier) apply(entries []raftpb.Entry) error {
	for i := range entries {
		e := &entries[i]
		if e.Index != a.at.Index+uint64(len(a.entries))+1 {
			return fmt.Errorf("raftnode: invariant broken: raft index %d is to be applied after %d",
				e.Index, a.at.Index+uint64(len(a.entries)))
		}
		switch e.Type {
		case raftpb.EntryNormal:
			a.entries = append(a.entries, decodeEntry(e))
			a.bytes += len(e.Data)
		case raftpb.EntryConfChange:
			if err := a.flush(); err != nil {
				return err
			}
			if err := a.applyConfChange(e); err != nil {
				return err
			}
		default:
			return fmt.Errorf("raftnode: entry at raft index %d is of type %s, which this version does not know", e.Index, e.Type)
		}
	}
	return a.flush()
}

func (a *applier) flush() error {
	if len(a.entries) == 0 {
		return nil
	}
	a.results = slices.Grow(a.results[:0], len(a.entries))[:len(a.entries)]
	if err := a.n.cfg.Machine.Apply(a.entries, a.results); err != nil {
		return fmt.Errorf("raftnode: apply raft indexes %d to %d: %w", a.entries[0].Index, a.entries[len(a.entries)-1].Index, err)
	}
	last := a.entries[len(a.entries)-1]
	a.published(last.Index, last.Term)
	if !a.n.dead.Load() {
		a.n.waiters.applied(a.n.cfg.Run, a.entries, a.results)
	}
	clear(a.entries)
	clear(a.results)
	a.entries = a.entries[:0]
	return nil
}

func (a *applier) published(raftIndex, term uint64) {
	a.at.Index, a.at.Term = raftIndex, term
	a.n.applied.Store(raftIndex)
	a.n.readers.advance(raftIndex)
}

func (a *applier) applyConfChange(e *raftpb.Entry) error {
	var cc raftpb.ConfChange
	if err := cc.Unmarshal(e.Data); err != nil {
		return fmt.Errorf("raftnode: configuration change at raft index %d: %w", e.Index, err)
	}
	if saved, err := a.saveCommit(e.Index); err != nil || !saved {
		return err
	}
	entry := Entry{Index: e.Index, Term: e.Term, Run: a.n.cfg.Run, Seq: cc.ID - a.n.cfg.Run}
	accepted, result, err := a.n.cfg.Machine.ApplyConfChange(entry, cc)
	if err != nil {
		return fmt.Errorf("raftnode: apply configuration change at raft index %d: %w", e.Index, err)
	}
	if accepted {
		changed := make(chan *raftpb.ConfState, 1)
		a.n.inbox.call(func(c *Core) { changed <- c.ApplyConfChange(cc) })
		select {
		case cs := <-changed:
			a.at.ConfState = *cs
		case <-a.n.stop:
			return nil
		}
	}
	a.published(e.Index, e.Term)
	if !a.n.dead.Load() {
		a.n.waiters.applied(a.n.cfg.Run, []Entry{entry}, []any{result})
	}
	return nil
}

// saveCommit makes durable that a configuration change is committed, before it
// takes effect. A start that does not know so begins with the old configuration,
// and a member that was removed by the change will never help it to a quorum of
// that. The commit index that raft has the append loop write may come there later
// than this. It reports false when the node stops.
func (a *applier) saveCommit(raftIndex uint64) (bool, error) {
	saved := make(chan error, 1)
	a.n.appends.put(appendItem{job: func() error {
		err := a.n.cfg.Log.SaveCommit(raftIndex)
		saved <- err
		return err
	}})
	select {
	case err := <-saved:
		return err == nil, err
	case <-a.n.stop:
		return false, nil
	}
}

func (a *applier) restore(meta raftpb.SnapshotMetadata) error {
	var timeMS int64
	err := a.n.cfg.Snapshots.Load(meta.Index, func(r io.Reader) (err error) {
		timeMS, err = a.n.cfg.Machine.Restore(meta.Index, r)
		return err
	})
	if err != nil {
		return fmt.Errorf("raftnode: restore snapshot at raft index %d: %w", meta.Index, err)
	}
	a.at, a.before, a.snapshot, a.bytes = meta, meta, meta, 0
	a.published(meta.Index, meta.Term)
	a.n.inbox.call(func(c *Core) { c.ObserveTime(meta.Index, timeMS) })
	return nil
}

// maybeCapture gives the snapshotter a state when enough has been applied since
// the last one and the snapshotter is free, and has rested.
func (a *applier) maybeCapture() {
	due := a.at.Index-a.snapshot.Index >= a.n.cfg.SnapshotCount && int64(time.Since(a.n.start)) >= a.n.captureFrom.Load()
	if !due && a.bytes < snapshotBytes {
		return
	}
	a.capture()
}

// captureFor makes a snapshot that a member can use who was added after the
// newest one: raft does not restore a snapshot that does not know the member.
func (a *applier) captureFor(member uint64) {
	if !knows(&a.snapshot.ConfState, member) && knows(&a.at.ConfState, member) {
		a.capture()
	}
}

func knows(cs *raftpb.ConfState, member uint64) bool {
	return slices.Contains(cs.Voters, member) || slices.Contains(cs.Learners, member)
}

func (a *applier) capture() {
	if time.Now().Before(a.notBefore) {
		return
	}
	if len(a.n.shots) == cap(a.n.shots) {
		return // one waits already; try after the next batch
	}
	a.n.captureFrom.Store(math.MaxInt64)                               // until it has become a snapshot
	a.n.shots <- capture{meta: a.at, write: a.n.cfg.Machine.Capture()} // we alone fill it
	a.before, a.snapshot, a.bytes = a.snapshot, a.at, 0
}
