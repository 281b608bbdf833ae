package store

import (
	"encoding/binary"
	"strings"
)

const (
	// pageMax is how many nodes a page holds at most: as many as fit into 512 bytes.
	// Every publication makes the next writes copy the pages that they touch, so
	// pages are smaller than would be best for a tree that is never shared.
	pageMax = 29
	// pageMin is with how few a page is combined with its neighbour.
	pageMin = pageMax / 3
)

// page is a page of a [tree]: some nodes in the order of their keys, and, unless
// it is a leaf, the pages before, between and behind them.
//
// A search compares numbers that stand side by side in the page, and seldom looks
// at a node or its key, which are anywhere in memory.
type page struct {
	stamp uint64
	// prefix is what the keys of all nodes of the page begin with.
	prefix string
	kids   *[pageMax + 1]*page // nil in a leaf
	n      int
	nodes  [pageMax]*Node
	// heads are what follows the prefix in the keys, as far as a number holds it.
	heads [pageMax]uint64
}

// head returns a number for the first 8 bytes of a string, so that strings whose
// numbers differ are in the order of [compareKeys] if the numbers are.
func head(s string) uint64 {
	if len(s) >= 8 {
		return ranked(binary.BigEndian.Uint64([]byte(s[:8])))
	}
	x := slashes // as if it went on with the lowest bytes there are
	for i := range len(s) {
		shift := 56 - 8*i
		x = x&^(0xff<<shift) | uint64(s[i])<<shift
	}
	return ranked(x)
}

const (
	eachByte = 0x0101010101010101
	topBits  = 0x80 * eachByte
	slashes  = '/' * uint64(eachByte)
)

// ranked gives each of 8 bytes its place in the order of [compareKeys]: '/' is
// 0, what is below it is one more than it was, and the rest stays.
func ranked(x uint64) uint64 {
	below := (^((x | topBits) - slashes) &^ x & topBits) >> 7
	y := x ^ slashes
	same := (^((y&^topBits + ^uint64(topBits)) | y) & topBits) >> 7
	return (x + below) &^ (same * 0xff)
}

// search returns the place of a key among the nodes: of the first node that is
// not before it. found tells that this is the node with that key.
func (p *page) search(key string) (i int, found bool) {
	if strings.HasPrefix(key, p.prefix) {
		return p.searchRest(key[len(p.prefix):])
	}
	if compareKeys(key, p.prefix) < 0 {
		return 0, false
	}
	return p.n, false
}

// searchRest does that for a key of which the prefix has been cut off.
func (p *page) searchRest(rest string) (i int, found bool) {
	h := head(rest)
	low, high := 0, p.n
	for low < high {
		middle := int(uint(low+high) / 2)
		c := 0
		switch x := p.heads[middle]; {
		case h < x:
			c = -1
		case h > x:
			c = 1
		default:
			c = compareKeys(rest, p.nodes[middle].key[len(p.prefix):])
		}
		switch {
		case c == 0:
			return middle, true
		case c < 0:
			high = middle
		default:
			low = middle + 1
		}
	}
	return low, false
}

// get returns the node of a leaf with a key, or nil. It does not look at the
// prefix, which is one more thing in memory: all keys of the leaf have it.
func (p *page) get(key string) *Node {
	if len(key) < len(p.prefix) {
		return nil
	}
	if i, found := p.searchRest(key[len(p.prefix):]); found && p.nodes[i].key == key {
		return p.nodes[i]
	}
	return nil
}

// insert puts a node at a place, and in a page that is no leaf kid behind it.
// There must be room.
func (p *page) insert(i int, n *Node, kid *page) {
	copy(p.nodes[i+1:p.n+1], p.nodes[i:p.n])
	copy(p.heads[i+1:p.n+1], p.heads[i:p.n])
	if p.kids != nil {
		copy(p.kids[i+2:p.n+2], p.kids[i+1:p.n+1])
		p.kids[i+1] = kid
	}
	p.n++
	p.put(i, n)
}

// put sets the node at a place, which must be the right one for its key.
func (p *page) put(i int, n *Node) {
	p.nodes[i] = n
	switch {
	case p.n == 1:
		p.index()
	case strings.HasPrefix(n.key, p.prefix):
		p.heads[i] = head(n.key[len(p.prefix):])
	default:
		p.indexFrom(p.prefix[:commonLen(p.prefix, n.key)])
	}
}

// drop removes the nodes from one place up to another one, and the kids behind
// them.
func (p *page) drop(from, to int) {
	rest := p.n - (to - from)
	copy(p.nodes[from:], p.nodes[to:p.n])
	copy(p.heads[from:], p.heads[to:p.n])
	clear(p.nodes[rest:p.n])
	if p.kids != nil {
		copy(p.kids[from+1:], p.kids[to+1:p.n+1])
		clear(p.kids[rest+1 : p.n+1])
	}
	p.n = rest
}

// index makes prefix and heads anew. The longer the prefix, the more the heads
// tell. That of a single node is its directory, where the next ones may be.
func (p *page) index() {
	switch p.n {
	case 0:
		p.prefix = ""
	case 1:
		key := p.nodes[0].key
		p.indexFrom(key[:strings.LastIndexByte(key, '/')+1])
	default:
		first := p.nodes[0].key
		p.indexFrom(first[:commonLen(first, p.nodes[p.n-1].key)])
	}
}

func (p *page) indexFrom(prefix string) {
	p.prefix = prefix
	for i, n := range p.nodes[:p.n] {
		p.heads[i] = head(n.key[len(prefix):])
	}
}

// size counts the nodes of the page and of all below it.
func (p *page) size() int {
	size := p.n
	if p.kids != nil {
		for _, kid := range p.kids[:p.n+1] {
			size += kid.size()
		}
	}
	return size
}

// commonLen returns how many bytes two strings have in common at their beginning.
func commonLen(a, b string) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
