package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// healedWrites succeed within healedWithin once everything has healed.
	healedWrites = 20
	healedWithin = 10 * time.Second
	// convergeWithin is how long the cluster may take to become whole: lost
	// members replaced, all equal, what is due expired.
	convergeWithin = 60 * time.Second
	// spaceKnownWithin is how long the members may take to know that disks are full,
	// or are no more, and to elect who is to lead because of it.
	spaceKnownWithin = 2 * time.Second
	// opsPerSecond is the traffic below which a run proves nothing.
	opsPerSecond = 10
)

// heal ends all faults and lets the cluster become whole.
func (w *world) heal() {
	w.calm.account()
	w.healing = true
	w.tracer.logf("everything heals")
	for _, f := range w.plan.faults {
		f.look()
		f.happened = nil
	}
	w.net.heal()
	for _, h := range w.hosts {
		h.resume()
		h.arm, h.failSync, h.syncDelay, h.applyDelay, h.hungUntil, h.lowDisk = "", nil, 0, 0, 0, false
		if h.clock.rate != 1 {
			h.clock.setRate(w.now, 1)
		}
		w.after(0, h.boot)
	}
	for _, c := range w.clients {
		c.stopped = true
	}
	began := w.now
	done := 0
	w.probe(&done)
	w.advanceWhile(began+healedWithin, func() bool { return done < healedWrites })
	if done < healedWrites {
		w.fail("liveness", "%d of %d writes succeeded within %s after everything had healed", done, healedWrites, healedWithin)
	}
	w.tracer.logf("%d writes succeeded %.3f s after everything had healed", done, (w.now - began).Seconds())
	w.advanceWhile(w.now+convergeWithin, func() bool { return !w.whole() })
	if !w.whole() {
		w.fail("liveness", "the cluster is not whole %s after everything had healed: %s", convergeWithin, w.notWhole())
	}
	w.fullDisks()
	w.advance(w.now + 500*time.Millisecond) // so that the watches hear the last
}

// fullDisks fills the disks of some members, now that nothing else is amiss, and
// holds the members to what follows from it.
func (w *world) fullDisks() {
	leader := w.leader().host
	kind := w.cfg.Seed % 3
	for _, h := range w.hosts {
		h.lowDisk = kind == 0 || (h == leader) == (kind == 1) // all, the leader, the others
	}
	w.advance(w.now + spaceKnownWithin)
	w.knowsWhoIsFull()
	for _, h := range w.hosts {
		h.lowDisk = false
	}
	w.advance(w.now + spaceKnownWithin)
	w.knowsWhoIsFull()
}

// knowsWhoIsFull checks that writes are refused at all members if, and only if,
// too few voters have room, and that no full member leads while another has room.
func (w *world) knowsWhoIsFull() {
	p := w.leader()
	if p == nil {
		w.fail("D7", "there is no leader %s after disks were filled or emptied", spaceKnownWithin)
	}
	voters, roomy := 0, 0
	for _, m := range p.machine.Members() {
		if m.IsLearner {
			continue
		}
		if voters++; !w.host(m.ID).lowDisk {
			roomy++
		}
	}
	refused := roomy <= voters/2
	for _, m := range p.machine.Members() {
		if got := w.host(m.ID).proc.status.WritesRefused; got != refused {
			w.fail("D7", "%d of %d voters have room, and member %x says that writes are refused = %v", roomy, voters, m.ID, got)
		}
	}
	if p.host.lowDisk && roomy > 0 {
		w.fail("D7", "member %x, whose disk is full, leads beside %d voters with room", p.host.id, roomy)
	}
}

