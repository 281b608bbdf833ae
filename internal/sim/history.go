package sim

import (
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/marsevilspirit/deimos"
)

// history is what the clients did and heard.
type history struct {
	w   *world
	ops []*op
}

func (h *history) add(o *op) { h.ops = append(h.ops, o) }

// register is the state of one key in the model. An index of 0 is not known: a
// write whose client never heard of it was the last. It is above floor then.
type register struct {
	exists bool
	value  string
	index  uint64
	floor  uint64
}

// linearizability checks every register with porcupine.
func (h *history) linearizability() {
	byKey := map[string][]porcupine.Operation{}
	var keys []string
	for _, o := range h.ops {
		if !o.register || o.kind == opLocalRead || !h.counts(o) {
			continue
		}
		key := o.request.Key
		if byKey[key] == nil {
			keys = append(keys, key)
		}
		ret := int64(o.ret)
		if o.unknown {
			ret = int64(h.w.now) + 1
		}
		byKey[key] = append(byKey[key], porcupine.Operation{ClientId: o.client, Input: o, Output: o, Call: int64(o.call), Return: ret})
	}
	slices.Sort(keys)
	model := porcupine.Model{
		Init:  func() any { return register{} },
		Step:  func(state, input, _ any) (bool, any) { return state.(register).step(input.(*op)) },
		Equal: func(a, b any) bool { return a.(register) == b.(register) },
	}
	for _, key := range keys {
		switch porcupine.CheckOperationsTimeout(model, byKey[key], 20*time.Second) {
		case porcupine.Illegal:
			h.w.fail("linearizability", "the history of %s (%d operations) has no order that explains it", key, len(byKey[key]))
		case porcupine.Unknown:
			h.w.fail("void", "the history of %s (%d operations) is too hard to check", key, len(byKey[key]))
		}
	}
}

// counts leaves out what can have had no effect: refusals that promise it, reads
// without an answer, and writes whose proposal no log holds. A write that took
// effect without being in the log is seen by those who read its value.
func (h *history) counts(o *op) bool {
	switch {
	case !o.done || o.failed == deimos.CodeRaftInternal:
		return false
	case !o.unknown:
		return true
	case o.kind != opWrite:
		return false
	}
	_, applied := h.w.oracle.applies[[2]uint64{o.run, o.seq}]
	return applied
}

// step is the sequential specification of a register.
func (r register) step(o *op) (bool, register) {
	if o.kind == opRead {
		return r.read(o.exists, o.value, o.modified)
	}
	switch o.failed {
	case 0:
	case deimos.CodeKeyNotFound:
		return !r.exists, r
	case deimos.CodeKeyExists:
		return r.exists, r
	case deimos.CodeCompareFailed:
		return r.exists && !r.holds(o), r
	default:
		return false, r
	}
	allowed := true
	switch o.request.Op {
	case deimos.OpCreate:
		allowed = !r.exists
	case deimos.OpUpdate, deimos.OpDelete:
		allowed = r.exists
	case deimos.OpCompareAndSwap, deimos.OpCompareAndDelete:
		allowed = r.exists && r.holds(o)
	}
	if o.unknown && !allowed {
		return true, r // it was applied, and failed
	}
	if !allowed || (!o.unknown && o.index <= max(r.index, r.floor)) {
		return false, r
	}
	next := register{exists: true, value: o.request.Value, floor: max(r.index, r.floor)}
	if o.request.Op == deimos.OpDelete || o.request.Op == deimos.OpCompareAndDelete {
		next.exists, next.value = false, ""
	}
	if !o.unknown {
		next.index = o.index
	}
	return true, next
}

// read checks what a read saw; an index that was not known is known then.
func (r register) read(exists bool, value string, index uint64) (bool, register) {
	switch {
	case exists != r.exists:
		return false, r
	case !exists:
		return true, r
	case value != r.value:
		return false, r
	case r.index == 0:
		if index <= r.floor {
			return false, r
		}
		r.index = index
		return true, r
	}
	return r.index == index, r
}

// holds judges the conditions of a request. While the index is not known, the
// value tells: no value is written twice.
func (r register) holds(o *op) bool {
	req := &o.request
	if req.HasPrevValue && req.PrevValue != r.value {
		return false
	}
	if req.PrevIndex == 0 {
		return true
	}
	if r.index != 0 {
		return req.PrevIndex == r.index
	}
	return o.sawValue == r.value
}

// judgeLogs is the second judge: every acknowledged write is in the log as the
// entry that its client proposed, and on every member.
func (h *history) judgeLogs() {
	w := h.w
	for _, o := range h.ops {
		if o.kind != opWrite || o.unknown || o.failed != 0 {
			continue
		}
		info := w.check.info(o.raftIndex)
		if info.run != o.run || info.seq != o.seq {
			w.fail("acknowledged write lost", "%s is not in the log: raft index %d holds proposal %d of run %x", o, o.raftIndex, info.seq, info.run)
		}
		if e := w.oracle.event(o.index); e.value != o.request.Value && !e.action.Removes() && !o.request.Refresh && o.request.Value != "" {
			w.fail("acknowledged write lost", "%s: the event of index %d is %+v", o, o.index, e)
		}
		for _, host := range w.hosts {
			if host.gone == exitNone && !host.replaced && !host.disk.holds(o.raftIndex, info.term) {
				w.fail("acknowledged write lost", "%s is not on the disk of member %x", o, host.id)
			}
		}
	}
}
