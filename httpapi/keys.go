package httpapi

import (
	"net/http"

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

// put answers a write, of whatever method.
func (c *call) put(r *deimos.Request, noValue bool) {
	c.h.timeLimits.begin(&c.limit)
	e, err := c.h.backend.Write(&c.limit, r)
	c.h.timeLimits.end(&c.limit)
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
	view, err := c.read(linearizable)
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
	l := listing{call: c, view: view, node: n, recursive: recursive, clock: clock{h: c.h, reads: true}}
	l.answer()
}

// read returns the state that a read is answered from.
func (c *call) read(linearizable bool) (store.View, error) {
	if !linearizable {
		return c.h.backend.Read(c.r.Context(), false)
	}
	c.h.timeLimits.begin(&c.limit)
	defer c.h.timeLimits.end(&c.limit)
	return c.h.backend.Read(&c.limit, true)
}
