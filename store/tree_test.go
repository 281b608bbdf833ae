package store

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// rankText is a text for which the bytewise order is that of compareKeys.
func rankText(s string) string {
	b := make([]byte, 0, 2*len(s))
	for i := range len(s) {
		b = append(b, byte(rank(s[i])>>8), byte(rank(s[i])))
	}
	return string(b)
}

func TestHeadsHaveTheOrderOfKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		word := rapid.Custom(func(t *rapid.T) string {
			return string(rapid.SliceOfN(rapid.SampledFrom([]byte("\x00\x01-./0az\x7f\x80\xaf\xb0\xff")), 0, 10).Draw(t, "bytes"))
		})
		a, b := word.Draw(t, "a"), word.Draw(t, "b")
		want := strings.Compare(rankText(a), rankText(b))
		if got := compareKeys(a, b); cmp.Compare(got, 0) != want {
			t.Fatalf("compareKeys(%q, %q) = %d, want %d", a, b, got, want)
		}
		if got := cmp.Compare(head(a), head(b)); got != 0 && got != want {
			t.Fatalf("head(%q) = %x, head(%q) = %x, want the order %d", a, head(a), b, head(b), want)
		}
		if len(a) >= 8 && len(b) >= 8 && (a[:8] == b[:8]) != (head(a) == head(b)) {
			t.Fatalf("head(%q) = %x, head(%q) = %x, want that they tell the bytes apart", a, head(a), b, head(b))
		}
	})
}

// check fails unless the tree is sound and holds exactly the nodes of want, which
// are in order.
func (t *tree) check(tb testing.TB, want []*Node) {
	tb.Helper()
	depth := -1
	var walk func(p *page, level int)
	walk = func(p *page, level int) {
		if p.n == 0 && (p != t.root || p.kids != nil) {
			tb.Fatalf("a page at level %d has no node", level)
		}
		for i, n := range p.nodes {
			switch {
			case i >= p.n && n != nil:
				tb.Fatalf("the page keeps %s, which it has no more", n.key)
			case i < p.n && !strings.HasPrefix(n.key, p.prefix):
				tb.Fatalf("%s is in a page with the prefix %s", n.key, p.prefix)
			case i < p.n && p.heads[i] != head(n.key[len(p.prefix):]):
				tb.Fatalf("%s has the head %x", n.key, p.heads[i])
			}
		}
		if p.kids == nil {
			if depth >= 0 && depth != level {
				tb.Fatalf("leaves are at the levels %d and %d", depth, level)
			}
			depth = level
			return
		}
		for i, kid := range p.kids {
			if i > p.n && kid != nil {
				tb.Fatalf("a page at level %d keeps a kid that it has no more", level)
			}
			if i <= p.n {
				walk(kid, level+1)
			}
		}
	}
	walk(t.root, 0)
	if got := slices.Collect(t.all()); !slices.Equal(got, want) {
		tb.Fatalf("the tree holds %q, want %q", keysOf(got), keysOf(want))
	}
	if t.length != len(want) {
		tb.Fatalf("length = %d, want %d", t.length, len(want))
	}
}

func keysOf(nodes []*Node) []string {
	keys := make([]string, len(nodes))
	for i, n := range nodes {
		keys[i] = n.key
	}
	return keys
}

// sorted is what a tree has to be like.
type sorted []*Node

func (s sorted) search(key string) (int, bool) {
	return slices.BinarySearchFunc(s, key, func(n *Node, key string) int { return compareKeys(n.key, key) })
}

// frozen is a tree that was frozen, and what it holds.
type frozen struct {
	tree tree
	want sorted
}

// TestTreeIsASortedSet changes a tree at random, with some of what it was frozen,
// and compares it with a slice. Long runs make it three levels deep.
func TestTreeIsASortedSet(t *testing.T) {
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 0))
		// Few different keys make dense trees, many make deep ones.
		shape := []func() string{
			func() string { return fmt.Sprintf("/k%05d", r.IntN(3000)) },
			func() string { return fmt.Sprintf("/d%d/x/name-that-is-long-%d", r.IntN(20), r.IntN(20000)) },
			func() string {
				parts := make([]string, 1+r.IntN(5))
				for i := range parts {
					parts[i] = []string{"a", "a-", "a.", "b", "aaaaaaaaaa", "aaaaaaaaab", "\xff"}[r.IntN(7)]
				}
				return "/" + strings.Join(parts, "/")
			},
		}[seed%3]
		testTree(t, r, shape, 8000)
	}
}

