package raftnode

import (
	"encoding/binary"
	"slices"

	"go.etcd.io/raft/v3"
)

// readRetryTicks is how long a round waits for its confirmation before it is
// asked again: messages to and from the leader may be lost.
const readRetryTicks = 3

// readRound is one ReadIndex round that covers all reads that arrived before
// it began. Each try has a context of its own: raft would let a late
// confirmation of an earlier try count for a later one with the same context,
// and the read would be stale.
type readRound struct {
	id      uint64 // given to the caller
	context uint64 // of the last try, 0 before the first
	age     int    // ticks since the last try
}

// BeginRead starts a round and returns its id. It ends with a [ReadResult] of
// that id in some later [Output]: confirmed, or refused for want of a leader.
func (c *Core) BeginRead() uint64 {
	c.roundSeq++
	c.rounds = append(c.rounds, readRound{id: c.roundSeq})
	return c.roundSeq
}

// AloneFrom returns the raft index from which on the applied state is
// linearizable without a round, 0 if reads need one. It is for a leader that is
// the only member of its cluster: whatever is acknowledged, it acknowledges
// itself, after it has applied it. A learner is one member too many, for it may
// apply a write, and acknowledge it to whoever wrote there, before the leader
// does. What [Output] holds may reach others, so what AloneFrom returns counts
// from before anything of it is carried out.
func (c *Core) AloneFrom() uint64 { return c.aloneFrom }

// observeAlone finds out whether this member is alone. From the index that is
// committed then on, nobody else can have applied more: others, who have been
// removed since, know of no commit but through this leader, or one before it.
// Like a round, it takes an entry of its own term, see flushReads.
func (c *Core) observeAlone() {
	_, self := c.members[c.cfg.ID]
	switch {
	case !self || len(c.members) > 1 || !c.isLeader() || c.committedTerm != c.term():
		c.aloneFrom = 0
	case c.aloneFrom == 0:
		c.aloneFrom = c.rn.BasicStatus().Commit
	}
}

// flushReads asks for all rounds that have not been asked for, once there is a
// leader to ask. A leader that has committed nothing in its own term does not
// know what is committed (raft checks that itself, except when it is the only
// voter: then a commit index that was not saved before a restart would make
// the read stale).
func (c *Core) flushReads() {
	if len(c.rounds) == 0 || c.lead == raft.None || (c.isLeader() && c.committedTerm != c.term()) {
		return
	}
	for i := range c.rounds {
		if c.rounds[i].context == 0 {
			c.contextSeq++
			c.rounds[i].context, c.rounds[i].age = c.contextSeq, 0
			context := make([]byte, 16)
			binary.BigEndian.PutUint64(context, c.cfg.Run)
			binary.BigEndian.PutUint64(context[8:], c.contextSeq)
			c.rn.ReadIndex(context)
		}
	}
}

// tickReads makes rounds that were not answered in time be asked again.
func (c *Core) tickReads() {
	for i := range c.rounds {
		if r := &c.rounds[i]; r.context != 0 {
			if r.age++; r.age >= readRetryTicks {
				r.context = 0
			}
		}
	}
}

// forgetReads makes all rounds be asked again: the leader that was asked is no
// longer the leader.
func (c *Core) forgetReads() {
	for i := range c.rounds {
		c.rounds[i].context = 0
	}
}

func (c *Core) confirmReads(states []raft.ReadState) {
	for _, rs := range states {
		if len(rs.RequestCtx) != 16 || binary.BigEndian.Uint64(rs.RequestCtx) != c.cfg.Run {
			continue
		}
		context := binary.BigEndian.Uint64(rs.RequestCtx[8:])
		i := slices.IndexFunc(c.rounds, func(r readRound) bool { return r.context == context })
		if i < 0 {
			continue
		}
		c.out.Reads = append(c.out.Reads, ReadResult{ID: c.rounds[i].id, RaftIndex: rs.Index})
		c.rounds = slices.Delete(c.rounds, i, i+1)
	}
}

func (c *Core) refuseReads() {
	for _, r := range c.rounds {
		c.out.Reads = append(c.out.Reads, ReadResult{ID: r.id, Err: ErrNoLeader})
	}
	c.rounds = c.rounds[:0]
}
