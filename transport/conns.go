package transport

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// errBroken is what a connection says once kill has ended it.
var errBroken = errors.New("transport: connection ended")

// conns are the requests that are being served. The zero value is ready.
type conns struct {
	wg sync.WaitGroup

	mu     sync.Mutex
	closed bool
	open   map[*conn]struct{}
}

// begin registers a request, which ends with cancel when it is broken; nil once
// the set is closed.
func (s *conns) begin(w http.ResponseWriter, sender uint64, cancel context.CancelFunc) *conn {
	c := &conn{ResponseWriter: w, control: http.NewResponseController(w), sender: sender, cancel: cancel}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	if s.open == nil {
		s.open = make(map[*conn]struct{})
	}
	s.open[c] = struct{}{}
	s.wg.Add(1)
	return c
}

// end is called when the handler returns. The connection is the server's again
// afterwards, without our deadline, unless it was broken.
func (s *conns) end(c *conn) {
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
	c.release()
	s.wg.Done()
}

// name says which process of the sender has opened the request.
func (s *conns) name(c *conn, run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.run = run
}

// kill breaks the connections of one peer, those of one of its runs or all ("").
func (s *conns) kill(sender uint64, run string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.open {
		if c.sender == sender && (run == "" || c.run == run) {
			c.kill()
		}
	}
}

// close breaks all connections and lets no new one in.
func (s *conns) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for c := range s.open {
		c.kill()
	}
}

// wait returns when every handler has.
func (s *conns) wait() { s.wg.Wait() }

// conn is the connection of one request. It fails a read or write that makes no
// progress for idleTimeout, which a listener without timeouts would not.
type conn struct {
	http.ResponseWriter
	control *http.ResponseController
	sender  uint64
	run     string // of the sender, once it may speak; guarded by conns
	cancel  context.CancelFunc
	// opened writes who answers into the header, just before it is sent. nil:
	// nothing is to be written.
	opened   func(status int, h http.Header)
	answered bool // the header was sent

	mu          sync.Mutex
	broken      bool
	readExtend  time.Time // the deadlines are moved when these are past
	writeExtend time.Time
}

// WriteHeader implements http.ResponseWriter.
func (c *conn) WriteHeader(status int) {
	if !c.answered && status >= http.StatusOK {
		c.answered = true
		if c.opened != nil {
			c.opened(status, c.Header())
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *conn) Write(p []byte) (int, error) {
	if !c.answered {
		c.WriteHeader(http.StatusOK)
	}
	if err := c.extend(&c.writeExtend, c.control.SetWriteDeadline); err != nil {
		return 0, err
	}
	return c.ResponseWriter.Write(p)
}

// Flush implements http.Flusher, which rafthttp asks for.
func (c *conn) Flush() {
	if err := c.extend(&c.writeExtend, c.control.SetWriteDeadline); err != nil {
		return // the next write says so
	}
	if err := c.control.Flush(); err != nil {
		c.kill() // Flush has no result: the next write must not seem to succeed
	}
}

// extend gives a read or write at least idleTimeout from now. The deadline is
// moved once a second at most, because streams write many small pieces.
func (c *conn) extend(next *time.Time, set func(time.Time) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken {
		return errBroken
	}
	now := time.Now()
	if now.Before(*next) {
		return nil
	}
	*next = now.Add(time.Second)
	return ignoreUnsupported(set(now.Add(idleTimeout + time.Second)))
}

// turnOff makes the connection end after the answer. The server must not read
// what is left of the body, which it otherwise does for 256 KiB and without a
// timeout.
func (c *conn) turnOff() {
	c.Header().Set("Connection", "close")
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.broken {
		c.readExtend = time.Time{}
		_ = c.control.SetReadDeadline(time.Unix(1, 0)) // a connection that is gone needs none
	}
}

// kill makes every read and write fail, also those that are under way.
func (c *conn) kill() {
	c.cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.broken = true
	past := time.Unix(1, 0)
	_ = c.control.SetReadDeadline(past)  // a connection that is gone already
	_ = c.control.SetWriteDeadline(past) // needs no deadline
}

// bodyRead lifts the read deadline after the body, so that a handler may take
// its time over what it has read.
func (c *conn) bodyRead() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.broken && !c.readExtend.IsZero() {
		c.readExtend = time.Time{}
		_ = c.control.SetReadDeadline(time.Time{}) // if this fails, the connection is gone
	}
}

// release lifts the write deadline, which the server would not. The server sets
// its own read deadline.
func (c *conn) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.broken && !c.writeExtend.IsZero() {
		_ = c.control.SetWriteDeadline(time.Time{}) // if this fails, the connection is gone
	}
	c.broken = true
}

func ignoreUnsupported(err error) error {
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	return err
}

// timedBody is a request body whose reads are bounded by the connection's idle
// timeout.
type timedBody struct {
	c    *conn
	body io.ReadCloser
}

// Read implements io.Reader.
func (b timedBody) Read(p []byte) (int, error) {
	if err := b.c.extend(&b.c.readExtend, b.c.control.SetReadDeadline); err != nil {
		return 0, err
	}
	n, err := b.body.Read(p)
	if err != nil {
		b.c.bodyRead()
	}
	return n, err
}

// Close implements io.Closer.
func (b timedBody) Close() error { return b.body.Close() }
