package sim

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/raftnode"
)

// checker holds what the cluster as a whole may be held to, and looks at every
// turn of every process.
type checker struct {
	w       *world
	leaders map[uint64]uint64 // by term
	elected []*leadership
	// committed holds the term of every raft index that was ever committed.
	committed []uint64
	// committedIn holds, beside each, the term of the leader that committed it: it
	// binds the leaders of the terms above that one, and no other.
	committedIn []uint64
	// entries holds, by raft index, every entry that was ever in a log.
	entries [][]entryInfo
	// stampMS is the newest cluster time in the committed log.
	stampMS int64
}

// leadership is an election that was won, with the log that won it.
type leadership struct {
	id, term uint64
	log      logView
}

// entryInfo is one entry that some leader made.
type entryInfo struct {
	term, prevTerm uint64
	hash           uint64
	run, seq       uint64
	// at is when the leader made it, leaderTime how long there had been leaders
	// until then, busy how long it had not been calm, and forgotten how much of
	// the cluster time had been lost.
	at, leaderTime, busy, forgotten time.Duration
	changes                         int
	stampMS                         int64
}

func newChecker(w *world) *checker {
	return &checker{w: w, leaders: map[uint64]uint64{}, committed: []uint64{0, 1}, committedIn: []uint64{0, 1}}
}

func (c *checker) commitMax() uint64 { return uint64(len(c.committed)) - 1 }

// logView is what a process takes for its log: the terms of the entries that
// were handed out for appending, durable or not.
type logView struct {
	base  uint64
	terms []uint64 // terms[0] is that of base
}

func (v *logView) reset(base, term uint64) { v.base, v.terms = base, append(v.terms[:0], term) }

func (v *logView) append(raftIndex, term uint64) {
	v.terms = append(v.terms[:raftIndex-v.base], term)
}

func (v *logView) clone() logView { return logView{base: v.base, terms: slices.Clone(v.terms)} }

func (v *logView) last() uint64 { return v.base + uint64(len(v.terms)) - 1 }

// term returns the term of an index; known is false outside of the view.
func (v *logView) term(raftIndex uint64) (term uint64, known bool) {
	if raftIndex < v.base || raftIndex > v.last() {
		return 0, false
	}
	return v.terms[raftIndex-v.base], true
}

// appending looks at what a core hands out for its log: one entry for each
// index and term, with one predecessor.
func (c *checker) appending(p *process, st *raftnode.Status, m *raftpb.Message) {
	if m.Snapshot != nil {
		meta := m.Snapshot.Metadata
		if meta.Index > c.commitMax() || c.committed[meta.Index] != meta.Term {
			c.w.fail("snapshot", "member %x gets a snapshot at raft index %d of term %d, which was never committed", p.host.id, meta.Index, meta.Term)
		}
		p.view.reset(meta.Index, meta.Term)
	}
	for i := range m.Entries {
		e := &m.Entries[i]
		prev, known := p.view.term(e.Index - 1)
		if !known {
			c.w.fail("log", "member %x appends raft index %d, its log ends at %d", p.host.id, e.Index, p.view.last())
		}
		if had, _ := p.view.term(e.Index); e.Index <= c.commitMax() && had == c.committed[e.Index] && had != e.Term {
			c.w.fail("committed entry replaced", "member %x appends raft index %d of term %d, committed is term %d", p.host.id, e.Index, e.Term, c.committed[e.Index])
		}
		c.match(p, st, e, prev)
		p.view.append(e.Index, e.Term)
	}
}

