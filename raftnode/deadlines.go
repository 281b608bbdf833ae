package raftnode

import (
	"sync"
	"time"
)

// deadlines ends waiting in time. One timer is enough for all who wait, since
// nearly all give themselves the same time, so that their deadlines come in the
// order in which they began; beginning and ending is a link in a list. A context
// of the standard library would cost each request a timer, an entry in its
// parent and five allocations.
type deadlines struct {
	mu *sync.Mutex // held by all callers
	// expire is called with the mutex held for one whose time is up, and which is
	// no longer in the list.
	expire func(*waiter)

	first, last *waiter     // by deadline
	timer       *time.Timer // nil before the first deadline
	armed       bool        // the timer will call check
}

// deadline is the place of a waiter among the deadlines.
type deadline struct {
	at         time.Time
	prev, next *waiter
	running    bool
}

func (d *deadlines) init(mu *sync.Mutex, expire func(*waiter)) { d.mu, d.expire = mu, expire }

// add gives x a deadline, unless at is zero.
func (d *deadlines) add(x *waiter, at time.Time) {
	if at.IsZero() {
		return
	}
	before := d.last
	for before != nil && before.deadline.at.After(at) {
		before = before.deadline.prev
	}
	next := d.first
	if before != nil {
		next = before.deadline.next
	}
	x.deadline = deadline{at: at, prev: before, next: next, running: true}
	d.link(before, x)
	if next == nil {
		d.last = x
	} else {
		next.deadline.prev = x
	}
	if before == nil || !d.armed {
		d.arm(time.Until(at))
	}
}

// link makes next follow x, which is nil for the beginning of the list.
func (d *deadlines) link(x, next *waiter) {
	if x == nil {
		d.first = next
	} else {
		x.deadline.next = next
	}
}

// remove forgets the deadline of x, if it has one.
func (d *deadlines) remove(x *waiter) {
	place := x.deadline
	if !place.running {
		return
	}
	d.link(place.prev, place.next)
	if place.next == nil {
		d.last = place.prev
	} else {
		place.next.deadline.prev = place.prev
	}
	x.deadline = deadline{}
}

// check ends the waiting of those whose time is up. The timer is set anew for
// who is first then, which is seldom whom it was set for: most have ended long
// before.
func (d *deadlines) check() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.armed = false
	for now := time.Now(); d.first != nil; {
		if rest := d.first.deadline.at.Sub(now); rest > 0 {
			d.arm(rest)
			return
		}
		x := d.first
		d.remove(x)
		d.expire(x)
	}
}

func (d *deadlines) arm(in time.Duration) {
	d.armed = true
	if d.timer == nil {
		d.timer = time.AfterFunc(in, d.check)
	} else {
		d.timer.Reset(in)
	}
}
