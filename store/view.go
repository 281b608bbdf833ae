package store

import (
	"iter"

	"github.com/marsevilspirit/deimos"
)

// View is one published state of a store: tree, index and history of the same
// moment. It is a small value, safe for use by any number of goroutines, and
// takes no lock. Only [Store.View] makes usable ones.
type View struct {
	st *state
}

// Index returns the store index of the state.
func (v View) Index() uint64 { return v.st.index }

// RaftIndex returns the raft index of the last entry in the state.
func (v View) RaftIndex() uint64 { return v.st.raftIndex }

// Len returns the number of nodes, hidden ones included and the root left out.
func (v View) Len() int { return v.st.tree.length }

// OldestIndex returns the smallest index from which the history lacks nothing;
// a watch from below it is refused. It is 1 while nothing has been cleared,
// and one above [View.Index] while nothing has happened since a snapshot.
func (v View) OldestIndex() uint64 { return v.st.oldestIndex }

// NextDeadline returns the earliest deadline of any node, in milliseconds of
// cluster time; ok is false if all nodes are permanent.
func (v View) NextDeadline() (deadlineMS int64, ok bool) {
	return v.st.deadlineMS, v.st.deadlineMS != 0
}

// Get returns the node with the given key, hidden or not, due or not. The
// error is a *[deimos.Error] with the index of the state: code 100 with the
// first missing element, 104 with the file if the way leads through one, or
// 209 if key is not a cleaned key.
func (v View) Get(key string) (*Node, error) {
	if key == rootKey {
		return v.st.root, nil
	}
	if n, ok := v.st.tree.get(key); ok {
		return n, nil
	}
	if !isClean(key) {
		return nil, &deimos.Error{Code: deimos.CodeInvalidField, Cause: uncleanCause(key), Index: v.st.index}
	}
	code, cause := missing(key, v.st.tree.get)
	return nil, &deimos.Error{Code: code, Cause: cause, Index: v.st.index}
}

// missing tells why there is no node with the given key: the first element on
// the way that is missing, or is a file and not the last one.
func missing(key string, find func(key string) (*Node, bool)) (code deimos.Code, cause string) {
	code, cause = deimos.CodeKeyNotFound, key
	prefixes(key, func(prefix string) bool {
		n, ok := find(prefix)
		switch {
		case !ok:
			code, cause = deimos.CodeKeyNotFound, prefix
			return false
		case !n.dir:
			code, cause = deimos.CodeNotDir, prefix
			return false
		}
		return true
	})
	return code, cause
}

// Children yields the direct children of n, without hidden ones, sorted
// bytewise by key. What lies below a child is skipped by seeking, so the cost
// depends on the number of children alone. n must come from this View; a file
// has no children.
func (v View) Children(n *Node) iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		if !n.dir {
			return
		}
		at := cursor{tree: &v.st.tree}
		for ok := at.seekBelow(n); ok; {
			child := at.node()
			if !isBelow(child.key, n.key) {
				return
			}
			if !isHiddenName(child.key) && !yield(child) {
				return
			}
			ok = at.next()
			if ok && isBelow(at.node().key, child.key) {
				ok = at.seek(endOfSubtree(child.key))
			}
		}
	}
}

// Descendants yields everything below n in tree order: parents before their
// children, siblings sorted bytewise. Hidden nodes and all below them are left
// out and skipped by seeking; the rest is one range scan. [Node.Depth] tells
// how the nodes nest. n must come from this View; a file has no descendants.
func (v View) Descendants(n *Node) iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		if !n.dir {
			return
		}
		at := cursor{tree: &v.st.tree}
		for ok := at.seekBelow(n); ok; {
			d := at.node()
			if !isBelow(d.key, n.key) {
				return
			}
			if isHiddenName(d.key) {
				ok = at.seek(endOfSubtree(d.key))
				continue
			}
			if !yield(d) {
				return
			}
			ok = at.next()
		}
	}
}
