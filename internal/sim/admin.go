package sim

import (
	"errors"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/server/serverpb"
)

// admin changes the membership, one change at a time, by the rules of package
// server, and replaces members whose disks are lost.
type admin struct {
	w       *world
	rnd     *mathrand.Rand
	tasks   []*task
	busy    bool
	votes   map[uint64]bool // learners that are to vote
	removed map[uint64]bool
}

// task is one change that an operator wants.
type task struct {
	op    deimos.MemberOp
	host  *host
	until time.Duration
	// learner keeps an added member from voting.
	learner bool
	then    func(ok bool)
}

const (
	adminInterval = 100 * time.Millisecond
	adminPatience = 25 * time.Second
	// adminTimeout is what a member is given to answer, and adminGivesUp when
	// the answer of one that has died is no longer waited for.
	adminTimeout = 3 * time.Second
	adminGivesUp = 4 * time.Second
)

func newAdmin(w *world) *admin {
	a := &admin{w: w, rnd: newRand(w.cfg.Seed, streamAdmin), votes: map[uint64]bool{}, removed: map[uint64]bool{}}
	w.after(time.Second, a.step)
	return a
}

func (a *admin) wantsVote(id uint64) bool { return a.votes[id] }

// isAdding reports whether a leader knows a learner that is to become a voter.
func (a *admin) isAdding(p *process) bool {
	return slices.ContainsFunc(p.machine.Members(), func(m deimos.Member) bool { return m.IsLearner && a.wantsVote(m.ID) })
}

func (a *admin) idle() bool { return len(a.tasks) == 0 && !a.busy }

func (a *admin) want(t *task) {
	t.until = a.w.now + adminPatience
	if t.then == nil {
		t.then = func(bool) {}
	}
	a.tasks = append(a.tasks, t)
}

// add wants a new member.
func (a *admin) add(learner bool, then func(ok bool)) *host {
	h := a.w.newHost(false)
	h.gone = exitUnneeded // until it is in the list
	a.want(&task{op: deimos.MemberAdd, host: h, learner: learner, then: then})
	return h
}

// remove wants a member out.
func (a *admin) remove(h *host, then func(ok bool)) {
	a.want(&task{op: deimos.MemberRemove, host: h, then: then})
}

// leader is the process that leads with the highest term.
func (w *world) leader() *process {
	var best *process
	for _, h := range w.hosts {
		if h.up() && h.proc.isLeader() && (best == nil || h.proc.status.Term > best.status.Term) {
			best = h.proc
		}
	}
	return best
}

func (a *admin) step() {
	a.w.after(adminInterval, a.step)
	a.replaceLost()
	a.takeBack()
	if a.busy || len(a.tasks) == 0 {
		return
	}
	t := a.tasks[0]
	if a.w.now > t.until && !a.w.healing {
		a.end(t, false)
		return
	}
	if p := a.w.leader(); p != nil {
		a.confirm(p, t)
	}
}

// confirm makes the change once a quorum has confirmed that the process leads
// and it has applied all that was committed: a leader that was cut off may not
// know a member that another has added, and it would seem removed.
func (a *admin) confirm(p *process, t *task) {
	a.busy = true
	told := false
	end := func(err error) {
		if told {
			return
		}
		told, a.busy = true, false
		if err == nil && p.isLeader() {
			a.attempt(p, t)
		}
	}
	p.readers.read(adminTimeout, end)
	a.w.after(adminGivesUp, func() { end(errDeadline) }) // the process may have died
}

// replaceLost takes out members that will never come back, and adds others.
func (a *admin) replaceLost() {
	for _, h := range a.w.hosts {
		if h.replaced || h.gone != exitDamaged && h.gone != exitLostLog && h.gone != exitWiped {
			continue
		}
		h.replaced = true
		a.remove(h, func(ok bool) {
			if ok {
				a.add(false, nil)
			} else {
				h.replaced = false
			}
		})
	}
}

