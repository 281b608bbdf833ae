package sim

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/store"
)

// eventInfo is one event as the first member that applied it saw it.
type eventInfo struct {
	index   uint64
	action  deimos.Action
	key     string
	value   string
	dir     bool
	refresh bool
	created uint64
	digest  uint64
}

// oracle knows the one history that all members must share.
type oracle struct {
	w *world
	// events are those of store index 2 and above, in order.
	events []eventInfo
	// results and states are by raft index: what the entry came to, the store
	// index after it, and a hash of the whole state.
	results []uint64
	indexes []uint64
	states  map[uint64]uint64
	// byKey has the positions in events of what happened to each key itself.
	byKey map[string][]int
	// applies names the raft index at which each proposal took effect.
	applies map[[2]uint64]uint64
	// acked is the highest store index that was acknowledged to a client.
	acked uint64
	// removals are the raft indexes at which members were removed.
	removals []removal
}

// removal is a member that no one may take for one any more.
type removal struct{ id, raftIndex uint64 }

func newOracle(w *world) *oracle {
	return &oracle{w: w, states: map[uint64]uint64{}, byKey: map[string][]int{}, applies: map[[2]uint64]uint64{}}
}

// last is the store index of the newest event that any member has applied.
func (o *oracle) last() uint64 { return uint64(len(o.events)) + 1 }

func (o *oracle) event(index uint64) *eventInfo { return &o.events[index-2] }

// openOracleWatch makes the oracle see every event of the process.
func (p *process) openOracleWatch() {
	watch, err := p.st.Watch("/", true, 0)
	p.must(err)
	p.watch = watch
	p.oracleIndex = p.st.View().Index()
	p.historyFrom = p.oracleIndex + 1
	if p.oracleIndex == 1 {
		p.historyFrom = 1
	}
}

// applied looks at a batch that a member has published.
func (o *oracle) applied(p *process, entries []raftnode.Entry, results []any) {
	o.collect(p, entries, results)
	for i := range entries {
		e := &entries[i]
		o.sameResult(p, e.Index, o.resultDigest(results[i]))
		if _, took := results[i].(*store.Event); took {
			o.once(e)
		}
	}
	o.published(p, entries[len(entries)-1].Index)
}

func (o *oracle) appliedConfChange(p *process, e *raftpb.Entry, cc raftpb.ConfChange, accepted bool) {
	digest := uint64(77)
	if accepted {
		digest = 78
	}
	if cc.Type == raftpb.ConfChangeRemoveNode && accepted && raftIndexes(o.removals, e.Index) == 0 {
		o.removals = append(o.removals, removal{cc.NodeID, e.Index})
	}
	o.sameResult(p, e.Index, digest)
	o.published(p, e.Index)
}

func (o *oracle) resultDigest(result any) uint64 {
	switch v := result.(type) {
	case nil:
		return 1
	case *store.Event:
		return digestOf(v)
	case *deimos.Error:
		return hashString(fnvOffset^uint64(v.Code)^v.Index<<16, v.Cause)
	case error:
		return hashString(fnvOffset, v.Error())
	default:
		return 2
	}
}

// once checks that a proposal takes effect once, however often it arrives.
func (o *oracle) once(e *raftnode.Entry) {
	key := [2]uint64{e.Run, e.Seq}
	if at, known := o.applies[key]; known && at != e.Index {
		o.w.fail("applied twice", "proposal %d of run %x took effect at raft indexes %d and %d", e.Seq, e.Run, at, e.Index)
	}
	o.applies[key] = e.Index
}

func (o *oracle) sameResult(p *process, raftIndex, digest uint64) {
	for uint64(len(o.results)) <= raftIndex {
		o.results = append(o.results, 0)
		o.indexes = append(o.indexes, 0)
	}
	switch known := o.results[raftIndex]; known {
	case 0:
		o.results[raftIndex] = digest
	case digest:
	default:
		o.w.fail("members differ", "raft index %d came to another result on member %x", raftIndex, p.host.id)
	}
}

// published compares the state after a batch with that of the other members.
func (o *oracle) published(p *process, raftIndex uint64) {
	index := p.st.View().Index()
	switch known := o.indexes[raftIndex]; known {
	case 0:
		o.indexes[raftIndex] = index
	case index:
	default:
		o.w.fail("members differ", "after raft index %d the store index is %d on member %x and was %d elsewhere", raftIndex, index, p.host.id, known)
	}
	if raftIndex%stateHashEvery == 0 {
		o.sameState(p, raftIndex)
	}
}

func (o *oracle) sameState(p *process, raftIndex uint64) {
	hash := p.stateHash()
	if known, ok := o.states[raftIndex]; ok && known != hash {
		o.w.fail("members differ", "the state at raft index %d is another one on member %x", raftIndex, p.host.id)
	}
	o.states[raftIndex] = hash
	o.w.tracer.mix(raftIndex, hash)
}