func testTree(t *testing.T, r *rand.Rand, key func() string, steps int) {
	t.Helper()
	draft, want := newTree(), sorted(nil)
	var kept []frozen
	for step := range steps {
		growing := step/2000%2 == 0
		switch op := r.IntN(1000); {
		case op < 20:
			if f := draft.freeze(); op < 4 {
				kept = append(kept, frozen{f, slices.Clone(want)})
			}
		case op < 25 && len(want) > 0:
			// A directory, or a range from anywhere to anywhere.
			from, to := want[r.IntN(len(want))].key, want[r.IntN(len(want))].key
			if compareKeys(from, to) > 0 {
				from, to = to, from
			}
			if growing {
				from, to = from+"/", endOfSubtree(from)
			}
			draft.removeRange(from, to)
			i, _ := want.search(from)
			j, _ := want.search(to)
			want = slices.Delete(slices.Clone(want), i, j)
		case growing == (op < 700):
			n := &Node{key: key()}
			i, found := want.search(n.key)
			if draft.set(n); found {
				want = slices.Replace(slices.Clone(want), i, i+1, n)
			} else {
				want = slices.Insert(slices.Clone(want), i, n)
			}
		case op%2 == 0 && len(want) > 0:
			i := r.IntN(len(want))
			draft.remove(want[i].key)
			want = slices.Delete(slices.Clone(want), i, i+1)
		default:
			k := key()
			draft.remove(k)
			if i, found := want.search(k); found {
				want = slices.Delete(slices.Clone(want), i, i+1)
			}
		}
		k := key()
		i, found := want.search(k)
		if n, ok := draft.get(k); ok != found || ok && n != want[i] {
			t.Fatalf("step %d: get(%q) = %v, %t, want %t", step, k, n, ok, found)
		}
		if first := slices.Collect(firstOf(draft.from(k), 3)); !slices.Equal(first, want[i:min(i+3, len(want))]) {
			t.Fatalf("step %d: from %q on there are %q, want %q", step, k, keysOf(first), keysOf(want[i:min(i+3, len(want))]))
		}
		if step%500 == 0 {
			draft.check(t, want)
		}
	}
	draft.check(t, want)
	for _, f := range kept {
		f.tree.check(t, f.want)
	}
}

func firstOf(nodes func(func(*Node) bool), count int) func(func(*Node) bool) {
	return func(yield func(*Node) bool) {
		for n := range nodes {
			if count--; count < 0 || !yield(n) {
				return
			}
		}
	}
}

func TestTreeInOrder(t *testing.T) {
	for _, tt := range []struct {
		name string
		key  func(i int) string
		grow func(*tree, *Node)
	}{
		{"pushed", func(i int) string { return fmt.Sprintf("/k%06d", i) }, (*tree).push},
		{"set", func(i int) string { return fmt.Sprintf("/k%06d", i) }, (*tree).set},
		{"set backwards", func(i int) string { return fmt.Sprintf("/k%06d", 100000-i) }, (*tree).set},
	} {
		t.Run(tt.name, func(t *testing.T) {
			draft, want := newTree(), sorted(nil)
			for i := range 20000 {
				n := &Node{key: tt.key(i)}
				tt.grow(&draft, n)
				want = append(want, n)
			}
			if compareKeys(want[0].key, want[1].key) > 0 {
				slices.Reverse(want)
			}
			draft.check(t, want)
			all := draft.freeze()
			for i, n := range want { // and empty it, from both ends
				if i%2 == 0 {
					n = want[len(want)-1-i/2]
				} else {
					n = want[i/2]
				}
				draft.remove(n.key)
			}
			draft.check(t, nil)
			all.check(t, want)
		})
	}
}

// A tree is filled to four levels, and many ranges are cut out of it. Where they
// begin and end differs in every level.
func TestTreeLosesAnyRange(t *testing.T) {
	full := newTree()
	var want []*Node
	for i := range 40000 {
		n := &Node{key: fmt.Sprintf("/k%05d", i)}
		want = append(want, n)
		full.push(n)
	}
	full.check(t, want)
	r := rand.New(rand.NewPCG(1, 0))
	for range 400 {
		from, count := r.IntN(len(want)), r.IntN(10)
		switch r.IntN(3) {
		case 0:
			count = r.IntN(len(want))
		case 1:
			from, count = r.IntN(100), len(want)-r.IntN(100) // nearly all
		}
		to := min(from+count, len(want))
		full.freeze()
		part := full // shares all its pages
		end := "/l"
		if to < len(want) {
			end = want[to].key
		}
		part.removeRange(want[from].key, end)
		part.check(t, slices.Concat(want[:from], want[to:]))
	}
	full.check(t, want)
}

// FuzzTree is the random test with inputs that the fuzzer chooses: each byte is a
// step.
func FuzzTree(f *testing.F) {
	f.Add([]byte("abcabcabc\x00\x10\x20\x30\xf0\xf8\xff"))
	f.Fuzz(func(t *testing.T, steps []byte) {
		draft, want := newTree(), sorted(nil)
		var kept []frozen
		for i, b := range steps {
			key := fmt.Sprintf("/%c/%d", 'a'+b%4, int(b)*i%200)
			at, found := want.search(key)
			switch b >> 5 {
			case 0:
				kept = append(kept, frozen{draft.freeze(), slices.Clone(want)})
			case 1:
				end, _ := want.search(endOfSubtree(key[:2]))
				from := min(at, end)
				draft.removeRange(key, endOfSubtree(key[:2]))
				want = slices.Delete(slices.Clone(want), from, end)
			case 2:
				draft.remove(key)
				if found {
					want = slices.Delete(slices.Clone(want), at, at+1)
				}
			default: // many at once
				for j := range int(b) {
					n := &Node{key: fmt.Sprintf("%s-%03d", key, j)}
					at, found := want.search(n.key)
					if draft.set(n); found {
						want[at] = n
					} else {
						want = slices.Insert(slices.Clone(want), at, n)
					}
				}
			}
		}
		draft.check(t, want)
		for _, k := range kept {
			k.tree.check(t, k.want)
		}
	})
}
