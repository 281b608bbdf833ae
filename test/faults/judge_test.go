package faults

import (
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/marsevilspirit/deimos"
)

// judge asks all judges that need nothing but the evidence.
func (v *evidence) judge() {
	v.judgeCompleteness()
	v.judgeChain()
	v.judgeAnswers()
	v.judgeRealTime()
	v.judgeLives()
	v.judgeLinearizability()
}

// judgeCompleteness: only history that was cleared may be missing.
func (v *evidence) judgeCompleteness() {
	if v.missed > 0 && v.events.cleared == 0 {
		v.bad("watch", "%d events were told to nobody, the first at index %d, though no history was cleared", v.missed, v.firstMissed)
	}
	if v.missed > int(v.end)/2 {
		v.bad("void", "%d of %d events were told to nobody", v.missed, v.end)
	}
}

// judgeChain: each event leaves the node that the next one of its key finds.
func (v *evidence) judgeChain() {
	state, known := map[string]*node{}, map[string]bool{}
	all := true
	for i := uint64(2); i <= v.end; i++ {
		e := v.events.byIndex[i]
		if e == nil {
			all = false
			clear(known)
			continue
		}
		key := e.Node.Key
		if all || known[key] {
			was := state[key]
			if (was == nil) != (e.Prev == nil) || was != nil && *was != *e.Prev {
				v.bad("chain", "event %d finds %+v, but the events before it left %+v", i, e.Prev, was)
			}
		}
		known[key] = true
		if e.Action.Removes() {
			delete(state, key)
		} else {
			n := e.Node
			state[key] = &n
		}
		if o := v.writer[e.Node.Value]; !e.Action.Removes() && (o == nil || e.At < o.Call) {
			v.bad("chain", "event %d (%s %s) has a value that nobody had asked to write: %v", i, key, e.Node.Value, o)
		}
	}
}

// judgeAnswers is the second judge of acknowledged writes: each is the event at
// its index. It also compares reads with the events, and looks for effects of
// requests that were refused.
func (v *evidence) judgeAnswers() {
	at := map[uint64]*op{}
	versions := v.versions()
	for _, o := range v.ops {
		e := v.byValue[o.Value]
		switch {
		case o.Outcome == odd:
			v.bad("answer", "an answer that no fault excuses: %v", o)
		case (o.Outcome == nothing || o.Outcome == refused) && o.Value != "" && e != nil:
			v.bad("answer", "a write that was refused took effect at index %d: %v", e.Index, o)
		case o.Kind == kindRead && (o.Outcome == acked || o.Outcome == refused):
			v.judgeRead(o, versions[o.Key])
		case o.Outcome == acked:
			if other := at[o.Index]; other != nil {
				v.bad("lost write", "index %d was acknowledged twice: %v and %v", o.Index, other, o)
			}
			at[o.Index] = o
			v.judgeWrite(o)
		}
	}
}

func (v *evidence) judgeWrite(o *op) {
	e := v.events.byIndex[o.Index]
	key := o.Key
	if o.Kind == kindInOrder {
		key = fmt.Sprintf("%s/%020d", o.Key, o.Index)
	}
	switch {
	case o.Index > v.end || o.Index < 2:
		v.bad("lost write", "the index is not one of 2 to %d: %v", v.end, o)
	case e == nil && v.complete():
		v.bad("lost write", "there is no event: %v", o)
	case e != nil && (e.Node.Key != key || e.Action.Removes() != o.Kind.removes() || e.Node.Value != o.Value):
		v.bad("lost write", "the event at its index is %+v: %v", e, o)
	}
}

// version is what a key held from an index on.
type version struct {
	from uint64
	node *node // nil: it was gone
}

func (v *evidence) versions() map[string][]version {
	versions := map[string][]version{}
	for i := uint64(2); i <= v.end; i++ {
		e := v.events.byIndex[i]
		if e == nil {
			continue
		}
		next := version{i, &e.Node}
		if e.Action.Removes() {
			next.node = nil
		}
		versions[e.Node.Key] = append(versions[e.Node.Key], next)
	}
	return versions
}

