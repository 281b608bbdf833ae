package load

import (
	"context"
	"net"
	"sync"
	"time"
)

// reconnectPause is how long a connection that could not be made is not tried
// again, which bounds how many failures there are of it.
const reconnectPause = 100 * time.Millisecond

// goroutineBufferBytes is the size of a read of a connection with a goroutine.
const goroutineBufferBytes = 8 << 10

// line is a connection with its own goroutine.
type line struct {
	run     *run
	buf     []byte
	opening chan struct{} // has room for openingMax
	fresh   bool          // it has a place there

	mu     sync.Mutex // for what the watchdog looks at, too
	caller caller
	conn   net.Conn // nil: there is none
	late   bool     // the watchdog has ended it
}

// moveWithGoroutines moves the bytes of each caller in a goroutine of its own,
// until the run is over.
func (r *run) moveWithGoroutines() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	opening := make(chan struct{}, openingMax)
	var lines []*line
	var all sync.WaitGroup
	for _, c := range r.callers {
		l := &line{run: r, buf: make([]byte, goroutineBufferBytes), opening: opening, caller: c}
		lines = append(lines, l)
		all.Go(func() { l.work(ctx) })
	}
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for range ticker.C {
		over := r.over.Load()
		for _, l := range lines {
			l.check(r.now(), over)
		}
		if over {
			break
		}
	}
	cancel()
	all.Wait()
}

// check ends a connection whose answer is overdue, or any when the run is over.
func (l *line) check(now time.Duration, over bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil || !(over || l.caller.overdue(now)) {
		return
	}
	l.late = true
	_ = l.conn.SetDeadline(time.Unix(1, 0)) // a closed connection needs none
}

// work connects and talks, again and again, until there is nothing to be said
// any more or ctx is done.
func (l *line) work(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil && !l.run.over.Load() {
		select {
		case l.opening <- struct{}{}:
			l.fresh = true
		case <-ctx.Done():
			return
		}
		conn, err := l.caller.server().dial(ctx, l.run.cfg.Timeout)
		if err != nil {
			if ctx.Err() == nil {
				l.mu.Lock()
				l.caller.lost(KindConnect, l.run.now())
				l.mu.Unlock()
			}
			l.settle()
			pause(ctx, timer, reconnectPause)
			continue
		}
		l.mu.Lock()
		l.conn, l.late = conn, false
		l.caller.connected(l.run.now())
		l.mu.Unlock()
		silent := l.talk(ctx, conn, timer)
		l.settle()
		l.mu.Lock()
		l.conn = nil
		l.mu.Unlock()
		_ = conn.Close()
		if silent {
			l.run.left()
			return
		}
	}
}

// settle tells that the connection does not count as opening any more.
func (l *line) settle() {
	if l.fresh {
		l.fresh = false
		<-l.opening
	}
}

// talk uses a connection until it has ended, and tells whether the caller has
// nothing to say any more.
func (l *line) talk(ctx context.Context, conn net.Conn, timer *time.Timer) (silent bool) {
	for !l.run.over.Load() {
		l.mu.Lock()
		out, at, v := l.caller.next(l.run.now())
		l.mu.Unlock()
		switch v {
		case finished:
			return true
		case later:
			pause(ctx, timer, at-l.run.now())
			continue
		}
		if _, err := conn.Write(out); err != nil {
			l.end()
			return false
		}
		if !l.listen(conn) {
			return false
		}
	}
	return false
}

// listen reads until the answer has arrived, and tells whether the connection
// can be used for more.
func (l *line) listen(conn net.Conn) bool {
	for {
		n, err := conn.Read(l.buf)
		if n > 0 {
			l.settle()
			l.mu.Lock()
			done, keep := l.caller.receive(l.buf[:n], l.run.now())
			l.mu.Unlock()
			if done {
				return keep
			}
		}
		if err != nil {
			l.end()
			return false
		}
	}
}

// end tells the caller that its connection has ended, unless the run has.
func (l *line) end() {
	if l.run.over.Load() {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	kind := KindClosed
	if l.late {
		kind = KindTimeout
	}
	l.caller.lost(kind, l.run.now())
}

// pause waits for d or until ctx is done.
func pause(ctx context.Context, timer *time.Timer, d time.Duration) {
	timer.Reset(d)
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
