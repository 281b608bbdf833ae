package raftnode

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Limits of what is under way at one time.
const (
	// appendBytesMax bounds one append message to a peer.
	appendBytesMax = 1 << 20
	// inflightMax and inflightBytesMax bound the unacknowledged append messages
	// to a peer.
	inflightMax      = 512
	inflightBytesMax = 16 << 20
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
	// Proposed counts this member's proposals that were handed to raft, Refused
	// names those that were given back.
	Proposed, ProposedBytes int
	Refused                 []Refusal
}

// Core is the deciding half of a node. It is not safe for concurrent use. The
// now of its methods is monotonic time since any fixed moment and never falls.
type Core struct {
	cfg CoreConfig
	rn  *raft.RawNode
	now time.Duration

	clock clock
	queue []Proposal // not yet handed to raft
	// forwarded and forwardedBytes count the other members' proposals in queue.
	forwarded, forwardedBytes int

	// appending and applying count the appends and applies that were handed out
	// and not answered. A snapshot of a peer waits for the applies in
	// heldSnapshot: it brings its own configuration, on which no older change may
	// come to lie.
	appending    int
	applying     int
	heldSnapshot *raftpb.Message
	members      map[uint64]struct{} // of the configuration
	aloneFrom    uint64              // see AloneFrom
	space        space

	rounds     []readRound
	roundSeq   uint64
	contextSeq uint64

	lead            uint64
	leadSince       time.Duration // when that became known
	leaderlessSince time.Duration
	heardAt         time.Duration            // when the leader last gave a sign of life
	heardFrom       map[uint64]time.Duration // when each member last did
	leaderChanges   uint64
	// committedTerm is the term of the last entry handed out for applying.
	committedTerm uint64
	// lastIndex is the raft index of the last entry handed out for appending.
	lastIndex uint64
	// stampedAt is the raft index up to which the clock knows the log's stamps.
	stampedAt uint64

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
		MaxInflightBytes:          inflightBytesMax,
		CheckQuorum:               true,
		PreVote:                   true,
		StepDownOnRemoval:         true,
		Logger:                    cfg.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("raftnode: %w", err)
	}
	c := &Core{cfg: cfg, rn: rn, clock: clock{gapMax: cfg.ElectionTimeout}, heardFrom: make(map[uint64]time.Duration)}
	c.space.others = make(map[uint64]bool)
	c.clock.stamped(cfg.TimeMS, false)
	c.observeMembers()
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
	c.clock.stamped(newestStamp(entries), false)
	c.stampedAt = c.lastIndex
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

// Step takes in a message of a peer. An error of the kind [ErrMessage] or a
// [LostLogError] means that the message was refused.
func (c *Core) Step(now time.Duration, m raftpb.Message) error {
	c.setNow(now)
	if err := judgeForm(&m, c.cfg.ID); err != nil {
		return err
	}
	_, member := c.members[m.From]
	if err := judge(&m, c.term(), c.lastIndex, member || len(c.members) == 0); err != nil {
		return err
	}
	if member {
		c.heardFrom[m.From] = now
	}
	c.takeSpace(&m)
	switch m.Type {
	case raftpb.MsgProp:
		c.forward(m.Entries)
		return nil
	case raftpb.MsgReadIndex:
		if !c.isLeader() || c.committedTerm != c.term() {
			return nil // the asker tries again, see flushReads
		}
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if m.Term >= c.term() {
			c.clock.count(now)
			c.heardAt = now
		}
		if m.Type == raftpb.MsgHeartbeat {
			timeMS := takeTime(&m)
			if m.Term >= c.term() {
				c.clock.adopt(timeMS)
			}
		}
		if m.Type == raftpb.MsgSnap && c.applying > 0 {
			c.heldSnapshot = &m
			return nil
		}
	}
	return c.step(m)
}

// StepLocal takes in a response of the local append or apply loop.
func (c *Core) StepLocal(now time.Duration, m raftpb.Message) error {
	c.setNow(now)
	switch m.Type {
	case raftpb.MsgStorageApplyResp:
		c.applying--
	case raftpb.MsgStorageAppendResp:
		c.appending--
	}
	if err := c.step(m); err != nil {
		return err
	}
	if held := c.heldSnapshot; held != nil && c.applying == 0 {
		c.heldSnapshot = nil
		return c.step(*held)
	}
	return nil
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
	cs := c.rn.ApplyConfChange(cc)
	c.observeMembers()
	return cs
}

func (c *Core) observeMembers() {
	config := c.rn.Status().Config
	c.members = config.Voters.IDs()
	for id := range config.Learners {
		c.members[id] = struct{}{}
	}
	gone := func(id uint64) bool {
		_, member := c.members[id]
		return !member
	}
	maps.DeleteFunc(c.heardFrom, func(id uint64, _ time.Duration) bool { return gone(id) })
	maps.DeleteFunc(c.space.others, func(id uint64, _ bool) bool { return gone(id) })
	c.observeAlone()
}

// ObserveTime takes over the cluster time of an installed snapshot, unless
// newer entries have told theirs meanwhile.
func (c *Core) ObserveTime(raftIndex uint64, timeMS int64) {
	if c.stampedAt <= raftIndex {
		c.stampedAt = raftIndex
		c.clock.stamped(timeMS, c.isLeader())
	}
}

