package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/store"
	"go.etcd.io/raft/v3/raftpb"
)

// Proposer is the part of a raftnode.Node that a Server uses.
type Proposer interface {
	// BeginPropose appends data to the log; see raftnode.Node.
	BeginPropose(deadline time.Time, data []byte, done raftnode.Done)
	// Propose does so and waits.
	Propose(ctx context.Context, data []byte) (any, error)
	// ProposeConfChange appends a configuration change, on the leader.
	ProposeConfChange(ctx context.Context, cc raftpb.ConfChange) (any, error)
	// BeginRead tells when the published state is linearizable.
	BeginRead(deadline time.Time, done raftnode.Done)
	// Read waits for that.
	Read(ctx context.Context) error
	// Current reports whether it is so now, without asking anybody.
	Current() bool
	// Status is what the node knows.
	Status() raftnode.Status
	// ClusterTimeMS estimates the cluster time.
	ClusterTimeMS() int64
	// Progress is what a leader knows of the members.
	Progress(ctx context.Context) ([]raftnode.Progress, error)
	// TransferLeadership hands leadership to the voter to, or to any if to is 0.
	TransferLeadership(ctx context.Context, to uint64) error
	// WritesRefused reports whether too few voters have disk space for writes.
	WritesRefused() bool
}

// Config says what a server needs to know. Log may be nil: discarded.
type Config struct {
	// Self is this member as it is to appear in the member list; only its ID,
	// Name and ClientURLs count.
	Self deimos.Member
	// Incarnation is that of this member's data directory.
	Incarnation deimos.Incarnation
	Machine     *Machine
	Node        Proposer
	// Call asks another member, whose [Server.Answer] answers. Its error is of the
	// kind [ErrNotAsked] if the member has certainly not seen the request.
	Call func(ctx context.Context, to uint64, request []byte) ([]byte, error)
	// ExpiryInterval is the time between looks for what is due. 0: 100 ms.
	ExpiryInterval time.Duration
	// Recovered is the raft index up to which this member will apply its own log
	// after a start, 0 if it has none to apply. Until then local reads and
	// watches wait, and, so that they do not fall behind what was shown before
	// the restart, for up to RecoverTimeout until a linearizable read succeeds.
	Recovered      uint64
	RecoverTimeout time.Duration
	// DiskLow reports whether this member's disk is too full for writes. It is
	// asked for each of them and must not wait. Nil: it never is.
	DiskLow func() bool
	Log     *slog.Logger
}

// Server answers requests. Its methods may be called from any goroutine.
type Server struct {
	cfg    Config
	store  *store.Store
	cancel context.CancelFunc
	wg     sync.WaitGroup
	ended  <-chan struct{} // closed when Close begins
	// recovered is closed when the state is as new as before the restart.
	recovered chan struct{}
	// changing holds a token while the member list is being changed here.
	changing chan struct{}
}

