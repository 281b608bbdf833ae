package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/store"
)

// process is one run of a member: the core, the machine and the store of the
// product, and a driver that does what the loops of raftnode.Node do, each step
// as an event of its own.
type process struct {
	w    *world
	host *host
	dead bool
	run  uint64

	core    *raftnode.Core
	storage *raft.MemoryStorage
	machine *server.Machine
	st      *store.Store
	born    time.Duration // host clock at the start
	// knowsTime says that it has heard the cluster time of a leader, or led.
	knowsTime bool
	status    raftnode.Status
	// aloneFrom is what the core said before anything of the last turn left.
	aloneFrom uint64

	// The inbox of the loop.
	locals    []raftpb.Message
	peers     []raftpb.Message
	calls     []func()
	proposals []raftnode.Proposal
	waking    bool
	propSeq   uint64

	appender appender
	applier  applier
	waiters  waiters
	readers  readers
	duties   duties
	requests []*request
	view     logView
	// watch is the oracle's, on everything; watched is its next event, and
	// oracleIndex the store index of the last one seen. The process can serve
	// watches from historyFrom on, as far as the bound of the history allows.
	watch       *store.Watcher
	watched     *store.Event
	oracleIndex uint64
	historyFrom uint64
	refuser     exit
}

func newProcess(h *host, machine *server.Machine, rec recovered, timeMS int64) *process {
	w := h.w
	p := &process{w: w, host: h, run: w.rnd.Uint64(), machine: machine, st: machine.Store(), storage: raft.NewMemoryStorage()}
	p.born = h.clock.now(w.now)
	if rec.snapshot.Index > 0 {
		p.must(p.storage.ApplySnapshot(raftpb.Snapshot{Metadata: rec.snapshot}))
	}
	p.must(p.storage.Append(rec.entries))
	last := rec.snapshot.Index + uint64(len(rec.entries))
	if rec.hs.Commit > last {
		w.fail("restart", "member %x: the log ends at raft index %d, committed is %d", h.id, last, rec.hs.Commit)
	}
	p.must(p.storage.SetHardState(rec.hs))
	core, err := raftnode.NewCore(raftnode.CoreConfig{
		ID: h.id, Run: p.run, ElectionTicks: int(election / heartbeat), ElectionTimeout: election,
		Storage: p.storage, Applied: rec.snapshot.Index, TimeMS: timeMS, Logger: raftLog{p},
	})
	p.must(err)
	p.core = core
	p.view.reset(rec.snapshot.Index, rec.snapshot.Term)
	for i := range rec.entries {
		p.view.append(rec.entries[i].Index, rec.entries[i].Term)
	}
	p.applier = applier{p: p, at: rec.snapshot, snapshot: rec.snapshot, applied: rec.snapshot.Index, timeMS: timeMS}
	p.appender.p = p
	p.waiters.p = p
	p.readers.p = p
	p.duties = duties{p: p, recoveredTo: rec.hs.Commit, recovered: len(rec.entries) == 0}
	return p
}

func (p *process) must(err error) {
	if err != nil {
		p.w.fail("driver", "member %x: %v", p.host.id, err)
	}
}

func (p *process) start() {
	p.openOracleWatch()
	p.w.oracle.knowsRemovals(p)
	p.core.Hasten()
	p.wake()
	p.after(between(p.w.rnd, 0, heartbeat), p.tick)
	p.after(p.local(election), p.dial)
	p.duties.start()
}

// now is the time since the start of the process, by the host's clock.
func (p *process) now() time.Duration { return p.host.clock.now(p.w.now) - p.born }

// after schedules work of the process.
func (p *process) after(d time.Duration, fn func()) { p.w.schedule(d, p, fn) }

// local turns a duration of the host's clock into one of true time.
func (p *process) local(d time.Duration) time.Duration {
	if p.host.clock.rate <= 0 {
		return d
	}
	return time.Duration(float64(d) / p.host.clock.rate)
}

func (p *process) tick() {
	p.after(p.local(heartbeat), p.tick)
	p.core.Tick(p.now())
	p.appender.watchDisk()
	p.watchSpace()
	p.waiters.settleDoubts()
	p.turn()
}

// watchSpace gives leadership up to a voter with room.
func (p *process) watchSpace() {
	if to := p.core.WatchSpace(p.host.lowDisk); to != raft.None {
		p.w.tracer.logf("member %x hands leadership over to %x: its disk is full", p.host.id, to)
	}
}

// wake makes the loop turn soon: what comes meanwhile shares the turn.
func (p *process) wake() {
	if p.waking || p.dead {
		return
	}
	p.waking = true
	p.after(between(p.w.rnd, time.Microsecond, 40*time.Microsecond), func() {
		p.waking = false
		p.turn()
	})
}

func (p *process) receive(m raftpb.Message) {
	p.peers = append(p.peers, m)
	p.wake()
}

func (p *process) call(f func()) {
	if p.dead {
		return
	}
	p.calls = append(p.calls, f)
	p.wake()
}

// turn feeds the core with what waits and carries out what it wants.
func (p *process) turn() {
	now := p.now()
	locals, peers, calls, proposals := p.locals, p.peers, p.calls, p.proposals
	p.locals, p.peers, p.calls, p.proposals = nil, nil, nil, nil
	for _, m := range locals {
		if err := p.core.StepLocal(now, m); err != nil {
			p.w.fail("driver", "member %x: step a local response: %v", p.host.id, err)
		}
	}
	for _, m := range peers {
		switch err := p.core.Step(now, m); {
		case err == nil:
			p.knowsTime = p.knowsTime || m.Type == raftpb.MsgHeartbeat && m.Term == p.core.Status().Term
		case !p.tolerate(err):
			return
		}
	}
	for _, f := range calls {
		if f(); p.dead {
			return
		}
	}
	p.core.Propose(now, proposals...)
	for {
		p.readers.begin()
		out := p.core.Outputs()
		p.observe(&out)
		if p.dispatch(out); p.dead {
			return
		}
		if !p.readers.waiting() {
			return
		}
	}
}

