package raftnode

import "time"

// clock counts cluster time, the time that TTLs count on. A leader counts it
// on with its own monotonic clock, stamps it into the entries it appends and
// sends it with its heartbeats. A follower takes over what it is told, also
// when that is less than it had counted: the deadlines that this leader sets
// are by the leader's time, and would be early by any other. Between two signs
// of life it counts on. The time stands still while there is no leader, never
// goes back along the log, and never reads a wall clock. It may fall behind
// real time, never run ahead of it, so a key is never expired early.
type clock struct {
	now  time.Duration // cluster time
	last time.Duration // monotonic time up to which now has been counted
	// floor is the newest stamp of the log: a leader stamps no less.
	floor time.Duration
	// gapMax is the longest gap that is counted: after a longer silence, or a
	// longer pause of the leader itself, there may have been no leader meanwhile.
	gapMax time.Duration
}

// begin starts to count without what has passed since the last time, which
// belonged to no leader.
func (c *clock) begin(mono time.Duration) { c.last = mono }

// count counts on: a leader at every input, a follower whenever it hears its
// leader.
func (c *clock) count(mono time.Duration) {
	if gap := mono - c.last; gap > 0 && gap <= c.gapMax {
		c.now += gap
	}
	c.last = max(c.last, mono)
}

// stamped takes note of the newest stamp of the log. A member that does not
// lead takes it over.
func (c *clock) stamped(timeMS int64, leads bool) {
	if timeMS <= 0 {
		return
	}
	c.floor = time.Duration(timeMS) * time.Millisecond
	if !leads || c.now < c.floor {
		c.now = c.floor
	}
}

// adopt takes over the leader's time.
func (c *clock) adopt(timeMS int64) {
	c.now = max(c.floor, time.Duration(timeMS)*time.Millisecond)
}

// timeMS returns the cluster time in milliseconds, at least 1.
func (c *clock) timeMS() int64 { return max(1, c.now.Milliseconds()) }
