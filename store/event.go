package store

import (
	"sync/atomic"

	"github.com/marsevilspirit/deimos"
)

// Event is the record of one successful write or expiry. It is shared by its
// writer, the history and all watchers, and never changes.
type Event struct {
	node    *Node
	prev    *Node
	nowMS   int64
	kind    eventKind
	refresh bool
	// encoding is all that changes.
	encoding atomic.Pointer[[]byte]
}

type eventKind uint8

const (
	kindSet eventKind = iota
	kindCreate
	kindUpdate
	kindCompareAndSwap
	kindDelete
	kindCompareAndDelete
	kindExpire
)

var kindActions = [...]deimos.Action{
	kindSet:              deimos.ActionSet,
	kindCreate:           deimos.ActionCreate,
	kindUpdate:           deimos.ActionUpdate,
	kindCompareAndSwap:   deimos.ActionCompareAndSwap,
	kindDelete:           deimos.ActionDelete,
	kindCompareAndDelete: deimos.ActionCompareAndDelete,
	kindExpire:           deimos.ActionExpire,
}

// Index returns the store index that the event belongs to. No other event has
// the same one.
func (e *Event) Index() uint64 { return e.node.modifiedIndex }

// Action returns what happened.
func (e *Event) Action() deimos.Action { return kindActions[e.kind] }

// Node returns the node after the event. If the event removed the node, it has
// key, kind and indexes only: no value and no deadline.
func (e *Event) Node() *Node { return e.node }

// PrevNode returns the node just before the event, nil if there was none.
func (e *Event) PrevNode() *Node { return e.prev }

// NowMS returns the cluster time of the event in milliseconds, so that the
// remaining life of its nodes can be told as of then.
func (e *Event) NowMS() int64 { return e.nowMS }

// Refresh reports whether the event only renewed a TTL; no watcher gets it.
func (e *Event) Refresh() bool { return e.refresh }

// Encoding returns what [Event.KeepEncoding] has kept, nil if there is nothing.
// Nobody may change it. Any goroutine may call it.
func (e *Event) Encoding() []byte {
	if kept := e.encoding.Load(); kept != nil {
		return *kept
	}
	return nil
}

// KeepEncoding keeps what the event is for those who watch it, so that it is made
// once for all of them. It returns false, and keeps what there is, if somebody was
// faster. The history does not count these bytes: whoever keeps them bounds them, by
// [Event.DropEncoding]. Any goroutine may call it.
func (e *Event) KeepEncoding(b []byte) bool { return e.encoding.CompareAndSwap(nil, &b) }

// DropEncoding forgets what was kept. Any goroutine may call it.
func (e *Event) DropEncoding() { e.encoding.Store(nil) }

// removes reports whether the event took its node out of the tree.
func (e *Event) removes() bool { return e.kind >= kindDelete }

// eventOverheadBytes is what an event costs besides keys and values: the event
// itself, the two nodes, their places in the tree and the history.
const eventOverheadBytes = 192

// cost is what the event counts for in the history and in the queue of a
// watcher: the bytes of its key, of its value and of the previous value, and
// the overhead. A value that two events share counts for both, because either
// may outlive the other; what KeepEncoding keeps does not count.
func (e *Event) cost() int64 {
	cost := int64(eventOverheadBytes + len(e.node.key) + len(e.node.value))
	if e.prev != nil {
		cost += int64(len(e.prev.value))
	}
	return cost
}

// matches reports whether a watch on key is to see the event. The hub must
// find exactly the watchers for which this is true.
func matches(e *Event, key string, recursive bool) bool {
	if e.refresh {
		return false
	}
	at := e.node.key
	switch {
	case at == key:
		return true
	case isBelow(at, key):
		return recursive && !hiddenBelow(at, key)
	default:
		return e.removes() && e.node.dir && isBelow(key, at)
	}
}

// hiddenBelow reports whether an element of key below dir hides what it names.
func hiddenBelow(key, dir string) bool {
	for ; len(key) > len(dir); key = parentKey(key) {
		if isHiddenName(key) {
			return true
		}
	}
	return false
}
