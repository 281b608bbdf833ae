package sim

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/raftnode"
)

// applyItem is one piece of work of the apply loop: committed entries, a
// snapshot to restore, or a member that needs a snapshot of now.
type applyItem struct {
	message raftpb.Message
	restore *raftpb.SnapshotMetadata
	done    func()
	needs   uint64
}

// applier does what the apply and snapshot loops of raftnode.Node do.
type applier struct {
	p       *process
	items   []applyItem
	busy    bool
	at      raftpb.SnapshotMetadata
	applied uint64
	timeMS  int64
	// snapshot is the newest snapshot, taken or being taken; saving says that
	// one is on its way to the disk.
	snapshot raftpb.SnapshotMetadata
	saving   bool
	entries  []raftnode.Entry
	results  []any
}

func (p *process) applyWork(item applyItem) {
	p.applier.items = append(p.applier.items, item)
	p.applier.kick()
}

// kick begins the next work, unless some is under way.
func (a *applier) kick() {
	if a.busy || len(a.items) == 0 || a.p.dead {
		return
	}
	a.busy = true
	wait := between(a.p.w.rnd, 5*time.Microsecond, 200*time.Microsecond) + a.p.host.applyDelay
	a.p.after(wait, func() {
		item := a.items[0]
		a.items = a.items[1:]
		a.do(&item, func() {
			a.busy = false
			a.kick()
		})
	})
}

// do does one piece of work and calls done, unless the process dies.
func (a *applier) do(item *applyItem, done func()) {
	switch {
	case item.restore != nil:
		if a.restore(*item.restore); !a.p.dead {
			item.done()
			done()
		}
		return
	case item.needs != raft.None:
		if !knows(&a.snapshot.ConfState, item.needs) && knows(&a.at.ConfState, item.needs) {
			a.capture()
		}
		done()
		return
	}
	if a.p.dies("apply: before the batch") {
		return
	}
	a.apply(item.message.Entries, func() {
		a.p.locals = append(a.p.locals, item.message.Responses...)
		a.p.wake()
		if a.p.dies("apply: after the batch") {
			return
		}
		if a.at.Index-a.snapshot.Index >= a.p.w.options.snapshotCount {
			a.capture()
		}
		done()
	})
}

// stateHashEvery is after how many raft indexes the states of all members are
// compared: a batch ends there, so that every member can be looked at.
const stateHashEvery = 256

// apply applies entries and calls done, unless the process dies. A configuration
// change waits for its commit index to be durable.
func (a *applier) apply(entries []raftpb.Entry, done func()) {
	for i := range entries {
		e := &entries[i]
		if e.Index != a.at.Index+uint64(len(a.entries))+1 {
			a.p.w.fail("apply order", "member %x: raft index %d is to be applied after %d", a.p.host.id, e.Index, a.at.Index+uint64(len(a.entries)))
		}
		a.p.w.check.applying(a.p, e)
		switch e.Type {
		case raftpb.EntryNormal:
			a.entries = append(a.entries, decodeEntry(e))
			if e.Index%stateHashEvery == 0 {
				a.flush()
			}
		case raftpb.EntryConfChange:
			if a.flush(); a.p.dead {
				return
			}
			a.saveCommit(func() {
				if a.applyConfChange(e); !a.p.dead {
					a.apply(entries[i+1:], done)
				}
			})
			return
		default:
			a.p.w.fail("apply order", "entry at raft index %d is of type %s", e.Index, e.Type)
		}
		if a.p.dead {
			return
		}
	}
	if a.flush(); !a.p.dead {
		done()
	}
}

// saveCommit makes durable, on the append loop, what is known to be committed.
func (a *applier) saveCommit(done func()) {
	p := a.p
	if p.w.cfg.Defect == DefectCommitLost {
		done()
		return
	}
	p.appender.put(appendItem{job: func(free func()) {
		saved := func() {
			done()
			free()
		}
		if !p.host.disk.writeCommit() {
			saved()
			return
		}
		p.after(p.appender.syncTime(), func() {
			if p.synced() {
				saved()
			}
		})
	}})
	p.appender.kick()
}

func (a *applier) flush() {
	if len(a.entries) == 0 {
		return
	}
	p := a.p
	a.results = slices.Grow(a.results[:0], len(a.entries))[:len(a.entries)]
	clear(a.results)
	if err := p.machine.Apply(a.entries, a.results); err != nil {
		p.w.fail("apply", "member %x cannot apply raft indexes %d to %d: %v", p.host.id, a.entries[0].Index, a.entries[len(a.entries)-1].Index, err)
	}
	last := a.entries[len(a.entries)-1]
	a.published(last.Index, last.Term)
	p.w.oracle.applied(p, a.entries, a.results)
	if p.dies("apply: after publication, before the answers") {
		return
	}
	for i := range a.entries {
		e := &a.entries[i]
		if e.Run == p.run {
			p.waiters.tell(e.Seq, outcome{result: a.results[i], raftIndex: e.Index})
		}
	}
	a.entries = a.entries[:0]
}

func (a *applier) published(raftIndex, term uint64) {
	a.at.Index, a.at.Term = raftIndex, term
	a.applied = raftIndex
	a.p.readers.advance(raftIndex)
	a.p.duties.advanced(raftIndex)
}

