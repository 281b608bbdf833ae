package raftnode

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// ErrBehind says that a read was confirmed and that this member had not yet
// applied what it covers when the caller's time was up.
var ErrBehind = errors.New("raftnode: the member is behind")

// ErrLeaderChanged says that the leader to whom a proposal was given has been
// replaced, and that the proposal was not applied within an election timeout
// after that. It may have been lost with the old leader, or not.
var ErrLeaderChanged = errors.New("raftnode: the leader was replaced")

// ErrNotHandedOver says that the voter who was to lead did not take over
// within an election timeout. This member leads on.
var ErrNotHandedOver = errors.New("raftnode: the other voter did not take over")

// ErrStopped says that the node has stopped or is stopping. The outcome of
// what was waiting is unknown.
var ErrStopped = errors.New("raftnode: stopped")

// Recovered is the durable state that a node starts from.
type Recovered struct {
	// Snapshot is what the machine was restored to. A new cluster begins with a
	// snapshot that holds its first members. It is zero for a member that has
	// joined a cluster and received nothing yet: it has no configuration, so it
	// neither votes nor campaigns, until the leader sends it a snapshot.
	Snapshot raftpb.SnapshotMetadata
	// TimeMS is the cluster time of that snapshot.
	TimeMS    int64
	HardState raftpb.HardState
	// Entries follow the snapshot without a gap.
	Entries []raftpb.Entry
}

// Config says what a node needs to know.
type Config struct {
	// ID is the member's id.
	ID uint64
	// Run is a random number that no other process of the cluster has.
	Run uint64
	// HeartbeatInterval is the length of a tick; ElectionTimeout is at least 5
	// of them.
	HeartbeatInterval, ElectionTimeout time.Duration
	// SnapshotCount is the number of applied entries between snapshots. There are
	// more when the last snapshot took long: the next one waits three times as long.
	SnapshotCount uint64
	Recovered     Recovered
	Log           Log
	Snapshots     Snapshots
	Machine       Machine
	// DiskLow reports whether the disk is too full for writes. The loop asks it
	// once a tick: it must not wait for the disk. Nil: it never is.
	DiskLow func() bool
	// Logger is required; slog.DiscardHandler makes a silent one.
	Logger *slog.Logger
}

// Node runs a [Core]. All methods may be called from any goroutine, but Start,
// which comes first and once. Before it, the node takes things in and does
// nothing with them.
type Node struct {
	cfg     Config
	storage *raft.MemoryStorage
	core    *Core  // belongs to the loop once it runs
	sender  Sender // set by Start
	start   time.Time
	logger  *slog.Logger

	inbox   *inbox
	appends *mailbox[appendItem]
	applies *mailbox[applyItem]
	shots   chan capture
	waiters *waiters
	readers *readers

	status    atomic.Pointer[Status]
	committed atomic.Uint64
	applied   atomic.Uint64
	dead      atomic.Bool // nothing may be acknowledged or sent any more
	// alone is what [Core.AloneFrom] returned last. The loop writes it.
	alone atomic.Uint64
	// captureFrom is when the apply loop may capture a state again, as time since
	// start, whatever has been applied short of snapshotBytes.
	captureFrom atomic.Int64
	// appending is when the append loop began what it is doing, as time since
	// start; 0 while it waits.
	appending atomic.Int64
	// noHandOverBefore and tickedAt, see watchDisk, leaderless and refused, which were
	// logged, and doubts belong to the loop.
	noHandOverBefore time.Duration
	tickedAt         time.Duration
	leaderless       bool
	refused          bool
	doubts           []doubt

	// snapMu keeps the snapshotter and the installation of a peer's snapshot
	// apart. The snapshotter never holds it while it waits for the append loop,
	// which takes it.
	snapMu sync.Mutex

	stopOnce sync.Once
	stop     chan struct{} // a request
	wg       sync.WaitGroup
	failed   chan error
}