func (p *process) stateHash() uint64 {
	var body bytes.Buffer
	if err := p.machine.Capture()(&body); err != nil {
		p.w.fail("capture", "member %x: %v", p.host.id, err)
	}
	return hashBytes(fnvOffset, body.Bytes())
}

// collect takes the events of a batch from the results and, for expiries, from
// a watch on everything, and holds them against those of the other members.
func (o *oracle) collect(p *process, entries []raftnode.Entry, results []any) {
	next := p.oracleIndex + 1
	at := 0
	for end := p.st.View().Index(); next <= end; next++ {
		e := p.nextWatched(next)
		for e == nil && at < len(results) {
			if ev, ok := results[at].(*store.Event); ok && ev.Index() == next && ev.Refresh() {
				e = ev
			}
			at++
		}
		if e == nil {
			o.w.fail("store index", "member %x has no event for index %d (batch ends at %d)", p.host.id, next, end)
		}
		o.see(p, e, entries)
	}
	p.oracleIndex = next - 1
	if p.watch.Ready() {
		o.w.fail("watch", "member %x has more events than indexes", p.host.id)
	}
}

// nextWatched returns the next event of the watch if it has the index.
func (p *process) nextWatched(index uint64) *store.Event {
	if p.watched == nil && p.watch.Ready() {
		e, err := p.watch.Next(context.Background())
		if errors.Is(err, store.ErrSlowWatcher) {
			p.w.fail("driver", "the oracle's watch has overflowed")
		}
		p.must(err)
		p.watched = e
	}
	if e := p.watched; e != nil && e.Index() == index {
		p.watched = nil
		return e
	}
	return nil
}

func (o *oracle) see(p *process, e *store.Event, entries []raftnode.Entry) {
	digest := digestOf(e)
	if e.Index() <= o.last() {
		if known := o.event(e.Index()); known.digest != digest {
			o.w.fail("members differ", "event %d is %s of %s on member %x and was %s of %s elsewhere",
				e.Index(), e.Action(), e.Node().Key(), p.host.id, known.action, known.key)
		}
		return
	}
	if e.Index() != o.last()+1 {
		o.w.fail("store index", "event %d follows %d", e.Index(), o.last())
	}
	n := e.Node()
	o.byKey[n.Key()] = append(o.byKey[n.Key()], len(o.events))
	o.events = append(o.events, eventInfo{
		index: e.Index(), action: e.Action(), key: n.Key(), value: n.Value(), dir: n.IsDir(), refresh: e.Refresh(),
		created: n.CreatedIndex(), digest: digest,
	})
	o.w.tracer.mix(e.Index(), digest)
	o.w.ttl.observe(e, entries)
}

func digestOf(e *store.Event) uint64 {
	h := hashString(fnvOffset, string(e.Action()))
	h = digestNode(h, e.Node())
	if prev := e.PrevNode(); prev != nil {
		h = digestNode(h, prev)
	}
	return (h^uint64(e.NowMS()))*fnvPrime | 1
}

func digestNode(h uint64, n *store.Node) uint64 {
	h = hashString(h, n.Key())
	h = hashString(h, n.Value())
	deadline, _ := n.DeadlineMS()
	for _, v := range [...]uint64{n.ModifiedIndex(), n.CreatedIndex(), uint64(deadline)} {
		h = (h ^ v) * fnvPrime
	}
	if n.IsDir() {
		h = (h ^ 3) * fnvPrime
	}
	return h
}

func raftIndexes(removals []removal, raftIndex uint64) (n int) {
	for _, r := range removals {
		if r.raftIndex == raftIndex {
			n++
		}
	}
	return n
}

// knowsRemovals checks that a snapshot has not forgotten who was removed.
func (o *oracle) knowsRemovals(p *process) {
	for _, r := range o.removals {
		if r.raftIndex <= p.applier.applied && !p.machine.IsRemoved(r.id) {
			o.w.fail("removed id forgotten", "member %x has applied raft index %d and does not know that %x was removed at %d", p.host.id, p.applier.applied, r.id, r.raftIndex)
		}
	}
}

// restored looks at a process that has installed a snapshot.
func (o *oracle) restored(p *process) {
	o.knowsRemovals(p)
	p.watched = nil
	p.openOracleWatch()
	raftIndex := p.applier.applied
	if raftIndex < uint64(len(o.indexes)) {
		if known := o.indexes[raftIndex]; known != 0 && known != p.oracleIndex {
			o.w.fail("members differ", "the snapshot at raft index %d has store index %d on member %x, want %d", raftIndex, p.oracleIndex, p.host.id, known)
		}
	}
	if known, ok := o.states[raftIndex]; ok && known != p.stateHash() {
		o.w.fail("members differ", "the snapshot at raft index %d has another state on member %x", raftIndex, p.host.id)
	}
}

// at returns what happened to key last, up to a store index. It is for keys
// that only their own events change.
func (o *oracle) at(key string, index uint64) *eventInfo {
	positions := o.byKey[key]
	for i := len(positions) - 1; i >= 0; i-- {
		if e := &o.events[positions[i]]; e.index <= index {
			return e
		}
	}
	return nil
}