// probe writes until enough writes have succeeded.
func (w *world) probe(done *int) {
	if *done >= healedWrites {
		return
	}
	c := &client{w: w, n: clientCount, rnd: newRand(w.cfg.Seed, streamClient+99<<32+uint64(w.now)), seen: map[string]sighting{}}
	h := w.anyHost(c.rnd)
	again := func(d time.Duration) { w.after(d, func() { w.probe(done) }) }
	if !h.up() {
		again(20 * time.Millisecond)
		return
	}
	o := &op{client: c.n, call: w.now, ackedBefore: w.oracle.acked, request: deimos.Request{
		Op: deimos.OpSet, Key: "/probe", Value: fmt.Sprintf("p%d-%d", *done, w.now),
	}}
	over := false
	hear := func(a answer) {
		if over {
			return
		}
		over = true
		if a.err == nil && a.event != nil {
			*done++
			o.ret, o.done, o.index, o.raftIndex = w.now, true, a.event.Index(), a.raftIndex
			w.history.add(o)
			w.res.Writes++
		}
		again(5 * time.Millisecond)
	}
	r := h.proc.write(&o.request, hear)
	o.run, o.seq = r.run, r.seq
	w.after(clientTimeout, func() { hear(answer{err: errDeadline}) })
}

// whole reports whether nothing is left to be done.
func (w *world) whole() bool { return w.notWhole() == "" }

func (w *world) notWhole() string {
	p := w.leader()
	switch {
	case p == nil:
		return "no leader"
	case !w.admin.idle():
		return fmt.Sprintf("%d membership changes are under way", len(w.admin.tasks))
	case len(w.ttl.due) > 0:
		return fmt.Sprintf("%d keys have a TTL", len(w.ttl.due))
	}
	for _, c := range w.clients {
		if !c.idle {
			return fmt.Sprintf("client %d works on something", c.n)
		}
	}
	for _, m := range p.machine.Members() {
		h := w.host(m.ID)
		switch {
		case h.gone != exitNone:
			return fmt.Sprintf("member %x is in the list and gone: %s", h.id, h.gone)
		case h.proc == nil:
			return fmt.Sprintf("member %x is down", h.id)
		case h.proc.applier.applied != p.applier.applied || h.disk.last() < p.applier.applied && h.disk.newest().Index < p.applier.applied:
			return fmt.Sprintf("member %x has applied %d, the leader %d", h.id, h.proc.applier.applied, p.applier.applied)
		case m.IsLearner && w.admin.wantsVote(m.ID):
			return fmt.Sprintf("member %x is still a learner", h.id)
		}
	}
	for _, x := range w.watches {
		if x.watcher == nil || x.proc.oracleIndex < w.oracle.last() || x.watcher.Ready() {
			return fmt.Sprintf("the watch on %s has not read everything", x.key)
		}
	}
	return ""
}

// finish checks what can be told at the end only.
func (w *world) finish() {
	w.sameEverywhere()
	for _, x := range w.watches {
		x.complete(w.oracle.last() + 1)
	}
	keys := make([]string, 0, len(w.ttl.due))
	for key := range w.ttl.due {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		w.ttl.notLate(key, w.ttl.due[key], w.now)
	}
	w.history.judgeLogs()
	w.history.linearizability()
	w.notVoid()
}

// sameEverywhere compares the whole state of all members of the list.
func (w *world) sameEverywhere() {
	p := w.leader()
	want := p.stateHash()
	for _, m := range p.machine.Members() {
		h := w.host(m.ID)
		if h == nil || h.proc == nil {
			continue
		}
		if h.proc.applier.applied != p.applier.applied {
			w.fail("members differ", "member %x has applied %d, the leader %d", h.id, h.proc.applier.applied, p.applier.applied)
		}
		if got := h.proc.stateHash(); got != want {
			w.fail("members differ", "the final state of member %x is not that of the leader %x", h.id, p.host.id)
		}
	}
	w.row("D10")
	w.tracer.mix(want)
}

// notVoid fails runs that prove nothing.
func (w *world) notVoid() {
	for _, f := range w.plan.faults {
		if !f.observed && w.cfg.Members != 1 { // an only member cannot be cut off
			w.fail("void", "fault %d was not observed: %s, begun %d times", f.n, f, f.tries)
		}
	}
	if calm := w.calm.calmTime.Seconds(); calm > 2 && float64(w.calm.calmOps) < opsPerSecond*calm {
		w.fail("void", "only %d operations succeeded in %.1f calm seconds", w.calm.calmOps, calm)
	}
}