func (c *checker) match(p *process, st *raftnode.Status, e *raftpb.Entry, prev uint64) {
	for uint64(len(c.entries)) <= e.Index {
		c.entries = append(c.entries, nil)
	}
	hash := hashBytes(fnvOffset^uint64(e.Type), e.Data)
	for i := range c.entries[e.Index] {
		known := &c.entries[e.Index][i]
		if known.term != e.Term {
			continue
		}
		if known.prevTerm != prev || known.hash != hash {
			c.w.fail("log matching", "raft index %d of term %d is not the same on all members (seen at %x)", e.Index, e.Term, p.host.id)
		}
		return
	}
	calm := &c.w.calm
	info := entryInfo{
		term: e.Term, prevTerm: prev, hash: hash,
		at: c.w.now, leaderTime: calm.led(), busy: calm.busy, forgotten: calm.forgotten, changes: calm.changes,
	}
	if e.Type == raftpb.EntryNormal && len(e.Data) >= raftnode.PrefixBytes {
		d := decodeEntry(e)
		info.run, info.seq, info.stampMS = d.Run, d.Seq, d.TimeMS
	}
	if st.Term == e.Term && st.State != raft.StateLeader && len(c.leaders) > 0 && c.leaders[e.Term] == 0 {
		c.w.fail("log", "member %x has an entry of term %d, which has no leader", p.host.id, e.Term)
	}
	c.entries[e.Index] = append(c.entries[e.Index], info)
}

// info returns what is known of a committed entry.
func (c *checker) info(raftIndex uint64) *entryInfo {
	if raftIndex < uint64(len(c.entries)) && raftIndex <= c.commitMax() {
		for i := range c.entries[raftIndex] {
			if c.entries[raftIndex][i].term == c.committed[raftIndex] {
				return &c.entries[raftIndex][i]
			}
		}
	}
	return &entryInfo{}
}

// turned looks at a core after a turn: one leader a term, who has all that is
// committed in an earlier one; and nothing is committed that a majority does not
// hold durably.
func (c *checker) turned(p *process, old, st *raftnode.Status) {
	if st.State == raft.StateLeader {
		if other := c.leaders[st.Term]; other == 0 {
			c.leaders[st.Term] = p.host.id
			c.w.calm.leaderChanged()
			l := &leadership{id: p.host.id, term: st.Term, log: p.view.clone()}
			c.elected = append(c.elected, l)
			c.complete(l)
			c.timeGoesOn(p)
		} else if other != p.host.id {
			c.w.fail("two leaders", "members %x and %x lead in term %d", other, p.host.id, st.Term)
		}
	}
	if st.Committed > c.commitMax() {
		c.commit(p, old, st)
	}
}

// complete checks that a new leader has every entry that was committed in an
// earlier term. One whose last vote was long on its way may begin to lead when
// later terms have leaders already, and what those have committed is not for it
// to have.
func (c *checker) complete(l *leadership) {
	for i := l.log.base; i <= c.commitMax(); i++ {
		if c.committedIn[i] < l.term {
			c.has(l, i)
		}
	}
}

// timeGoesOn notes how much of the cluster time is lost with a new leader. One
// that was led before goes on from the running time. One that has heard nobody
// since its start has only the newest stamp of its log, as when all members were
// down, and the time since that stamp does not count. What of it was not calm
// makes keys late anyway.
func (c *checker) timeGoesOn(p *process) {
	if p.knowsTime {
		return
	}
	p.knowsTime = true
	newest := c.newestStamp(&p.view)
	if newest == nil {
		return
	}
	calm := &c.w.calm
	lost := max(c.w.now-newest.at-(calm.busy-newest.busy), 0)
	calm.forgotten += lost
	c.w.tracer.logf("member %x leads and knows no cluster time but that of its log, which is %s of calm behind", p.host.id, lost)
}

// newestStamp returns the entry with the newest cluster time in a log, nil if it
// has none.
func (c *checker) newestStamp(v *logView) *entryInfo {
	for raftIndex := v.last(); raftIndex > 0; raftIndex-- {
		term, known := v.term(raftIndex)
		if !known { // below a snapshot, and committed
			term = c.committed[raftIndex]
		}
		if raftIndex >= uint64(len(c.entries)) {
			continue
		}
		for i := range c.entries[raftIndex] {
			if e := &c.entries[raftIndex][i]; e.term == term && e.stampMS != 0 {
				return e
			}
		}
	}
	return nil
}

