package store

// cursorDepth is more than a tree can be deep: each level takes the one below to
// have been full a dozen times.
const cursorDepth = 16

// cursor is a place in a tree that does not change meanwhile.
type cursor struct {
	tree *tree
	// path leads to the node, which is the last place. The node at an earlier place
	// comes after all that is below its page's kid.
	path  [cursorDepth]place
	depth int
}

type place struct {
	page *page
	i    int
}

// node returns the node at which the cursor is.
func (c *cursor) node() *Node {
	at := &c.path[c.depth-1]
	return at.page.nodes[at.i]
}

// seek moves to the first node from a key on. It returns false if there is none.
func (c *cursor) seek(key string) bool {
	c.depth = 0
	for p := c.tree.root; ; {
		i, found := p.search(key)
		c.enter(p, i)
		if found {
			return true
		}
		if p.kids == nil {
			return c.leave()
		}
		p = p.kids[i]
	}
}

// seekBelow moves to the first node after n in tree order. If n is in the tree,
// that is its first child when it has one.
func (c *cursor) seekBelow(n *Node) bool {
	if n.IsRoot() {
		return c.seek("")
	}
	return c.seek(n.key) && (c.node().key != n.key || c.next())
}

// next moves to the next node. It returns false if there is none.
func (c *cursor) next() bool {
	at := &c.path[c.depth-1]
	at.i++
	if at.page.kids == nil {
		return c.leave()
	}
	for p := at.page.kids[at.i]; ; p = p.kids[0] {
		c.enter(p, 0)
		if p.kids == nil {
			return c.leave()
		}
	}
}

func (c *cursor) enter(p *page, i int) {
	c.path[c.depth] = place{p, i}
	c.depth++
}

// leave leaves the pages that have ended.
func (c *cursor) leave() bool {
	for c.depth > 0 && c.path[c.depth-1].i == c.path[c.depth-1].page.n {
		c.depth--
	}
	return c.depth > 0
}
