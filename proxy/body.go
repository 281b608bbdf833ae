package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"time"
)

const (
	// headBodyBytes is how much of a body is read before a member is asked. A
	// body that ends by then can be sent any number of times.
	headBodyBytes = 64 << 10
	// bodyStepBytes is the size of body that buys a slow client another
	// limits.bodyStep.
	bodyStepBytes = 16 << 10
	// idleBodyMaxBytes bounds a body that nobody reads.
	idleBodyMaxBytes = 4 << 20
	// lingerTime is how long net/http may read on in a body that was given up,
	// so that the client gets to see the answer.
	lingerTime = 500 * time.Millisecond
)

// bodyError says that the client's body did not arrive as it should.
type bodyError struct {
	status int
	err    error
}

func (e *bodyError) Error() string { return fmt.Sprintf("reading the request body: %v", e.err) }
func (e *bodyError) Unwrap() error { return e.err }

// body is the body of a client's request on its way to a member. The goroutine
// of the request reads its head; what follows is read by the goroutine of
// net/http that sends it. A nil body has ended.
type body struct {
	c    *call
	head []byte
	// size is the announced length; -1: unknown.
	size int64

	mu    sync.Mutex // held while reading
	read  int64
	spent time.Duration // waiting for the client
	err   error         // the end of the body, io.EOF if it is a good one

	// stateMu guards what follows, also while a read is under way. It is taken
	// after mu.
	stateMu   sync.Mutex
	ended     bool // the end has been seen
	abandoned bool
}

// errAbandoned ends the reading of a body that nobody wants any more.
var errAbandoned = errors.New("the answer has begun")

// errSlow ends a body that takes longer than a member allows.
var errSlow = errors.New("it arrived too slowly")

// readBody reads the head of the body, or reads all of it away when it has no
// meaning: only then can net/http tell when the client goes.
func (c *call) readBody(idle bool) error {
	if c.r.ContentLength == 0 || c.r.Body == nil || c.r.Body == http.NoBody {
		return nil
	}
	b := &body{c: c, size: c.r.ContentLength}
	c.body.Store(b)
	if idle {
		n, err := io.Copy(io.Discard, io.LimitReader(b, idleBodyMaxBytes+1))
		if err == nil && n > idleBodyMaxBytes {
			err = &bodyError{http.StatusRequestEntityTooLarge, fmt.Errorf("more than %d bytes that mean nothing", idleBodyMaxBytes)}
		}
		return err
	}
	first := int64(headBodyBytes)
	if b.size >= 0 {
		first = min(first, b.size)
	}
	var head bytes.Buffer
	if _, err := io.CopyN(&head, b, first); err != nil && err != io.EOF {
		return err
	}
	if b.size == first {
		// One more look, so that net/http sees the end.
		if _, err := b.Read(make([]byte, 1)); err != nil && err != io.EOF {
			return err
		}
	}
	b.head = head.Bytes()
	return nil
}

// Read reads from the client. It gives it the time that a member would give it,
// and does not count the time in which nobody asked for more.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return 0, b.err
	}
	l := b.c.p.limits
	start := time.Now()
	left := l.bodyBase + time.Duration(b.read/bodyStepBytes)*l.bodyStep - b.spent
	if !b.wait(start.Add(left)) {
		b.err = &bodyError{http.StatusBadRequest, errAbandoned}
		return 0, b.err
	}
	n, err := b.c.r.Body.Read(p)
	b.read += int64(n)
	b.spent += time.Since(start)
	switch {
	case err == io.EOF:
		b.err = err
		b.finish()
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.err = &bodyError{http.StatusRequestTimeout, errSlow}
	case err != nil:
		b.err = &bodyError{http.StatusBadRequest, err}
	}
	if n > 0 {
		return n, nil
	}
	return 0, b.err
}

// wait sets the time until which the client may send, unless the body was
// abandoned.
func (b *body) wait(until time.Time) bool {
	b.stateMu.Lock()
	defer b.stateMu.Unlock()
	if b.abandoned {
		return false
	}
	b.c.deadlineSet(b.c.rc.SetReadDeadline(until))
	return true
}

// finish notes the end of the body. From now on net/http reads ahead on the
// connection, and no deadline may be in its way.
func (b *body) finish() {
	b.stateMu.Lock()
	defer b.stateMu.Unlock()
	if !b.abandoned {
		b.ended = true
		b.c.deadlineSet(b.c.rc.SetReadDeadline(time.Time{}))
	}
}

// broken returns why the body could not be read to its end, or nil.
func (b *body) broken() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == io.EOF {
		return nil
	}
	return b.err
}

// abandon stops the reading of the body and reports whether it had not ended.
// net/http would otherwise wait for a read that is under way before it sends
// an answer, as long as it takes the client to send more.
func (b *body) abandon() (unread bool) {
	if b == nil {
		return false
	}
	b.stateMu.Lock()
	if b.ended || b.abandoned {
		defer b.stateMu.Unlock()
		return !b.ended
	}
	b.abandoned = true
	b.c.deadlineSet(b.c.rc.SetReadDeadline(time.Unix(1, 0))) // wakes a read
	b.stateMu.Unlock()
	b.mu.Lock() // no read is under way any more, and none will be
	defer b.mu.Unlock()
	b.c.deadlineSet(b.c.rc.SetReadDeadline(time.Now().Add(lingerTime)))
	return true
}

func (b *body) isAbandoned() bool {
	if b == nil {
		return false
	}
	b.stateMu.Lock()
	defer b.stateMu.Unlock()
	return b.abandoned
}

// all reports whether the head is the whole body.
func (b *body) all() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err == io.EOF
}

// attach makes the body part of a request to a member. It may be called again
// only if nothing of the request before was written: what follows the head can
// be read once.
func (b *body) attach(r *http.Request) {
	if b == nil || b.all() && len(b.head) == 0 {
		r.Body = http.NoBody
		return
	}
	if b.all() {
		r.ContentLength = int64(len(b.head))
		r.Body = io.NopCloser(bytes.NewReader(b.head))
		return
	}
	r.ContentLength = b.size
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(b.head), b))
}