// later checks that what was committed in a term from a raft index on was known
// to those who had been elected in later terms by then.
func (c *checker) later(from, in uint64) {
	for _, l := range c.elected {
		for i := from; i <= c.commitMax() && in < l.term; i++ {
			c.has(l, i)
		}
	}
}

func (c *checker) has(l *leadership, raftIndex uint64) {
	if got, known := l.log.term(raftIndex); !known || got != c.committed[raftIndex] {
		c.w.fail("leader completeness", "member %x leads in term %d without raft index %d of term %d (it has term %d), which was committed in term %d",
			l.id, l.term, raftIndex, c.committed[raftIndex], got, c.committedIn[raftIndex])
	}
}

// committing returns the term in which a process has led that commits something.
// It may have stopped to lead in the same turn.
func (c *checker) committing(p *process, old, st *raftnode.Status) uint64 {
	switch {
	case st.State == raft.StateLeader:
		return st.Term
	case old.State == raft.StateLeader:
		return old.Term
	}
	c.w.fail("commit", "member %x, which does not lead, has raft index %d committed before any leader has", p.host.id, st.Committed)
	return 0
}

func (c *checker) commit(p *process, old, st *raftnode.Status) {
	in := c.committing(p, old, st)
	from := c.commitMax() + 1
	for i := from; i <= st.Committed; i++ {
		term, known := p.view.term(i)
		if !known {
			c.w.fail("commit", "member %x commits raft index %d, its log covers %d to %d", p.host.id, i, p.view.base, p.view.last())
		}
		c.committed, c.committedIn = append(c.committed, term), append(c.committedIn, in)
		if stampMS := c.info(i).stampMS; stampMS != 0 {
			if stampMS < c.stampMS {
				c.w.fail("cluster time", "raft index %d has the stamp %d ms, an earlier one had %d ms", i, stampMS, c.stampMS)
			}
			c.stampMS = stampMS
		}
	}
	c.later(from, in)
	last := c.committed[st.Committed]
	cs := &p.applier.at.ConfState
	holders := 0
	for _, id := range cs.Voters {
		if h := c.w.host(id); h != nil && h.confirmed(st.Committed, last) {
			holders++
		}
	}
	if holders <= len(cs.Voters)/2 {
		c.w.fail("R10", "member %x commits raft index %d of term %d, which is durable on %d of %d voters",
			p.host.id, st.Committed, last, holders, len(cs.Voters))
	}
	c.w.tracer.mix(p.host.id, st.Committed, last)
}

// applying checks an entry before a member applies it.
func (c *checker) applying(p *process, e *raftpb.Entry) {
	switch {
	case e.Index > c.commitMax() || c.committed[e.Index] != e.Term:
		c.w.fail("applied, not committed", "member %x applies raft index %d of term %d", p.host.id, e.Index, e.Term)
	case !p.host.disk.holds(e.Index, e.Term):
		c.w.fail("applied, not durable", "member %x applies raft index %d of term %d, its own log ends at %d: %v", p.host.id, e.Index, e.Term, p.host.disk.last(), p.host.disk.tail())
	}
	if e.Type == raftpb.EntryNormal {
		d := decodeEntry(e)
		if d.TimeMS != 0 && d.TimeMS < p.applier.timeMS {
			c.w.fail("cluster time", "the stamp of raft index %d is %d ms, before it was %d ms", e.Index, d.TimeMS, p.applier.timeMS)
		}
		p.applier.timeMS = max(p.applier.timeMS, d.TimeMS)
	}
}

// changing checks that a configuration change is known to be committed by what is
// durable before it takes effect: a start would begin with the old configuration,
// and a member that the change has removed never helps it to a quorum again.
func (c *checker) changing(p *process, e *raftpb.Entry) {
	if durable := p.host.disk.hs.Commit; durable < e.Index {
		c.w.fail("commit not durable", "member %x applies the configuration change at raft index %d, its log knows a commit index of %d", p.host.id, e.Index, durable)
	}
}

