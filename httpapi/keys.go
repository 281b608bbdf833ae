package httpapi

import (
	"net/http"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

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

// writing is a write that a call has made: what it asked for, and its event.
type writing struct {
	noValue bool
	event   *store.Event
}

// put makes a write, of whatever method. answerPut goes on from there.
func (c *call) put(r *deimos.Request, noValue bool) {
	c.writing.noValue = noValue
	c.pause((*call).answerPut)
	c.h.backend.Write(time.Now().Add(c.h.timeout), r, c.written)
}

// onWritten is told how a write has ended.
func (c *call) onWritten(e *store.Event, err error) {
	c.writing.event, c.err = e, err
	c.wake()
}

// answerPut answers a write that has ended.
func (c *call) answerPut() {
	if c.err != nil {
		c.fail(c.err, deimos.CauseWriteTimeout)
		return
	}
	e := c.writing.event
	if isLongEvent(e) && c.slow((*call).answerPut) {
		return
	}
	k := clock{h: c.h, nowMS: e.NowMS()}
	c.buffers.out = appendEvent(c.buffers.out[:0], e, &k, c.writing.noValue)
	status := http.StatusOK
	if a := e.Action(); a == deimos.ActionCreate || a == deimos.ActionSet && e.PrevNode() == nil {
		status = http.StatusCreated
	}
	c.sendKeys(status, e.Index())
}

// isLong reports whether showing a node can take long.
func isLong(n *store.Node) bool { return n != nil && len(n.Value()) > quickMaxBytes }

func isLongEvent(e *store.Event) bool { return isLong(e.Node()) || isLong(e.PrevNode()) }

// reading is a read that a call has made: what it asked for, and the state that
// it is answered from.
type reading struct {
	key       string
	recursive bool
	view      store.View
}

// get makes a read. answerGet goes on from there.
func (c *call) get(key string, recursive, linearizable bool) {
	c.reading.key, c.reading.recursive = key, recursive
	var ok bool
	if linearizable {
		if c.reading.view, ok = c.h.backend.CurrentView(); ok {
			c.answerGet()
			return
		}
		c.pause((*call).answerGet)
		c.h.backend.Read(time.Now().Add(c.h.timeout), c.viewed)
		return
	}
	if c.reading.view, ok = c.h.backend.View(); ok {
		c.answerGet()
	} else if !c.slow((*call).awaitView) {
		c.awaitView()
	}
}

// awaitView makes a local read that has to wait.
func (c *call) awaitView() {
	c.reading.view, c.err = c.h.backend.AwaitView(c.r.Context())
	c.answerGet()
}

// onViewed is told how a linearizable read has ended.
func (c *call) onViewed(v store.View, err error) {
	c.reading.view, c.err = v, err
	c.wake()
}

// answerGet answers a read once it is known from which state.
func (c *call) answerGet() {
	if c.err != nil {
		c.fail(c.err, deimos.CauseReadTimeout)
		return
	}
	n, err := c.reading.view.Get(c.reading.key)
	if err != nil {
		c.h.getsFail.Add(1)
		c.fail(err, deimos.CauseReadTimeout)
		return
	}
	if (n.IsDir() || isLong(n)) && c.slow((*call).answerGet) {
		return
	}
	c.h.getsSuccess.Add(1)
	l := listing{call: c, view: c.reading.view, node: n, recursive: c.reading.recursive, clock: clock{h: c.h, reads: true}}
	l.answer()
}