// judgeRead: a read shows what its key held at its index.
func (v *evidence) judgeRead(o *op, versions []version) {
	if !v.complete() {
		return
	}
	i, _ := slices.BinarySearchFunc(versions, o.Index+1, func(x version, index uint64) int { return int(int64(x.from) - int64(index)) })
	var held *node
	if i > 0 {
		held = versions[i-1].node
	}
	if (held == nil) != (o.Got == nil) || held != nil && *held != *o.Got {
		v.bad("read", "the key held %+v at the index of the read: %v", held, o)
	}
}

// judgeRealTime: whatever begins after an index was seen is not before it.
func (v *evidence) judgeRealTime() {
	type sight struct {
		at    int64
		index uint64
		by    string
	}
	var sights []sight
	for _, o := range v.ops {
		if o.Outcome == acked || o.Outcome == refused {
			sights = append(sights, sight{o.Return, o.Index, o.String()})
		}
	}
	for _, e := range v.events.byIndex {
		sights = append(sights, sight{e.At, e.Index, "a watcher"})
	}
	slices.SortFunc(sights, func(a, b sight) int { return int(a.at - b.at) })
	var newest sight
	next := 0
	for _, o := range v.ops { // in the order in which they began
		for ; next < len(sights) && sights[next].at < o.Call; next++ {
			if sights[next].index > newest.index {
				newest = sights[next]
			}
		}
		index, write := o.Index, o.Outcome == acked && o.Kind != kindRead
		if o.Outcome == unknown && v.byValue[o.Value] != nil {
			index, write = v.byValue[o.Value].Index, true
		} else if o.Outcome != acked && o.Outcome != refused {
			continue
		}
		if index < newest.index || write && index == newest.index {
			v.bad("stale", "it began after index %d was seen by %s: %v", newest.index, newest.by, o)
		}
	}
}

const (
	// lateMax is how late a key may go while nothing happens, with what the
	// machine needs to tell us; laterMax is added for each change of the leader.
	lateMax  = 2 * time.Second
	laterMax = 2 * time.Second
	// leaderless is the shortest time without an acknowledgement that counts as
	// one in which cluster time may have stood still.
	leaderless = 150 * time.Millisecond
)

// judgeLives: no key goes before its time, and none much later. Time between two
// acknowledgements that are far from each other does not count, for cluster time
// may stand still in it.
func (v *evidence) judgeLives() {
	var acks []*op
	for _, o := range v.ops {
		if o.Outcome == acked && o.Kind != kindRead {
			acks = append(acks, o)
		}
	}
	slices.SortFunc(acks, func(a, b *op) int { return int(a.Return - b.Return) })
	expired := 0
	for i := uint64(2); i <= v.end; i++ {
		e := v.events.byIndex[i]
		if e == nil || e.Action != deimos.ActionExpire {
			continue
		}
		var o *op
		if e.Prev != nil {
			o = v.writer[e.Prev.Value]
		}
		if o == nil || o.TTL == 0 {
			v.bad("ttl", "event %d ends a key that nobody gave a life: %+v", i, e)
			continue
		}
		expired++
		life := time.Duration(o.TTL) * time.Second
		if lived := time.Duration(e.At - o.Call); lived < life {
			v.bad("ttl", "early by %v: event %d ends %s: %v", life-lived, i, e.Node.Key, o)
		}
		if o.Outcome == acked {
			v.judgeLate(e, o, acks)
		}
	}
	if expired == 0 {
		v.bad("void", "no key has expired")
	}
}

func (v *evidence) judgeLate(e *event, o *op, acks []*op) {
	late := time.Duration(e.At-o.Return) - time.Duration(o.TTL)*time.Second
	from := sort.Search(len(acks), func(i int) bool { return acks[i].Return >= o.Return })
	last, terms := o.Return, map[uint64]bool{}
	for _, a := range acks[from:] {
		at := min(a.Return, e.At)
		if gap := time.Duration(at - last); gap > leaderless {
			late -= gap
		}
		last, terms[a.Term] = at, true
		if a.Return > e.At {
			break
		}
	}
	v.latest = max(v.latest, late)
	if most := lateMax + time.Duration(max(0, len(terms)-1))*laterMax; late > most {
		v.bad("ttl", "late by %v with %d leaders, want at most %v: event %d ends %s: %v", late, len(terms), most, e.Index, e.Node.Key, o)
	}
}
