package discovery

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"github.com/marsevilspirit/deimos"
)

// The errors of discovery that a caller may want to tell apart. Those that
// [Join], [Observe] and [SRV] return wrap them and say which key is meant.
var (
	// ErrSizeNotFound tells that nobody has prepared the directory.
	ErrSizeNotFound = errors.New("discovery: size key not found")
	// ErrSizeBad tells that the size is not a decimal integer above 0.
	ErrSizeBad = errors.New("discovery: size key is bad")
	// ErrDuplicateID tells that another process holds the member's id.
	ErrDuplicateID = errors.New("discovery: found duplicate id")
	// ErrFull is for callers that do not want what [Result.Full] offers, to become
	// a proxy; no function of this package returns it.
	ErrFull = errors.New("discovery: cluster is full")
	// ErrBadRegistration tells that the directory has an entry no cluster can be
	// made with. It stays until an operator removes it.
	ErrBadRegistration = errors.New("discovery: bad registration")
	// ErrNotRegistered tells that the registration of this member is gone from a
	// directory that still waits for members.
	ErrNotRegistered = errors.New("discovery: the registration of this member has disappeared")
)

// Config says where the directory is and who asks.
type Config struct {
	// URL names the directory, see [ParseURL]. Required.
	URL string
	// Self is the registration of this process. Its id is not 0; its name and
	// URLs follow the rules of [Registration]. [Observe] does not look at it.
	Self Registration
	// MemberID computes the id of a member as the new cluster will do it. A
	// registration with another id was made under other settings (a different
	// cluster token, for one), with which no common cluster can come about, and
	// is refused. It is called on the goroutine of the caller. Nil: not checked.
	MemberID func(name string, peerURLs []string) uint64
	// HTTP sends the requests; its Timeout and CheckRedirect are not used. Nil: a
	// client of the call's own, which verifies certificates by the system's roots
	// and takes no proxy from the environment.
	HTTP *http.Client
	// Log gets a line for every failed attempt and every member that comes. Nil:
	// discarded.
	Log *slog.Logger
}

// Registration is one first member, as it has registered itself.
type Registration struct {
	// ID is the id that the member computed for itself; 0 from [SRV].
	ID uint64
	// Name is valid UTF-8 without '=', ',', '&', space or control characters.
	Name string
	// PeerURLs, at least one, are http://host:port or https://host:port without
	// path, query or user, in the order in which the member wrote them.
	PeerURLs []string
}

// Result is the complete list of the first members of a cluster.
type Result struct {
	// Members are as many as the cluster wants; ids, names and peer URLs are
	// unique. From [Join] and [Observe] they are in the order of registration,
	// from [SRV] in the order of host and port.
	Members []Registration
	// Self is the one of Members that stands for this process; the zero value if
	// Full.
	Self Registration
	// Full tells that this process is not one of Members.
	Full bool
}

// Join registers cfg.Self in the directory, waits until as many members are
// registered as the directory wants, and returns them. A process that has
// registered before finds its registration again. When the places are taken,
// before or just after it has registered, the result is Full.
//
// Failures of the network and answers with status 5xx are tried again, after
// 1, 2, 4 and at most 30 seconds, until ctx ends. Everything else is an error
// at once: a directory without a good size, any other refusal, and any
// registration among those that count with which no cluster can be formed.
func Join(ctx context.Context, cfg Config) (Result, error) {
	if err := cfg.Self.check(); err != nil {
		return Result{}, fmt.Errorf("discovery: registering member %q: %w", cfg.Self.Name, err)
	}
	if cfg.MemberID != nil && cfg.MemberID(cfg.Self.Name, cfg.Self.PeerURLs) != cfg.Self.ID {
		return Result{}, fmt.Errorf("discovery: registering member %q: its id is not %s",
			cfg.Self.Name, deimos.FormatID(cfg.Self.ID))
	}
	s, err := newSearch(cfg)
	if err != nil {
		return Result{}, err
	}
	defer s.dir.close()
	s.self = &cfg.Self
	if err := s.readSize(ctx); err != nil {
		return Result{}, err
	}
	if full, err := s.register(ctx); err != nil || full != nil {
		return Result{Members: full, Full: err == nil}, err
	}
	return s.collect(ctx)
}

