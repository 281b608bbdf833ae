package httpapi

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/httpapi/lane"
	"github.com/marsevilspirit/deimos/store"
)

// quickMaxBytes is the largest value that is written into an answer without
// leaving the others who share the goroutine waiting.
const quickMaxBytes = 16 << 10

// call is one request on its way through the handler; it is a [lane.Call].
// Calls are pooled, so nothing may keep one, or a view into its buffers, after
// its end.
type call struct {
	h     *Handler
	w     http.ResponseWriter
	r     *http.Request
	start time.Time
	// next is what Next does: nil for the beginning.
	next func(*call)
	// quick tells that this step may neither wait nor take long, and state what
	// becomes of the call after it.
	quick bool
	state lane.State
	// resume is called when what the call waits for has happened. It is nil if
	// somebody waits at resumed.
	resume  func()
	resumed chan struct{}
	// writing and reading are what the call has asked the backend for, and err how
	// that has failed.
	writing writing
	reading reading
	err     error
	stream  *watchStream // of a watch
	// written and viewed are the method values of the same names, made once.
	written func(*store.Event, error)
	viewed  func(store.View, error)

	// keysAnswer tells that the answer carries the headers of the keys API.
	keysAnswer bool
	// watching tells that the duration says nothing about the handler's speed.
	watching bool
	// status is the HTTP status once the answer has begun, else 0.
	status  int
	form    form
	numbers [64]byte
	// buffers is nil while a watch waits: an idle watch holds no buffer.
	buffers *buffers
}

func newCall(h *Handler, b *buffers) *call {
	c := &call{h: h, buffers: b, resumed: make(chan struct{}, 1)}
	c.written, c.viewed = c.onWritten, c.onViewed
	return c
}

// Next implements [lane.Call].
func (c *call) Next(quick bool) (state lane.State) {
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
			state = lane.Done
		}
	}()
	c.quick, c.state = quick, lane.Done
	if c.next == nil {
		c.serve()
	} else {
		c.next(c)
	}
	if state = c.state; state == lane.Done {
		c.end()
	}
	return state
}

// end counts the request and gives the call back. The place on the stack that it
// takes would else be held by each watch that waits, for as long as it does: half
// a kilobyte, and for the stacks of today the step to twice their size.
//
//go:noinline
func (c *call) end() {
	c.h.metrics.count(c)
	c.reset()
	c.h.calls.Put(c)
}

// panicked tells the operator of a panic of the handler, and the client by a 500;
// when the answer has begun already, the connection is cut, so that nobody takes
// half an answer for a whole one. The call may be damaged: it does not go back to
// the pool.
func (c *call) panicked(v any) {
	if c.stream != nil {
		c.stream.end()
	}
	if v == http.ErrAbortHandler {
		panic(v)
	}
	c.h.log.Error("request panicked", "method", c.r.Method, "path", c.r.URL.Path,
		"panic", fmt.Sprint(v), "stack", string(debug.Stack()))
	if c.status != 0 {
		panic(http.ErrAbortHandler)
	}
	c.refuse(&refusal{err: deimos.Error{Code: deimos.CodeRaftInternal, Cause: causeInternal}})
	c.h.metrics.count(c)
}

// reset forgets the request and keeps the buffers, unless they have grown too
// much to lie about in a pool.
func (c *call) reset() {
	b := c.buffers
	if b == nil {
		b = new(buffers)
	}
	b.trim()
	*c = call{h: c.h, buffers: b, resumed: c.resumed, written: c.written, viewed: c.viewed}
}

// pause makes next the step that follows once wake has been called.
func (c *call) pause(next func(*call)) { c.next, c.state = next, lane.Paused }

// wake tells that what the call waits for has happened.
func (c *call) wake() {
	if c.resume != nil {
		c.resume()
		return
	}
	select {
	case c.resumed <- struct{}{}:
	default: // it was woken already
	}
}

// slow leaves the rest of a quick call to somebody who can wait. It reports
// false, and does nothing, if the call need not be quick.
func (c *call) slow(next func(*call)) bool {
	if c.quick {
		c.next, c.state = next, lane.Slow
	}
	return c.quick
}

// serve runs the checks that all paths share and routes the request.
func (c *call) serve() {
	rest, local, isKeys := cutPrefix(c.r.URL.Path)
	if !isKeys && c.slow((*call).serve) {
		return
	}
	c.prepareBody()
	c.h.cors.setHeaders(c.w.Header(), c.r)
	member, isMembers := "", false
	if !isKeys {
		if member, isMembers = cutMembers(c.r.URL.Path); isMembers {
			c.h.setClusterHeaders(c.w.Header())
		}
	}
	if len(c.r.RequestURI) > targetMaxBytes {
		c.text(http.StatusRequestURITooLong, "414 URI Too Long\n")
		return
	}
	if c.r.Method == http.MethodOptions {
		c.text(http.StatusOK, "")
		return
	}
	c.keysAnswer = isKeys
	if c.h.cors.foreign(c.r) {
		c.refuse(&refusal{
			status: http.StatusForbidden,
			err:    deimos.Error{Code: deimos.CodeInvalidField, Cause: "origin not allowed"},
		})
		return
	}
	switch {
	case isKeys:
		c.serveKeys(rest, local)
	case isMembers:
		c.serveMembers(member)
	default:
		c.servePlain()
	}
}

// setReadDeadline bounds reading from the connection; the zero time lifts the
// bound.
func (c *call) setReadDeadline(t time.Time) {
	c.deadlineSet(http.NewResponseController(c.w).SetReadDeadline(t))
}

// deadlineSet looks at the outcome of setting a deadline. A writer that has
// none (a test's) is left alone.
func (c *call) deadlineSet(err error) {
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		c.h.log.Debug("deadline not set", "error", err)
	}
}
