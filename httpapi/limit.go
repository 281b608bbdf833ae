package httpapi

import (
	"context"
	"sync"
	"time"
)

// timeLimits bounds requests. Limits of the same length end in the order in which they began. So one timer
// is enough for all requests of a handler, and beginning and ending a limit is
// a link in a list: a context of the standard library would cost each request a
// timer, an entry in its parent and five allocations.
type timeLimits struct {
	length time.Duration

	mu          sync.Mutex
	first, last *timeLimit
	timer       *time.Timer // nil before the first limit
	armed       bool        // the timer will call expire
}

// timeLimit is the context of a write or a linearizable read: it ends with its
// time and not with the request's own context, because what a client that has
// gone away asked for goes on all the same, and ends in time. It is used again
// for later requests, so nothing may keep it beyond the call that it was given
// to.
type timeLimit struct {
	at         time.Time
	done       chan struct{}
	prev, next *timeLimit
	running    bool
}

// begin starts the time of x, which must not be running.
func (l *timeLimits) begin(x *timeLimit) {
	if x.done == nil || x.Err() != nil {
		x.done = make(chan struct{})
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	x.at = time.Now().Add(l.length)
	x.prev, x.next, x.running = l.last, nil, true
	if l.last == nil {
		l.first = x
	} else {
		l.last.next = x
	}
	l.last = x
	if !l.armed {
		l.arm(l.length)
	}
}

// end stops the time of x.
func (l *timeLimits) end(x *timeLimit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if x.running {
		l.remove(x)
	}
}

// expire ends the limits whose time is up. The timer is set anew for what is
// first then, which is seldom what it was set for: most requests end long before.
func (l *timeLimits) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.armed = false
	for now := time.Now(); l.first != nil; {
		if rest := l.first.at.Sub(now); rest > 0 {
			l.arm(rest)
			return
		}
		x := l.first
		l.remove(x)
		close(x.done)
	}
}

func (l *timeLimits) arm(d time.Duration) {
	l.armed = true
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.expire)
	} else {
		l.timer.Reset(d)
	}
}

func (l *timeLimits) remove(x *timeLimit) {
	if x.prev == nil {
		l.first = x.next
	} else {
		x.prev.next = x.next
	}
	if x.next == nil {
		l.last = x.prev
	} else {
		x.next.prev = x.prev
	}
	x.prev, x.next, x.running = nil, nil, false
}

// Deadline implements [context.Context].
func (x *timeLimit) Deadline() (time.Time, bool) { return x.at, true }

// Done implements [context.Context].
func (x *timeLimit) Done() <-chan struct{} { return x.done }

// Err implements [context.Context].
func (x *timeLimit) Err() error {
	select {
	case <-x.done:
		return context.DeadlineExceeded
	default:
		return nil
	}
}

// Value implements [context.Context]. A limit carries nothing.
func (x *timeLimit) Value(any) any { return nil }