// New returns a node with its recovered state. It runs when Start is called.
func New(cfg Config) (*Node, error) {
	if cfg.DiskLow == nil {
		cfg.DiskLow = func() bool { return false }
	}
	storage := raft.NewMemoryStorage()
	core, err := recoverCore(cfg, storage)
	if err != nil {
		return nil, err
	}
	n := &Node{
		cfg:     cfg,
		storage: storage,
		core:    core,
		start:   time.Now(),
		logger:  cfg.Logger,
		inbox:   newInbox(),
		appends: newMailbox[appendItem](),
		applies: newMailbox[applyItem](),
		shots:   make(chan capture, 1),
		waiters: newWaiters(),
		readers: newReaders(cfg.Recovered.Snapshot.Index),
		stop:    make(chan struct{}),
		failed:  make(chan error, 1),
	}
	n.applied.Store(cfg.Recovered.Snapshot.Index)
	n.publish(core)
	return n, nil
}

// Start runs the node. sender carries its messages.
func (n *Node) Start(sender Sender) {
	n.sender = sender
	n.core.Hasten()
	n.wg.Go(n.loop)
	n.wg.Go(n.appendLoop)
	n.wg.Go(n.applyLoop)
	n.wg.Go(n.snapshotLoop)
}

func recoverCore(cfg Config, storage *raft.MemoryStorage) (*Core, error) {
	rec := cfg.Recovered
	if rec.Snapshot.Index > 0 {
		if err := storage.ApplySnapshot(raftpb.Snapshot{Metadata: rec.Snapshot}); err != nil {
			return nil, fmt.Errorf("raftnode: recover snapshot at raft index %d: %w", rec.Snapshot.Index, err)
		}
	}
	if err := storage.Append(rec.Entries); err != nil {
		return nil, fmt.Errorf("raftnode: recover %d entries: %w", len(rec.Entries), err)
	}
	// A snapshot holds nothing uncommitted, and the commit index alone is not
	// written each time it moves.
	hs := rec.HardState
	hs.Commit = max(hs.Commit, rec.Snapshot.Index)
	if last := rec.Snapshot.Index + uint64(len(rec.Entries)); hs.Commit > last {
		return nil, &LostLogError{LastIndex: last, CommitIndex: hs.Commit}
	}
	if err := storage.SetHardState(hs); err != nil {
		return nil, fmt.Errorf("raftnode: recover hard state: %w", err)
	}
	return NewCore(CoreConfig{
		ID:              cfg.ID,
		Run:             cfg.Run,
		ElectionTicks:   int(cfg.ElectionTimeout / cfg.HeartbeatInterval),
		ElectionTimeout: cfg.ElectionTimeout,
		Storage:         storage,
		Applied:         rec.Snapshot.Index,
		TimeMS:          rec.TimeMS,
		Logger:          raftLogger{cfg.Logger},
	})
}

// BeginPropose appends data to the log. done is told the machine's result once
// the entry is durable on a quorum and applied on this member. The first
// [PrefixBytes] bytes of data are reserved for the node, which owns data from
// now on. Errors: [ErrNoLeader] and [ErrOverloaded], with nothing proposed;
// [context.DeadlineExceeded] once the deadline has passed, unless that is zero,
// [ErrLeaderChanged] and [ErrStopped], with the outcome unknown.
func (n *Node) BeginPropose(deadline time.Time, data []byte, done Done) {
	seq := n.inbox.nextSeq()
	putOrigin(data, n.cfg.Run, seq)
	n.begin(Proposal{Seq: seq, Type: raftpb.EntryNormal, Data: data}, deadline, deadline, done)
}

// Propose is [Node.BeginPropose] for a caller that waits. The error is ctx.Err()
// once ctx has ended.
func (n *Node) Propose(ctx context.Context, data []byte) (any, error) {
	seq := n.inbox.nextSeq()
	putOrigin(data, n.cfg.Run, seq)
	return n.propose(ctx, Proposal{Seq: seq, Type: raftpb.EntryNormal, Data: data})
}

