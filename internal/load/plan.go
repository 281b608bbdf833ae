package load

import (
	"sync/atomic"
	"time"
)

// verdict is what a connection is to do next.
type verdict uint8

const (
	send     verdict = iota // a request
	later                   // nothing before a certain time
	finished                // nothing any more
)

// plan decides when a request is due and when there are no more. Times are on
// the clock of the run. All connections use it at once.
type plan struct {
	warmup, duration time.Duration // a duration of 0: without end
	interval         float64       // nanoseconds between two requests; 0: as fast as they are answered
	limit            int64         // measured requests; 0: no limit

	start   atomic.Int64 // when the work began; 0: it has not
	claimed atomic.Int64 // paced: all requests; else: the measured ones
	stopped atomic.Bool
}

// startPoll is how often a connection asks whether the work has begun.
const startPoll = time.Millisecond

// begin lets the work begin. A time of 0 is taken for a little later.
func (p *plan) begin(now time.Duration) { p.start.CompareAndSwap(0, max(1, int64(now))) }

func (p *plan) begun() bool { return p.start.Load() != 0 }

// stop keeps any more requests from being sent.
func (p *plan) stop() { p.stopped.Store(true) }

// from and until bound the time in which a request must have been due to be
// measured; without a duration, until is 0.
func (p *plan) from() time.Duration { return time.Duration(p.start.Load()) + p.warmup }

func (p *plan) until() time.Duration {
	if p.duration == 0 {
		return 0
	}
	return p.from() + p.duration
}

// claim takes the next request: its number, and the time it was due at. For
// later, the time is when to ask again.
func (p *plan) claim(now time.Duration) (number int64, due time.Duration, v verdict) {
	switch {
	case p.stopped.Load():
		return 0, 0, finished
	case !p.begun():
		return 0, now + startPoll, later
	case p.interval > 0:
		return p.claimPaced(now)
	}
	if p.warmup > 0 && now < p.from() {
		return 0, now, send
	}
	if until := p.until(); until > 0 && now >= until {
		return 0, 0, finished
	}
	if n := p.claimed.Add(1) - 1; p.limit == 0 || n < p.limit {
		return n, max(now, p.from()), send // the clock was read before the work began, perhaps
	}
	return 0, 0, finished
}

// claimPaced takes requests in the order in which they are due, also those of
// the backlog after the end.
func (p *plan) claimPaced(now time.Duration) (number int64, due time.Duration, v verdict) {
	for {
		n := p.claimed.Load()
		switch due = p.due(n); {
		case n >= p.total():
			return 0, 0, finished
		case due > now:
			return 0, due, later
		case p.claimed.CompareAndSwap(n, n+1):
			return n, due, send
		}
	}
}

// due is when a paced request is due.
func (p *plan) due(number int64) time.Duration {
	return time.Duration(p.start.Load()) + time.Duration(float64(number)*p.interval)
}

// total is the number of paced requests, with those of the warm-up.
func (p *plan) total() int64 {
	const many = int64(1) << 62
	total := many
	if p.duration > 0 {
		total = int64(float64(p.warmup+p.duration) / p.interval)
	}
	if p.limit > 0 {
		total = min(total, int64(float64(p.warmup)/p.interval)+p.limit)
	}
	return total
}
