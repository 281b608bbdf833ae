// Package lock holds locks in a cluster: of all that ask for a lock, one has it.
//
//	l, err := lock.Acquire(ctx, c, "report", lock.Options{})
//	if err != nil { … }
//	defer l.Release(context.Background())
//	err = work(l.Context(), l.Token())
//
// # What it promises
//
// Contenders are served in the order in which they came. A lock is a lease: its
// holder renews it every third of [Options.TTL], and if it dies, the next one has
// it when the TTL is over. A holder that cannot renew is told by [Lock.Done],
// [Lock.Context] and [Lock.Err] when a fifth of the TTL is left, that is before
// anybody else can have the lock, and has to stop what the lock guards.
//
// The lease counts from before the last successful renewal was sent, on the
// monotonic clock of the process. That goes on while the process is stopped, by
// SIGSTOP or because it has no processor: when it goes on, the lock is lost at
// once if the time is over. It does not go on, on Linux and most others, while
// the whole machine is suspended to RAM or to disk or a virtual machine is
// frozen; a holder may then believe in its lock for what was left of the lease.
//
// No lock can keep a process from being stopped between its last look at the
// clock and the write that follows. Where two at once would do damage, give
// [Lock.Token] to the resource along with the write: it has to refuse a token
// that is smaller than one it has seen.
//
// # What it refuses to do
//
// A lock is not reentrant, has no readers, and does not belong to a goroutine. A
// lost one is not taken again: whoever still wants it asks for a new one, with a
// new token.
//
// # Layout
//
// The lock NAME is the directory /locks/_queue/NAME of in-order keys, as in
// docs/coordination.md: shell scripts and Go programs can share one. It stays
// when nobody wants the lock any more, empty.
//
// # Goroutines
//
// A Lock owns one goroutine, which renews it. It ends when the lock is lost or
// released; [Lock.Release] waits for it.
package lock

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/internal/queue"
)

const (
	// DefaultTTL stands for an [Options.TTL] of 0.
	DefaultTTL = queue.DefaultTTL
	// TTLMin is the shortest TTL. Leases of less than 10 seconds are often lost
	// when the cluster elects another leader.
	TTLMin = queue.TTLMin
	// NameMaxBytes is how long the name of a lock may be.
	NameMaxBytes = queue.NameMaxBytes
	// OwnerMaxBytes is how long an [Options.Owner] may be.
	OwnerMaxBytes = queue.OwnerMaxBytes
)

// Errors for errors.Is.
var (
	// ErrHeld is what [TryAcquire] returns when somebody holds the lock or waits
	// for it. The message tells the owner.
	ErrHeld = queue.ErrTaken
	// ErrLost says that the lease was over, or the key gone, without a release.
	ErrLost = queue.ErrLost
	// ErrReleased is what [Lock.Err] returns after [Lock.Release].
	ErrReleased = queue.ErrReleased
)

// Options say how a lock is held. The zero value of each field has the meaning
// written beside it.
type Options struct {
	// TTL is how long the lock outlives a holder that has died, in whole seconds,
	// rounded up. 0: DefaultTTL.
	TTL time.Duration
	// Owner tells others who holds the lock or waits for it. It need not be
	// unique. Empty: host name and process id.
	Owner string
	// Logger is told when renewals, or the tries of a contender that waits, begin
	// to fail and when they work again, and of a contender that has lost its place
	// in the queue and has to line up again. Nil: discarded.
	Logger *slog.Logger
}

// config returns the place where contenders for a lock line up.
func (o Options) config(name string) (queue.Config, error) {
	dir, err := queue.Dir("/locks", name)
	if err != nil {
		return queue.Config{}, err
	}
	if o.Owner == "" {
		host, err := os.Hostname()
		if err != nil {
			return queue.Config{}, fmt.Errorf("asking for the host name, because there is no Owner: %w", err)
		}
		o.Owner = fmt.Sprintf("%s.%d", host, os.Getpid())
	}
	return queue.Config{Dir: dir, Owner: o.Owner, TTL: o.TTL, Log: o.Logger}.Check()
}

// Lock is a lock that was acquired. Its methods may be called from any
// goroutine.
type Lock struct {
	name  string
	lease *queue.Lease
}

// Acquire waits until it has the lock, or until ctx ends. ctx has no influence on
// the lock afterwards.
//
// Those who ask are served in order. While it waits, Acquire renews its place
// and survives failures of members and elections. A place that is lost all the
// same, because no member could be reached for as long as the TTL, is replaced
// by one at the end of the queue; the logger is told.
//
// When ctx ends, Acquire gives up its place, for which it takes two seconds at
// most, and returns the cause of ctx. If the cluster cannot be reached then, the
// TTL removes the place. Other errors come at once: [client.ErrInvalidArgument]
// for a name or option that is not possible, [client.ErrNoEndpoint] when nobody
// answers at the start, [client.ErrClosed], or an answer that will not change.
func Acquire(ctx context.Context, c *client.Client, name string, o Options) (*Lock, error) {
	return acquire(ctx, c, name, o, queue.Wait)
}

// TryAcquire takes the lock if nobody holds it or waits for it, and else returns
// [ErrHeld]. It does not wait for others, and unlike [Acquire] not for the
// cluster either: any failure is an error.
func TryAcquire(ctx context.Context, c *client.Client, name string, o Options) (*Lock, error) {
	return acquire(ctx, c, name, o, queue.Try)
}

func acquire(ctx context.Context, c *client.Client, name string, o Options,
	how func(context.Context, *client.Client, queue.Config) (*queue.Lease, error)) (*Lock, error) {
	cfg, err := o.config(name)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	lease, err := how(ctx, c, cfg)
	if err != nil {
		return nil, fmt.Errorf("lock: %s: %w", name, err)
	}
	return &Lock{name: name, lease: lease}, nil
}

// Done returns a channel that is closed when the lock is lost or released.
func (l *Lock) Done() <-chan struct{} { return l.lease.Context().Done() }

// Context returns a context for the work that the lock guards: it ends when the
// lock is lost or released, and [context.Cause] tells which. It has the values of
// the context that was given to [Acquire].
func (l *Lock) Context() context.Context { return l.lease.Context() }

// Err looks at the clock and returns nil as long as the lock is held, then an
// error that is [ErrLost] or [ErrReleased]. A process that was stopped may get
// from it what has not reached the goroutine behind Done yet: ask it before each
// step that must not be done by two.
func (l *Lock) Err() error {
	if err := l.lease.Err(); err != nil {
		return fmt.Errorf("lock: %s: %w", l.name, err)
	}
	return nil
}

// Token returns the fencing token, the CreatedIndex of the holder's key. It is
// greater than those of all holders before.
func (l *Lock) Token() uint64 { return l.lease.Token() }

// Key returns the key of the holder in the queue.
func (l *Lock) Key() string { return l.lease.Key() }

// Release gives the lock back. Stop first what it guards: the lock is released,
// for Done as well, when the call begins. nil means that it was held until then;
// [ErrLost] that it had been lost, of which nothing remains to be done. Any other
// error says that the key could not be removed, until ctx ended or for as long as
// the TTL, which removes it then. Release may be called more than once, and says
// the same again unless there is a key to be removed.
func (l *Lock) Release(ctx context.Context) error {
	if err := l.lease.Release(ctx); err != nil {
		return fmt.Errorf("lock: %s: %w", l.name, err)
	}
	return nil
}