// ProposeConfChange appends a configuration change on the leader; otherwise as
// [Node.Propose]. Its ID is set by the node. The error is [ErrNotLeader] on
// another member and [ErrConfChangePending] while another change is under way,
// with nothing proposed. Changes do not travel as proposals, because only the
// leader knows whether one is safe.
func (n *Node) ProposeConfChange(ctx context.Context, cc raftpb.ConfChange) (any, error) {
	seq := n.inbox.nextSeq()
	cc.ID = n.cfg.Run + seq
	data, err := cc.Marshal()
	if err != nil {
		return nil, fmt.Errorf("raftnode: encode configuration change: %w", err)
	}
	return n.propose(ctx, Proposal{Seq: seq, Type: raftpb.EntryConfChange, Data: data})
}

// begin registers done, to be told by tellBy, and queues the proposal, which is
// not made after proposeBy. The zero time is no limit.
func (n *Node) begin(p Proposal, proposeBy, tellBy time.Time, done Done) {
	if err := n.waiters.add(p.Seq, tellBy, done); err != nil {
		done(nil, err)
		return
	}
	if !proposeBy.IsZero() {
		p.Deadline = max(1, proposeBy.Sub(n.start))
	}
	if err := n.inbox.propose(p); err != nil {
		n.waiters.refuse(p.Seq, err)
	}
}

// outcome is what [Done] is told.
type outcome struct {
	result any
	err    error
}

func (n *Node) propose(ctx context.Context, p Proposal) (any, error) {
	told := make(chan outcome, 1)
	deadline, _ := ctx.Deadline()
	n.begin(p, deadline, time.Time{}, func(result any, err error) { told <- outcome{result, err} })
	var out outcome
	select {
	case out = <-told:
	case <-ctx.Done():
		n.waiters.refuse(p.Seq, ctx.Err())
		out = <-told // that error, unless it was just being told something else
	}
	return out.result, out.err
}

// BeginRead tells done once the machine's published state reflects every write
// that was acknowledged anywhere before BeginRead was called. There is no result.
// Errors: [ErrNoLeader], [ErrStopped], and [context.DeadlineExceeded] once the
// deadline has passed, unless that is zero, with [ErrBehind] if that is the
// reason.
func (n *Node) BeginRead(deadline time.Time, done Done) {
	_, fresh, err := n.readers.join(deadline, done)
	if err != nil {
		done(nil, err)
	}
	if fresh {
		n.inbox.signal()
	}
}

// Current reports whether the machine's published state, loaded after the call,
// reflects every write that was acknowledged anywhere before it, so that a
// linearizable read needs no [Node.BeginRead]. It asks nobody and does not wait.
// It is true only while this member leads and makes up its cluster alone: no
// other voter and no learner, see [Core.AloneFrom]. Then all that is acknowledged
// is acknowledged here, after it has been published. A node that has failed or
// stops is never current.
func (n *Node) Current() bool {
	from := n.alone.Load() // the moment at which the read takes place
	return from != 0 && from <= n.applied.Load() && !n.dead.Load()
}

// Read is [Node.BeginRead] for a caller that waits. The error is ctx.Err() once
// ctx has ended, with [ErrBehind] if that is the reason.
func (n *Node) Read(ctx context.Context) error {
	told := make(chan error, 1)
	x, fresh, err := n.readers.join(time.Time{}, func(_ any, err error) { told <- err })
	if err != nil {
		return err
	}
	if fresh {
		n.inbox.signal()
	}
	select {
	case err := <-told:
		return err
	case <-ctx.Done():
		n.readers.leave(x, ctx.Err())
		return <-told // that error, unless it was just being told something else
	}
}

// Process hands in a message of a peer; see [Receiver].
func (n *Node) Process(m raftpb.Message) error {
	if err := judgeForm(&m, n.cfg.ID); err != nil {
		return err
	}
	if n.stopping() {
		return ErrStopped
	}
	if m.Type == raftpb.MsgSnap {
		if err := n.cfg.Snapshots.Check(m.Snapshot.Metadata); err != nil {
			return fmt.Errorf("raftnode: snapshot of %x: %w", m.From, err)
		}
	}
	n.inbox.peer(m)
	return nil
}

// ReportUnreachable tells that messages to the peer were dropped.
func (n *Node) ReportUnreachable(id uint64) {
	n.inbox.call(func(c *Core) { c.ReportUnreachable(id) })
}

