package raftnode

import "time"

// clock counts cluster time, the time that TTLs count on. A leader counts it
// on with its own monotonic clock and stamps it into the entries it appends; a
// follower counts it on from one sign of life of the leader to the next. It
// stands still while there is no leader, never goes back, and never reads a
// wall clock. It may fall behind real time, never run ahead of it, so a key is
// never expired early.
type clock struct {
	now  time.Duration // cluster time
	last time.Duration // monotonic time up to which now has been counted
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

// observe takes over a stamp of the log or a snapshot that is ahead.
func (c *clock) observe(timeMS int64) {
	if t := time.Duration(timeMS) * time.Millisecond; t > c.now {
		c.now = t
	}
}

// timeMS returns the cluster time in milliseconds, at least 1.
func (c *clock) timeMS() int64 { return max(1, c.now.Milliseconds()) }