// takeBack takes out members that nobody adds any more and that are in the list
// all the same: a change may happen after the operator has given it up. Such a
// member is never started, and would be missing for ever.
func (a *admin) takeBack() {
	p := a.w.leader()
	if p == nil {
		return
	}
	for _, m := range p.machine.Members() {
		h := a.w.host(m.ID)
		adds := func(t *task) bool { return t.op == deimos.MemberAdd && t.host == h }
		if h.gone != exitUnneeded || h.replaced || slices.ContainsFunc(a.tasks, adds) {
			continue
		}
		h.replaced = true
		a.remove(h, func(ok bool) { h.replaced = ok })
	}
}

func (a *admin) end(t *task, ok bool) {
	a.tasks = a.tasks[1:]
	a.w.tracer.logf("operator: change %d of member %x: %v", t.op, t.host.id, ok)
	t.then(ok)
}

// attempt makes the change at a leader that is known to lead.
func (a *admin) attempt(p *process, t *task) {
	var member *deimos.Member
	for _, m := range p.machine.Members() {
		if m.ID == t.host.id {
			member = &m
		}
	}
	switch t.op {
	case deimos.MemberAdd:
		a.tryAdd(p, t, member)
	case deimos.MemberRemove:
		a.tryRemove(p, t, member)
	case deimos.MemberPromote:
		switch {
		case member == nil || !member.IsLearner:
			a.end(t, member != nil)
		case t.host.replaced: // it is lost, and never catches up
			a.end(t, false)
		case p.caughtUp(t.host.id):
			a.propose(p, t, raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: t.host.id})
		}
	case deimos.MemberLead:
		if member == nil || member.IsLearner || p.host == t.host {
			a.end(t, false)
			return
		}
		p.call(func() { p.core.TransferLeadership(t.host.id) })
		a.end(t, true)
	}
}

func (a *admin) tryAdd(p *process, t *task, member *deimos.Member) {
	if member != nil {
		t.host.gone = exitNone
		a.votes[t.host.id] = !t.learner
		t.host.boot()
		a.w.row("R12")
		a.end(t, true)
		return
	}
	record := serverpb.Member{ID: t.host.id, PeerURLs: []string{t.host.url()}, Promote: !t.learner}
	data, err := record.Marshal()
	p.must(err)
	a.propose(p, t, raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: t.host.id, Context: data})
}

func (a *admin) tryRemove(p *process, t *task, member *deimos.Member) {
	switch {
	case member == nil:
		a.removed[t.host.id] = true
		t.host.replaced = true
		a.w.row("R11")
		a.end(t, true)
	case member.IsLearner:
		a.propose(p, t, raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: t.host.id})
	case !p.quorumWithout(t.host.id):
	case p.host == t.host:
		p.call(func() { p.core.TransferLeadership(raft.None) })
	default:
		a.propose(p, t, raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: t.host.id})
	}
}

// propose proposes the change. Whether it has happened shows in the member list
// at the next attempt.
func (a *admin) propose(p *process, t *task, cc raftpb.ConfChange) {
	a.busy = true
	told := false
	end := func(out outcome) {
		if told {
			return
		}
		told, a.busy = true, false
		var refused *deimos.MemberError
		if err, isErr := out.result.(error); isErr && errors.As(err, &refused) && refused.Reason != deimos.MemberExists {
			a.w.tracer.logf("operator: %v", refused)
			if len(a.tasks) > 0 && a.tasks[0] == t && t.op != deimos.MemberRemove {
				a.end(t, false)
			}
		}
	}
	p.proposeConfChange(cc, adminTimeout, end)
	a.w.after(adminGivesUp, func() { end(outcome{err: errDeadline}) })
}

// voters counts the voters that the leader knows, and whether all members of
// the list are up.
func (w *world) voters() (n int, allUp bool) {
	p := w.leader()
	if p == nil {
		return 0, false
	}
	allUp = true
	for _, m := range p.machine.Members() {
		if !m.IsLearner {
			n++
		}
		if h := w.host(m.ID); h == nil || !h.up() {
			allUp = false
		}
	}
	return n, allUp
}