// ReportUnreachable tells raft that messages to the peer were lost.
func (c *Core) ReportUnreachable(id uint64) { c.rn.ReportUnreachable(id) }

// ReportSnapshot tells raft how a snapshot transfer ended.
func (c *Core) ReportSnapshot(id uint64, status raft.SnapshotStatus) {
	c.rn.ReportSnapshot(id, status)
}

// TransferLeadership asks another voter to lead: to, or the most caught-up one
// if to is 0, of those whose disks have room if there is any. It returns the
// voter's id, or 0 when this member does not lead or there is no such voter who
// gives signs of life.
func (c *Core) TransferLeadership(to uint64) uint64 {
	return c.handOver(func(p *Progress) bool { return to == raft.None || p.ID == to })
}

// handOver asks the best of the other voters that give signs of life and suit.
func (c *Core) handOver(suits func(*Progress) bool) uint64 {
	all := slices.DeleteFunc(c.Progress(), func(p Progress) bool {
		return p.ID == c.cfg.ID || p.Learner || !p.Active || !suits(&p)
	})
	if len(all) == 0 {
		return raft.None
	}
	best := slices.MinFunc(all, func(a, b Progress) int { // the first of equals, so the lowest id
		return cmp.Or(cmp.Compare(a.Space, b.Space), cmp.Compare(b.Match, a.Match))
	})
	c.rn.TransferLeader(best.ID)
	return best.ID
}

// Progress returns what the leader knows of each member of the configuration,
// itself included, sorted by id. It returns nil when this member does not lead.
func (c *Core) Progress() []Progress {
	if !c.isLeader() {
		return nil
	}
	all := make([]Progress, 0, len(c.members))
	c.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr tracker.Progress) {
		heard, known := c.heardFrom[id]
		all = append(all, Progress{
			ID: id, Match: pr.Match, Learner: pr.IsLearner,
			Active: id == c.cfg.ID || known && c.now-heard <= c.cfg.ElectionTimeout,
			Space:  c.spaceOf(id),
		})
	})
	slices.SortFunc(all, func(a, b Progress) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// Outputs returns what is to be done after the inputs so far. The slices
// belong to the caller.
func (c *Core) Outputs() Output {
	c.flush()
	for c.rn.HasReady() {
		c.take(c.rn.Ready())
		c.flush()
	}
	c.observeAlone()
	out := c.out
	c.out = Output{}
	return out
}

func (c *Core) flush() {
	if c.leaderless() {
		for _, p := range c.queue {
			c.dequeue(p, ErrNoLeader)
		}
		c.queue = nil
		c.refuseReads()
		return
	}
	c.flushReads()
	c.flushProposals()
}

// leaderless reports whether no leader has been known for longer than one
// election timeout. A learner never stops to believe in its leader, so silence
// counts too.
func (c *Core) leaderless() bool {
	if c.lead == raft.None {
		return c.now-c.leaderlessSince > c.cfg.ElectionTimeout
	}
	return c.lead != c.cfg.ID && c.now-c.heardAt > 3*c.cfg.ElectionTimeout
}

func (c *Core) take(rd raft.Ready) {
	if rd.SoftState != nil {
		c.observeLeader(rd.Lead)
	}
	if n := len(rd.Entries); n > 0 {
		c.lastIndex = rd.Entries[n-1].Index
		c.stampedAt = c.lastIndex
		c.clock.stamped(newestStamp(rd.Entries), c.isLeader())
	} else if !raft.IsEmptySnap(rd.Snapshot) {
		c.lastIndex = rd.Snapshot.Metadata.Index
	}
	if !raft.IsEmptySnap(rd.Snapshot) {
		c.observeMembers()
	}
	c.confirmReads(rd.ReadStates)
	if n := len(rd.CommittedEntries); n > 0 {
		c.committedTerm = rd.CommittedEntries[n-1].Term
	}
	for _, m := range rd.Messages {
		switch m.To {
		case raft.LocalAppendThread:
			if n := len(m.Responses); n > 0 && m.Responses[n-1].Type == raftpb.MsgStorageAppendResp {
				c.appending++
			}
			c.out.Appends = append(c.out.Appends, m)
		case raft.LocalApplyThread:
			c.applying++
			c.out.Applies = append(c.out.Applies, m)
		default:
			if m.Type == raftpb.MsgHeartbeat {
				addTime(&m, c.clock.timeMS())
			}
			c.addSpace(&m)
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
		c.clock.begin(c.now)
		c.space.term = c.term()
	}
	c.lead = lead
	c.leadSince = c.now
	c.heardAt = c.now
	c.space.observeLeader(lead)
	c.forgetReads()
}

func (c *Core) setNow(now time.Duration) {
	c.now = max(now, c.now)
	if c.lead == c.cfg.ID {
		c.clock.count(c.now)
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
		WritesRefused: c.WritesRefused(),
		handingOver:   bs.LeadTransferee != raft.None,
		leadSince:     c.leadSince,
		clusterTime:   c.clock.now,
		clockOffset:   c.clock.now - c.clock.last,
	}
}

func (c *Core) isLeader() bool { return c.rn.BasicStatus().RaftState == raft.StateLeader }

func (c *Core) term() uint64 { return c.rn.BasicStatus().Term }
