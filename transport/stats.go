package transport

import (
	"math"
	"sync"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v2stats"

	"github.com/marsevilspirit/deimos"
)

// rateSamplesMax is how many of the newest append messages a rate is made of.
const rateSamplesMax = 200

// Stats are the numbers about append messages since the start of this member.
type Stats struct {
	// RecvAppendRequests and SendAppendRequests count messages.
	RecvAppendRequests, SendAppendRequests uint64
	// The rates are those of the newest 200 messages at most, in messages and
	// bytes a second, and 0 when there was none for a second.
	RecvPkgRate, RecvBandwidthRate float64
	SendPkgRate, SendBandwidthRate float64
	// Followers has an element for each peer that was added. Only the numbers
	// of a leader change.
	Followers map[uint64]FollowerStats
}

// FollowerStats tells how append messages to one peer went.
type FollowerStats struct {
	Latency Latency
	// Fail and Success count messages.
	Fail, Success uint64
}

// Latency is how long it took to hand messages to the connection with a peer,
// or to post them, in milliseconds. All are 0 before the first success.
type Latency struct {
	Current, Average, StandardDeviation, Minimum, Maximum float64
}

// Stats returns the numbers for statistics. They are not taken at one moment.
func (t *HTTP) Stats() Stats {
	s := Stats{Followers: make(map[uint64]FollowerStats)}
	s.RecvAppendRequests, s.RecvPkgRate, s.RecvBandwidthRate = t.received.read(time.Now())
	s.SendAppendRequests, s.SendPkgRate, s.SendBandwidthRate = t.sent.read(time.Now())
	t.mu.Lock() // rafthttp removes followers without its own lock
	defer t.mu.Unlock()
	for id := range t.known.Load().peers {
		s.Followers[id] = followerStats(t.rt.LeaderStats.Follower(deimos.FormatID(id)))
	}
	return s
}

func followerStats(f *v2stats.FollowerStats) FollowerStats {
	f.Lock()
	defer f.Unlock()
	s := FollowerStats{Fail: f.Counts.Fail, Success: f.Counts.Success}
	if s.Success > 0 { // rafthttp begins with a huge minimum
		s.Latency = Latency{
			Current: f.Latency.Current, Average: f.Latency.Average, StandardDeviation: f.Latency.StandardDeviation,
			Minimum: f.Latency.Minimum, Maximum: f.Latency.Maximum,
		}
	}
	if math.IsNaN(s.Latency.StandardDeviation) { // the root of a rounding error below 0
		s.Latency.StandardDeviation = 0
	}
	return s
}

// Stats returns zeros, with an element for each member that can be reached.
func (e *Endpoint) Stats() Stats {
	s := Stats{Followers: make(map[uint64]FollowerStats)}
	ids := e.network.members()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, id := range ids {
		if id != e.id && !e.closed[id] {
			s.Followers[id] = FollowerStats{}
		}
	}
	return s
}

// traffic counts messages and knows their rate. The zero value is ready.
type traffic struct {
	mu      sync.Mutex
	count   uint64
	samples [rateSamplesMax]sample // the newest are before count
}

type sample struct {
	at    time.Time
	bytes int
}

// add counts a message.
func (f *traffic) add(now time.Time, bytes int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.samples[f.count%rateSamplesMax] = sample{now, bytes}
	f.count++
}

// read returns the count, and the rates in messages and bytes a second.
func (f *traffic) read(now time.Time) (count uint64, messages, bytes float64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := min(f.count, rateSamplesMax)
	if n < 2 {
		return f.count, 0, 0
	}
	first, last := f.samples[(f.count-n)%rateSamplesMax], f.samples[(f.count-1)%rateSamplesMax]
	span := last.at.Sub(first.at).Seconds()
	if now.Sub(last.at) > time.Second || span <= 0 {
		return f.count, 0, 0
	}
	sum := 0
	for _, s := range f.samples[:n] {
		sum += s.bytes
	}
	return f.count, float64(n) / span, float64(sum) / span
}
