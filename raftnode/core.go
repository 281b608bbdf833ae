package raftnode

import (
	"errors"
	"fmt"
	"math"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Limits of what is under way at one time.
const (
	// proposalBatchMax and proposalBatchBytesMax bound one message of
	// proposals.
	proposalBatchMax      = 256
	proposalBatchBytesMax = 1 << 20
	// appendBytesMax bounds one append message to a peer.
	appendBytesMax = 1 << 20
	// inflightMax bounds the unacknowledged append messages to a peer.
	inflightMax = 512
	// uncommittedBytesMax bounds what a leader takes in before a quorum has
	// it; proposals beyond it wait.
	uncommittedBytesMax = 64 << 20
	// applyingBytesMax bounds the committed entries that wait to be applied.
	applyingBytesMax = 16 << 20
)

// ErrNoLeader says that no leader has been known for longer than one election
// timeout. Nothing was proposed: trying again is safe.
var ErrNoLeader = errors.New("raftnode: the cluster has no leader")

// CoreConfig says what a [Core] needs to know. All fields are required.
type CoreConfig struct {
	// ID is the member's id, neither 0 nor one of raft's reserved targets.
	ID uint64
	// Run is a random number that no other process of the cluster has.
	Run uint64
	// ElectionTicks is the election timeout in ticks; a heartbeat is one tick.
	ElectionTicks int
	// ElectionTimeout is the same as a duration.
	ElectionTimeout time.Duration
	// Storage holds the recovered log. The Core only reads it; the append loop
	// writes it, after the disk.
	Storage *raft.MemoryStorage
	// Applied is the raft index of the state that the machine was restored to.
	Applied uint64
	// TimeMS is the cluster time of that state.
	TimeMS int64
	// Logger receives raft's own log. Its Panic and Fatal methods must not
	// return.
	Logger raft.Logger
}

// Proposal is one entry to be appended to the log.
type Proposal struct {
	// Seq is the number that [PrefixBytes] of Data carry.
	Seq  uint64
	Type raftpb.EntryType
	Data []byte
}

// ReadResult is the end of a round that [Core.BeginRead] began.
type ReadResult struct {
	ID uint64
	// RaftIndex is the index that has to be applied before the reads are
	// answered.
	RaftIndex uint64
	// Err is [ErrNoLeader] or nil.
	Err error
}

// Output is what a [Core] wants to have done. Appends, and Applies, are done
// in order, each after all of its kind from earlier outputs; their Responses
// are stepped back when they are done. Peers are independent of both.
type Output struct {
	Appends []raftpb.Message
	Applies []raftpb.Message
	Peers   []raftpb.Message
	Reads   []ReadResult
	// Proposed counts the queued proposals that were handed to raft, Refused
	// names those that were given back, with nothing proposed, because there is
	// no leader.
	Proposed, ProposedBytes int
	Refused                 []Proposal
}

// Core is the deciding half of a node. It is not safe for concurrent use. The
// now of its methods is monotonic time since any fixed moment and never falls.
type Core struct {
	cfg CoreConfig
	rn  *raft.RawNode
	now time.Duration

	clock clock
	queue []Proposal // not yet handed to raft

	rounds     []readRound
	roundSeq   uint64
	contextSeq uint64

	lead            uint64
	leaderlessSince time.Duration
	leaderChanges   uint64
	// committedTerm is the term of the last entry handed out for applying.
	committedTerm uint64
	// lastIndex is the raft index of the last entry handed out for appending.
	lastIndex uint64

	out Output
}

// NewCore returns a follower with the state of cfg.Storage.
func NewCore(cfg CoreConfig) (*Core, error) {
	rn, err := raft.NewRawNode(&raft.Config{
		ID:                        cfg.ID,
		ElectionTick:              cfg.ElectionTicks,
		HeartbeatTick:             1,
		Storage:                   cfg.Storage,
		Applied:                   cfg.Applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             appendBytesMax,
		MaxCommittedSizePerReady:  applyingBytesMax,
		MaxUncommittedEntriesSize: uncommittedBytesMax,
		MaxInflightMsgs:           inflightMax,
		CheckQuorum:               true,
		PreVote:                   true,
		StepDownOnRemoval:         true,
		Logger:                    cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("raftnode: %w", err)
	}
	c := &Core{cfg: cfg, rn: rn, clock: clock{gapMax: cfg.ElectionTimeout}}
	c.clock.observe(cfg.TimeMS)
	if err := c.observeLog(); err != nil {
		return nil, fmt.Errorf("raftnode: read the recovered log: %w", err)
	}
	return c, nil
}

// observeLog takes over what the recovered log tells: where it ends, and the
// newest cluster time in it.
func (c *Core) observeLog() error {
	first, err := c.cfg.Storage.FirstIndex()
	if err != nil {
		return err
	}
	if c.lastIndex, err = c.cfg.Storage.LastIndex(); err != nil || c.lastIndex < first {
		return err
	}
	entries, err := c.cfg.Storage.Entries(first, c.lastIndex+1, math.MaxUint64)
	if err != nil {
		return err
	}
	c.clock.observe(newestStamp(entries))
	return nil
}

// Hasten shortens the wait for the first election of a member that has just
// started: an only voter campaigns at once, others after one to eleven ticks
// instead of a whole timeout. PreVote keeps this from disturbing a leader.
func (c *Core) Hasten() {
	voters := c.rn.Status().Config.Voters[0]
	if _, ok := voters[c.cfg.ID]; ok && len(voters) == 1 {
		// Campaigning cannot fail outside a pending configuration change, and
		// then the ordinary timeout does it.
		_ = c.rn.Campaign()
		return
	}
	for range c.cfg.ElectionTicks - 1 {
		c.rn.Tick()
	}
}

// Tick counts one heartbeat interval.
func (c *Core) Tick(now time.Duration) {
	c.setNow(now)
	c.tickReads()
	c.rn.Tick()
}

// Propose queues proposals. Each is handed to raft once, as soon as there is a
// leader, or given back in [Output.Refused].
func (c *Core) Propose(now time.Duration, ps ...Proposal) {
	c.setNow(now)
	c.queue = append(c.queue, ps...)
}

// Step takes in a message of a peer. An error of the kind [ErrMessage] or a
// [LostLogError] means that the message was refused.
func (c *Core) Step(now time.Duration, m raftpb.Message) error {
	c.setNow(now)
	if err := judgeForm(&m, c.cfg.ID); err != nil {
		return err
	}
	if err := judge(&m, c.term(), c.lastIndex); err != nil {
		return err
	}
	switch m.Type {
	case raftpb.MsgProp:
		c.stampEntries(m.Entries)
	case raftpb.MsgReadIndex:
		if c.isLeader() && c.committedTerm != c.term() {
			return nil // the asker tries again, see flushReads
		}
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if m.Term >= c.term() {
			c.clock.heard(now)
		}
	}
	return c.step(m)
}

// StepLocal takes in a response of the local append or apply loop.
func (c *Core) StepLocal(now time.Duration, m raftpb.Message) error {
	c.setNow(now)
	return c.step(m)
}

func (c *Core) step(m raftpb.Message) error {
	switch err := c.rn.Step(m); {
	case err == nil, errors.Is(err, raft.ErrProposalDropped), errors.Is(err, raft.ErrStepPeerNotFound):
		return nil // raft's ways to say that it ignored the message
	default:
		return fmt.Errorf("raftnode: step %s from %x: %w", m.Type, m.From, err)
	}
}

// ApplyConfChange makes a committed configuration change take effect and
// returns the new configuration. It is called before the response of the apply
// that contained it is stepped.
func (c *Core) ApplyConfChange(cc raftpb.ConfChange) *raftpb.ConfState {
	return c.rn.ApplyConfChange(cc)
}

// ObserveTime takes over the cluster time of an installed snapshot.
func (c *Core) ObserveTime(timeMS int64) { c.clock.observe(timeMS) }

// ReportUnreachable tells raft that messages to the peer were lost.
func (c *Core) ReportUnreachable(id uint64) { c.rn.ReportUnreachable(id) }

// ReportSnapshot tells raft how a snapshot transfer ended.
func (c *Core) ReportSnapshot(id uint64, status raft.SnapshotStatus) {
	c.rn.ReportSnapshot(id, status)
}

// TransferLeadership asks the most caught-up other voter to lead. It returns
// the voter's id, or 0 when this member does not lead or is the only voter.
func (c *Core) TransferLeadership() uint64 {
	if !c.isLeader() {
		return raft.None
	}
	var to, match uint64
	st := c.rn.Status()
	for id, pr := range st.Progress {
		if id == c.cfg.ID || pr.IsLearner || !pr.RecentActive {
			continue
		}
		if pr.Match > match || (pr.Match == match && (to == raft.None || id < to)) {
			to, match = id, pr.Match
		}
	}
	if to != raft.None {
		c.rn.TransferLeader(to)
	}
	return to
}

// Outputs returns what is to be done after the inputs so far. The slices
// belong to the caller.
func (c *Core) Outputs() Output {
	c.flush()
	for c.rn.HasReady() {
		c.take(c.rn.Ready())
		c.flush()
	}
	out := c.out
	c.out = Output{}
	return out
}

func (c *Core) flush() {
	if c.lead == raft.None && c.now-c.leaderlessSince > c.cfg.ElectionTimeout {
		c.out.Refused = append(c.out.Refused, c.queue...)
		c.queue = c.queue[:0]
		c.refuseReads()
		return
	}
	c.flushReads()
	c.flushProposals()
}

// flushProposals hands the queue to raft, many entries a message. What raft
// does not take now, because leadership is being handed over or too much is
// uncommitted, stays in the queue: raft has not kept any of it.
func (c *Core) flushProposals() {
	for c.lead != raft.None && len(c.queue) > 0 {
		n, bytes := 0, 0
		for n < len(c.queue) && n < proposalBatchMax && (n == 0 || bytes+len(c.queue[n].Data) <= proposalBatchBytesMax) {
			bytes += len(c.queue[n].Data)
			n++
		}
		entries := make([]raftpb.Entry, n)
		for i, p := range c.queue[:n] {
			entries[i] = raftpb.Entry{Type: p.Type, Data: p.Data}
		}
		c.stampEntries(entries)
		if c.rn.Step(raftpb.Message{Type: raftpb.MsgProp, From: c.cfg.ID, Entries: entries}) != nil {
			return
		}
		c.out.Proposed += n
		c.out.ProposedBytes += bytes
		clear(c.queue[:n])
		c.queue = c.queue[n:]
	}
	if len(c.queue) == 0 {
		c.queue = nil
	}
}

func (c *Core) stampEntries(entries []raftpb.Entry) {
	if !c.isLeader() {
		return // the leader does it
	}
	timeMS := c.clock.timeMS()
	for i := range entries {
		if entries[i].Type == raftpb.EntryNormal {
			stamp(entries[i].Data, timeMS)
		}
	}
}

func (c *Core) take(rd raft.Ready) {
	if rd.SoftState != nil {
		c.observeLeader(rd.Lead)
	}
	if n := len(rd.Entries); n > 0 {
		c.lastIndex = rd.Entries[n-1].Index
		c.clock.observe(newestStamp(rd.Entries))
	} else if !raft.IsEmptySnap(rd.Snapshot) {
		c.lastIndex = rd.Snapshot.Metadata.Index
	}
	c.confirmReads(rd.ReadStates)
	if n := len(rd.CommittedEntries); n > 0 {
		c.committedTerm = rd.CommittedEntries[n-1].Term
	}
	for _, m := range rd.Messages {
		switch m.To {
		case raft.LocalAppendThread:
			c.out.Appends = append(c.out.Appends, m)
		case raft.LocalApplyThread:
			c.out.Applies = append(c.out.Applies, m)
		default:
			c.out.Peers = append(c.out.Peers, m)
		}
	}
}

func (c *Core) observeLeader(lead uint64) {
	if lead == c.lead {
		return
	}
	if lead == raft.None {
		c.leaderlessSince = c.now
	} else {
		c.leaderChanges++
	}
	if lead == c.cfg.ID {
		c.clock.lead(c.now)
	}
	c.lead = lead
	c.forgetReads()
}

func (c *Core) setNow(now time.Duration) {
	c.now = max(now, c.now)
	if c.lead == c.cfg.ID {
		c.clock.advance(c.now)
	}
}

// Status is a snapshot of what a Core knows.
func (c *Core) Status() Status {
	bs := c.rn.BasicStatus()
	return Status{
		ID:            c.cfg.ID,
		Leader:        c.lead,
		Term:          bs.Term,
		Committed:     bs.Commit,
		State:         bs.RaftState,
		LeaderChanges: c.leaderChanges,
		clusterTime:   c.clock.now,
		clockOffset:   c.clock.now - c.clock.last,
	}
}

// QueuedProposals returns how many proposals wait to be handed to raft.
func (c *Core) QueuedProposals() int { return len(c.queue) }

func (c *Core) isLeader() bool { return c.rn.BasicStatus().RaftState == raft.StateLeader }

func (c *Core) term() uint64 { return c.rn.BasicStatus().Term }
