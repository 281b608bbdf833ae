package registry

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/retry"
)

const (
	// The pauses after a refresh that failed, and the time that one may take. For
	// short lives the upper limit is a sixth of the TTL, but not less than limitMin:
	// from a refresh that takes 200 ms the client learns that its member hangs, and
	// the next one goes elsewhere while the shortest TTL is not over.
	pauseMin = 100 * time.Millisecond
	pauseMax = 5 * time.Second
	limitMin = 250 * time.Millisecond
	// strayMin is how long at least a write whose answer was lost is reckoned with.
	strayMin = 30 * time.Second
	// removals is how often Close tries to remove the entry.
	removals = 3
)

// ErrReplaced is wrapped by the error of a registration whose entry was written
// by somebody else, who owns it now.
var ErrReplaced = errors.New("the entry was written by somebody else")

// State is how a registration stands.
type State int

// The states of a registration.
const (
	// Registered: the entry was there a moment ago.
	Registered State = iota + 1
	// Failing: refreshes fail, and the entry is still there.
	Failing
	// Lost: the entry was gone, or may be by now. It is written again as soon as
	// that is possible.
	Lost
	// Replaced: somebody else has written the entry. This is final.
	Replaced
	// Closed: the registration was closed. This is final.
	Closed
)

// String returns the state in lower case.
func (s State) String() string {
	switch s {
	case Registered:
		return "registered"
	case Failing:
		return "failing"
	case Lost:
		return "lost"
	case Replaced:
		return "replaced"
	case Closed:
		return "closed"
	default:
		return fmt.Sprintf("State(%d)", int(s))
	}
}

// Event is a new state of a registration.
type Event struct {
	State State
	// Err tells why, in the states Failing, Lost and Replaced.
	Err error
}

// Registration keeps an instance registered. Make it with [Register]. Its
// methods may be called from any goroutine.
type Registration struct {
	keys     keys
	instance Instance
	key      string
	log      *slog.Logger
	notify   func(Event)

	stop context.CancelFunc
	done chan struct{} // closed when nothing is refreshed any more

	closing  sync.Once
	closeErr error

	mu    sync.Mutex
	state State
	err   error

	// What follows belongs to the goroutine of keep, and after it to Close.

	entry entry
	// until is up to when the entry is there for certain.
	until time.Time
	// strayUntil is up to when a write of ours whose answer was lost may still
	// happen.
	strayUntil time.Time
}

// Register writes the entry of an instance, over whatever is there, and keeps
// it alive until Close. It tries until ctx ends, which has no meaning for the
// registration later on, or until an error says that it will never work, as
// [client.ErrInvalidArgument] for an instance that makes no sense. After an error
// the entry may be there all the same, for its TTL.
//
// An entry that has gone, because it expired during a long pause or somebody
// removed it, is written again.
func Register(ctx context.Context, c *client.Client, in Instance, opts ...Option) (*Registration, error) {
	return register(ctx, clientKeys{c}, in, opts...)
}

func register(ctx context.Context, k keys, in Instance, opts ...Option) (*Registration, error) {
	o, err := newOptions(opts)
	if err != nil {
		return nil, err
	}
	if in, err = in.check(); err != nil {
		return nil, err
	}
	life, stop := context.WithCancel(context.WithoutCancel(ctx))
	r := &Registration{
		keys: k, instance: in, key: o.prefix + "/" + in.Service + "/" + in.String(),
		log: o.log, notify: o.notify, stop: stop, done: make(chan struct{}),
	}
	if err := r.begin(ctx); err != nil {
		stop()
		return nil, fmt.Errorf("registry: register %s: %w", r.key, err)
	}
	r.state = Registered
	go r.keep(life)
	return r, nil
}

// begin writes the entry for the first time.
func (r *Registration) begin(ctx context.Context) error {
	for failures := 0; ; failures++ {
		err := r.put(ctx)
		switch {
		case err == nil, !retry.Helps(err):
			return err
		case ctx.Err() == nil && retry.Sleep(ctx, retry.Pause(failures, pauseMin, pauseMax)) == nil:
		case errors.Is(err, context.Cause(ctx)):
			return err
		default:
			return fmt.Errorf("%w; the last failure was: %w", context.Cause(ctx), err)
		}
	}
}

// Instance returns what is registered, with its defaults filled in.
func (r *Registration) Instance() Instance { return r.instance }

// State returns how the registration stands.
func (r *Registration) State() State {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state
}

// Err returns why the registration is not in the state Registered, and nil if
// it is or was closed.
func (r *Registration) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// Done is closed when the registration has ended: it was closed or replaced.
func (r *Registration) Done() <-chan struct{} { return r.done }

