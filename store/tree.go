package store

import "iter"

// tree holds nodes in the order of [compareKeys]: every node but the root of the
// store, so that a directory is directly followed by its content: all keys from
// dir+"/" up to, but not including, endOfSubtree(dir).
//
// It is a B-tree (Bayer and McCreight, 1972) whose pages are copied before they
// are changed if they belong to a frozen tree too (copy-on-write). One goroutine
// may change a tree; a frozen one never changes, and any may read it. At rest
// every page holds a node, except the root of an empty tree.
type tree struct {
	root   *page
	length int
	// stamp is that of the pages which no frozen tree has.
	stamp uint64
}

func newTree() tree { return tree{root: &page{stamp: 1}, stamp: 1} }

// freeze returns the tree as it is, for readers. It takes no time.
func (t *tree) freeze() tree {
	t.stamp++
	return tree{root: t.root, length: t.length}
}

// own returns a page that may be changed, with the content of p.
func (t *tree) own(p *page) *page {
	if p.stamp == t.stamp {
		return p
	}
	q := *p
	q.stamp = t.stamp
	if p.kids != nil {
		kids := *p.kids
		q.kids = &kids
	}
	return &q
}

// ownKid does that for a kid of a page that may be changed.
func (t *tree) ownKid(p *page, i int) *page {
	p.kids[i] = t.own(p.kids[i])
	return p.kids[i]
}

// newPage makes a page of nodes and kids; of leaves there are none.
func (t *tree) newPage(nodes []*Node, kids []*page) *page {
	p := &page{stamp: t.stamp, n: len(nodes)}
	copy(p.nodes[:], nodes)
	if len(kids) > 0 {
		p.kids = new([pageMax + 1]*page)
		copy(p.kids[:], kids)
	}
	p.index()
	return p
}

// get returns the node with a key.
func (t *tree) get(key string) (*Node, bool) {
	p := t.root
	for p.kids != nil {
		i, found := p.search(key)
		if found {
			return p.nodes[i], true
		}
		p = p.kids[i]
	}
	n := p.get(key)
	return n, n != nil
}

// set inserts a node, or replaces the one with its key.
func (t *tree) set(n *Node) {
	t.root = t.own(t.root)
	t.grow(t.setIn(t.root, n))
}

func (t *tree) setIn(p *page, n *Node) (middle *Node, right *page) {
	i, found := p.search(n.key)
	switch {
	case found:
		p.nodes[i] = n
		return nil, nil
	case p.kids == nil:
		t.length++
		return t.insert(p, i, n, nil)
	}
	middle, right = t.setIn(t.ownKid(p, i), n)
	if right == nil {
		return nil, nil
	}
	return t.insert(p, i, middle, right)
}

// push inserts a node behind all others. Whoever builds a tree in order saves the
// searches by it.
func (t *tree) push(n *Node) {
	t.length++
	t.root = t.own(t.root)
	t.grow(t.pushIn(t.root, n))
}

func (t *tree) pushIn(p *page, n *Node) (middle *Node, right *page) {
	if p.kids == nil {
		return t.insert(p, p.n, n, nil)
	}
	middle, right = t.pushIn(t.ownKid(p, p.n), n)
	if right == nil {
		return nil, nil
	}
	return t.insert(p, p.n, middle, right)
}

// grow makes a new root if the root was split.
func (t *tree) grow(middle *Node, right *page) {
	if right != nil {
		t.root = t.newPage([]*Node{middle}, []*page{t.root, right})
	}
}

// insert inserts into a page, which is split if it is full: then it keeps what is
// before middle, and right has what is behind.
func (t *tree) insert(p *page, i int, n *Node, kid *page) (middle *Node, right *page) {
	if p.n < pageMax {
		p.insert(i, n, kid)
		return nil, nil
	}
	at := p.n / 2
	if i == p.n {
		at = p.n - 1 // nodes may come in order: then pages stay full
	}
	middle = p.nodes[at]
	var kids []*page
	if p.kids != nil {
		kids = p.kids[at+1 : p.n+1]
	}
	right = t.newPage(p.nodes[at+1:p.n], kids)
	p.drop(at, p.n)
	p.index()
	if i <= at {
		p.insert(i, n, kid)
	} else {
		right.insert(i-at-1, n, kid)
	}
	return middle, right
}

