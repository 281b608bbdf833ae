package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/retry"
)

var (
	// ErrLost says that a lease is over without having been released.
	ErrLost = errors.New("the lease is lost")
	// ErrReleased is the cause of the end of a lease that was released.
	ErrReleased = errors.New("the lease is released")
)

// span is how long a lease lasts: the TTL less a fifth, for clocks that do not
// run alike and for the time that it takes to stop what it guards.
func span(ttl time.Duration) time.Duration { return ttl - ttl/5 }

// Lease is the right to believe in a place of the line. It counts from before
// the request was sent that made or last renewed the place: the cluster, which
// counts from later on, cannot have removed it sooner. It counts by the
// monotonic clock, which goes on while a process is stopped.
//
// All methods may be called from any goroutine.
type Lease struct {
	line  line
	cfg   Config
	place Place

	ctx    context.Context // ends with the lease; the cause tells why
	cancel context.CancelCauseFunc
	kept   chan struct{} // closed when keep has returned

	mu      sync.Mutex
	until   time.Time
	timer   *time.Timer // ends the lease at until, whatever renewals are doing
	failure error       // of the last renewal

	releasing sync.Mutex
	released  bool // the place is removed
	result    error
}

// newLease makes the lease of a place whose TTL counts from no earlier than sent
// on, and keeps it renewed. Only the values of ctx are used.
func newLease(ctx context.Context, l line, cfg Config, p Place, sent time.Time) *Lease {
	lease := &Lease{line: l, cfg: cfg, place: p, kept: make(chan struct{}), until: sent.Add(span(cfg.TTL))}
	lease.ctx, lease.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	lease.timer = time.AfterFunc(time.Until(lease.until), lease.expire)
	go lease.keep(sent)
	return lease
}

// Token returns the fencing token, see [Place].
func (l *Lease) Token() uint64 { return l.place.Token }

// Key returns the key of the place.
func (l *Lease) Key() string { return l.place.Key }

// Context returns a context that ends with the lease. Its cause is [ErrLost] or
// [ErrReleased].
func (l *Lease) Context() context.Context { return l.ctx }

// Err looks at the clock and returns nil as long as the lease lasts, and why it
// has ended from then on.
func (l *Lease) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	return context.Cause(l.ctx)
}

// expire is what the timer does. If the lease was renewed just now, the timer
// runs again.
func (l *Lease) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
}

// look ends a lease that is over by the clock. It is for who holds mu.
func (l *Lease) look() {
	if time.Now().Before(l.until) {
		return
	}
	err := fmt.Errorf("%w: it was not renewed in time", ErrLost)
	if l.failure != nil {
		err = fmt.Errorf("%w: %w", err, l.failure)
	}
	l.cancel(err)
}

// end ends the lease, unless it has ended.
func (l *Lease) end(cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.look()
	l.cancel(cause)
}

// Release ends the lease, waits for its goroutine, and removes the place. It
// tries until ctx ends, and gives up when the TTL has removed it for certain.
// The error is ErrLost if the lease was over before, else that of the last try.
// It may be called again, to the same effect.
func (l *Lease) Release(ctx context.Context) error {
	l.end(ErrReleased)
	<-l.kept
	l.releasing.Lock()
	defer l.releasing.Unlock()
	if l.released {
		return l.result
	}
	if cause := context.Cause(l.ctx); !errors.Is(cause, ErrReleased) {
		l.result = cause
	}
	ctx, cancel := context.WithTimeout(ctx, l.cfg.TTL)
	defer cancel()
	found, err := l.remove(ctx)
	if err != nil {
		return errors.Join(l.result, fmt.Errorf("removing %s, which its TTL does as well: %w", l.place.Key, err))
	}
	l.released = true
	if !found && l.result == nil {
		l.result = fmt.Errorf("%w: the key %s was gone", ErrLost, l.place.Key)
	}
	return l.result
}

// remove removes the place. found tells whether it was there, as far as is
// known.
func (l *Lease) remove(ctx context.Context) (found bool, err error) {
	doubt := false
	for failures := 0; ; failures++ {
		limited, cancel := context.WithTimeout(ctx, l.requestMax())
		err := l.line.remove(limited, l.place)
		cancel()
		switch {
		case err == nil:
			return true, nil
		case isGone(err):
			return doubt, nil // an earlier request may have done it
		case !isTemporary(err) || ctx.Err() != nil:
			return false, err
		}
		doubt = doubt || errors.Is(err, client.ErrUnknownOutcome)
		if retry.Sleep(ctx, retry.Pause(failures, pauseMin, l.pauseMax())) != nil {
			return false, err
		}
	}
}

// requestMax bounds one request for a lease, so that there is time for another.
func (l *Lease) requestMax() time.Duration { return l.cfg.TTL / 5 }

// pauseMax bounds the pause after a request for a lease that has failed, so that
// there is time for many.
func (l *Lease) pauseMax() time.Duration { return min(l.cfg.TTL/20, time.Second) }

// keep renews the place until the lease ends.
func (l *Lease) keep(sent time.Time) {
	defer close(l.kept)
	defer l.timer.Stop()
	failures := 0
	for next := sent.Add(l.cfg.TTL / 3); retry.Sleep(l.ctx, time.Until(next)) == nil; {
		sent = time.Now()
		limited, cancel := context.WithTimeout(l.ctx, l.requestMax())
		err := l.line.renew(limited, l.place, l.cfg.TTL)
		cancel()
		switch {
		case err == nil:
			l.renewed(sent)
			if failures > 0 {
				l.cfg.Log.Info("renewal works again", "key", l.place.Key, "failures", failures)
			}
			failures = 0
			next = sent.Add(l.cfg.TTL / 3)
		case isGone(err):
			l.end(fmt.Errorf("%w: the key %s is gone: %w", ErrLost, l.place.Key, err))
		case l.ctx.Err() == nil:
			if failures == 0 {
				l.cfg.Log.Warn("renewal fails, trying on", "key", l.place.Key, "error", err)
			}
			failures++
			l.failed(err)
			next = time.Now().Add(l.pauseMax())
		}
	}
}

// renewed notes that the TTL counts from no earlier than sent on. An answer that
// comes after the end was told does not undo it.
func (l *Lease) renewed(sent time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx.Err() != nil {
		return
	}
	l.until, l.failure = sent.Add(span(l.cfg.TTL)), nil
	l.timer.Reset(time.Until(l.until))
}

func (l *Lease) failed(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = err
}
