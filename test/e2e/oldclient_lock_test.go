package e2e

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

// oldLock is the lock of deimos-client: a key that is created with a TTL by who
// gets it, renewed by a comparison with its value, and deleted by another.
// One goroutine at a time may use it. A context that ends keeps it from waiting
// on; a request that was sent is always waited for, so that its outcome is
// known.
type oldLock struct {
	c          *oldClient
	key, value string
	ttl        time.Duration
	// until is when the lock may end by the clock of its holder: a TTL after the
	// last request that was granted had been sent.
	until time.Time
}

// try creates the key, or says why not: 412/105 when another holds it.
func (l *oldLock) try(ctx context.Context) error {
	sent := time.Now()
	_, err := l.c.set(context.WithoutCancel(ctx), l.key, l.value, oldSet{prevExists: "false", ttl: l.ttl})
	if err == nil {
		l.until = sent.Add(l.ttl)
	}
	return err
}

// lock tries again whenever a watch says that the key has gone, until it has
// the lock or ctx ends. It also tries after a watch without an event: when the
// key goes between an attempt and the watch, the old client sleeps on until
// somebody else takes the lock and leaves it, which is its own affair; no
// request is another for it.
func (l *oldLock) lock(ctx context.Context) error {
	for ctx.Err() == nil {
		err := l.try(ctx)
		var e *oldError
		switch {
		case err == nil || errors.Is(err, errContract):
			return err
		case errors.As(err, &e) && !isOldError(err, 412, 105):
			l.c.t.Errorf("the lock was refused to %s with %v, want 412/105", l.value, err)
			return err
		}
		l.await(ctx)
	}
	return ctx.Err()
}

// await waits until a watch tells that the key has gone, or ends.
func (l *oldLock) await(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now()
	for a := range l.c.watch(ctx, l.key, false, 0) {
		switch a.Action {
		case "delete", "compareAndDelete", "expire":
			return
		}
	}
	if time.Since(began) < politePause {
		pause(ctx, politePause) // nobody listens
	}
}

func (l *oldLock) renew(ctx context.Context) error {
	sent := time.Now()
	_, err := l.c.compareAndSwap(context.WithoutCancel(ctx), l.key, l.value, oldCompare{value: l.value}, l.ttl)
	if err == nil {
		l.until = sent.Add(l.ttl)
	}
	return l.judge(err)
}

func (l *oldLock) unlock(ctx context.Context) error {
	_, err := l.c.compareAndDelete(context.WithoutCancel(ctx), l.key, oldCompare{value: l.value})
	err = l.judge(err)
	l.until = time.Time{}
	return err
}

// judge fails the test when a holder whose TTL is still running was told that
// it does not hold the lock.
func (l *oldLock) judge(err error) error {
	var e *oldError
	if errors.As(err, &e) && time.Now().Before(l.until) {
		l.c.t.Errorf("the holder %s was answered %v although its TTL ran on for %v", l.value, err, time.Until(l.until))
	}
	return err
}

// politePause is the time between two attempts on a port where nobody listens.
// The old client makes none, but nothing of it is on the wire.
const politePause = 10 * time.Millisecond

// pause waits, or returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// possession is a time in which a client was right to believe that it had the lock.
type possession struct {
	who      string
	from, to time.Time
}

// holds are those of all clients of one lock, by the one monotonic clock of the
// test.
type holds struct {
	mu  sync.Mutex
	all []possession
}

func (h *holds) add(who string, from, to time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.all = append(h.all, possession{who, from, to})
}

// count is how often a client has held the lock from a moment on.
func (h *holds) count(who string, since time.Time) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, one := range h.all {
		if one.who == who && one.from.After(since) {
			n++
		}
	}
	return n
}

// wantNoOverlap fails the test for every two that overlap.
func (h *holds) wantNoOverlap(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	slices.SortFunc(h.all, func(a, b possession) int { return a.from.Compare(b.from) })
	last := possession{}
	for _, one := range h.all {
		if one.from.Before(last.to) {
			t.Errorf("%s got the lock %v before %s had to give it up", one.who, last.to.Sub(one.from), last.who)
		}
		if one.to.After(last.to) {
			last = one
		}
	}
	t.Logf("the lock was held %d times", len(h.all))
}
