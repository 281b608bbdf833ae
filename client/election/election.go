// Package election elects leaders in a cluster: of all that campaign, one leads.
//
//	e, err := election.New(c, "mail", election.Options{})
//	if err != nil { … }
//	term, err := e.Campaign(ctx, "http://10.0.0.9:8080")
//	if err != nil { … }
//	defer term.Resign(context.Background())
//	err = lead(term.Context(), term.Token())
//
// It is the queue of package lock, and what that promises of a lock and of its
// end holds for a [Term] too: candidates lead in the order in which they came, a
// leader that cannot renew its lease is told before anybody else can lead, and
// the token of a term is greater than those of all terms before. In addition, a
// candidate has a value that everybody can read, which usually says where it is.
//
// Who leads is always told about the past: a leader may have lost its term while
// the answer was under way. Whoever acts for a leader should pass its token on to
// what it changes, or ask the leader, which knows by [Term.Err].
//
// The election NAME is the directory /elections/_queue/NAME of in-order keys,
// laid out as docs/coordination.md says of queues. It stays, empty, when nobody
// campaigns any more.
//
// A Term owns one goroutine, which renews it. It ends with the term;
// [Term.Resign] waits for it. Nothing else here has one.
package election

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/queue"
)

const (
	// DefaultTTL stands for an [Options.TTL] of 0.
	DefaultTTL = queue.DefaultTTL
	// TTLMin is the shortest TTL. Terms with less than 10 seconds often end when
	// the cluster elects a leader of its own.
	TTLMin = queue.TTLMin
	// NameMaxBytes is how long the name of an election may be.
	NameMaxBytes = queue.NameMaxBytes
	// ValueMaxBytes is how long the value of a candidate may be.
	ValueMaxBytes = queue.OwnerMaxBytes
)

// Errors for errors.Is.
var (
	// ErrNoLeader is what [Election.Leader] returns when nobody leads.
	ErrNoLeader = errors.New("nobody leads")
	// ErrLost says that the term was over, or the key gone, without a resignation.
	ErrLost = queue.ErrLost
	// ErrResigned is what [Term.Err] returns after [Term.Resign].
	ErrResigned = queue.ErrReleased
)

// Options say how candidates stand. The zero value of each field has the meaning
// written beside it.
type Options struct {
	// TTL is how long a term outlives a leader that has died, in whole seconds,
	// rounded up. 0: DefaultTTL.
	TTL time.Duration
	// Logger is told when renewals, or the tries of a candidate that waits, begin
	// to fail and when they work again, and of a candidate that has lost its place
	// in the queue and has to line up again. Nil: discarded.
	Logger *slog.Logger
}

// Election is one office, for candidates and for observers. Its methods may be
// called from any goroutine.
type Election struct {
	c    *client.Client
	name string
	cfg  queue.Config
}

// New returns the election of that name. It asks nobody. A name or an option that
// is not possible is [client.ErrInvalidArgument].
func New(c *client.Client, name string, o Options) (*Election, error) {
	dir, err := queue.Dir("/elections", name)
	if err != nil {
		return nil, fmt.Errorf("election: %w", err)
	}
	cfg, err := queue.Config{Dir: dir, TTL: o.TTL, Log: o.Logger}.Check()
	if err != nil {
		return nil, fmt.Errorf("election: %w", err)
	}
	return &Election{c: c, name: name, cfg: cfg}, nil
}

// wrap names the election in an error.
func (e *Election) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("election: %s: %w", e.name, err)
}

// Campaign waits until the candidate leads, or until ctx ends. Everything is as
// with Acquire of package lock: the order, what is survived, and the errors.
// value is what others are told of the leader; it need not be unique.
func (e *Election) Campaign(ctx context.Context, value string) (*Term, error) {
	cfg := e.cfg
	cfg.Owner = value
	cfg, err := cfg.Check()
	if err != nil {
		return nil, e.wrap(err)
	}
	lease, err := queue.Wait(ctx, e.c, cfg)
	if err != nil {
		return nil, e.wrap(err)
	}
	return &Term{e: e, lease: lease}, nil
}

// Leader is who leads. The zero Leader is nobody.
type Leader struct {
	// Value is what the leader has campaigned with.
	Value string
	// Token is the fencing token of the term, 0 for nobody. Later terms have
	// greater ones.
	Token uint64
}

// Leader returns who leads, or [ErrNoLeader]. The read is linearizable.
func (e *Election) Leader(ctx context.Context) (Leader, error) {
	p, ok, err := queue.First(ctx, e.c, e.cfg.Dir)
	if err == nil && !ok {
		err = ErrNoLeader
	}
	if err != nil {
		return Leader{}, e.wrap(err)
	}
	return Leader{Value: p.Owner(), Token: p.Token}, nil
}

// Observe returns who leads now, the zero Leader for nobody, and then every
// change, each once and in order. If changes may have been missed because the
// history of the cluster is too short, the current leader is returned, also if
// it is the same as before. The sequence goes on, and ends with an error as its
// last item, as that of [client.Client.Watch] does: it leaves a member that is cut
// off from its cluster some 30 seconds later, if there is another endpoint, and
// tells the old leader until then. Everything runs in the loop.
func (e *Election) Observe(ctx context.Context) iter.Seq2[Leader, error] {
	return func(yield func(Leader, error) bool) {
		for p, err := range queue.Follow(ctx, e.c, e.cfg.Dir) {
			if !yield(Leader{Value: p.Owner(), Token: p.Token}, e.wrap(err)) {
				return
			}
		}
	}
}

// Term is the time in which a candidate leads. Its methods may be called from any
// goroutine.
type Term struct {
	e     *Election
	lease *queue.Lease
}

// Done returns a channel that is closed when the term is lost or was resigned.
func (t *Term) Done() <-chan struct{} { return t.lease.Context().Done() }

// Context returns a context for what only the leader may do: it ends with the
// term, and [context.Cause] tells why. It has the values of the context that was
// given to [Election.Campaign].
func (t *Term) Context() context.Context { return t.lease.Context() }

// Err looks at the clock and returns nil as long as the candidate leads, then an
// error that is [ErrLost] or [ErrResigned]. Ask it before each step that must not
// be done by two.
func (t *Term) Err() error { return t.e.wrap(t.lease.Err()) }

// Token returns the fencing token of the term. It is greater than those of all
// terms before.
func (t *Term) Token() uint64 { return t.lease.Token() }

// Key returns the key of the leader in the queue.
func (t *Term) Key() string { return t.lease.Key() }

// Resign ends the term. Stop first what only the leader may do. nil means that
// the candidate led until then, [ErrLost] that it had lost the term, and any
// other error that the key could not be removed, until ctx ended or for as long
// as the TTL, which removes it then. It may be called more than once.
func (t *Term) Resign(ctx context.Context) error { return t.e.wrap(t.lease.Release(ctx)) }
