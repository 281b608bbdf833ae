package sim

import (
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// appendMergeMax, slowDiskMin and slowDiskPause are those of package raftnode.
const (
	appendMergeMax = 64
	slowDiskMin    = time.Second
	slowDiskPause  = time.Minute
)

// appendItem is one piece of work of the append loop.
type appendItem struct {
	message raftpb.Message
	// job, unless nil, is done instead; it calls done when it has ended.
	job func(done func())
}

// appender does what the append loop of raftnode.Node does: in order, many
// messages an fsync, responses after it.
type appender struct {
	p     *process
	items []appendItem
	busy  bool
	since time.Duration // when the present work began, by the process
	// noHandOverBefore and tickedAt are those of the loop.
	noHandOverBefore, tickedAt time.Duration
}

func (a *appender) put(item appendItem) { a.items = append(a.items, item) }

// kick begins the next work, unless some is under way.
func (a *appender) kick() {
	if a.busy || len(a.items) == 0 || a.p.dead {
		return
	}
	a.busy = true
	a.since = a.p.now()
	first := a.items[0]
	switch {
	case first.job != nil:
		a.items = a.items[1:]
		first.job(a.done)
	case first.message.Snapshot != nil:
		a.items = a.items[1:]
		a.install(first.message)
	default:
		a.appendSome()
	}
}

func (a *appender) done() {
	a.busy = false
	a.kick()
}

// syncTime is how long an fsync of the log takes now.
func (a *appender) syncTime() time.Duration {
	h := a.p.host
	took := between(a.p.w.rnd, 100*time.Microsecond, 800*time.Microsecond) + h.syncDelay
	if h.hungUntil > a.p.w.now {
		took += h.hungUntil - a.p.w.now
	}
	if h.syncDelay > 0 || h.hungUntil > a.p.w.now {
		h.slowSyncs++
	}
	return took
}

func hardStateOf(m *raftpb.Message) raftpb.HardState {
	return raftpb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
}

func (a *appender) appendSome() {
	p := a.p
	count := 0
	var hs raftpb.HardState
	var entries []raftpb.Entry
	for count < len(a.items) && count < appendMergeMax && a.items[count].job == nil && a.items[count].message.Snapshot == nil {
		m := &a.items[count].message
		if s := hardStateOf(m); !raft.IsEmptyHardState(s) {
			hs = s
		}
		entries = append(entries, m.Entries...)
		count++
	}
	items := a.items[:count:count]
	a.items = a.items[count:]
	if p.dies("append: before the write") {
		return
	}
	if !p.host.disk.write(logBatch{hs: hs, entries: entries}) {
		a.finish(items, hs)
		return
	}
	if p.dies("append: before the fsync") {
		return
	}
	p.w.early(p, items)
	p.after(a.syncTime(), func() {
		if !p.synced() {
			return
		}
		a.finish(items, hs)
	})
}

// synced ends an fsync of the log. It reports false when the process has ended.
func (p *process) synced() bool {
	h := p.host
	if told := h.failSync; told != nil {
		h.failSync = nil
		told()
		p.w.row("D8")
		if p.w.cfg.Defect == DefectIgnoreSync {
			h.disk.pending = nil
			return true
		}
		p.die(exitDisk)
		h.disk.crash(chance(p.w.rnd, 0.5), func() bool { return true })
		p.w.after(between(p.w.rnd, 300*time.Millisecond, 2*time.Second), h.boot)
		return false
	}
	h.disk.sync()
	return !p.dies("append: after the fsync")
}

// finish delivers the responses of durable appends.
func (a *appender) finish(items []appendItem, hs raftpb.HardState) {
	p := a.p
	for i := range items {
		p.must(p.storage.Append(items[i].message.Entries))
	}
	if !raft.IsEmptyHardState(hs) {
		p.must(p.storage.SetHardState(hs))
	}
	for i := range items {
		if p.respond(items[i].message.Responses); p.dead {
			return
		}
	}
	a.done()
}

// respond delivers responses to this member's own core and to peers.
func (p *process) respond(responses []raftpb.Message) {
	var peers []raftpb.Message
	for _, m := range responses {
		if m.To == p.host.id {
			p.locals = append(p.locals, m)
		} else {
			peers = append(peers, m)
		}
	}
	p.send(peers)
	p.wake()
}

// install makes a received snapshot the state of the member: first the file,
// then the log, then the machine.
func (a *appender) install(m raftpb.Message) {
	p, d := a.p, a.p.host.disk
	meta := m.Snapshot.Metadata
	file, ok := d.take(meta.Index)
	if !ok || !file.sound() {
		p.w.fail("snapshot", "member %x installs the snapshot at raft index %d, which it has not received", p.host.id, meta.Index)
	}
	if p.dies("install: before the rename") {
		return
	}
	file.named = false
	d.addFile(file)
	if p.dies("install: before the directory is synced") {
		return
	}
	p.after(between(p.w.rnd, time.Millisecond, 10*time.Millisecond), func() {
		d.nameFiles()
		if p.dies("install: before the log names it") {
			return
		}
		d.write(logBatch{snapshot: &meta})
		p.after(a.syncTime(), func() { a.installed(m) })
	})
}

func (a *appender) installed(m raftpb.Message) {
	p := a.p
	if !p.synced() || p.dies("install: after the log names it") {
		return
	}
	finish := func() {
		p.applyWork(applyItem{restore: &m.Snapshot.Metadata, done: func() { a.restored(m) }})
		p.applier.kick()
	}
	if !p.host.disk.write(logBatch{hs: hardStateOf(&m), entries: m.Entries}) {
		finish()
		return
	}
	p.after(a.syncTime(), func() {
		if p.synced() {
			finish()
		}
	})
}

func (a *appender) restored(m raftpb.Message) {
	p := a.p
	p.must(p.storage.ApplySnapshot(*m.Snapshot))
	p.must(p.storage.Append(m.Entries))
	if hs := hardStateOf(&m); !raft.IsEmptyHardState(hs) {
		p.must(p.storage.SetHardState(hs))
	}
	p.w.tracer.logf("member %x has installed the snapshot at raft index %d", p.host.id, m.Snapshot.Metadata.Index)
	if p.respond(m.Responses); p.dead {
		return
	}
	p.host.disk.prune()
	if p.dies("install: after the prune") {
		return
	}
	a.done()
}

// watchDisk gives leadership up when the disk has kept an append waiting for
// too long.
func (a *appender) watchDisk() {
	p := a.p
	now := p.now()
	paused := now-a.tickedAt > election/2
	a.tickedAt = now
	if paused || !a.busy || now-a.since < max(election, slowDiskMin) || now < a.noHandOverBefore {
		return
	}
	if to := p.core.TransferLeadership(raft.None); to != raft.None {
		a.noHandOverBefore = now + slowDiskPause
		p.w.row("R18")
		p.w.tracer.logf("member %x hands leadership over to %x: its disk is slow", p.host.id, to)
	}
}
