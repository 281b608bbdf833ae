package lane

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// bufferBytes is the size of the buffers, and with that of the largest head.
const bufferBytes = 4 << 10

// lingerTime and lingerBytes bound what is read of a client that is still
// sending a body when its connection ends, so that it sees the answer.
const (
	lingerTime  = 500 * time.Millisecond
	lingerBytes = 256 << 10
)

var buffers = sync.Pool{New: func() any { return new([bufferBytes]byte) }}

// The states of a connection.
const (
	stateNew    = iota // no request has come yet
	stateActive        // a request is being answered
	stateIdle          // between two requests
	stateClosed        // closed while it was idle
	stateLooped        // with a loop, which knows more
)

// conn is a connection and the request that is being answered on it. All
// fields belong to its goroutine, or to its loop when it has none, but the state.
type conn struct {
	server *Server
	// socket is what was accepted, and nc what requests are read from and answers
	// written to: the same, or TLS on top of it.
	socket, nc net.Conn
	state      atomic.Int32
	// announced tells that the server's ConnState knows of the first request.
	announced bool

	ctx    context.Context
	cancel context.CancelFunc

	// in holds what was read and not yet taken: in[start:end].
	in         *[bufferBytes]byte
	start, end int
	head       head
	url        url.URL
	request    *http.Request
	header     http.Header // of the request
	body       body
	answer     answer
	// readBy is the deadline that reading has now.
	readBy time.Time
	client watcher
	looped
}

func newConn(s *Server, socket net.Conn) *conn {
	c := &conn{server: s, socket: socket, nc: socket, header: make(http.Header, 2)}
	c.ctx, c.cancel = context.WithCancel(s.base)
	c.request = (&http.Request{
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, RemoteAddr: socket.RemoteAddr().String(),
	}).WithContext(c.ctx)
	c.answer.conn, c.answer.header = c, make(http.Header, 8)
	c.body.conn = c
	if s.secure != nil {
		c.nc = tls.Server(c.belowTLS(), s.secure)
	}
	return c
}

// serve waits for the first request and leaves the connection to a loop, which it
// need not know before. Without one it answers requests until the connection ends
// or goes to net/http.
func (c *conn) serve() {
	if !c.handshake() {
		c.handOver()
		c.finished()
		return
	}
	if limit := c.server.full.ReadHeaderTimeout; limit > 0 {
		c.setReadDeadline(time.Now().Add(limit))
	}
	for c.start < c.end || c.read() {
		if c.join() {
			return
		}
		if !c.parse() {
			c.handOver()
			c.finished()
			return
		}
		if !c.handle() || !c.keep() {
			break // the answer is sent, as far as it could be
		}
	}
	_ = c.nc.Close() // there is nobody to tell
	c.finished()
}

// handshake shakes hands, where there is TLS. It returns false when net/http has to
// judge: of what went wrong, which it finds too, or of another protocol.
func (c *conn) handshake() bool {
	secure, ok := c.nc.(*tls.Conn)
	if !ok {
		return true
	}
	if limit := c.server.full.ReadHeaderTimeout; limit > 0 {
		by := time.Now().Add(limit)
		c.setReadDeadline(by)
		_ = c.answer.setBound(by) // it fails on a closed connection only, and so will the handshake
	}
	err := secure.Handshake()
	state := secure.ConnectionState()
	c.request.TLS = &state
	return err == nil && (state.NegotiatedProtocol == "" || state.NegotiatedProtocol == "http/1.1")
}

// finished forgets the connection, which is closed or given away.
func (c *conn) finished() {
	c.start, c.end = 0, 0
	c.releaseInput()
	c.server.forget(c)
	c.cancel()
	c.server.wg.Done()
}

// read waits for the next bytes. They are the beginning of a request.
func (c *conn) read() bool {
	if c.in == nil {
		c.in = buffers.Get().(*[bufferBytes]byte)
	}
	n, _ := c.nc.Read(c.in[:]) // an error comes again, if there were bytes before it
	c.start, c.end = 0, n
	if n == 0 {
		return false
	}
	return c.state.Load() == stateNew || c.state.CompareAndSwap(stateIdle, stateActive)
}

// releaseInput gives the buffer of a connection back when there is nothing in it.
func (c *conn) releaseInput() {
	if c.in != nil && c.start == c.end {
		buffers.Put(c.in)
		c.in, c.start, c.end = nil, 0, 0
	}
}

// skipEmptyLine passes over an empty line before a request, which some clients send
// behind a body (RFC 9112, 2.2).
func (c *conn) skipEmptyLine() {
	if c.end-c.start >= 2 && c.in[c.start] == '\r' && c.in[c.start+1] == '\n' {
		c.start += 2
	}
}

// parse makes a request of what was read.
func (c *conn) parse() bool {
	c.skipEmptyLine()
	h := &c.head
	n := h.parse(c.in[c.start:c.end])
	if n == 0 {
		return false
	}
	r := c.request
	target := string(h.target)
	if !c.server.takes(pathOf(target)) || !parseTarget(&c.url, target) {
		return false
	}
	r.Method, r.RequestURI, r.URL, r.ContentLength = h.method, target, &c.url, h.contentLength
	if r.Host != string(h.host) {
		r.Host = string(h.host)
	}
	setHeader(c.header, "Accept", h.accept)
	setHeader(c.header, "Content-Type", h.contentType)
	r.Header = c.header
	if !c.announced {
		c.announced = true
		c.state.CompareAndSwap(stateNew, stateActive)
		if c.server.full.ConnState != nil {
			c.server.full.ConnState(c.nc, http.StateActive)
		}
	}
	c.start += n
	c.body.left = h.contentLength
	r.Body = http.NoBody
	if h.contentLength > 0 {
		r.Body = &c.body
	}
	return true
}

