package sim

import (
	"bytes"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

// weather is how a network treats messages.
type weather struct {
	drop, duplicate  float64
	delayMin, jitter time.Duration
	reorder          bool
}

var fairWeather = weather{delayMin: 200 * time.Microsecond, jitter: 800 * time.Microsecond}

// network carries messages between members. Every ordered pair is a link of its
// own, in order unless the weather says otherwise.
type network struct {
	w       *world
	rnd     *mathrand.Rand
	weather weather
	links   map[[2]uint64]*link
	// noAppends is a member to whom no append gets through.
	noAppends uint64
	// stormy counts the messages that were lost or doubled by the weather,
	// lostAppends those to noAppends.
	stormy, lostAppends int
}

type link struct {
	from, to uint64
	// cuts counts the faults that keep this link cut.
	cuts int
	// lastAt is when the newest message arrives.
	lastAt time.Duration
	// breaks counts how often the link was cut, which a connection does not
	// survive, and lost the messages that met a cut.
	breaks, lost int
}

func newNetwork(w *world) *network {
	return &network{w: w, rnd: newRand(w.cfg.Seed, streamNet), weather: fairWeather, links: map[[2]uint64]*link{}}
}

func (n *network) link(from, to uint64) *link {
	key := [2]uint64{from, to}
	l := n.links[key]
	if l == nil {
		l = &link{from: from, to: to}
		n.links[key] = l
	}
	return l
}

// isCut reports whether nothing gets through.
func (n *network) isCut(l *link) bool {
	from, to := n.w.host(l.from), n.w.host(l.to)
	return l.cuts > 0 || n.isAlone(from) || n.isAlone(to)
}

func (n *network) isAlone(h *host) bool { return h != nil && h.isolated > 0 && !n.w.healing }

// copyMessage is what the wire makes of a message. Data is shared where nobody
// changes it: only proposals are stamped after they have arrived.
func copyMessage(m raftpb.Message) raftpb.Message {
	if len(m.Entries) > 0 {
		m.Entries = slices.Clone(m.Entries)
		if m.Type == raftpb.MsgProp {
			for i := range m.Entries {
				m.Entries[i].Data = bytes.Clone(m.Entries[i].Data)
			}
		}
	}
	m.Responses = nil
	return m
}

// send carries one ordinary message.
func (n *network) send(p *process, m raftpb.Message) {
	l := n.link(p.host.id, m.To)
	switch {
	case n.isCut(l):
		l.lost++
		n.lose(p, m.To)
		return
	case chance(n.rnd, n.weather.drop):
		n.stormy++
		n.lose(p, m.To)
		return
	case m.Type == raftpb.MsgApp && m.To == n.noAppends:
		n.lostAppends++
		n.lose(p, m.To)
		return
	}
	copies := 1
	if n.weather.duplicate > 0 && chance(n.rnd, n.weather.duplicate) {
		copies += 1 + n.rnd.IntN(2)
		n.stormy++
	}
	for range copies {
		at := n.w.now + between(n.rnd, n.weather.delayMin, n.weather.delayMin+n.weather.jitter)
		if !n.weather.reorder {
			at = max(at, l.lastAt)
			l.lastAt = at
		}
		wire := copyMessage(m)
		o := p.opening(m.To)
		n.w.after(at-n.w.now, func() { n.deliver(l, p, o, wire) })
	}
}

// lose drops a message; the transport notices some of that.
func (n *network) lose(p *process, to uint64) {
	if chance(n.rnd, 0.3) {
		p.call(func() { p.core.ReportUnreachable(to) })
	}
}

func (n *network) deliver(l *link, from *process, o opening, m raftpb.Message) {
	h := n.w.host(m.To)
	cut := n.isCut(l)
	if cut {
		l.lost++
	}
	if cut || h == nil || h.proc == nil {
		if !from.dead && !from.host.paused {
			n.lose(from, m.To)
		}
		return
	}
	if !h.proc.admit(from, o) {
		return
	}
	n.w.tracer.mix(uint64(n.w.now), uint64(m.Type), m.From, m.To, m.Term, m.Index, m.Commit, uint64(len(m.Entries)))
	h.proc.receive(m)
}

// dial stands for the streams that a process opens to the members it knows. A
// member that was removed is told so by them even if it has nothing to say: its
// peers close its streams, and it dials until one of them answers. Until one
// that joins, or has lost its disk, has a list of its own, it dials those whom
// the operator would name.
func (p *process) dial() {
	p.after(p.local(election), p.dial)
	n := p.w.net
	members := p.machine.Members()
	if leader := p.w.leader(); len(members) == 0 && leader != nil {
		members = leader.machine.Members()
	}
	for _, m := range members {
		h := p.w.host(m.ID)
		if h == nil || h == p.host || !h.up() || n.isCut(n.link(p.host.id, m.ID)) || n.isCut(n.link(m.ID, p.host.id)) {
			continue
		}
		h.proc.admit(p, p.opening(m.ID))
	}
}

// opening is what a sender says of both ends, with all that it sends: the data
// directory that it runs with, and the one that it expects of the receiver. It
// holds even if the sender is dead when its words arrive.
type opening struct{ incarnation, expects deimos.Incarnation }

func (p *process) opening(to uint64) opening {
	return opening{p.host.disk.incarnation, p.machine.IncarnationOf(to)}
}

// admit is the transport's look at an opening: who was removed, or comes with
// another data directory than the log knows, is refused and told so, and who
// runs with another one than is expected of it hears that too.
func (p *process) admit(from *process, o opening) bool {
	known := p.machine.IncarnationOf(from.host.id)
	switch {
	case p.machine.IsRemoved(from.host.id):
		from.refused(exitRemoved)
		return false
	case !known.IsZero() && known != o.incarnation && p.w.cfg.Defect != DefectIncarnation:
		from.refused(exitWiped)
		return false
	case !o.expects.IsZero() && o.expects != p.host.disk.incarnation && p.w.cfg.Defect != DefectIncarnation:
		p.refused(exitWiped)
		return false
	}
	return true
}

// sendSnapshot streams the newest snapshot file beside the messages.
func (n *network) sendSnapshot(p *process, m raftpb.Message) {
	d := p.host.disk
	i := len(d.files) - 1
	for i >= 0 && !d.files[i].named {
		i--
	}
	if i < 0 {
		p.call(func() { p.core.ReportSnapshot(m.To, raft.SnapshotFailure) })
		return
	}
	f := d.files[i]
	if !knows(&f.meta.ConfState, m.To) {
		p.applyWork(applyItem{needs: m.To})
		p.call(func() { p.core.ReportSnapshot(m.To, raft.SnapshotFailure) })
		return
	}
	m.Snapshot = &raftpb.Snapshot{Metadata: f.meta}
	m = copyMessage(m)
	l := n.link(p.host.id, m.To)
	took := between(n.rnd, 5*time.Millisecond, 400*time.Millisecond)
	breaks := l.breaks
	o := p.opening(m.To)
	to := n.w.host(m.To)
	var receiver *process
	if to != nil {
		receiver = to.proc
	}
	n.w.tracer.logf("member %x sends a snapshot at raft index %d to %x", p.host.id, f.meta.Index, m.To)
	n.w.after(took, func() {
		// A transfer needs its connection from the first byte to the last.
		broken := n.isCut(l) || l.breaks != breaks || receiver == nil || receiver.dead || to.proc != receiver || receiver.host.paused || p.dead
		status := raft.SnapshotFailure
		if !broken && receiver.admit(p, o) {
			arrived := f
			if n.weather != fairWeather && chance(n.rnd, 0.2) {
				arrived.data = arrived.data[:len(arrived.data)/2]
			}
			if arrived.sound() { // else it is removed, and the transfer has failed
				status = raft.SnapshotFinish
				n.w.row("R14")
				to.disk.received = append(to.disk.received, arrived)
				receiver.receive(m)
			}
		}
		if !p.dead {
			p.call(func() { p.core.ReportSnapshot(m.To, status) })
		}
	})
}

// cut adds or, with -1, takes away a reason for which a link is cut.
func (n *network) cut(from, to *host, by int) {
	l := n.link(from.id, to.id)
	l.cuts += by
	l.breaks++
}

// heal makes the network sound.
func (n *network) heal() {
	n.weather = fairWeather
	n.noAppends = 0
	for _, l := range n.links {
		l.cuts = 0
	}
}
