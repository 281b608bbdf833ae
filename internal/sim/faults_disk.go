package sim

import (
	"slices"
	"time"
)

func slowDisk(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if h == nil || h.syncDelay != 0 {
		return nil, false
	}
	h.syncDelay = between(f.rnd, 5*time.Millisecond, 2*time.Second)
	f.grows(func() int { return h.slowSyncs })
	return func() { h.syncDelay = 0 }, true
}

func hungDisk(f *fault) (func(), bool) {
	p := f.w.leader()
	if p == nil {
		return nil, false
	}
	h := p.host
	h.hungUntil = f.w.now + f.lasts
	f.grows(func() int { return h.slowSyncs })
	return nil, true
}

func syncFails(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if p := f.w.leader(); p != nil && chance(f.rnd, 0.5) {
		h = p.host
	}
	if h == nil || h.failSync != nil {
		return nil, false
	}
	h.failSync = f.seen
	return nil, true
}

func diskFull(f *fault) (func(), bool) {
	var full []*host
	switch p := f.w.leader(); {
	case chance(f.rnd, 0.3):
		full = f.w.present()
	case p != nil && chance(f.rnd, 0.6):
		full = []*host{p.host}
	case p != nil && chance(f.rnd, 0.6):
		full = slices.DeleteFunc(f.w.present(), func(h *host) bool { return h == p.host })
	default:
		full = []*host{f.w.anyHost(f.rnd)}
	}
	for _, h := range full {
		h.lowDisk = true
	}
	f.grows(func() int { return f.w.rows["D7"] })
	return func() {
		for _, h := range full {
			h.lowDisk = false
		}
	}, true
}

// victim picks a follower whose disk may be lost: one at a time, while a quorum
// of the others is up and leads.
func (f *fault) victim() *host {
	w := f.w
	for _, h := range w.hosts {
		if h.expected != exitNone && !w.admin.removed[h.id] {
			return nil
		}
	}
	p := w.leader()
	voters, allUp := w.voters()
	if p == nil || !allUp || !w.admin.idle() {
		return nil
	}
	if voters < 3 {
		if w.plan.late && !w.admin.isAdding(p) { // removals that met have left two
			w.admin.add(false, nil)
		}
		return nil
	}
	h := w.anyUp(f.rnd)
	if h == nil || h == p.host || p.machine.IncarnationOf(h.id).IsZero() {
		return nil
	}
	if w.admin.isAdding(p) {
		return nil
	}
	return h
}

func damage(f *fault) (func(), bool) {
	h := f.victim()
	if h == nil || len(h.disk.entries) == 0 {
		return nil, false
	}
	h.expected = exitDamaged
	h.crash()
	h.disk.damaged = true
	return func() {
		f.seen()
		h.boot()
	}, true
}

func wipe(f *fault) (func(), bool) {
	h := f.victim()
	if h == nil {
		return nil, false
	}
	for _, other := range f.w.hosts {
		if other.up() && other.proc.machine.IncarnationOf(h.id) != h.disk.incarnation {
			return nil, false
		}
	}
	h.expected = exitWiped
	h.crash()
	h.former, h.disk, h.shown = h.disk, &disk{}, 0
	return func() {
		f.seen()
		h.boot()
	}, true
}

// rollBack brings an older image of a disk back. Until the leader has proved
// that it is one, nothing else happens: this is all that is promised.
func rollBack(f *fault) (func(), bool) {
	w := f.w
	h := f.victim()
	if h == nil || !w.calm.isCalm() {
		return nil, false
	}
	w.exclusiveTo = w.now + f.lasts + time.Second
	old := h.disk.image()
	h.expected = exitLostLog
	leader := w.leader()
	term := leader.status.Term
	w.after(1500*time.Millisecond, func() {
		confirmed := uint64(0)
		if !leader.dead {
			for _, pr := range leader.core.Progress() {
				if pr.ID == h.id {
					confirmed = min(pr.Match, leader.core.Status().Committed)
				}
			}
		}
		if h.proc == nil || confirmed <= max(old.last(), old.newest().Index) || w.leader() != leader {
			h.expected = exitNone
			return
		}
		f.seen()
		h.crash()
		// What is gone may have been shown: with nothing behind its snapshot, a
		// member takes its state for the newest one until it is proved wrong.
		h.former, h.disk, h.shown = h.disk, old, 0
		h.boot()
		var judge func(was *process)
		judge = func(was *process) {
			knows := leader == w.leader() && leader.status.Term == term
			switch {
			case h.gone != exitNone:
			case !knows && h.disk.holds(confirmed, w.check.committed[confirmed]):
				// A later leader, who took nothing for confirmed, has filled it up. Nobody
				// can prove any more that it was rolled back, and nothing is missing.
				h.expected = exitNone
			case !knows, // it is about to be filled up
				h.proc == nil || h.proc != was: // it died of something else, and is judged when it has run for a second
				now := h.proc
				w.after(time.Second, func() { judge(now) })
			default:
				w.fail("D12b", "member %x was rolled back to raft index %d, had confirmed %d, and still runs", h.id, old.last(), confirmed)
			}
		}
		was := h.proc
		w.after(time.Second, func() { judge(was) })
	})
	return nil, true
}

// rot flips a byte in the newest snapshot of a member that is down: it goes on
// from the older one, to which its log reaches back.
func rot(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if h == nil {
		return nil, false
	}
	d := h.disk
	if n := len(d.files); n < 2 || !d.files[n-1].named || len(d.entries) == 0 || d.newest().Index != d.files[n-1].meta.Index ||
		d.entries[0].Index > d.files[n-2].meta.Index+1 || !d.named(&d.files[n-2]) || !d.files[n-2].sound() || d.last() < d.newest().Index {
		return nil, false
	}
	h.crash()
	newest := &d.files[len(d.files)-1]
	newest.data = slices.Clone(newest.data)
	newest.data[f.rnd.IntN(len(newest.data))] ^= 1 << f.rnd.IntN(8)
	f.seen()
	return h.boot, true
}