// Observe waits for the members of the directory without registering, for a
// process that wants to be a proxy to them. The result is always Full; the
// errors are those of [Join].
func Observe(ctx context.Context, cfg Config) (Result, error) {
	s, err := newSearch(cfg)
	if err != nil {
		return Result{}, err
	}
	defer s.dir.close()
	if err := s.readSize(ctx); err != nil {
		return Result{}, err
	}
	return s.collect(ctx)
}

// search is one call of Join or Observe. It belongs to one goroutine.
type search struct {
	dir      *directory
	self     *Registration // nil: observes
	size     int
	memberID func(name string, peerURLs []string) uint64
	log      *slog.Logger
}

func newSearch(cfg Config) (*search, error) {
	if err := ParseURL(cfg.URL); err != nil {
		return nil, fmt.Errorf("discovery: URL %q: %w", cfg.URL, err)
	}
	log := cfg.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &search{dir: newDirectory(cfg.URL, cfg.HTTP, log), memberID: cfg.MemberID, log: log}, nil
}

func (s *search) readSize(ctx context.Context) error {
	size, err := s.dir.size(ctx)
	s.size = size
	return err
}

// register makes sure that the directory holds the registration of this
// member, or returns the members of a directory that is full without it.
//
// A write that failed on the way may still take effect, even after a later
// read has not shown it. So every attempt begins with a look for the own
// registration, and once an attempt has failed that way, a refusal because the
// key exists is one more reason to look.
func (s *search) register(ctx context.Context) (full []Registration, err error) {
	retry := backoff{log: s.log}
	for uncertain := false; ; {
		list, err := s.dir.list(ctx)
		if err != nil {
			return nil, err
		}
		members, err := s.members(list)
		switch {
		case err != nil:
			return nil, err
		case list.has(s.self.ID):
			s.log.Info("found the registration of this member", "directory", s.dir.url,
				"member", deimos.FormatID(s.self.ID))
			return nil, nil
		case len(members) == s.size:
			return members, nil
		}
		if err := s.checkTogether(append(members, *s.self)); err != nil {
			return nil, err
		}

		err = s.dir.create(ctx, deimos.FormatID(s.self.ID), s.self.value())
		switch {
		case err == nil:
			s.log.Info("registered this member", "directory", s.dir.url, "member", deimos.FormatID(s.self.ID))
			return nil, nil
		case isTemporary(err):
			uncertain = true
		case refusal(err).status != http.StatusPreconditionFailed:
			return nil, err
		case !uncertain:
			return nil, fmt.Errorf("%w: %s", ErrDuplicateID, s.dir.keyURL(deimos.FormatID(s.self.ID)))
		}
		if err := retry.pause(ctx, err); err != nil {
			return nil, err
		}
	}
}

// collect waits until the directory holds all members.
func (s *search) collect(ctx context.Context) (Result, error) {
	retry := backoff{log: s.log}
	for have := -1; ; {
		list, err := s.dir.list(ctx)
		if err != nil {
			return Result{}, err
		}
		members, err := s.members(list)
		if err != nil {
			return Result{}, err
		}
		own := -1
		if s.self != nil {
			own = slices.IndexFunc(members, func(m Registration) bool { return m.ID == s.self.ID })
		}
		switch {
		case len(members) == s.size && own >= 0:
			return Result{Members: members, Self: members[own]}, nil
		case len(members) == s.size:
			return Result{Members: members, Full: true}, nil
		case own < 0 && s.self != nil:
			return Result{}, fmt.Errorf("%w: %s", ErrNotRegistered, s.dir.keyURL(deimos.FormatID(s.self.ID)))
		case len(members) != have:
			have = len(members)
			s.log.Info("waiting for more members", "directory", s.dir.url, "registered", have, "wanted", s.size)
		}

		err = s.dir.waitForChange(ctx, list.index+1)
		switch {
		case err == nil:
			retry.reset()
		case !isTemporary(err):
			return Result{}, err
		default:
			if err := retry.pause(ctx, err); err != nil {
				return Result{}, err
			}
		}
	}
}