// Close ends the registration and removes the entry, unless somebody else has
// written it since. With an error, which is that of ctx or of the client, the
// entry may stay until its TTL is over. Later calls return what the first one
// did.
func (r *Registration) Close(ctx context.Context) error {
	r.closing.Do(func() {
		r.stop()
		<-r.done
		if r.State() == Replaced {
			return
		}
		r.become(Closed, nil)
		if err := r.remove(ctx); err != nil {
			r.closeErr = fmt.Errorf("registry: remove %s: %w", r.key, err)
		}
	})
	return r.closeErr
}

// remove removes the entry if it is ours. That it is gone, or not ours, is as
// good.
func (r *Registration) remove(ctx context.Context) error {
	var err error
	for range removals {
		err = r.keys.remove(ctx, r.key, r.entry.modified)
		if errors.Is(err, deimos.ErrCompareFailed) {
			// A refresh whose answer was lost may have moved the index.
			if err = r.find(ctx); err == nil {
				err = r.keys.remove(ctx, r.key, r.entry.modified)
			}
		}
		if isGone(err) || errors.Is(err, ErrReplaced) {
			return nil
		}
		if err == nil || !retry.Helps(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// keep refreshes the entry until ctx ends or the entry is somebody else's.
func (r *Registration) keep(ctx context.Context) {
	defer close(r.done)
	failures := 0
	for retry.Sleep(ctx, r.pause(failures)) == nil {
		err := r.beat(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			failures = 0
			r.become(Registered, nil)
		case errors.Is(err, ErrReplaced):
			r.become(Replaced, err)
			return
		case time.Now().Before(r.until):
			failures++
			r.become(Failing, err)
		default:
			failures++
			r.become(Lost, err)
		}
	}
}

// pause returns how long to wait before the next refresh: a third of the TTL,
// a little less so that registrations of one moment spread.
func (r *Registration) pause(failures int) time.Duration {
	if failures > 0 {
		return retry.Pause(failures-1, pauseMin, r.limit())
	}
	third := r.instance.TTL / 3
	return third - rand.N(third/10)
}

// limit bounds a try and the pause after it, so that there are several of them
// before the entry is gone.
func (r *Registration) limit() time.Duration {
	return min(max(r.instance.TTL/6, limitMin), pauseMax)
}

// beat refreshes the entry, or writes it again when it is gone.
func (r *Registration) beat(ctx context.Context) error {
	err := r.refresh(ctx)
	if errors.Is(err, deimos.ErrCompareFailed) {
		// Ours if only the index has moved, which is what a lost answer leaves behind.
		if err = r.find(ctx); err == nil {
			err = r.refresh(ctx)
		}
	}
	if !isGone(err) {
		return err
	}
	r.until = time.Time{}
	r.become(Lost, err)
	return r.put(ctx)
}

// isGone reports whether an error says that there is no entry.
func isGone(err error) bool { return errors.Is(err, deimos.ErrKeyNotFound) }

// refresh gives the entry a new life.
func (r *Registration) refresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.limit())
	defer cancel()
	begun := time.Now()
	e, err := r.keys.refresh(ctx, r.key, r.instance.TTL, r.entry.modified)
	if err != nil {
		return err
	}
	r.entry, r.until = e, begun.Add(r.instance.TTL)
	return nil
}

// put writes the entry, whatever is there.
func (r *Registration) put(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(r.limit(), time.Second))
	defer cancel()
	begun := time.Now()
	e, err := r.keys.put(ctx, r.key, r.instance.Metadata, r.instance.TTL)
	if errors.Is(err, client.ErrUnknownOutcome) {
		r.strayUntil = time.Now().Add(max(r.instance.TTL, strayMin))
	}
	if err != nil {
		return err
	}
	r.entry, r.until = e, begun.Add(r.instance.TTL)
	return nil
}

// find looks whether the entry is still ours after its index has moved, and
// takes the index over. Refreshes and updates keep the index at which an entry
// was created; whoever writes it anew changes that.
func (r *Registration) find(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, max(r.limit(), time.Second))
	defer cancel()
	e, err := r.keys.get(ctx, r.key)
	if err != nil {
		return err
	}
	stray := e.value == r.instance.Metadata && time.Now().Before(r.strayUntil)
	if e.created != r.entry.created && !stray {
		return fmt.Errorf("%w: it was created at index %d, and ours at %d", ErrReplaced, e.created, r.entry.created)
	}
	r.entry = e
	return nil
}

// become notes a new state and tells of it.
func (r *Registration) become(s State, err error) {
	r.mu.Lock()
	before := r.state
	r.state, r.err = s, err
	r.mu.Unlock()
	if s == before {
		return
	}
	if err != nil {
		r.log.Warn("registration is in danger", "key", r.key, "state", s, "error", err)
	} else {
		r.log.Info("registration has changed", "key", r.key, "state", s)
	}
	r.notify(Event{State: s, Err: err})
}