// checkView holds a state that a client was shown against the history.
func (o *oracle) checkView(view store.View, key string) {
	if view.Index() > o.last() {
		o.w.fail("read", "a state of index %d was shown, the newest is %d", view.Index(), o.last())
	}
	want := o.at(key, view.Index())
	n, err := view.Get(key)
	switch {
	case err != nil && (want == nil || want.action.Removes()):
	case err != nil:
		o.w.fail("read", "%s is missing at index %d, it was written at %d", key, view.Index(), want.index)
	case want == nil || want.action.Removes() || n.ModifiedIndex() != want.index || n.Value() != want.value:
		o.w.fail("read", "%s is %q of index %d at index %d, want %+v", key, n.Value(), n.ModifiedIndex(), view.Index(), want)
	}
}

// matches is the rule of the contract: which events a watch is to see.
func (e *eventInfo) matches(key string, recursive bool) bool {
	switch {
	case e.refresh:
		return false
	case e.key == key:
		return true
	case key == "/" || strings.HasPrefix(e.key, key+"/"):
		return recursive
	default:
		return e.action.Removes() && e.dir && strings.HasPrefix(key, e.key+"/")
	}
}

// ttlOracle holds every expiry against true time.
type ttlOracle struct {
	w        *world
	due      map[string]deadline
	expiries int
	// fast is the fastest that any clock of the run was.
	fast, slow float64
}

// deadline is a node that is to expire.
type deadline struct {
	ttl        time.Duration
	deadlineMS int64
	index      uint64
	set        entryInfo
}

func newTTLOracle(w *world) *ttlOracle {
	return &ttlOracle{w: w, due: map[string]deadline{}, fast: 1, slow: 1}
}

// observe takes the first sight of an event.
func (t *ttlOracle) observe(e *store.Event, entries []raftnode.Entry) {
	key := e.Node().Key()
	info := t.w.check.info(entryOf(e, entries))
	if e.Action() == deimos.ActionExpire {
		t.expired(e, info)
	}
	if e.Action().Removes() {
		delete(t.due, key)
		if e.Node().IsDir() {
			for below := range t.due {
				if strings.HasPrefix(below, key+"/") {
					delete(t.due, below)
				}
			}
		}
		return
	}
	deadlineMS, ok := e.Node().DeadlineMS()
	if !ok {
		delete(t.due, key)
		return
	}
	t.due[key] = deadline{
		ttl:        time.Duration(deadlineMS-e.NowMS()) * time.Millisecond,
		deadlineMS: deadlineMS, index: e.Index(), set: *info,
	}
}

// entryOf finds the entry of a batch that made an event: the one with its time
// and, for a write, its place.
func entryOf(e *store.Event, entries []raftnode.Entry) uint64 {
	for i := range entries {
		if entries[i].TimeMS == e.NowMS() {
			return entries[i].Index
		}
	}
	return entries[len(entries)-1].Index
}

// leaderGap is how much cluster time may pass at a change of leader without
// one: a silence of up to an election timeout is counted.
const leaderGap = election + 200*time.Millisecond

func (t *ttlOracle) expired(e *store.Event, exp *entryInfo) {
	t.expiries++
	key := e.Node().Key()
	d, ok := t.due[key]
	if !ok {
		t.w.fail("TTL", "%s expired at index %d and has no deadline", key, e.Index())
	}
	if e.NowMS() <= d.deadlineMS {
		t.w.fail("TTL early", "%s expired at cluster time %d ms, due after %d ms", key, e.NowMS(), d.deadlineMS)
	}
	least := time.Duration(float64(d.ttl) / t.fast)
	if passed := exp.at - d.set.at; passed < least-2*time.Millisecond {
		t.w.fail("TTL early", "%s (ttl %s, index %d) expired after %s", key, d.ttl, d.index, passed)
	}
	slack := leaderGap * time.Duration(1+exp.changes-d.set.changes)
	if led := exp.leaderTime - d.set.leaderTime; led+slack < least {
		t.w.fail("TTL early", "%s (ttl %s, index %d) expired after %s with a leader, and %d changes of leader", key, d.ttl, d.index, led, exp.changes-d.set.changes)
	}
	t.notLate(key, d, exp.at)
}

// notLate checks the bound above: a second, plus all time that was not calm,
// plus the cluster time that nobody remembered, plus what slow clocks take.
func (t *ttlOracle) notLate(key string, d deadline, at time.Duration) {
	calm := &t.w.calm
	calm.account()
	busy, forgotten := calm.busy-d.set.busy, calm.forgotten-d.set.forgotten
	most := time.Duration(float64(d.ttl)/t.slow) + time.Second + busy + forgotten
	if passed := at - d.set.at; passed > most {
		t.w.fail("TTL late", "%s (ttl %s, index %d) is still there after %s, of which %s were not calm and %s were forgotten",
			key, d.ttl, d.index, passed, busy, forgotten)
	}
}