// remove removes the node with a key, if there is one.
func (t *tree) remove(key string) { t.removeRange(key, key+"/") } // nothing is between the two

// removeRange removes all nodes from one key up to, but not including, another
// one. It takes time in proportion to the pages that it removes, without looking
// at their nodes.
func (t *tree) removeRange(from, to string) {
	t.root = t.own(t.root)
	t.removeIn(t.root, from, to)
	for t.root.n == 0 && t.root.kids != nil {
		t.root = t.root.kids[0]
	}
}

// removeIn leaves a page that may have too few nodes, or none, and then a single
// kid of which the same is true.
func (t *tree) removeIn(p *page, from, to string) {
	i, _ := p.search(from)
	j, _ := p.search(to)
	t.length -= j - i
	if p.kids == nil {
		p.drop(i, j)
		return
	}
	left := t.ownKid(p, i)
	t.removeIn(left, from, to)
	if i < j {
		for _, kid := range p.kids[i+1 : j] {
			t.length -= kid.size()
		}
		right := t.ownKid(p, j)
		t.removeIn(right, from, to)
		// A node is needed between the two that are left.
		p.drop(i, j-1)
		if n := t.takeLast(left); n != nil {
			p.put(i, n)
		} else if n := t.takeFirst(right); n != nil {
			p.put(i, n)
		} else {
			p.drop(i, i+1)
		}
		t.fill(p, i+1)
	}
	t.fill(p, i)
}

// takeLast takes the last node out of a page and those below it; nil if there
// is none.
func (t *tree) takeLast(p *page) *Node {
	if p.kids != nil {
		n := t.takeLast(t.ownKid(p, p.n))
		t.fill(p, p.n)
		return n
	}
	if p.n == 0 {
		return nil
	}
	n := p.nodes[p.n-1]
	p.drop(p.n-1, p.n)
	return n
}

// takeFirst takes the first one.
func (t *tree) takeFirst(p *page) *Node {
	if p.kids != nil {
		n := t.takeFirst(t.ownKid(p, 0))
		t.fill(p, 0)
		return n
	}
	if p.n == 0 {
		return nil
	}
	n := p.nodes[0]
	p.drop(0, 1)
	return n
}

// fill combines a kid that has too few nodes with a neighbour, as long as there
// is one.
func (t *tree) fill(p *page, i int) {
	for i <= p.n && p.n > 0 && p.kids[i].n < pageMin {
		i = min(i, p.n-1)
		t.combine(p, i)
	}
}

// combine makes one page of a kid and the next one, or two that have as much.
func (t *tree) combine(p *page, i int) {
	left, right := p.kids[i], p.kids[i+1]
	nodes := make([]*Node, 0, 2*pageMax+1)
	nodes = append(append(append(nodes, left.nodes[:left.n]...), p.nodes[i]), right.nodes[:right.n]...)
	var kids []*page
	if left.kids != nil {
		kids = append(append(kids, left.kids[:left.n+1]...), right.kids[:right.n+1]...)
	}
	if len(nodes) <= pageMax {
		p.drop(i, i+1)
		p.kids[i] = t.newPage(nodes, kids)
		t.fillEmpty(p.kids[i])
		return
	}
	half := len(nodes) / 2
	var before, behind []*page
	if kids != nil {
		before, behind = kids[:half+1], kids[half+1:]
	}
	p.kids[i], p.kids[i+1] = t.newPage(nodes[:half], before), t.newPage(nodes[half+1:], behind)
	p.put(i, nodes[half])
	t.fillEmpty(p.kids[i])
	t.fillEmpty(p.kids[i+1])
}

// fillEmpty combines the kids that have no node at all, for which there was no
// neighbour before. The page itself may be left with a single kid.
func (t *tree) fillEmpty(p *page) {
	for i := 0; p.kids != nil && p.n > 0 && i <= p.n; i++ {
		if p.kids[i].n == 0 {
			t.fill(p, i)
			i = -1
		}
	}
}

// all yields all nodes.
func (t *tree) all() iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		c := cursor{tree: t}
		for ok := c.seek(""); ok && yield(c.node()); ok = c.next() {
		}
	}
}

// from yields the nodes from a key on.
func (t *tree) from(key string) iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		c := cursor{tree: t}
		for ok := c.seek(key); ok && yield(c.node()); ok = c.next() {
		}
	}
}
