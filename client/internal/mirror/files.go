package mirror

import (
	"path"
	"strings"

	"github.com/marsevilspirit/deimos"
)

// Files are the files below a directory: their values by their paths below it,
// such as "a/b". Directories without files are not in it.
type Files map[string]string

// base returns dir in the form in which it begins the keys below it: "" for the
// root.
func base(dir string) string { return strings.TrimSuffix(path.Clean("/"+dir), "/") }

// flatten returns the files below the node at base; nil is a node that does not
// exist, and a file has none.
func flatten(base string, n *deimos.Node) Files {
	files := make(Files)
	files.collect(base, n)
	return files
}

func (f Files) collect(base string, n *deimos.Node) {
	if n == nil {
		return
	}
	for _, child := range n.Nodes {
		switch rel, ok := strings.CutPrefix(child.Key, base+"/"); {
		case child.Dir:
			f.collect(base, child)
		case ok && child.Value != nil:
			f[rel] = *child.Value
		}
	}
}

// apply does to the files what an event of a recursive watch of base did to the
// tree, and reports whether that is a change.
func (f Files) apply(base string, e deimos.Event) (changed bool) {
	n := e.Node
	rel, below := strings.CutPrefix(n.Key, base+"/")
	if !below && n.Key != base && !strings.HasPrefix(base, n.Key+"/") {
		return false // nobody should send it
	}
	// A directory that was removed or made is empty, or gone with all that was in
	// it. Any other event of one is about its TTL.
	if n.Dir || !below {
		if !e.Action.Removes() && e.Action != deimos.ActionCreate && e.Action != deimos.ActionSet {
			return false
		}
		return f.clear(rel, below)
	}
	before, existed := f[rel]
	if e.Action.Removes() || n.Value == nil {
		delete(f, rel)
		return existed
	}
	f[rel] = *n.Value
	return !existed || before != *n.Value
}

// clear removes the file at rel and all below it, or everything.
func (f Files) clear(rel string, below bool) bool {
	n := len(f)
	for name := range f {
		if !below || name == rel || strings.HasPrefix(name, rel+"/") {
			delete(f, name)
		}
	}
	return len(f) != n
}
