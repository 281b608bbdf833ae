// Package queue is what the packages client/lock and client/election have in
// common: contenders that stand in line for one thing.
//
// The line is a directory. A place in it is a key that the store has named in
// order, with a TTL and a value that nobody else writes. Whoever has the lowest
// key has the turn; everybody else watches the key just ahead and looks again
// when that has changed, so that the end of a turn wakes one contender.
// docs/coordination.md describes the layout for programs in other languages.
//
// All contenders, also those who wait, renew their key. How long a contender may
// believe in it is the business of [Lease].
//
// A contender owns one goroutine from the moment it has a place. It ends with
// the lease; [Lease.Release] waits for it.
package queue

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/retry"
)

const (
	// leaveMax bounds what a contender who gives up does to remove its place.
	leaveMax = 2 * time.Second
	// A request to take a place whose outcome is not known may be applied a
	// little later. Who gives up looks so often, with leavePause between.
	leaveLooks = 5
	// The pauses after a failure, the longer the more there were in a row.
	pauseMin = 100 * time.Millisecond
	pauseMax = 5 * time.Second
	// leavePause is the time between two looks of one who gives up.
	leavePause = 100 * time.Millisecond
	// patienceMax bounds how long one watch is trusted: a member that is cut off
	// has nothing to tell and does not say so.
	patienceMax = 30 * time.Second
)

var (
	// ErrTaken says that somebody else has the turn.
	ErrTaken = errors.New("somebody else has it")
	// errNoPlace says that the contender has no place in the line any more.
	errNoPlace = errors.New("the place in the queue is gone")
)

// Config says who stands in which line. It has to have passed [Config.Check].
type Config struct {
	Dir   string        // the line: an absolute key
	Owner string        // what others are told of the contender
	TTL   time.Duration // of its key
	Log   *slog.Logger  // told of lost places, and when requests begin to fail and work again
}

// Wait takes a place at the end of the line and returns its lease when it has
// the turn. A place that is lost meanwhile is replaced by one at the end. When
// there is an error, the place is given up, which takes no longer than
// [leaveMax].
func Wait(ctx context.Context, c *client.Client, cfg Config) (*Lease, error) {
	w := newContender(remote{c}, cfg)
	if err := w.wait(ctx); err != nil {
		w.leave(ctx)
		return nil, err
	}
	return w.lease, nil
}

// Try returns a lease if nobody is in the line, else [ErrTaken].
func Try(ctx context.Context, c *client.Client, cfg Config) (*Lease, error) {
	w := newContender(remote{c}, cfg)
	if err := w.try(ctx); err != nil {
		w.leave(ctx)
		return nil, err
	}
	return w.lease, nil
}

// line is the cluster as a contender sees it. All calls end with their context.
type line interface {
	// places returns the places in a directory, first come first, at an index.
	// The read is linearizable. A missing directory has none.
	places(ctx context.Context, dir string) ([]Place, uint64, error)
	// enter makes a place at the end.
	enter(ctx context.Context, dir, value string, ttl time.Duration) (Place, error)
	// renew gives a place its TTL again.
	renew(ctx context.Context, p Place, ttl time.Duration) error
	// remove removes a place.
	remove(ctx context.Context, p Place) error
	// await returns when something has happened to a key since the index, or may
	// have.
	await(ctx context.Context, key string, index uint64) error
}

// contender stands in line once. It belongs to the goroutine of the caller.
type contender struct {
	line  line
	cfg   Config
	value string
	lease *Lease // of its place; nil: it has none
	// doubt says that there may be a place which it does not know of.
	doubt bool
	// answered says that the cluster has answered once.
	answered bool
	// failures is how many tries in a row have failed to get on in the line.
	failures int
}

func newContender(l line, cfg Config) *contender {
	return &contender{line: l, cfg: cfg, value: cfg.Owner + " " + rand.Text()}
}