// observe shows the outcome of a turn to the checks before anything of it leaves
// the core.
func (p *process) observe(out *raftnode.Output) {
	if p.aloneFrom = p.core.AloneFrom(); p.aloneFrom != 0 {
		p.duties.hearOwnStamps(out.Appends)
	}
	st := p.core.Status()
	for i := range out.Appends {
		p.w.check.appending(p, &st, &out.Appends[i])
	}
	old := p.status
	p.status = st
	p.w.check.turned(p, &old, &st)
	if old.LeaderChanges != st.LeaderChanges && st.LeaderChanges > 1 {
		p.waiters.raiseDoubt()
	}
	if old.Leader != st.Leader {
		p.w.tracer.mix(p.host.id, st.Leader, st.Term)
		p.w.tracer.logf("member %x knows the leader %x in term %d", p.host.id, st.Leader, st.Term)
	}
}

func (p *process) isLeader() bool { return p.status.State == raft.StateLeader }

// isCurrent reports whether the published state is linearizable without a round.
func (p *process) isCurrent() bool { return p.aloneFrom != 0 && p.aloneFrom <= p.applier.applied }

// hasOtherVoters reports whether a leader has to ask anybody.
func (p *process) hasOtherVoters() bool {
	return slices.ContainsFunc(p.core.Progress(), func(m raftnode.Progress) bool { return !m.Learner && m.ID != p.host.id })
}

// tolerate reports whether the process goes on after a refused message.
func (p *process) tolerate(err error) bool {
	var lost *raftnode.LostLogError
	if !errors.As(err, &lost) {
		p.host.refusals++
		p.w.tracer.logf("member %x refuses a message: %v", p.host.id, err)
		return true
	}
	if p.host.expected != exitLostLog {
		p.w.fail("lost log", "member %x, which was not rolled back: %v", p.host.id, err)
	}
	p.w.row("D12b")
	p.stop(exitLostLog)
	return false
}

func (p *process) dispatch(out raftnode.Output) {
	for _, m := range out.Appends {
		p.appender.put(appendItem{message: m})
	}
	for _, m := range out.Applies {
		p.applyWork(applyItem{message: m})
	}
	if p.send(out.Peers); p.dead {
		return
	}
	p.readers.finish(out.Reads)
	for _, r := range out.Refused {
		p.waiters.refuse(r.Proposal.Seq, r.Err)
	}
	p.appender.kick()
	p.applier.kick()
}

// send gives messages to the network.
func (p *process) send(ms []raftpb.Message) {
	for i := range ms {
		if p.dies("send: between two messages") {
			return
		}
		m := ms[i]
		p.w.check.sending(p, &m)
		p.duties.hearOwnTime(&m)
		if m.Type == raftpb.MsgSnap {
			p.w.net.sendSnapshot(p, m)
		} else {
			p.w.net.send(p, m)
		}
	}
	if len(ms) > 0 {
		p.dies("send: after all messages")
	}
}

// dies reports whether the process has just died at an armed site.
func (p *process) dies(site string) bool {
	return p.host.arm == site && p.host.dies(site)
}

// die ends the process at once. Its clients see broken connections.
func (p *process) die(why exit) {
	if p.dead {
		return
	}
	p.dead = true
	p.host.proc = nil
	p.w.tracer.mix(uint64(p.w.now), p.host.id, hashString(fnvOffset, string(why)))
	p.w.tracer.logf("member %x ends: %s", p.host.id, why)
	for _, r := range p.requests {
		r.broken()
	}
	p.requests = nil
}

// stop ends the process for a reason that keeps the member out for ever.
func (p *process) stop(why exit) {
	p.die(why)
	p.host.resume()
	p.host.disk.crash(false, func() bool { return true })
	p.host.end(why)
}

// refused is told by peers who do not take this process for a member.
func (p *process) refused(why exit) {
	if p.dead || p.refuser != exitNone {
		return
	}
	if why == exitWiped && p.host.expected != exitWiped {
		p.w.fail("identity", "member %x is refused for its incarnation and was not wiped", p.host.id)
	}
	p.refuser = why
	if why == exitWiped {
		p.w.row("D13a")
	}
	p.w.tracer.logf("member %x is refused by its peers: %s", p.host.id, why)
	wait := time.Duration(0)
	if why == exitRemoved {
		wait = election
	}
	p.after(wait, func() { p.stop(why) })
}

// raftLog turns raft's panics into violations.
type raftLog struct{ p *process }

// Debug and the rest implement raft.Logger.
func (l raftLog) Debug(...any)            {}
func (l raftLog) Debugf(string, ...any)   {}
func (l raftLog) Info(...any)             {}
func (l raftLog) Infof(string, ...any)    {}
func (l raftLog) Warning(...any)          {}
func (l raftLog) Warningf(string, ...any) {}
func (l raftLog) Error(...any)            {}
func (l raftLog) Errorf(string, ...any)   {}
func (l raftLog) Fatal(v ...any)          { l.fail(fmt.Sprint(v...)) }
func (l raftLog) Fatalf(f string, v ...any) {
	l.fail(fmt.Sprintf(f, v...))
}
func (l raftLog) Panic(v ...any) { l.fail(fmt.Sprint(v...)) }
func (l raftLog) Panicf(f string, v ...any) {
	l.fail(fmt.Sprintf(f, v...))
}

func (l raftLog) fail(text string) {
	l.p.w.fail("raft panics", "member %x: %s", l.p.host.id, text)
}
