package sim

import (
	"context"
	"errors"
	mathrand "math/rand/v2"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

// watch is a client that watches, and resumes wherever it can.
type watch struct {
	w         *world
	rnd       *mathrand.Rand
	key       string
	recursive bool
	slow      bool

	host    *host
	proc    *process
	watcher *store.Watcher
	// next is the index from which nothing was received yet, 0 before the
	// first connection.
	next     uint64
	received int
}

func (w *world) startWatches() {
	for i, spec := range []struct {
		key       string
		recursive bool
	}{{"/", true}, {"/r", true}, {"/r/k1", false}, {"/t", true}, {"/d/x1/y1", false}, {"/", true}} {
		x := &watch{w: w, rnd: newRand(w.cfg.Seed, streamWatch+uint64(i)<<32), key: spec.key, recursive: spec.recursive, slow: i == 5}
		w.watches = append(w.watches, x)
		w.after(between(x.rnd, time.Second, 3*time.Second), x.poll)
	}
}

// poll reads what is there and looks after the connection.
func (x *watch) poll() {
	x.round()
	wait := between(x.rnd, 15*time.Millisecond, 120*time.Millisecond)
	if x.slow {
		wait *= 20
	}
	x.w.after(wait, x.poll)
}

func (x *watch) round() {
	if x.watcher != nil && (x.proc.dead || x.host.proc != x.proc || chance(x.rnd, 0.01)) {
		x.drop()
	}
	if x.watcher == nil {
		x.connect()
		return
	}
	if x.host.paused {
		if chance(x.rnd, 0.1) {
			x.drop() // nothing has come for a while
		}
		return
	}
	x.drain()
}

func (x *watch) drop() {
	x.watcher.Close()
	x.watcher, x.proc, x.host = nil, nil, nil
}

// connect begins or resumes the watch on any member.
func (x *watch) connect() {
	h := x.w.anyHost(x.rnd)
	if !h.up() || !h.proc.duties.recovered {
		return
	}
	p := h.proc
	watcher, err := p.st.Watch(x.key, x.recursive, x.next)
	gone := x.next != 0 && x.next < x.oldest(p)
	switch refused := new(deimos.Error); {
	case err == nil && gone:
		x.w.fail("watch", "member %x serves %s from index %d, its history begins at %d", h.id, x.key, x.next, x.oldest(p))
	case err == nil:
		x.host, x.proc, x.watcher = h, p, watcher
		if x.next == 0 {
			x.next = watcher.StartIndex() + 1
		}
	case errors.As(err, &refused) && refused.Code == deimos.CodeIndexCleared:
		if !gone {
			x.w.fail("watch", "member %x has no history of %s from index %d: %v; it should begin at %d", h.id, x.key, x.next, err, x.oldest(p))
		}
		x.w.row("W2")
		x.next = p.st.View().Index() + 1 // as after a fresh read there
	default:
		x.w.fail("watch", "member %x: watch %s from index %d: %v", h.id, x.key, x.next, err)
	}
}

// oldest is the index from which the history of a process must reach.
func (x *watch) oldest(p *process) uint64 {
	oldest := p.historyFrom
	if last, n := p.oracleIndex, uint64(x.w.options.historyEvents); last > n {
		oldest = max(oldest, last-n+1)
	}
	return oldest
}

func (x *watch) drain() {
	for x.watcher != nil && x.watcher.Ready() {
		e, err := x.watcher.Next(context.Background())
		switch {
		case errors.Is(err, store.ErrWatchEnded):
			x.w.row("W3")
			x.drop()
		case errors.Is(err, store.ErrSlowWatcher):
			x.w.row("W1")
			x.drop()
		case err != nil:
			x.w.fail("watch", "%s: %v", x.key, err)
		default:
			x.see(e)
		}
	}
}

// see checks an event: ordered, unique, the one that all members have, and
// nothing left out before it.
func (x *watch) see(e *store.Event) {
	w := x.w
	if e.Index() < x.next {
		w.fail("watch order", "%s gets event %d from member %x, expected is %d or later", x.key, e.Index(), x.host.id, x.next)
	}
	x.complete(e.Index())
	known := w.oracle.event(e.Index())
	if known.digest != digestOf(e) || !known.matches(x.key, x.recursive) {
		w.fail("watch", "%s gets event %d as %s of %s, want %s of %s", x.key, e.Index(), e.Action(), e.Node().Key(), known.action, known.key)
	}
	x.next = e.Index() + 1
	x.received++
	w.res.WatchEvents++
	w.tracer.mix(e.Index(), hashString(fnvOffset, x.key))
	w.oracle.acked = max(w.oracle.acked, e.Index()) // whoever saw it reads its effect
}

// complete checks that no matching event from next up to before was left out.
func (x *watch) complete(before uint64) {
	for i := x.next; i < before; i++ {
		if e := x.w.oracle.event(i); e.matches(x.key, x.recursive) {
			x.w.fail("watch skips", "%s does not get event %d (%s of %s)", x.key, i, e.action, e.key)
		}
	}
}