// wait returns when the contender has the turn and a lease that lasts.
func (w *contender) wait(ctx context.Context) error {
	for {
		err := w.join(ctx)
		if err == nil {
			err = w.waitBehind(ctx)
		}
		switch {
		case err == nil && w.lease.Err() == nil:
			return nil
		case err == nil, errors.Is(err, errNoPlace):
			continue
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for the turn: %w", context.Cause(ctx))
		case !isTemporary(err), errors.Is(err, client.ErrNoEndpoint) && !w.answered:
			return err
		}
		if w.failures == 0 {
			w.cfg.Log.Warn("waiting in the queue fails, trying on", "queue", w.cfg.Dir, "error", err)
		}
		pause := retry.Pause(w.failures, pauseMin, pauseMax)
		w.failures++
		if err := retry.Sleep(ctx, pause); err != nil {
			return fmt.Errorf("waiting for the turn: %w", err)
		}
	}
}

// goesOn notes that the contender has got on in the line.
func (w *contender) goesOn() {
	if w.failures > 0 {
		w.cfg.Log.Info("waiting in the queue goes on", "queue", w.cfg.Dir, "failures", w.failures)
	}
	w.failures = 0
}

// try is one attempt without waiting for anybody.
func (w *contender) try(ctx context.Context) error {
	places, _, err := w.line.places(ctx, w.cfg.Dir)
	if err != nil {
		return err
	}
	if len(places) > 0 {
		return takenBy(places[0])
	}
	if err := w.join(ctx); err != nil {
		return err
	}
	places, at, _, err := w.look(ctx)
	switch {
	case err != nil:
		return err
	case at > 0:
		return takenBy(places[0])
	default:
		return w.lease.Err()
	}
}

func takenBy(p Place) error { return fmt.Errorf("%w: %s", ErrTaken, p.Owner()) }

// join sees to it that the contender has a place: the one it has, one that an
// earlier request has made after all, or a new one.
func (w *contender) join(ctx context.Context) error {
	if w.lease != nil {
		cause := w.lease.Err()
		if cause == nil {
			return nil
		}
		w.cfg.Log.Info("place in the queue lost, queueing again", "queue", w.cfg.Dir, "key", w.lease.place.Key, "error", cause)
		<-w.lease.kept
		w.lease, w.doubt = nil, true
	}
	if w.doubt {
		if err := w.adopt(ctx); err != nil || w.lease != nil {
			return err
		}
	}
	sent := time.Now()
	limited, cancel := context.WithTimeout(ctx, span(w.cfg.TTL))
	defer cancel()
	p, err := w.line.enter(limited, w.cfg.Dir, w.value, w.cfg.TTL)
	if err != nil {
		w.doubt = w.doubt || errors.Is(err, client.ErrUnknownOutcome)
		return err
	}
	w.have(ctx, p, sent)
	return nil
}

// adopt looks for a place with the contender's value. Since when its TTL counts
// is not known, so it is renewed first.
func (w *contender) adopt(ctx context.Context) error {
	places, _, err := w.line.places(ctx, w.cfg.Dir)
	if err != nil {
		return err
	}
	w.answered = true
	at := slices.IndexFunc(places, func(p Place) bool { return p.Value == w.value })
	if at < 0 {
		return nil
	}
	sent := time.Now()
	limited, cancel := context.WithTimeout(ctx, span(w.cfg.TTL))
	defer cancel()
	if err := w.line.renew(limited, places[at], w.cfg.TTL); err != nil {
		if isGone(err) {
			return nil
		}
		return err
	}
	w.have(ctx, places[at], sent)
	return nil
}

// have notes a place whose TTL counts from no earlier than sent on.
func (w *contender) have(ctx context.Context, p Place, sent time.Time) {
	w.lease = newLease(ctx, w.line, w.cfg, p, sent)
	w.doubt, w.answered = false, true
	w.goesOn()
}

