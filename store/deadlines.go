package store

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/tidwall/btree"
)

// deadlines holds the nodes that have a deadline, in the order in which they
// expire: by deadline, then bytewise by key. It belongs to the writing
// goroutine.
type deadlines struct {
	tree *btree.BTreeG[*Node]
}

func newDeadlines() deadlines {
	return deadlines{btree.NewBTreeGOptions(func(a, b *Node) bool {
		return compareDeadlines(a, b) < 0
	}, btree.Options{NoLocks: true})}
}

func compareDeadlines(a, b *Node) int {
	if c := cmp.Compare(a.deadlineMS, b.deadlineMS); c != 0 {
		return c
	}
	return strings.Compare(a.key, b.key)
}

// newSortedDeadlines indexes nodes, which it may reorder.
func newSortedDeadlines(nodes []*Node) deadlines {
	d := newDeadlines()
	slices.SortFunc(nodes, compareDeadlines)
	for _, n := range nodes {
		d.tree.Load(n)
	}
	return d
}

func (d *deadlines) add(n *Node) {
	if n.deadlineMS != 0 {
		d.tree.Set(n)
	}
}

func (d *deadlines) remove(n *Node) {
	if n.deadlineMS != 0 {
		d.tree.Delete(n)
	}
}

// first returns the node that expires first.
func (d *deadlines) first() (*Node, bool) { return d.tree.Min() }

// removeBelow removes the nodes below dir, all of which are in nodes.
func (d *deadlines) removeBelow(dir string, nodes []*Node) {
	if len(nodes)*bits.Len(uint(d.tree.Len())) < d.tree.Len() {
		for _, n := range nodes {
			d.tree.Delete(n)
		}
		return
	}
	// So many that going once through all of them is cheaper.
	kept := newDeadlines()
	d.tree.Scan(func(n *Node) bool {
		if !isBelow(n.key, dir) {
			kept.tree.Load(n)
		}
		return true
	})
	*d = kept
}

// deadlineAfter is the cluster time at which ttlSeconds have passed. It never
// overflows, and is never 0, which means permanent.
func deadlineAfter(nowMS, ttlSeconds int64) int64 {
	ttlSeconds = max(ttlSeconds, 0)
	if ttlSeconds > (math.MaxInt64-nowMS)/1000 {
		return math.MaxInt64
	}
	return nowMS + ttlSeconds*1000
}

// Expire removes the nodes whose deadline lies before nowMS, in the order of
// their deadlines and then bytewise by key, but at most limit of them, and
// returns how many it removed. Each raises the index by one and has one event.
// A directory goes with all its content under its own event. nowMS is cluster
// time in milliseconds.
//
// Like Apply it works on the draft, until Publish.
func (s *Store) Expire(nowMS int64, limit int) int {
	nowMS = max(nowMS, minNowMS)
	expired := 0
	for expired < limit {
		n, ok := s.deadlines.first()
		if !ok || n.deadlineMS >= nowMS {
			break
		}
		s.remove(n, kindExpire, nowMS)
		expired++
	}
	return expired
}
