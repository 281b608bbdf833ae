package sim

import (
	mathrand "math/rand/v2"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

// sites are the steps at which a process can be made to die.
var sites = []string{
	"append: before the write", "append: before the fsync", "append: after the fsync",
	"send: between two messages", "send: after all messages",
	"apply: before the batch", "apply: after publication, before the answers", "apply: after the batch",
	"answer: before it is sent", "answer: after it is sent",
	"snapshot: temporary file written", "snapshot: renamed, directory not synced", "snapshot: durable, not in the log",
	"snapshot: in the log, not pruned", "snapshot: pruned",
	"install: before the rename", "install: before the directory is synced", "install: before the log names it",
	"install: after the log names it", "install: after the prune",
	"conf change: before it is applied", "conf change: after it is applied",
	"boot: before the first snapshot", "boot: before the log is made", "boot: after the log is made",
}

const (
	// soonSites are those that every member passes soon while there is a leader.
	soonSites = 8
	// commonSites are those that every run passes soon.
	commonSites = 15
)

// faultKinds are all kinds. The weights are for the profiles mixed, restarts,
// network, disks, members, time.
var faultKinds = []faultKind{
	{name: "kill the leader", weights: [6]int{6, 12, 4, 3, 5, 5}, low: 100 * time.Millisecond, high: 3 * time.Second, begin: killLeader, rows: []string{"R1"}},
	{name: "kill a member", weights: [6]int{5, 12, 3, 3, 4, 2}, low: 50 * time.Millisecond, high: 5 * time.Second, begin: killAny},
	{name: "kill all members", weights: [6]int{3, 12, 1, 3, 2, 2}, low: 100 * time.Millisecond, high: 3 * time.Second, begin: killAll, rows: []string{"R3"}},
	{name: "die at a site", weights: [6]int{10, 20, 4, 10, 8, 2}, low: 100 * time.Millisecond, high: 2 * time.Second, begin: killAtSite},
	{name: "cut the leader off", weights: [6]int{6, 2, 12, 2, 5, 4}, low: 500 * time.Millisecond, high: 7 * time.Second, begin: isolateLeader, rows: []string{"R5", "R8"}},
	{name: "partition", weights: [6]int{5, 2, 12, 2, 6, 3}, low: 300 * time.Millisecond, high: 6 * time.Second, begin: partition, rows: []string{"R5", "R8"}},
	{name: "one-way cuts", weights: [6]int{4, 1, 12, 1, 3, 2}, low: 500 * time.Millisecond, high: 6 * time.Second, begin: oneWay, rows: []string{"R7"}},
	{name: "storm", weights: [6]int{5, 2, 12, 2, 5, 2}, low: time.Second, high: 6 * time.Second, begin: storm, rows: []string{"R9", "D6a"}},
	{name: "stop the leader", weights: [6]int{4, 2, 5, 1, 3, 5}, low: 500 * time.Millisecond, high: 6 * time.Second, begin: pauseLeader, rows: []string{"R6"}},
	{name: "stop a member", weights: [6]int{2, 2, 3, 1, 2, 2}, low: 500 * time.Millisecond, high: 6 * time.Second, begin: pauseAny},
	{name: "slow disk", weights: [6]int{3, 2, 2, 12, 2, 1}, low: time.Second, high: 6 * time.Second, begin: slowDisk, rows: []string{"R17"}},
	{name: "the leader's disk hangs", weights: [6]int{2, 1, 1, 8, 1, 1}, low: 2 * time.Second, high: 8 * time.Second, begin: hungDisk, rows: []string{"R19"}},
	{name: "fsync fails", weights: [6]int{4, 5, 1, 14, 2, 1}, low: 200 * time.Millisecond, high: time.Second, begin: syncFails},
	{name: "disk full", weights: [6]int{3, 1, 1, 10, 2, 1}, low: time.Second, high: 5 * time.Second, begin: diskFull},
	{name: "damaged log", weights: [6]int{1, 1, 0, 6, 2, 0}, low: time.Second, high: 2 * time.Second, begin: damage},
	{name: "wiped disk", weights: [6]int{1, 1, 0, 6, 3, 0}, low: time.Second, high: 2 * time.Second, begin: wipe},
	{name: "rolled back disk", weights: [6]int{1, 1, 0, 6, 2, 0}, low: 4 * time.Second, high: 5 * time.Second, begin: rollBack},
	{name: "clock drift", weights: [6]int{3, 1, 1, 1, 1, 12}, low: 3 * time.Second, high: 10 * time.Second, begin: drift, rows: []string{"T7"}},
	{name: "machine paused with its clock", weights: [6]int{2, 0, 1, 1, 1, 8}, low: 500 * time.Millisecond, high: 5 * time.Second, begin: frozen, rows: []string{"T7"}},
	{name: "no quorum", weights: [6]int{1, 0, 1, 0, 1, 6}, low: 8 * time.Second, high: 20 * time.Second, begin: noQuorum, rows: []string{"T3"}},
	{name: "all members down for an hour", weights: [6]int{1, 2, 0, 1, 0, 4}, low: 100 * time.Millisecond, high: time.Second, begin: longDown, rows: []string{"T4", "R3"}},
	{name: "leader changes every 2 s", weights: [6]int{1, 0, 2, 0, 1, 8}, low: 6 * time.Second, high: 14 * time.Second, begin: hops, rows: []string{"T2"}},
	{name: "hand leadership over", weights: [6]int{4, 2, 3, 2, 10, 6}, low: 100 * time.Millisecond, high: time.Second, begin: transfer, rows: []string{"R15"}},
	{name: "add and remove a member", weights: [6]int{5, 3, 4, 3, 24, 1}, low: time.Second, high: 4 * time.Second, begin: swapMember},
	{name: "add a learner", weights: [6]int{2, 1, 2, 1, 12, 0}, low: time.Second, high: 6 * time.Second, begin: learner},
	{name: "slow apply", weights: [6]int{3, 2, 3, 2, 2, 1}, low: time.Second, high: 5 * time.Second, begin: slowApply},
	{name: "appends are lost", weights: [6]int{4, 1, 8, 1, 3, 1}, low: time.Second, high: 6 * time.Second, begin: appendsLost, rows: []string{"R10"}},
	{name: "burst of writes", weights: [6]int{1, 1, 1, 1, 2, 0}, low: time.Second, high: 3 * time.Second, begin: burst},
	{name: "rotten snapshot", weights: [6]int{2, 3, 0, 8, 2, 0}, low: 200 * time.Millisecond, high: 2 * time.Second, begin: rot, rows: []string{"D4"}},
	{name: "idle while leaders change", weights: [6]int{2, 0, 1, 0, 1, 12}, low: 20 * time.Second, high: 24 * time.Second, begin: idleHops, calm: true, rows: []string{"T2"}},
	{name: "impossible messages", weights: [6]int{2, 1, 3, 1, 1, 0}, low: 100 * time.Millisecond, high: 200 * time.Millisecond, begin: forged, rows: []string{"R20"}},
}

// anyUp picks a process that runs.
func (w *world) anyUp(rnd *mathrand.Rand) *host {
	var up []*host
	for _, h := range w.hosts {
		if h.up() && h.expected == exitNone {
			up = append(up, h)
		}
	}
	if len(up) == 0 {
		return nil
	}
	return up[rnd.IntN(len(up))]
}

// present are the hosts that have not gone for ever.
func (w *world) present() []*host {
	return slices.DeleteFunc(slices.Clone(w.hosts), func(h *host) bool { return h.gone != exitNone })
}

func killLeader(f *fault) (func(), bool) {
	p := f.w.leader()
	if p == nil {
		return nil, false
	}
	f.seen()
	h := p.host
	h.crash()
	return h.boot, true
}

func killAny(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if h == nil {
		return nil, false
	}
	f.seen()
	h.crash()
	return h.boot, true
}

// killAll ends everything at the same instant, and nothing that was not synced
// survives.
func killAll(f *fault) (func(), bool) {
	f.seen()
	killed := f.w.present()
	for _, h := range killed {
		if p := h.proc; p != nil {
			p.die(exitKilled)
		}
		h.resume()
		h.disk.crash(false, func() bool { return false })
	}
	return func() {
		for _, h := range killed {
			f.w.after(between(f.rnd, 0, 300*time.Millisecond), h.boot)
		}
	}, true
}

// longDown ends everything, and an hour passes before anything starts again.
func longDown(f *fault) (func(), bool) {
	end, ok := killAll(f)
	f.w.after(f.lasts/2, func() {
		for _, h := range f.w.hosts {
			if h.proc != nil {
				return // another fault's end has started it already
			}
		}
		f.w.skip(time.Hour)
	})
	return end, ok
}

func killAtSite(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if p := f.w.leader(); p != nil && chance(f.rnd, 0.5) {
		h = p.host
	}
	site := sites[f.rnd.IntN(len(sites)-3)]
	if chance(f.rnd, 0.6) {
		site = sites[f.rnd.IntN(commonSites)]
	}
	if f.tries > 0 { // nobody has passed its site
		f.w.disarm(f)
		site = sites[f.rnd.IntN(soonSites)]
	}
	if h == nil || h.arm != "" {
		return nil, false
	}
	h.arm, h.armed, h.downFor, h.armedBy = site, 1+f.rnd.IntN(4), f.lasts, f
	return nil, true
}

// disarm takes back a fault that waits for a site.
func (w *world) disarm(f *fault) {
	for _, h := range w.hosts {
		if h.arm != "" && h.armedBy == f {
			h.arm = ""
		}
	}
}

// cutOff makes cuts for the length of a fault.
func (f *fault) cutOff(cut func(a, b *host) bool) func() {
	n := f.w.net
	var cuts [][2]*host
	for _, a := range f.w.hosts {
		for _, b := range f.w.hosts {
			if a != b && cut(a, b) {
				n.cut(a, b, 1)
				cuts = append(cuts, [2]*host{a, b})
			}
		}
	}
	f.loses(cuts)
	return func() {
		if !f.w.healing { // which has healed the network already
			for _, c := range cuts {
				n.cut(c[0], c[1], -1)
			}
		}
	}
}

// loses makes the loss of a message on one of the links the sign that the fault
// has happened.
func (f *fault) loses(links [][2]*host) {
	f.grows(func() (lost int) {
		for _, l := range links {
			lost += f.w.net.link(l[0].id, l[1].id).lost
		}
		return lost
	})
}

func isolateLeader(f *fault) (func(), bool) {
	p := f.w.leader()
	if p == nil {
		return nil, false
	}
	h := p.host
	h.isolated++
	var links [][2]*host
	for _, other := range f.w.hosts {
		links = append(links, [2]*host{h, other}, [2]*host{other, h})
	}
	f.loses(links)
	f.w.after(50*time.Millisecond, func() { f.alone(p) })
	return func() { h.isolated-- }, true
}

// leadsAlone is how long a leader may go on to lead whom nobody hears: two
// election timeouts, one more when a hand-over was asked for meanwhile, and what
// ticks and clocks take.
const leadsAlone = 3*election + 400*time.Millisecond

// alone checks a member that is cut off from all others: it stops leading in
// time, unless no other votes, and its term does not rise.
func (f *fault) alone(p *process) {
	w := f.w
	if p.dead || p.host.paused {
		return
	}
	term := p.status.Term
	check := func(f func()) func() {
		return func() {
			if !p.dead && !p.host.paused && p.host.clock.rate == 1 && !w.healing {
				f()
			}
		}
	}
	paused := w.calm.pauses
	if stop := leadsAlone; f.lasts > stop+100*time.Millisecond {
		w.after(stop, check(func() {
			if p.isLeader() && p.hasOtherVoters() && w.calm.pauses == paused {
				w.fail("R5", "member %x still leads %s after it was cut off", p.host.id, stop)
			}
		}))
	}
	w.after(f.lasts-60*time.Millisecond, check(func() {
		if p.status.Term > term+1 {
			w.fail("R8", "the term of member %x, which was cut off, rose from %d to %d", p.host.id, term, p.status.Term)
		}
	}))
}

// partition divides the hosts in two. Sides are drawn again when those that have
// not gone for ever are all on one: nothing would be cut.
func partition(f *fault) (func(), bool) {
	side := map[*host]bool{}
	for _, h := range f.w.hosts {
		side[h] = chance(f.rnd, 0.5)
	}
	there := f.w.present()
	if !slices.ContainsFunc(there, func(h *host) bool { return side[h] != side[there[0]] }) {
		return nil, false
	}
	return f.cutOff(func(a, b *host) bool { return side[a] != side[b] }), true
}

func oneWay(f *fault) (func(), bool) {
	deaf := f.w.anyUp(f.rnd)
	half := chance(f.rnd, 0.5)
	if p := f.w.leader(); p != nil && chance(f.rnd, 0.4) {
		deaf = p.host
	}
	return f.cutOff(func(a, b *host) bool {
		if half {
			return b == deaf // hears nobody, and is heard
		}
		return chance(f.rnd, 0.3)
	}), true
}

func storm(f *fault) (func(), bool) {
	n := f.w.net
	if n.weather != fairWeather {
		return nil, false
	}
	n.weather = weather{
		drop: f.rnd.Float64() * 0.5, duplicate: f.rnd.Float64() * 0.5, reorder: chance(f.rnd, 0.7),
		delayMin: between(f.rnd, time.Millisecond, 25*time.Millisecond), jitter: between(f.rnd, time.Millisecond, 100*time.Millisecond),
	}
	f.grows(func() int { return n.stormy })
	return func() { n.weather = fairWeather }, true
}

func (f *fault) pause(h *host) (func(), bool) {
	if h == nil || h.paused {
		return nil, false
	}
	h.pause()
	f.w.calm.changes++
	f.w.calm.pauses++
	f.seen()
	return h.resume, true
}

func pauseLeader(f *fault) (func(), bool) {
	if p := f.w.leader(); p != nil {
		return f.pause(p.host)
	}
	return nil, false
}

func pauseAny(f *fault) (func(), bool) { return f.pause(f.w.anyUp(f.rnd)) }

func drift(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if h == nil || h.clock.rate != 1 {
		return nil, false
	}
	rate := 0.9 + 0.2*f.rnd.Float64()
	h.clock.setRate(f.w.now, rate)
	f.w.ttl.fast = max(f.w.ttl.fast, rate)
	f.w.ttl.slow = min(f.w.ttl.slow, rate)
	f.seen()
	return func() { h.clock.setRate(f.w.now, 1) }, true
}

// frozen pauses a whole machine: its clock stands still too.
func frozen(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if h == nil || h.clock.rate != 1 {
		return nil, false
	}
	end, ok := f.pause(h)
	if !ok {
		return nil, false
	}
	h.clock.setRate(f.w.now, 0)
	return func() {
		h.clock.setRate(f.w.now, 1)
		end()
	}, true
}

func noQuorum(f *fault) (func(), bool) {
	return f.cutOff(func(a, b *host) bool { return true }), true
}

// hops moves leadership on every two seconds.
func hops(f *fault) (func(), bool) {
	var hop func()
	until := f.w.now + f.lasts
	hop = func() {
		if f.w.now > until || f.w.healing {
			return
		}
		if p := f.w.leader(); p != nil {
			p.call(func() { p.core.TransferLeadership(0) })
			f.seen()
		}
		f.w.after(2*time.Second, hop)
	}
	hop()
	return nil, true
}

// idleHops lets leadership move on while no client writes, so that the newest
// stamp of the log grows old: first all that is due expires, then one key waits
// for its end while leaders come and go.
func idleHops(f *fault) (func(), bool) {
	w := f.w
	if w.idleTo > w.now || !w.calm.isCalm() {
		return nil, false
	}
	w.idleTo = w.now + f.lasts
	until := w.idleTo
	hop := func() {
		if p := w.leader(); p != nil && w.now < until && !w.healing {
			p.call(func() { p.core.TransferLeadership(0) })
			f.seen()
		}
	}
	const quiet = 10 * time.Second // longer than any TTL
	w.after(quiet, func() {
		if p := w.leader(); p != nil && !w.healing {
			p.write(&deimos.Request{Op: deimos.OpSet, Key: "/t/idle", Value: "x", HasTTL: true, TTLSeconds: 7}, func(answer) {})
		}
	})
	for n := range 5 {
		w.after(quiet+time.Duration(n+1)*2*time.Second, hop)
	}
	return nil, true
}

func transfer(f *fault) (func(), bool) {
	p := f.w.leader()
	if p == nil {
		return nil, false
	}
	f.seen()
	h := p.host
	p.call(func() { p.core.TransferLeadership(0) })
	if chance(f.rnd, 0.5) { // a rolling restart
		f.w.after(between(f.rnd, 50*time.Millisecond, 400*time.Millisecond), func() {
			if h.up() && h.expected == exitNone {
				h.crash()
				f.w.after(300*time.Millisecond, h.boot)
			}
		})
	}
	return nil, true
}

func slowApply(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if h == nil || h.applyDelay != 0 {
		return nil, false
	}
	h.applyDelay = between(f.rnd, time.Millisecond, 300*time.Millisecond)
	f.seen()
	return func() { h.applyDelay = 0 }, true
}

// forged sends what no sound member can have sent. All of it is to be refused
// and to change nothing.
func forged(f *fault) (func(), bool) {
	w := f.w
	h := w.anyUp(f.rnd)
	if h == nil || w.leader() == nil || h.proc == nil {
		return nil, false
	}
	p := h.proc
	from := w.leader().host.id
	if from == h.id {
		from = w.hosts[0].id
	}
	term := p.status.Term
	before := p.core.Status()
	for _, m := range []raftpb.Message{
		{Type: raftpb.MsgApp, From: from, Term: term, Index: 5, LogTerm: 1, Entries: []raftpb.Entry{{Index: 9, Term: term}}},
		{Type: raftpb.MsgSnap, From: from, Term: term + 100},
		{Type: raftpb.MsgHup, From: from, Term: term + 100},
		{Type: raftpb.MsgHeartbeat, From: f.rnd.Uint64() >> 1, Term: term + 100, Commit: 1 << 40, Context: make([]byte, 8)},
		{Type: raftpb.MsgAppResp, From: f.rnd.Uint64() >> 1, Term: term, Index: 1 << 40},
		{Type: raftpb.MsgProp, From: from, Entries: []raftpb.Entry{{Type: raftpb.EntryConfChange}}},
		{Type: raftpb.MsgProp, From: from, Entries: []raftpb.Entry{{Data: []byte("short")}}},
		{Type: raftpb.MsgApp, From: from, Term: 0},
		{Type: raftpb.MsgVote, From: h.id, Term: term + 100},
	} {
		m.To = h.id
		if err := p.core.Step(p.now(), m); err == nil {
			w.fail("R20", "member %x takes in %s from %x", h.id, m.Type, m.From)
		}
	}
	if after := p.core.Status(); after.Term != before.Term || after.Leader != before.Leader || after.Committed != before.Committed {
		w.fail("R20", "forged messages changed member %x", h.id)
	}
	f.seen()
	return nil, true
}

// appendsLost lets a member hear heartbeats and lose every append.
func appendsLost(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if p := f.w.leader(); h == nil || p == nil || p.host == h || f.w.net.noAppends != 0 {
		return nil, false
	}
	n := f.w.net
	n.noAppends = h.id
	f.grows(func() int { return n.lostAppends })
	return func() { n.noAppends = 0 }, true
}

// burst writes more at once than waits for a slow watcher, or than a learner may
// be behind.
func burst(f *fault) (func(), bool) {
	h := f.w.anyUp(f.rnd)
	if h == nil || f.w.leader() == nil || h.proc == nil {
		return nil, false
	}
	acknowledged := 0
	for n := range 1100 + f.rnd.IntN(500) {
		p := h.proc
		f.w.schedule(time.Duration(n)*100*time.Microsecond, p, func() {
			o := &op{client: clientCount + 1 + f.n, call: f.w.now, ackedBefore: f.w.oracle.acked, request: deimos.Request{
				Op: deimos.OpSet, Key: "/burst/" + string(rune('a'+n%16)), Value: "b",
			}}
			r := p.write(&o.request, func(a answer) {
				if a.err != nil || a.event == nil || o.done {
					return
				}
				if acknowledged++; acknowledged == 1000 {
					f.seen()
				}
				o.ret, o.done, o.index, o.raftIndex = f.w.now, true, a.event.Index(), a.raftIndex
				f.w.history.add(o)
				f.w.oracle.acked = max(f.w.oracle.acked, o.index)
			})
			o.run, o.seq = r.run, r.seq
		})
	}
	return nil, true
}
