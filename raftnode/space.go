package raftnode

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// spacePauseTimeouts is the time after a hand-over for want of disk space that
// has failed, in election timeouts: each holds proposals up for a whole one.
const spacePauseTimeouts = 10

// space is what a [Core] knows of the space on the members' disks. A member
// below its reserve takes no writes of its own clients, but has to append those
// of others; so it tells the leader, and the leader tells everybody when there
// is no quorum without such members. Both are told in the field Reject of
// messages in which raft has no use for it: of the answer to a heartbeat, and of
// the heartbeat. A member of an older version never sets it and counts as one
// with room.
type space struct {
	low bool // this member is below its reserve
	// others tells which other members are, as they have told this leader. Who
	// has not told yet is not in it.
	others map[uint64]bool
	// refused is whether the leader of term has writes refused. A new leader begins
	// with what it has heard from the one before.
	refused bool
	term    uint64
	// asked is the voter who was last asked to lead, and noHandOverBefore the
	// earliest time of another hand-over unless it does.
	asked            uint64
	noHandOverBefore time.Duration
}

// WatchSpace is called after each [Core.Tick] with whether this member's disk is
// below its reserve. A leader finds out whether writes are to be refused, and
// one below its reserve hands over to a voter with room. It returns the id of
// that voter, 0 if there is none. Whoever is not known to have room is not asked,
// so leadership never goes from one full disk to another.
func (c *Core) WatchSpace(low bool) uint64 {
	s := &c.space
	was := s.low
	s.low = low
	if !c.isLeader() {
		return raft.None
	}
	c.judgeSpace()
	// Disks that take in the same log fill up together: what the others said before
	// this one was full may be over.
	if !low || !was || c.now < s.noHandOverBefore || c.rn.BasicStatus().LeadTransferee != raft.None {
		return raft.None
	}
	to := c.handOver(func(p *Progress) bool { return p.Space == SpaceEnough })
	if to != raft.None {
		s.asked, s.noHandOverBefore = to, c.now+spacePauseTimeouts*c.cfg.ElectionTimeout
	}
	return to
}

// observeLeader forgets what belongs to the time of another leader.
func (s *space) observeLeader(lead uint64) {
	clear(s.others)
	if lead != raft.None && lead == s.asked {
		s.noHandOverBefore = 0
	}
}

// judgeSpace finds out whether writes are to be refused, by the voters that give
// signs of life. While it depends on those who have not told yet, or there is no
// quorum that answers, so that nothing is committed whatever the disks, what was
// said before stands.
func (c *Core) judgeSpace() {
	voters, enough, untold, active := 0, 0, 0, 0
	for _, p := range c.Progress() {
		if p.Learner {
			continue
		}
		voters++
		if !p.Active {
			continue
		}
		active++
		switch p.Space {
		case SpaceEnough:
			enough++
		case SpaceUnknown:
			untold++
		case SpaceLow:
		}
	}
	switch quorum := voters/2 + 1; {
	case enough >= quorum:
		c.space.refused = false
	case active >= quorum && enough+untold < quorum:
		c.space.refused = true
	}
}

// spaceOf returns what is known of the disk of a member.
func (c *Core) spaceOf(id uint64) Space {
	low, told := c.space.low, true
	if id != c.cfg.ID {
		low, told = c.space.others[id]
	}
	switch {
	case !told:
		return SpaceUnknown
	case low:
		return SpaceLow
	default:
		return SpaceEnough
	}
}

// WritesRefused reports whether the cluster is to take no writes, because the
// voters that give signs of life are a quorum only with those below the reserve.
// A leader finds that out with [Core.WatchSpace], another member is told with
// the leader's heartbeats. It is false without a leader.
func (c *Core) WritesRefused() bool {
	refused, known := c.verdict()
	return known && refused
}

// verdict returns what the present leader has last said about writes, and
// whether it has said anything.
func (c *Core) verdict() (refused, known bool) {
	return c.space.refused, c.lead != raft.None && c.space.term == c.term() && !c.leaderless()
}

// addSpace says about disks what is to be said with a message.
func (c *Core) addSpace(m *raftpb.Message) {
	switch m.Type {
	case raftpb.MsgHeartbeat:
		m.Reject = c.WritesRefused()
	case raftpb.MsgHeartbeatResp:
		m.Reject = c.space.low
	default: // other messages reject what they answer
	}
}

// takeSpace removes it again, and takes it over unless the message is old.
func (c *Core) takeSpace(m *raftpb.Message) {
	said := m.Reject
	switch m.Type {
	case raftpb.MsgHeartbeat:
		m.Reject = false
		if m.Term >= c.term() {
			c.space.refused, c.space.term = said, m.Term
		}
	case raftpb.MsgHeartbeatResp:
		m.Reject = false
		if _, member := c.members[m.From]; member && c.isLeader() && m.Term == c.term() {
			c.space.others[m.From] = said
		}
	default:
	}
}

// watchSpace gives up leadership for want of disk space where that helps, and
// says when the cluster begins and ends to refuse writes.
func (n *Node) watchSpace(core *Core) {
	if to := core.WatchSpace(n.cfg.DiskLow()); to != raft.None {
		n.logger.Warn("leadership is given up: disk space is below the reserve", "to", fmt.Sprintf("%x", to))
	}
	refused, known := core.verdict()
	if !known || refused == n.refused {
		return // while there is no leader, nobody has ended it
	}
	const begins = "writes are refused in the cluster: no quorum of voters has disk space above the reserve"
	switch low, silent := core.withoutSpace(); {
	case !refused:
		n.logger.Info("writes are accepted in the cluster: a quorum of voters has disk space above the reserve")
	case !core.isLeader():
		n.logger.Warn(begins, "leader", fmt.Sprintf("%x", core.lead))
	case len(low) > 0:
		n.logger.Warn(begins, "low", low, "silent", silent)
	default:
		return // a new leader that has yet to hear who it is
	}
	n.refused = refused
}

// withoutSpace returns the ids of the voters that do not help to write: those
// below the reserve, and those that give no sign of life.
func (c *Core) withoutSpace() (low, silent []string) {
	for _, p := range c.Progress() {
		switch id := fmt.Sprintf("%x", p.ID); {
		case p.Learner:
		case !p.Active:
			silent = append(silent, id)
		case p.Space == SpaceLow:
			low = append(low, id)
		}
	}
	return low, silent
}