func (a *applier) applyConfChange(e *raftpb.Entry) {
	p := a.p
	var cc raftpb.ConfChange
	if err := cc.Unmarshal(e.Data); err != nil {
		p.w.fail("apply", "configuration change at raft index %d: %v", e.Index, err)
	}
	if p.dies("conf change: before it is applied") {
		return
	}
	p.w.check.changing(p, e)
	entry := raftnode.Entry{Index: e.Index, Term: e.Term, Run: p.run, Seq: cc.ID - p.run}
	accepted, result, err := p.machine.ApplyConfChange(entry, cc)
	if err != nil {
		p.w.fail("apply", "configuration change at raft index %d: %v", e.Index, err)
	}
	if accepted {
		a.at.ConfState = *p.core.ApplyConfChange(cc)
		p.wake()
	}
	p.w.tracer.logf("member %x applies %s of %x at raft index %d: %v", p.host.id, cc.Type, cc.NodeID, e.Index, accepted)
	a.published(e.Index, e.Term)
	p.w.oracle.appliedConfChange(p, e, cc, accepted)
	if p.dies("conf change: after it is applied") {
		return
	}
	if p.machine.IsRemoved(p.host.id) {
		p.refused(exitRemoved)
	}
	p.waiters.tell(entry.Seq, outcome{result: result, raftIndex: e.Index})
}

func (a *applier) restore(meta raftpb.SnapshotMetadata) {
	p := a.p
	f := p.host.disk.file(meta.Index)
	if f == nil {
		p.w.fail("snapshot", "member %x has no file for raft index %d", p.host.id, meta.Index)
	}
	timeMS, err := p.machine.Restore(meta.Index, bytes.NewReader(f.data))
	if err != nil {
		p.w.fail("snapshot", "member %x cannot restore raft index %d: %v", p.host.id, meta.Index, err)
	}
	a.at, a.snapshot = meta, meta
	a.published(meta.Index, meta.Term)
	p.w.oracle.restored(p)
	if p.machine.IsRemoved(p.host.id) {
		p.refused(exitRemoved)
	}
	p.call(func() { p.core.ObserveTime(meta.Index, timeMS) })
}

// capture pins the state and saves it beside everything else: temporary file,
// fsync, rename, directory fsync, record in the log, prune.
func (a *applier) capture() {
	if a.saving {
		return // try again after the next batch
	}
	a.saving = true
	p := a.p
	meta := a.at
	if p.w.cfg.Defect == DefectSnapshotLabel {
		meta.Index--
	}
	a.snapshot = a.at
	write := p.machine.Capture()
	p.after(between(p.w.rnd, 2*time.Millisecond, 30*time.Millisecond), func() {
		if p.dies("snapshot: temporary file written") {
			return
		}
		var body bytes.Buffer
		if err := write(io.Writer(&body)); err != nil {
			p.w.fail("capture", "member %x: state at raft index %d: %v", p.host.id, meta.Index, err)
		}
		f := snapFile{meta: meta, data: body.Bytes(), sum: hashBytes(fnvOffset, body.Bytes())}
		p.host.disk.addFile(f)
		if p.dies("snapshot: renamed, directory not synced") {
			return
		}
		p.after(between(p.w.rnd, time.Millisecond, 5*time.Millisecond), func() {
			if p.w.cfg.Defect != DefectNoDirSync {
				p.host.disk.nameFiles()
			}
			if !p.dies("snapshot: durable, not in the log") {
				a.record(meta)
			}
		})
	})
}

// record notes a saved snapshot in the log, on the append loop.
func (a *applier) record(meta raftpb.SnapshotMetadata) {
	p, d := a.p, a.p.host.disk
	p.appender.put(appendItem{job: func(done func()) {
		if newest, err := p.storage.Snapshot(); err == nil && newest.Metadata.Index >= meta.Index {
			d.files = slices.DeleteFunc(d.files, func(f snapFile) bool { return f.meta.Index == meta.Index && meta.Index < newest.Metadata.Index })
			a.saving = false
			done()
			return
		}
		d.write(logBatch{snapshot: &meta})
		p.after(p.appender.syncTime(), func() {
			if !p.synced() || p.dies("snapshot: in the log, not pruned") {
				return
			}
			a.compact(meta)
			d.prune()
			p.w.tracer.mix(p.host.id, meta.Index)
			if p.dies("snapshot: pruned") {
				return
			}
			a.saving = false
			done()
		})
	}})
	p.appender.kick()
}

func (a *applier) compact(meta raftpb.SnapshotMetadata) {
	p := a.p
	if _, err := p.storage.CreateSnapshot(meta.Index, &meta.ConfState, nil); err != nil {
		p.must(err)
	}
	first, err := p.storage.FirstIndex()
	p.must(err)
	if keep := p.w.options.catchUp; meta.Index > keep {
		first = max(first, meta.Index-keep)
	}
	if err := p.storage.Compact(first - 1); err != nil && !errors.Is(err, raft.ErrCompacted) {
		p.must(err)
	}
}

func knows(cs *raftpb.ConfState, member uint64) bool {
	return slices.Contains(cs.Voters, member) || slices.Contains(cs.Learners, member)
}

// decodeEntry splits a committed entry by the prefix that package raftnode puts
// before every proposal: cluster time, run, number.
func decodeEntry(e *raftpb.Entry) raftnode.Entry {
	out := raftnode.Entry{Index: e.Index, Term: e.Term, Data: e.Data}
	if e.Type == raftpb.EntryNormal && len(e.Data) >= raftnode.PrefixBytes {
		out.TimeMS = int64(binary.BigEndian.Uint64(e.Data) &^ (1 << 63))
		out.Run = binary.BigEndian.Uint64(e.Data[8:])
		out.Seq = binary.BigEndian.Uint64(e.Data[16:])
		out.Data = e.Data[raftnode.PrefixBytes:]
	}
	return out
}