// members returns the registrations that count: the first ones, as many as the
// directory wants. It fails if they could not form a cluster.
func (s *search) members(list listing) ([]Registration, error) {
	first := list.entries[:min(len(list.entries), s.size)]
	members := make([]Registration, 0, len(first)+1)
	for _, e := range first {
		m, err := e.registration()
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrBadRegistration, s.dir.keyURL(e.name), err)
		}
		if s.self != nil && m.ID == s.self.ID && !m.equal(*s.self) {
			return nil, fmt.Errorf("%w: %s is %q, this member is %q",
				ErrDuplicateID, s.dir.keyURL(e.name), e.value, s.self.value())
		}
		members = append(members, m)
	}
	return members, s.checkTogether(members)
}

// checkTogether reports why the members cannot be in one cluster.
func (s *search) checkTogether(members []Registration) error {
	owners := make(map[string]string) // a name or URL, by the key that has it
	for _, m := range members {
		key := deimos.FormatID(m.ID)
		if s.memberID != nil && s.memberID(m.Name, m.PeerURLs) != m.ID {
			return fmt.Errorf("%w: %s: member %q has its id from other settings, such as another initial-cluster-token",
				ErrBadRegistration, s.dir.keyURL(key), m.Name)
		}
		if other, taken := owners[m.Name]; taken {
			return fmt.Errorf("%w: %s and %s in %s both have the name %q", ErrBadRegistration, other, key, s.dir.url, m.Name)
		}
		owners[m.Name] = key
		for _, u := range m.PeerURLs {
			// The blank keeps URLs apart from names, which have none.
			if other, taken := owners[" "+u]; taken {
				return fmt.Errorf("%w: %s and %s in %s both have the peer URL %s", ErrBadRegistration, other, key, s.dir.url, u)
			}
			owners[" "+u] = key
		}
	}
	return nil
}

// The pauses between attempts.
const (
	pauseMin = time.Second
	pauseMax = 30 * time.Second
)

// backoff lengthens the pauses between attempts that fail one after the other.
type backoff struct {
	log  *slog.Logger
	next time.Duration // 0: pauseMin
}

func (b *backoff) reset() { b.next = 0 }

// pause logs the failure and waits. When ctx ends, the error has both.
func (b *backoff) pause(ctx context.Context, failure error) error {
	d := max(b.next, pauseMin)
	b.next = min(2*d, pauseMax)
	err := ctx.Err()
	if err == nil {
		b.log.Warn("discovery failed, trying again", "error", failure, "pause", d)
		err = sleep(ctx, d)
	}
	if err != nil {
		return fmt.Errorf("%w (%w)", failure, err)
	}
	return nil
}

// retry calls f until it succeeds or fails for good.
func retry[T any](ctx context.Context, log *slog.Logger, f func(context.Context) (T, error)) (T, error) {
	b := backoff{log: log}
	for {
		v, err := f(ctx)
		if err == nil || !isTemporary(err) {
			return v, err
		}
		if err := b.pause(ctx, err); err != nil {
			return v, err
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// temporaryError marks a failure that may be gone at the next attempt.
type temporaryError struct{ err error }

func (e *temporaryError) Error() string { return e.err.Error() }
func (e *temporaryError) Unwrap() error { return e.err }

func isTemporary(err error) bool {
	var t *temporaryError
	return errors.As(err, &t)
}
