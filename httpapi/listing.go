package httpapi

import (
	"fmt"
	"net/http"

	"github.com/marsevilspirit/deimos/store"
)

const (
	// partBytes is how much of a large answer is held in memory.
	partBytes = 256 << 10
	// abortCheckNodes is after how many nodes a listing looks whether its client
	// is still there.
	abortCheckNodes = 4096
)

// listing is the answer to a read. It is as long as what it shows, and that can
// be a tree of any size, but it takes no more memory than a part: one
// that does not fit into a part is written twice, first to learn its length, then to be
// sent part by part. Both passes see the same published tree and the same
// clock.
type listing struct {
	call      *call
	view      store.View
	node      *store.Node
	recursive bool
	clock     clock
	nodes     int
	// length is that of the parts that were finished in this pass.
	length int
	// sending tells the second pass from the first, and gone that the client
	// has left in the course of it.
	sending, gone bool
	// open holds the directories whose closing brackets are still to come, the
	// listed one first; filled tells whether a child of theirs was written.
	open   []*store.Node
	filled []bool
}

// answer writes the answer and sends it.
func (l *listing) answer() {
	c := l.call
	l.write()
	if l.length == 0 {
		c.sendKeys(http.StatusOK, l.view.Index())
		return
	}
	length := l.length + len(c.buffers.out)
	c.setKeysHeaders(l.view.Index(), length)
	c.w.Header()["Content-Type"] = contentJSON
	c.begin(http.StatusOK)
	if c.r.Method == http.MethodHead {
		return
	}
	l.length, l.sending = 0, true
	l.write()
	l.flush()
	if l.gone {
		return
	}
	if l.length != length {
		panic(fmt.Sprintf("httpapi: a listing of %d bytes has become one of %d", length, l.length))
	}
}

// write makes one pass over what is to be shown.
func (l *listing) write() {
	b := l.call.buffers
	b.out = append(b.out[:0], `{"action":"get","node":`...)
	switch {
	case !l.node.IsDir():
		b.out = appendTail(appendHead(b.out, l.node, &l.clock), l.node)
	case l.recursive:
		l.tree()
	default:
		l.children()
	}
	b.out = append(b.out, '}', '\n')
}

// children writes the node with its direct children, none of which is expanded.
func (l *listing) children() {
	l.enter(l.node)
	for child := range l.view.Children(l.node) {
		l.separate()
		b := l.call.buffers
		b.out = appendTail(appendHead(b.out, child, &l.clock), child)
		if l.part(); l.gone {
			return
		}
	}
	l.leave()
}

// tree writes the node with all that is visible below it. The nodes come parent
// first, so the stack of open directories turns their depths into brackets.
func (l *listing) tree() {
	l.enter(l.node)
	root := l.node.Depth()
	for node := range l.view.Descendants(l.node) {
		for len(l.open) > node.Depth()-root {
			l.leave()
		}
		l.separate()
		if node.IsDir() {
			l.enter(node)
		} else {
			b := l.call.buffers
			b.out = appendTail(appendHead(b.out, node, &l.clock), node)
		}
		if l.part(); l.gone {
			return
		}
	}
	for len(l.open) > 0 {
		l.leave()
	}
}

// enter begins a directory.
func (l *listing) enter(n *store.Node) {
	b := l.call.buffers
	b.out = appendHead(b.out, n, &l.clock)
	l.open = append(l.open, n)
	l.filled = append(l.filled, false)
}

// leave ends the innermost directory.
func (l *listing) leave() {
	last := len(l.open) - 1
	b := l.call.buffers
	if l.filled[last] {
		b.out = append(b.out, ']')
	}
	b.out = appendTail(b.out, l.open[last])
	l.open, l.filled = l.open[:last], l.filled[:last]
}

// separate writes what stands before a child of the innermost directory.
func (l *listing) separate() {
	b := l.call.buffers
	last := len(l.filled) - 1
	if l.filled[last] {
		b.out = append(b.out, ',')
		return
	}
	b.out = append(b.out, `,"nodes":[`...)
	l.filled[last] = true
}

// part finishes a part once it is full, and gives up when the client is gone.
func (l *listing) part() {
	if len(l.call.buffers.out) >= partBytes {
		l.flush()
	}
	if l.nodes++; l.nodes%abortCheckNodes == 0 && l.call.r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
}

// flush counts a part and, in the second pass, sends it.
func (l *listing) flush() {
	b := l.call.buffers
	l.length += len(b.out)
	if l.sending && !l.gone {
		l.call.setWriteDeadline(len(b.out))
		l.gone = !l.call.write(b.out)
	}
	b.out = b.out[:0]
}
