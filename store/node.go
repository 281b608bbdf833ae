package store

import (
	"cmp"
	"math/bits"
	"strings"
)

const rootKey = "/"

// Node is a file or directory as it was at one store index. It never changes;
// any goroutine may use it for as long as it likes.
type Node struct {
	key           string
	value         string
	deadlineMS    int64 // 0: permanent
	modifiedIndex uint64
	createdIndex  uint64
	depth         uint32
	dir           bool
}

// Key returns the absolute, cleaned path: "/a/b", or "/" for the root. It does
// not allocate.
func (n *Node) Key() string { return n.key }

// AppendKey appends the bytes of the key to dst, without any escaping.
func (n *Node) AppendKey(dst []byte) []byte { return append(dst, n.key...) }

// Value returns the content of a file; it is empty for directories and in
// events that removed the node.
func (n *Node) Value() string { return n.value }

// IsDir reports whether the node is a directory.
func (n *Node) IsDir() bool { return n.dir }

// IsRoot reports whether the node is the root, which has no indexes.
func (n *Node) IsRoot() bool { return n.depth == 0 }

// DeadlineMS returns the cluster time, in milliseconds, after which the node
// is due. ok is false if the node is permanent, and in events that removed it.
func (n *Node) DeadlineMS() (deadlineMS int64, ok bool) {
	return n.deadlineMS, n.deadlineMS != 0
}

// ModifiedIndex returns the store index of the last write to the node, 0 for
// the root.
func (n *Node) ModifiedIndex() uint64 { return n.modifiedIndex }

// CreatedIndex returns the store index at which the present life of the node
// began, 0 for the root.
func (n *Node) CreatedIndex() uint64 { return n.createdIndex }

// Depth returns how many elements the key has: 0 for the root, 1 for "/a".
func (n *Node) Depth() int { return int(n.depth) }

// compareKeys orders keys like a walk of the tree that visits parents before
// children and siblings bytewise by name: bytewise, except that '/' comes
// before every other byte.
func compareKeys(a, b string) int {
	shorter := min(len(a), len(b))
	i := 0
	for ; i+8 <= shorter; i += 8 {
		if x := load64(a[i:]) ^ load64(b[i:]); x != 0 {
			i += bits.TrailingZeros64(x) / 8
			return rank(a[i]) - rank(b[i])
		}
	}
	for ; i < shorter; i++ {
		if a[i] != b[i] {
			return rank(a[i]) - rank(b[i])
		}
	}
	return cmp.Compare(len(a), len(b))
}

// load64 reads 8 bytes, the first one lowest. The compiler makes one load of it.
func load64(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func rank(c byte) int {
	if c == '/' {
		return 0
	}
	return int(c) + 1
}

// endOfSubtree is the smallest string that sorts after dir and all that could
// be below it. It is not a key.
func endOfSubtree(dir string) string { return dir + "\x00" }

// isBelow reports whether key is strictly below dir, on element boundaries.
func isBelow(key, dir string) bool {
	if dir == rootKey {
		return len(key) > 1
	}
	return len(key) > len(dir) && key[len(dir)] == '/' && key[:len(dir)] == dir
}

// parentKey returns the directory of a key that is not the root.
func parentKey(key string) string {
	if i := strings.LastIndexByte(key, '/'); i > 0 {
		return key[:i]
	}
	return rootKey
}

// isHiddenName reports whether the last element of key hides its node from
// the directories above.
func isHiddenName(key string) bool {
	i := strings.LastIndexByte(key, '/')
	return i+1 < len(key) && key[i+1] == '_'
}

// depthOf counts the elements of a key.
func depthOf(key string) uint32 {
	if key == rootKey {
		return 0
	}
	return uint32(strings.Count(key, "/"))
}

// isClean reports whether key has the form that callers promise: absolute,
// without empty, "." and ".." elements, without a slash at the end.
func isClean(key string) bool {
	if key == rootKey {
		return true
	}
	if len(key) < 2 || key[0] != '/' || key[len(key)-1] == '/' || strings.Contains(key, "//") {
		return false
	}
	if !strings.Contains(key, "/.") {
		return true
	}
	for element := range strings.SplitSeq(key[1:], "/") {
		if element == "." || element == ".." {
			return false
		}
	}
	return true
}

// prefixes calls yield with every key on the way to key and with key itself,
// from the top, the root left out, until yield returns false.
func prefixes(key string, yield func(prefix string) bool) {
	for end := 1; end < len(key); end++ {
		i := strings.IndexByte(key[end:], '/')
		if i < 0 {
			yield(key)
			return
		}
		end += i
		if !yield(key[:end]) {
			return
		}
	}
}