// New returns a server and starts its goroutines; Close ends them.
func New(cfg Config) *Server {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ExpiryInterval == 0 {
		cfg.ExpiryInterval = 100 * time.Millisecond
	}
	if cfg.DiskLow == nil {
		cfg.DiskLow = func() bool { return false }
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{cfg: cfg, store: cfg.Machine.Store(), cancel: cancel, ended: ctx.Done(), recovered: make(chan struct{}), changing: make(chan struct{}, 1)}
	if cfg.Recovered == 0 {
		close(s.recovered)
	} else {
		s.wg.Go(func() { s.recoverLoop(ctx) })
	}
	s.wg.Go(func() { s.expireLoop(ctx) })
	s.wg.Go(func() { s.publishLoop(ctx) })
	s.wg.Go(func() { s.promoteLoop(ctx) })
	return s
}

// Close ends the server's goroutines. Requests go on until the node is stopped.
func (s *Server) Close() {
	s.cancel()
	s.wg.Wait()
}

// EndWatches ends all watches of this member, and refuses new ones, because it
// is about to stop.
func (s *Server) EndWatches() { s.store.CloseWatches() }

// Write proposes r. done is told its event once it is durable on a quorum,
// applied and published here, or an error, by the deadline at the latest unless
// that is zero; it must not block or call the server. Errors are [*deimos.Error]: those of the
// operation itself, 301 and 300 with [deimos.CauseOverloaded] or
// [deimos.CauseDiskReserve] with nothing proposed, any other 300 with the outcome
// unknown.
func (s *Server) Write(deadline time.Time, r *deimos.Request, done func(*store.Event, error)) {
	// Here and not in the node: below the reserve expiry and the members' own
	// proposals go on.
	if s.cfg.DiskLow() || s.cfg.Node.WritesRefused() {
		done(nil, &deimos.Error{Code: deimos.CodeRaftInternal, Cause: deimos.CauseDiskReserve})
		return
	}
	command := writeCommand(r)
	data, err := encode(&command)
	if err != nil {
		done(nil, &deimos.Error{Code: deimos.CodeRaftInternal, Cause: err.Error()})
		return
	}
	s.cfg.Node.BeginPropose(deadline, data, askFor(s, done, nil).told)
}

// Read tells done a published state that reflects every write that was
// acknowledged anywhere before Read was called, or an error, by the deadline at
// the latest unless that is zero; done must not block or call the server. Errors
// are [*deimos.Error] of code 300 or 301.
func (s *Server) Read(deadline time.Time, done func(store.View, error)) {
	s.cfg.Node.BeginRead(deadline, askFor(s, nil, done).told)
}

// CurrentView returns a published state of which [Server.Read] would tell, if
// there is one to be had without asking anybody: on the only member of a
// cluster. It does not wait; ok is false where Read has to be called.
func (s *Server) CurrentView() (v store.View, ok bool) {
	if !s.cfg.Node.Current() { // first: the view has to be at least as new
		return store.View{}, false
	}
	return s.store.View(), true
}

// View returns what this member has applied. For a moment after a start it is
// not to be shown yet; ok is false then.
func (s *Server) View() (v store.View, ok bool) {
	select {
	case <-s.recovered:
		return s.store.View(), true
	default:
		return store.View{}, false
	}
}

// AwaitView is View for a caller that waits. Its errors are [*deimos.Error] of
// code 300.
func (s *Server) AwaitView(ctx context.Context) (store.View, error) {
	select {
	case <-s.recovered:
		return s.store.View(), nil
	case <-ctx.Done():
		return store.View{}, refusal(ctx.Err(), deimos.CauseReadTimeout)
	case <-s.ended:
		return store.View{}, refusal(raftnode.ErrStopped, deimos.CauseReadTimeout)
	}
}

// Watch begins a watch on this member's state; see [store.Store.Watch]. It waits
// until View has something to return: await that first where nobody may wait.
func (s *Server) Watch(key string, recursive bool, fromIndex uint64) (*store.Watcher, error) {
	select {
	case <-s.recovered:
	case <-s.ended:
		return nil, store.ErrStopped
	}
	return s.store.Watch(key, recursive, fromIndex)
}

// Members returns the member list, sorted by id.
func (s *Server) Members() []deimos.Member { return s.cfg.Machine.Members() }

// Status returns what the raft node knows.
func (s *Server) Status() raftnode.Status { return s.cfg.Node.Status() }

// ClusterTimeMS estimates the cluster time, in milliseconds.
func (s *Server) ClusterTimeMS() int64 { return s.cfg.Node.ClusterTimeMS() }

// refusal turns an error of the node into what a user is told.
func refusal(err error, timeoutCause string) *deimos.Error {
	if told, ok := errors.AsType[*deimos.Error](err); ok {
		return told
	}
	e := &deimos.Error{Code: deimos.CodeRaftInternal}
	switch {
	case errors.Is(err, raftnode.ErrNoLeader):
		e.Code, e.Cause = deimos.CodeLeaderElection, deimos.CauseNoLeader
	case errors.Is(err, raftnode.ErrOverloaded):
		e.Cause = deimos.CauseOverloaded
	case errors.Is(err, raftnode.ErrStopped):
		e.Cause = deimos.CauseStopping
	default:
		e.Cause = timeoutCause
	}
	return e
}
