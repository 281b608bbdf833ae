package lane

import (
	"time"

	"golang.org/x/sys/unix"
)

// requestsMax is how many requests of one connection a turn of its loop answers,
// so that one that sends without a pause leaves the others their time.
const requestsMax = 16

// serve answers what a connection has sent, as far as it is there.
func (l *loop) serve(c *conn) {
	for n := 0; !c.busy; n++ {
		if n == requestsMax {
			c.busy = true
			l.post(c, returns)
			return
		}
		if c.start == c.end {
			switch {
			case c.more && l.read(c):
				continue
			case c.more, l.server.closing.Load(): // it has ended, or is not wanted any more
				l.drop(c)
			default:
				c.releaseInput()
			}
			return
		}
		if c.skipEmptyLine(); c.start == c.end {
			continue
		}
		if !c.parse() {
			l.giveAway(c)
			return
		}
		l.answer(c)
	}
}

// read reads what has come. It returns false at the connection's end.
func (l *loop) read(c *conn) bool {
	if c.in == nil {
		c.in = buffers.Get().(*[bufferBytes]byte)
	}
	n, err := c.readNow()
	if err == unix.EAGAIN {
		c.more = false
		return true
	}
	if n <= 0 {
		return false
	}
	c.start, c.end = 0, n
	c.more = c.hungUp || n == len(c.in) || err != nil
	return true
}

// answer begins to answer the request that was parsed.
func (l *loop) answer(c *conn) {
	c.busy = true
	c.requests++
	c.woken = false
	if c.body.left > int64(c.end-c.start) {
		c.leave(c.serveAlone)
		return
	}
	c.answer.begin()
	c.answer.held = true
	c.call = l.handler.Open(&c.answer, c.request, c.resume)
	l.step(c)
}

// step takes the next step of a connection's call.
func (l *loop) step(c *conn) {
	streamed := c.streaming
	state, sound := c.step(true)
	c.streaming = state == Streaming
	switch {
	case !sound:
		l.drop(c)
	case state == Paused:
	case state == Slow:
		c.answer.held = false
		c.leave(c.stepAlone)
	case state == Streaming:
		l.flush(c)
	default:
		if streamed {
			c.answer.began = time.Now() // for how long it is idle: others are as good as just begun
		}
		l.finish(c)
	}
}

// goOn takes the next step of a call that was told to go on, unless it is not
// here, or has ended before the message came.
func (l *loop) goOn(c *conn) {
	if c.woken && !c.away && c.call != nil {
		c.woken = false
		c.answer.late = true
		l.step(c)
	}
}

// attend looks at what may have happened to the client of a stream.
func (l *loop) attend(c *conn) {
	if !c.streaming || c.away {
		return
	}
	if c.hungUp || c.sealed != nil && !l.stays(c) {
		c.cancel()
	}
	c.woken = c.woken || c.ctx.Err() != nil
	l.goOn(c)
}

// stays looks for what a client may have sent behind the request of its stream.
// With TLS a client tells that it goes, and may wait for an answer to that.
func (l *loop) stays(c *conn) bool {
	if !c.more || c.start < c.end {
		return true
	}
	sound := l.read(c)
	c.releaseInput()
	return sound
}

// flush sends what a stream has written.
func (l *loop) flush(c *conn) {
	a := &c.answer
	if len(a.out) > 0 {
		c.sendNow()
	}
	switch {
	case a.err != nil:
		c.cancel()
	case c.unsent(): // its client reads slowly
		c.leave(c.flushAlone)
		return
	}
	a.release()
	c.releaseInput()
	l.attend(c)
}

// finish sends an answer.
func (l *loop) finish(c *conn) {
	c.call = nil
	a := &c.answer
	a.complete()
	c.sendNow()
	switch {
	case a.err != nil:
		a.abandon()
		l.drop(c)
		return
	case c.unsent() || a.closes: // its client reads slowly, or has to be waited for
		c.leave(func() { c.finishAlone(c.sendRest) })
		return
	}
	a.release()
	if !c.keep() {
		l.drop(c)
		return
	}
	c.busy = false
}

// step takes the next step of the call. It returns false when the connection is
// of no use any more.
func (c *conn) step(quick bool) (state State, sound bool) {
	defer c.guard(&sound)
	return c.call.Next(quick), true
}

// stepAlone takes a step of the call where it can take its time.
func (c *conn) stepAlone() {
	switch state, sound := c.step(false); {
	case sound && state == Streaming:
		c.flushAlone()
	default:
		c.finishAlone(func() error {
			if !sound || !c.answer.end() {
				return errAbandoned
			}
			return nil
		})
	}
}

// flushAlone sends what a stream has written and gives the connection back.
func (c *conn) flushAlone() {
	if c.sendRest() != nil {
		c.cancel()
	}
	c.releaseInput()
	c.liftDeadlines()
	c.loop.post(c, streams)
}

// serveAlone answers a request where it can take its time.
func (c *conn) serveAlone() {
	c.finishAlone(func() error {
		if !c.handle() {
			return errAbandoned
		}
		return nil
	})
}

// finishAlone does the rest of an answer and gives the connection back.
func (c *conn) finishAlone(rest func() error) {
	if rest() != nil || !c.keep() {
		_ = c.nc.Close() // the answer is sent, as far as it could be
		c.loop.post(c, ends)
		return
	}
	c.loop.post(c, returns)
}