func pathOf(target string) string {
	path, _, _ := strings.Cut(target, "?")
	return path
}

// setHeader sets a header of the request, which is nearly always what it was
// in the last one.
func setHeader(header http.Header, name string, value []byte) {
	old := header[name]
	switch {
	case value == nil:
		if old != nil {
			delete(header, name)
		}
	case len(old) != 1 || old[0] != string(value):
		header[name] = []string{string(value)}
	}
}

// handOver gives the connection to net/http.
func (c *conn) handOver() {
	var read []byte
	if c.start < c.end {
		read = slices.Clone(c.in[c.start:c.end])
	}
	c.start, c.end = 0, 0
	c.liftDeadlines()
	c.server.others.give(c.nc, read)
}

// handle calls the handler and sends what it has answered. It returns false when
// the connection is of no use any more.
func (c *conn) handle() (sound bool) {
	defer c.guard(&sound)
	c.answer.begin()
	c.server.full.Handler.ServeHTTP(&c.answer, c.request)
	c.client.stop(c)
	return c.answer.end()
}

// guard runs deferred: a panic of the handler ends the connection.
func (c *conn) guard(sound *bool) {
	v := recover()
	if v == nil {
		return
	}
	if v != http.ErrAbortHandler {
		c.server.logf("http: panic serving %v: %v\n%s", c.nc.RemoteAddr(), v, debug.Stack())
	}
	c.client.stop(c)
	c.answer.abandon()
	*sound = false
}

// keep prepares the connection for its next request. It returns false when
// there is to be none.
func (c *conn) keep() bool {
	if c.answer.closes {
		c.linger()
		return false
	}
	buffered := int(min(c.body.left, int64(c.end-c.start)))
	c.start += buffered // a body that nobody wanted
	if c.ctx.Err() != nil {
		return false
	}
	if c.loop != nil {
		c.liftDeadlines()
		return true
	}
	if limit := c.server.full.IdleTimeout; limit > 0 {
		// Moving a deadline is dear, so it is set too late, and seldom.
		if now := time.Now(); c.readBy.Sub(now) < limit {
			c.setReadDeadline(now.Add(limit + limit/4))
		}
	} else {
		c.setReadDeadline(time.Time{})
	}
	if c.start == c.end {
		c.state.Store(stateIdle)
		return !c.server.closing.Load()
	}
	return true
}

// linger lets a client that is still sending see the answer: closing at once
// would reset the connection under it.
func (c *conn) linger() {
	if c.body.left == 0 || closeWrite(c.nc) != nil {
		return
	}
	c.setReadDeadline(time.Now().Add(lingerTime))
	// What comes is of no interest, nor is how it ends.
	_, _ = io.CopyN(io.Discard, c.nc, lingerBytes)
}

// liftDeadlines makes the connection ready for a loop or for net/http, which look
// after the time themselves. A bound that was left would fail its next read or write.
func (c *conn) liftDeadlines() {
	c.setReadDeadline(time.Time{})
	_ = c.answer.setBound(time.Time{}) // it fails on a closed connection only, and so will the next write
}

// setReadDeadline bounds reading; the zero time lifts the bound.
func (c *conn) setReadDeadline(t time.Time) {
	if t.Equal(c.readBy) {
		return
	}
	c.readBy = t
	// It fails on a closed connection only, and so will the next read.
	_ = c.nc.SetReadDeadline(t)
}

// body is the body of the request that is being answered.
type body struct {
	conn *conn
	left int64 // that the handler has not read
	// by is the deadline that the handler has set. It counts once the body has
	// to be waited for.
	by time.Time
}

// Read implements [io.Reader].
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	c := b.conn
	if c.start < c.end {
		n := copy(p, c.in[c.start:c.end])
		c.start += n
		b.left -= int64(n)
		return n, nil
	}
	c.setReadDeadline(b.by)
	n, err := c.nc.Read(p)
	b.left -= int64(n)
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close implements [io.Closer].
func (b *body) Close() error { return nil }

// watcher waits for the client of a stream to go.
type watcher struct {
	done chan struct{}
	// early is the byte that the client sent instead, with its next request.
	early    byte
	hasEarly bool
	// aborted tells that the read was ended from this side.
	aborted atomic.Bool
}

// start begins to wait, if a goroutine does not wait already.
func (w *watcher) start(c *conn) {
	if w.done != nil || c.start < c.end || c.body.left > 0 {
		return
	}
	c.releaseInput()
	c.setReadDeadline(time.Time{})
	w.aborted.Store(false)
	w.done = make(chan struct{})
	go w.wait(c)
}

func (w *watcher) wait(c *conn) {
	defer close(w.done)
	one := make([]byte, 1)
	n, err := c.nc.Read(one)
	switch {
	case n == 1:
		w.early, w.hasEarly = one[0], true
	case err != nil && !w.aborted.Load():
		c.cancel()
	}
}

// stop ends the waiting and takes over what the client has sent.
func (w *watcher) stop(c *conn) {
	if w.done == nil {
		return
	}
	w.aborted.Store(true)
	c.setReadDeadline(time.Unix(1, 0))
	<-w.done
	w.done = nil
	c.setReadDeadline(time.Time{})
	if !w.hasEarly {
		return
	}
	w.hasEarly = false
	c.in = buffers.Get().(*[bufferBytes]byte)
	c.in[0] = w.early
	c.start, c.end = 0, 1
}