// sending checks that what a message promises is durable.
func (c *checker) sending(p *process, m *raftpb.Message) {
	d := p.host.disk
	switch m.Type {
	case raftpb.MsgVoteResp:
		if !m.Reject && (d.hs.Term < m.Term || d.hs.Term == m.Term && d.hs.Vote != m.To) {
			c.w.fail("vote not durable", "member %x votes for %x in term %d, durable is a vote for %x in term %d", p.host.id, m.To, m.Term, d.hs.Vote, d.hs.Term)
		}
	case raftpb.MsgAppResp:
		if m.Reject {
			return
		}
		if d.hs.Term < m.Term {
			c.w.fail("term not durable", "member %x confirms an append of term %d, durable is term %d", p.host.id, m.Term, d.hs.Term)
		}
		// What a leader of a later term has replaced meanwhile may be confirmed to
		// the earlier one as if that had come first: the later one was elected by a
		// majority without those entries, so that they cannot be committed.
		if last, term := d.end(); m.Index > last && m.Term >= term {
			c.w.fail("append not durable", "member %x confirms raft index %d, durable is %d", p.host.id, m.Index, last)
		}
	}
}

// acknowledged checks a write that a client is told has happened.
func (c *checker) acknowledged(p *process, raftIndex uint64) {
	if raftIndex == 0 || raftIndex > c.commitMax() {
		c.w.fail("acknowledged, not committed", "raft index %d, committed is %d (member %x)", raftIndex, c.commitMax(), p.host.id)
	}
	if raftIndex > p.applier.applied {
		c.w.fail("acknowledged, not applied", "raft index %d at member %x, which has applied %d", raftIndex, p.host.id, p.applier.applied)
	}
}

// calmness knows when the cluster had a fair chance: it measures for how long
// there was a leader, and for how long something was in its way.
type calmness struct {
	w *world
	// leaderTime and busy are the time with a leader, and the time that was not
	// calm.
	leaderTime, busy time.Duration
	// forgotten is the cluster time that was lost although it was calm then.
	forgotten time.Duration
	sampled   time.Duration
	hasLeader bool
	// changes counts elected leaders and pauses; faults those that are active.
	changes     int
	pauses      int
	faults      int
	unsettledTo time.Duration
	// calmOps is how many operations succeeded in calm times.
	calmTime time.Duration
	calmOps  int
}

const (
	calmSample = 50 * time.Millisecond
	// settling is how long the cluster needs after a fault or an election.
	settling = 3 * time.Second
	// changing is how long after an election keys may still be late.
	changing = time.Second
)

func (c *calmness) start(w *world) {
	c.w = w
	c.unsettledTo = settling
	w.after(calmSample, c.sample)
}

func (c *calmness) sample() {
	c.account()
	c.w.after(calmSample, c.sample)
}

func (c *calmness) account() {
	gap := c.w.now - c.sampled
	c.sampled = c.w.now
	if c.hasLeader {
		c.leaderTime += gap
	}
	switch {
	case !c.isCalm():
		c.busy += gap
	case !c.w.healing && c.w.now > c.w.idleTo+time.Second:
		c.calmTime += gap
	}
	c.hasLeader = false
	for _, h := range c.w.hosts {
		if h.up() && h.proc.isLeader() {
			c.hasLeader = true
		}
	}
}

func (c *calmness) isCalm() bool { return c.faults == 0 && c.hasLeader && c.w.now > c.unsettledTo }

// led is how long there has been a leader so far.
func (c *calmness) led() time.Duration {
	if c.hasLeader {
		return c.leaderTime + c.w.now - c.sampled
	}
	return c.leaderTime
}

func (c *calmness) leaderChanged() {
	c.account()
	c.hasLeader = true
	c.changes++
	c.unsettledTo = max(c.unsettledTo, c.w.now+changing)
}

// begin and end frame a fault.
func (c *calmness) begin() {
	c.account()
	c.faults++
}

func (c *calmness) end() {
	c.account()
	c.faults--
	c.unsettledTo = max(c.unsettledTo, c.w.now+settling)
}
