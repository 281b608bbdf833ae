package proxy

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// pieceBytes is how much of an answer is copied at once.
const pieceBytes = 32 << 10

const headerRequestID = "X-Request-Id"

var pieces = sync.Pool{New: func() any { return new([pieceBytes]byte) }}

// call is one request of a client and its answer.
type call struct {
	p  *Proxy
	w  http.ResponseWriter
	r  *http.Request
	rc *http.ResponseController
	// status is that of the answer once it has begun, else 0.
	status int
	body   atomic.Pointer[body]
}

// serve checks what the proxy itself has to say and sends the request on.
func (c *call) serve(ctx context.Context) {
	safe := isSafe(c.r.Method)
	if c.p.readOnly && !safe {
		c.message(http.StatusNotImplemented, "this proxy is read-only")
		return
	}
	chain, err := c.p.chain(c.r.Header[headerProxy])
	if err != nil {
		c.message(http.StatusLoopDetected, err.Error())
		return
	}
	out, err := newOutgoing(c.r, chain)
	if err != nil {
		c.message(http.StatusBadRequest, err.Error())
		return
	}
	if out == nil { // a CONNECT; members serve none either
		c.w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		c.w.Header().Set("X-Content-Type-Options", "nosniff")
		c.begin(http.StatusNotFound)
		c.write([]byte("404 page not found\n"))
		return
	}
	if err = c.readBody(safe); err != nil {
		c.fail(err)
		return
	}
	if !safe {
		out.body = c.body.Load()
	}
	if spec, ok := watchOf(c.r, out); ok {
		c.watch(ctx, spec, out)
		return
	}
	c.forward(ctx, out)
}

// forward sends the request to a member and relays the answer.
func (c *call) forward(ctx context.Context, out *outgoing) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	resp, err := c.p.send(ctx, out)
	if err != nil {
		c.fail(err)
		return
	}
	defer resp.Body.Close()
	c.setHeader(resp.Header)
	c.begin(resp.StatusCode)
	c.relay(resp.Response, cancel)
}

// relay copies the body of an answer, each piece at once when its length is not
// known. When a body breaks, so does the client's connection, so that nobody
// takes half an answer for a whole one.
func (c *call) relay(resp *http.Response, cancel context.CancelFunc) {
	piece := pieces.Get().(*[pieceBytes]byte)
	defer pieces.Put(piece)
	silence := time.AfterFunc(c.p.limits.memberIO, cancel)
	defer silence.Stop()
	if resp.ContentLength < 0 && !c.flush() {
		return
	}
	for {
		n, err := resp.Body.Read(piece[:])
		silence.Stop()
		if n > 0 {
			if !c.write(piece[:n]) || resp.ContentLength < 0 && !c.flush() {
				return
			}
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			if !c.gone() {
				c.p.metrics.failures.Inc()
			}
			panic(http.ErrAbortHandler)
		}
		silence.Reset(c.p.limits.memberIO)
	}
}

// setHeader gives the answer the headers of a member's answer, which stay as
// they are: several answers may share them.
func (c *call) setHeader(from http.Header) {
	header := c.w.Header()
	dropped := connectionHeaders(from)
	for name, values := range from {
		if !dropped(name) {
			header[name] = values
		}
	}
	if _, ok := from["Content-Type"]; !ok {
		header["Content-Type"] = nil // net/http would guess
	}
	c.setRequestID()
}

// setRequestID returns the client's id of the request unless the member did.
func (c *call) setRequestID() {
	header := c.w.Header()
	if _, ok := header[headerRequestID]; !ok && len(c.r.Header[headerRequestID]) > 0 {
		header[headerRequestID] = c.r.Header[headerRequestID]
	}
}

// begin sends status and headers. When the client's body has not ended, it is
// given up, together with the connection.
func (c *call) begin(status int) {
	c.status = status
	if c.body.Load().abandon() {
		c.w.Header()["Connection"] = []string{"close"}
	}
	c.extend()
	c.w.WriteHeader(status)
}

// write writes a part of the body. It returns false when the client is gone or
// reads nothing for too long; net/http has cut the connection then.
func (c *call) write(b []byte) bool {
	if c.r.Method == http.MethodHead {
		return true
	}
	c.extend()
	_, err := c.w.Write(b)
	return c.sent(err)
}

// flush sends what was written.
func (c *call) flush() bool { return c.sent(c.rc.Flush()) }

func (c *call) sent(err error) bool {
	if err != nil {
		c.p.log.Debug("answer not sent", "path", c.r.URL.Path, "error", err)
	}
	return err == nil
}

// extend gives the client time to take what is written next.
func (c *call) extend() {
	c.deadlineSet(c.rc.SetWriteDeadline(time.Now().Add(c.p.limits.write)))
}

// deadlineSet looks at the outcome of setting a deadline. A writer that has
// none (a test's) is left alone.
func (c *call) deadlineSet(err error) {
	if err != nil && !errors.Is(err, http.ErrNotSupported) {
		c.p.log.Debug("deadline not set", "error", err)
	}
}

// message answers with what the proxy itself has to say.
func (c *call) message(status int, text string) {
	header := c.w.Header()
	body, err := json.Marshal(struct {
		Message string `json:"message"`
	}{text})
	if err != nil { // a string always has a JSON form
		panic(err)
	}
	body = append(body, '\n')
	header["Content-Type"] = []string{"application/json"}
	header["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.setRequestID()
	c.begin(status)
	c.write(body)
}

// fail answers a request that no member has answered.
func (c *call) fail(err error) {
	var broken *bodyError
	var unfit *unfitError
	switch {
	case errors.As(err, &broken):
		c.w.Header()["Connection"] = []string{"close"}
		c.message(broken.status, broken.Error())
	case c.gone():
		panic(http.ErrAbortHandler) // the client has gone
	case errors.Is(err, errStopping), errors.Is(err, context.Canceled):
		c.w.Header()["Retry-After"] = []string{"1"}
		c.message(http.StatusServiceUnavailable, errStopping.Error())
	case errors.Is(err, errNobody), errors.Is(err, errRefused):
		c.w.Header()["Retry-After"] = []string{"1"}
		c.message(http.StatusServiceUnavailable, err.Error())
	case errors.As(err, &unfit):
		c.message(http.StatusBadRequest, unfit.Error())
	case errors.Is(err, errUnknown):
		c.message(http.StatusBadGateway, errUnknown.Error())
	default:
		c.message(http.StatusBadGateway, errLost.Error())
	}
}

// gone reports whether the client has left. A body that was given up ends the
// context of the request too.
func (c *call) gone() bool {
	return c.r.Context().Err() != nil && !c.body.Load().isAbandoned()
}

// finish counts the request. The client's body is not touched any more.
func (c *call) finish() {
	c.body.Load().abandon()
	if c.status != 0 {
		c.p.metrics.count(c.r.Method, c.status)
	}
}

// chain returns the value of headerProxy for the request that goes on.
func (p *Proxy) chain(passed []string) (string, error) {
	runs := strings.FieldsFunc(strings.Join(passed, ","), func(r rune) bool { return r == ',' || r == ' ' })
	for _, run := range runs {
		if run == p.run {
			return "", errLoop
		}
	}
	if len(runs) >= chainMax {
		return "", errChain
	}
	return strings.Join(append(runs, p.run), ", "), nil
}
