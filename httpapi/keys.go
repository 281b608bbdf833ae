package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

// abortCheckNodes is after how many nodes a listing looks whether its client
// is still there.
const abortCheckNodes = 4096

// serveKeys answers a request to the key space. rest is the path after the
// prefix; local tells the default read level.
func (c *call) serveKeys(rest string, local bool) {
	method := c.r.Method
	switch method {
	case http.MethodHead, http.MethodGet, http.MethodPut, http.MethodPost, http.MethodDelete:
	default:
		c.notAllowed("HEAD,GET,PUT,POST,DELETE")
		return
	}
	key, ref := cleanKey(rest, method == http.MethodPost)
	writes := method != http.MethodGet && method != http.MethodHead
	if ref == nil && writes {
		ref = c.parseBody()
	}
	if ref == nil {
		ref = c.parseQuery()
	}
	var o options
	if ref == nil {
		o, ref = c.options()
	}
	switch {
	case ref != nil:
		c.refuse(ref)
	case writes:
		c.put(newRequest(method, key, &o), o.noValue)
	case o.wait:
		c.watch(key, &o)
	default:
		c.get(key, o.recursive, o.quorum == yes || o.quorum == unset && !local)
	}
}

// newRequest makes the write that a method and its parameters ask for. Only
// what acts on the operation is filled in.
func newRequest(method, key string, o *options) *deimos.Request {
	compare := o.hasPrevValue || o.prevIndex > 0
	r := &deimos.Request{Key: key, Dir: o.dir}
	if method == http.MethodDelete {
		r.Op, r.Recursive = deimos.OpDelete, o.recursive
		if compare {
			r.Op = deimos.OpCompareAndDelete
			setCompare(r, o)
		}
		return r
	}
	r.HasTTL, r.TTLSeconds = o.hasTTL, o.ttlSeconds
	switch {
	case method == http.MethodPost:
		r.Op = deimos.OpCreateInOrder
	case compare:
		r.Op = deimos.OpCompareAndSwap
		setCompare(r, o)
	case o.exist == yes:
		r.Op = deimos.OpUpdate
	case o.exist == no:
		r.Op = deimos.OpCreate
	default:
		r.Op = deimos.OpSet
	}
	r.Refresh = o.refresh && method == http.MethodPut
	creates := r.Op == deimos.OpSet || r.Op == deimos.OpCreate || r.Op == deimos.OpCreateInOrder
	if !creates || !o.dir { // the value of a new directory is dropped
		r.Value = string(o.value)
	}
	return r
}

func setCompare(r *deimos.Request, o *options) {
	r.HasPrevValue, r.PrevValue, r.PrevIndex = o.hasPrevValue, string(o.prevValue), o.prevIndex
}

// put answers a write, of whatever method.
func (c *call) put(r *deimos.Request, noValue bool) {
	ctx, cancel := context.WithDeadline(c.r.Context(), time.Now().Add(c.h.timeout))
	defer cancel()
	e, err := c.h.backend.Write(ctx, r)
	if err != nil {
		c.fail(err, deimos.CauseWriteTimeout)
		return
	}
	k := clock{h: c.h, nowMS: e.NowMS()}
	c.buffers.out = appendEvent(c.buffers.out[:0], e, &k, noValue)
	status := http.StatusOK
	if a := e.Action(); a == deimos.ActionCreate || a == deimos.ActionSet && e.PrevNode() == nil {
		status = http.StatusCreated
	}
	c.sendKeys(status, e.Index())
}

// get answers a read.
func (c *call) get(key string, recursive, linearizable bool) {
	ctx := c.r.Context()
	if linearizable {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, time.Now().Add(c.h.timeout))
		defer cancel()
	}
	view, err := c.h.backend.Read(ctx, linearizable)
	if err != nil {
		c.fail(err, deimos.CauseReadTimeout)
		return
	}
	n, err := view.Get(key)
	if err != nil {
		c.h.getsFail.Add(1)
		c.fail(err, deimos.CauseReadTimeout)
		return
	}
	c.h.getsSuccess.Add(1)
	l := listing{call: c, clock: clock{h: c.h, reads: true}}
	c.buffers.out = append(c.buffers.out[:0], `{"action":"get","node":`...)
	switch {
	case !n.IsDir():
		c.buffers.out = appendTail(appendHead(c.buffers.out, n, &l.clock), n)
	case recursive:
		l.tree(view, n)
	default:
		l.children(view, n)
	}
	c.buffers.out = append(c.buffers.out, '}', '\n')
	c.sendKeys(http.StatusOK, view.Index())
}

// listing writes a directory and what is in it into the buffers of a call.
type listing struct {
	call  *call
	clock clock
	nodes int
	// open holds the directories whose closing brackets are still to come, the
	// listed one first; filled tells whether a child of theirs was written.
	open   []*store.Node
	filled []bool
}

// children writes n with its direct children, none of which is expanded.
func (l *listing) children(view store.View, n *store.Node) {
	l.enter(n)
	for child := range view.Children(n) {
		l.separate()
		b := l.call.buffers
		b.out = appendTail(appendHead(b.out, child, &l.clock), child)
		l.part()
	}
	l.leave()
}

// tree writes n with all that is visible below it. The nodes come parent
// first, so the stack of open directories turns their depths into brackets.
func (l *listing) tree(view store.View, n *store.Node) {
	l.enter(n)
	root := n.Depth()
	for node := range view.Descendants(n) {
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
		l.part()
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

// part sets a buffer aside once it is full, so that a large answer needs its
// own size in memory and no more, and gives up when the client is gone.
func (l *listing) part() {
	b := l.call.buffers
	if len(b.out) >= bodyTrustBytes {
		b.full = append(b.full, b.out)
		b.out = make([]byte, 0, bodyTrustBytes+bodyStepBytes)
	}
	if l.nodes++; l.nodes%abortCheckNodes == 0 && l.call.r.Context().Err() != nil {
		panic(http.ErrAbortHandler)
	}
}