// ReportSnapshot tells how a snapshot transfer to the peer ended.
func (n *Node) ReportSnapshot(id uint64, status raft.SnapshotStatus) {
	n.inbox.call(func(c *Core) { c.ReportSnapshot(id, status) })
}

// Progress returns what this member, if it leads, knows of each member, and nil
// if it does not lead. Errors: ctx.Err() and [ErrStopped].
func (n *Node) Progress(ctx context.Context) ([]Progress, error) {
	ch := make(chan []Progress, 1)
	n.inbox.call(func(c *Core) { ch <- c.Progress() })
	select {
	case p := <-ch:
		return p, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-n.stop:
		return nil, ErrStopped
	}
}

// TransferLeadership hands leadership to the voter to, or to the most caught-up
// other voter if to is 0, of those with room on their disks if there are any, and
// returns when this member knows another leader. It returns nil at once when it
// does not lead or there is no such voter who gives signs of life, and
// [ErrNotHandedOver] when the voter does not take over.
func (n *Node) TransferLeadership(ctx context.Context, to uint64) error {
	asked := make(chan uint64, 1)
	n.inbox.call(func(c *Core) {
		to := c.TransferLeadership(to)
		n.publish(c) // so that the wait below sees the hand-over under way
		asked <- to
	})
	select {
	case to := <-asked:
		if to == raft.None {
			return nil
		}
		n.logger.Info("handing over leadership", "to", fmt.Sprintf("%x", to))
	case <-ctx.Done():
		return ctx.Err()
	case <-n.stop:
		return ErrStopped
	}
	ticker := time.NewTicker(n.cfg.HeartbeatInterval / 4)
	defer ticker.Stop()
	for {
		switch st := n.Status(); {
		case st.Leader != raft.None && st.Leader != n.cfg.ID:
			return nil
		case st.IsLeader() && !st.handingOver:
			return ErrNotHandedOver
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-n.stop:
			return ErrStopped
		}
	}
}

// Status returns what the node knows.
func (n *Node) Status() Status {
	st := *n.status.Load()
	st.Committed = n.committed.Load()
	st.Applied = n.applied.Load()
	st.Pending = n.waiters.pending()
	st.Failed = n.waiters.failed.Load()
	return st
}

// Term returns the current raft term.
func (n *Node) Term() uint64 { return n.status.Load().Term }

// Applied returns the raft index of the newest published state.
func (n *Node) Applied() uint64 { return n.applied.Load() }

// WritesRefused reports whether the leader has the cluster take no writes for
// want of disk space, see [Core.WritesRefused]. It costs nothing.
func (n *Node) WritesRefused() bool { return n.status.Load().WritesRefused }

// Leader returns the id of the leader, 0 while none is known.
func (n *Node) Leader() uint64 { return n.status.Load().Leader }

// ClusterTimeMS estimates the cluster time now, in milliseconds. On the leader
// it is exact.
func (n *Node) ClusterTimeMS() int64 {
	st := n.status.Load()
	if st.Leader == raft.None {
		return max(1, st.clusterTime.Milliseconds())
	}
	return max(1, (time.Since(n.start) + st.clockOffset).Milliseconds())
}

// Failed delivers at most one error: the one that made the node stop
// acknowledging. It is not delivered for [Node.Stop].
func (n *Node) Failed() <-chan error { return n.failed }

// Stop ends the node and waits for its goroutines. Whoever waits gets
// [ErrStopped]. The log is left to the caller to close.
func (n *Node) Stop() {
	n.end()
	n.wg.Wait()
	n.endWaiting()
}

func (n *Node) end() {
	n.dead.Store(true)
	n.stopOnce.Do(func() { close(n.stop) })
}

func (n *Node) endWaiting() {
	n.waiters.close(ErrStopped)
	n.readers.close(ErrStopped)
}

func (n *Node) stopping() bool { return n.dead.Load() }

// fail is the end of acknowledging: a disk or an invariant has failed. All
// goroutines of the node end.
func (n *Node) fail(err error) {
	if n.dead.Swap(true) {
		return
	}
	n.failed <- err
	n.end()
	n.endWaiting()
}