// look reads the line and returns it with the contender's position. Other places
// with its value are those of requests that were applied late; it removes them.
func (w *contender) look(ctx context.Context) (places []Place, at int, index uint64, err error) {
	places, index, err = w.line.places(ctx, w.cfg.Dir)
	if err != nil {
		return nil, 0, 0, err
	}
	w.answered = true
	at = -1
	for i, p := range places {
		switch {
		case p.Key == w.lease.place.Key:
			at = i
		case p.Value == w.value:
			if err := w.line.remove(ctx, p); err != nil && !isGone(err) {
				return nil, 0, 0, err
			}
		}
	}
	if at < 0 {
		w.lease.end(fmt.Errorf("%w: the key %s is gone", ErrLost, w.lease.place.Key))
		return nil, 0, 0, errNoPlace
	}
	w.goesOn()
	return places, at, index, nil
}

// waitBehind returns when nobody is ahead of the contender. It fails as soon as
// the place is lost.
func (w *contender) waitBehind(ctx context.Context) error {
	for {
		places, at, index, err := w.look(ctx)
		if err != nil || at == 0 {
			return err
		}
		// What has happened to the one ahead says nothing: others may be ahead of
		// both. So look again, whatever it was.
		if err := w.await(ctx, places[at-1].Key, index+1); err != nil {
			return err
		}
		if w.lease.Err() != nil {
			return errNoPlace
		}
	}
}

// await watches a key until it changes, the lease ends, or it is time to look
// whether the watch still works.
func (w *contender) await(ctx context.Context, key string, index uint64) error {
	limited, cancel := context.WithTimeout(ctx, min(w.cfg.TTL, patienceMax))
	defer cancel()
	stop := context.AfterFunc(w.lease.ctx, cancel)
	defer stop()
	err := w.line.await(limited, key, index)
	if limited.Err() != nil && ctx.Err() == nil {
		return nil
	}
	return err
}

// leave gives up the place, and looks for one that it does not know of.
func (w *contender) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveMax)
	defer cancel()
	if w.lease != nil {
		if err := w.lease.Release(ctx); err != nil && !errors.Is(err, ErrLost) {
			w.cfg.Log.Warn("place in the queue stays until its TTL is over", "key", w.lease.place.Key, "error", err)
		}
	}
	for range leaveLooks {
		if !w.doubt {
			return
		}
		places, _, err := w.line.places(ctx, w.cfg.Dir)
		if err == nil {
			for _, p := range places {
				if p.Value == w.value {
					w.doubt = w.line.remove(ctx, p) != nil
				}
			}
		}
		if w.doubt && retry.Sleep(ctx, leavePause) != nil {
			return
		}
	}
}

// isGone reports whether an answer says that a place does not exist.
func isGone(err error) bool {
	for _, gone := range []error{deimos.ErrKeyNotFound, deimos.ErrCompareFailed, deimos.ErrNotFile, deimos.ErrNotDir} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return false
}

// isTemporary reports whether it makes sense to try again after the error.
func isTemporary(err error) bool {
	var status *client.StatusError
	switch {
	case errors.Is(err, client.ErrClosed), errors.Is(err, client.ErrInvalidArgument):
		return false
	case errors.As(err, &status):
		return status.Status >= 500
	}
	for _, passing := range []error{client.ErrUnknownOutcome, client.ErrNoEndpoint, context.DeadlineExceeded,
		deimos.ErrRaftInternal, deimos.ErrLeaderElection} {
		if errors.Is(err, passing) {
			return true
		}
	}
	return false
}

// Place is one contender in the line.
type Place struct {
	Key   string
	Value string
	// Token is the CreatedIndex of the key. Later places have greater ones.
	Token uint64
}

// Owner is what the contender tells of itself: the value without what makes it
// different from all others.
func (p Place) Owner() string {
	if i := strings.LastIndexByte(p.Value, ' '); i >= 0 {
		return p.Value[:i]
	}
	return p.Value
}
