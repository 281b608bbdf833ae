package raftnode

import (
	"errors"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// Limits of the proposals under way.
const (
	// proposalBatchMax and proposalBatchBytesMax bound one message of
	// proposals.
	proposalBatchMax      = 256
	proposalBatchBytesMax = 1 << 20
	// appendingMax bounds this member's own appends under way: proposals that
	// come meanwhile share the next message and the next fsync. With one, the disk
	// waits for a turn of the loop between two fsyncs, which is short; with
	// two, every other batch is the few proposals that came in that moment, and has an
	// fsync, messages and wake-ups of its own.
	appendingMax = 1
	// forwardedMax and forwardedBytesMax bound the proposals of other members
	// that wait here; more are dropped, as if the network had lost them.
	forwardedMax      = 16384
	forwardedBytesMax = 64 << 20
)

// ErrConfChangePending says that another configuration change is under way.
// Nothing was proposed.
var ErrConfChangePending = errors.New("raftnode: another configuration change is under way")

// ErrNotLeader says that a configuration change was given to a member that
// does not lead. Nothing was proposed.
var ErrNotLeader = errors.New("raftnode: the member does not lead")

// errExpired says that a proposal was still waiting when its time was up.
// Nothing was proposed.
var errExpired = errors.New("raftnode: not proposed in time")

// Proposal is one entry to be appended to the log.
type Proposal struct {
	// Seq is the number that [PrefixBytes] of Data carry.
	Seq  uint64
	Type raftpb.EntryType
	Data []byte
	// Deadline is the time, as of the now of [Core]'s methods, after which the
	// proposal must not be made any more: whoever made it has given up. 0: none.
	Deadline time.Duration
	// forwarded marks a proposal of another member, whose outcome is told there.
	forwarded bool
}

// Refusal is a proposal that was given back with nothing proposed.
type Refusal struct {
	Proposal Proposal
	Err      error
}

// Propose queues proposals. Each is handed to raft once, as soon as there is a
// leader who takes it, or given back in [Output.Refused].
func (c *Core) Propose(now time.Duration, ps ...Proposal) {
	c.setNow(now)
	c.queue = append(c.queue, ps...)
}

// forward queues the proposals of another member among our own, for as long as
// that member waits for certain: raft would drop them without a word while
// leadership is being handed over. Later than an election timeout from now whoever
// made them may have given up, and have written something newer.
func (c *Core) forward(entries []raftpb.Entry) {
	for _, e := range entries {
		if c.forwarded >= forwardedMax || c.forwardedBytes+len(e.Data) > forwardedBytesMax {
			return
		}
		c.forwarded++
		c.forwardedBytes += len(e.Data)
		c.queue = append(c.queue, Proposal{Type: e.Type, Data: e.Data, Deadline: c.now + c.cfg.ElectionTimeout, forwarded: true})
	}
}

// Withdraw gives back this member's proposals up to a number that have not been
// handed to raft, because whoever made them has been told an outcome. They are in
// [Output.Refused].
func (c *Core) Withdraw(upTo uint64) {
	c.queue = slices.DeleteFunc(c.queue, func(p Proposal) bool {
		gone := !p.forwarded && p.Seq <= upTo
		if gone {
			c.dequeue(p, errExpired)
		}
		return gone
	})
}

// flushProposals hands the queue to raft, many entries a message. What raft
// does not take now, because leadership is being handed over or too much is
// uncommitted, stays in the queue: raft has not kept any of it.
func (c *Core) flushProposals() {
	for c.lead != raft.None && len(c.queue) > 0 && c.appending < appendingMax {
		batch := c.nextBatch()
		if len(batch) == 0 {
			continue // all of them had expired
		}
		if batch[0].Type != raftpb.EntryNormal && !c.isLeader() {
			c.dequeue(batch[0], ErrNotLeader)
			c.queue = c.queue[1:]
			continue
		}
		entries := make([]raftpb.Entry, len(batch))
		for i, p := range batch {
			entries[i] = raftpb.Entry{Type: p.Type, Data: p.Data}
		}
		c.stampEntries(entries)
		if c.rn.Step(raftpb.Message{Type: raftpb.MsgProp, From: c.cfg.ID, Entries: entries}) != nil {
			return
		}
		for i, p := range batch {
			var err error
			if entries[i].Type != p.Type {
				err = ErrConfChangePending // raft put an empty entry in its place
			}
			c.dequeue(p, err)
		}
		clear(batch)
		c.queue = c.queue[len(batch):]
	}
	if len(c.queue) == 0 {
		c.queue = nil
	}
}

// nextBatch drops what has expired at the head of the queue and returns the
// proposals that go into the next message. A configuration change goes alone.
func (c *Core) nextBatch() []Proposal {
	expired := 0
	for expired < len(c.queue) && c.queue[expired].Deadline != 0 && c.queue[expired].Deadline < c.now {
		c.dequeue(c.queue[expired], errExpired)
		expired++
	}
	c.queue = c.queue[expired:]
	n, bytes := 0, 0
	for ; n < len(c.queue) && n < proposalBatchMax; n++ {
		p := &c.queue[n]
		expired := p.Deadline != 0 && p.Deadline < c.now
		alone := p.Type != raftpb.EntryNormal
		if n > 0 && (alone || expired || bytes+len(p.Data) > proposalBatchBytesMax) {
			break
		}
		bytes += len(p.Data)
		if alone {
			n++
			break
		}
	}
	return c.queue[:n]
}

// dequeue accounts for a proposal that leaves the queue: handed to raft, or
// given back with an error.
func (c *Core) dequeue(p Proposal, err error) {
	switch {
	case p.forwarded:
		c.forwarded--
		c.forwardedBytes -= len(p.Data)
	case err != nil:
		c.out.Refused = append(c.out.Refused, Refusal{Proposal: p, Err: err})
	default:
		c.out.Proposed++
		c.out.ProposedBytes += len(p.Data)
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

// QueuedProposals returns how many proposals wait to be handed to raft.
func (c *Core) QueuedProposals() int { return len(c.queue) }
