package httpapi

import (
	"cmp"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
)

// Stats is what the member has counted since its process started. All methods
// are called from many goroutines at once and do not block.
type Stats interface {
	// SelfStats tells of the member and its messages.
	SelfStats() SelfStats
	// LeaderStats tells how the other members keep up; false when this member
	// does not lead.
	LeaderStats() (LeaderStats, bool)
	// StoreStats tells which operations this member has applied.
	StoreStats() StoreStats
}

// SelfStats is what /v2/stats/self shows.
type SelfStats struct {
	Name string
	ID   uint64
	// Leads tells a leader from all others: candidates and learners are shown
	// as followers.
	Leads bool
	// StartTime is the wall clock at which the process started.
	StartTime time.Time
	// Leader is whom this member follows, itself included.
	Leader LeaderInfo
	// Recv and Send count the append messages from and to other members.
	Recv, Send MessageStats
}

// LeaderInfo tells since when a member has been following a leader.
type LeaderInfo struct {
	// ID is 0 when no leader is known; the rest is not looked at then.
	ID uint64
	// Uptime counts from the moment this member learned of the leader, on the
	// monotonic clock.
	Uptime time.Duration
	// StartTime is the wall clock of that moment.
	StartTime time.Time
}

// MessageStats is one direction of a member's append messages. A rate that is
// 0, or no number, is left out of the answer.
type MessageStats struct {
	// AppendRequests counts since the start of the process.
	AppendRequests uint64
	// PkgRate is in messages a second, BandwidthRate in bytes a second.
	PkgRate, BandwidthRate float64
}

// LeaderStats is what /v2/stats/leader shows on the leader.
type LeaderStats struct {
	// Leader is the id of the member itself.
	Leader uint64
	// Followers are the other members, in any order.
	Followers []FollowerStats
}

// FollowerStats is how one member takes what the leader sends it.
type FollowerStats struct {
	ID      uint64
	Latency LatencyStats
	// Success and Fail count the messages since this member began to lead.
	Success, Fail uint64
}

// LatencyStats are times between a message and its answer, in milliseconds.
// What is no number is shown as 0.
type LatencyStats struct {
	CurrentMS, AverageMS, StandardDeviationMS, MinimumMS, MaximumMS float64
}

// StoreStats is what /v2/stats/store shows, except for the reads: those the
// [Handler] counts itself.
type StoreStats struct {
	// Each write counts once on every member that applies it, under the action
	// it asks for: what is created in order is a create.
	Sets, Deletes, Updates, Creates, CompareAndSwaps, CompareAndDeletes OpStats
	// Expires counts the nodes that have expired.
	Expires uint64
	// Watchers counts the watches that are open on this member now.
	Watchers uint64
}

// OpStats counts the outcomes of one kind of operation.
type OpStats struct {
	Success, Fail uint64
}

// serveStats answers /v2/stats/self, leader and store.
func (c *call) serveStats(name string) {
	if !c.allowed("GET") {
		return
	}
	out := c.buffers.out[:0]
	switch name {
	case "self":
		s := c.h.backend.SelfStats()
		out = appendSelfStats(out, &s)
	case "leader":
		s, leads := c.h.backend.LeaderStats()
		if !leads {
			c.message(http.StatusForbidden, "not current leader")
			return
		}
		out = appendLeaderStats(out, &s)
	default:
		s := c.h.backend.StoreStats()
		gets := OpStats{Success: c.h.getsSuccess.Load(), Fail: c.h.getsFail.Load()}
		out = appendStoreStats(out, &s, gets)
	}
	c.buffers.out = out
	c.json(http.StatusOK, out)
}

// appendSelfStats appends s as one line of JSON.
func appendSelfStats(dst []byte, s *SelfStats) []byte {
	state := "StateFollower"
	if s.Leads {
		state = "StateLeader"
	}
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, s.Name)
	dst = append(dst, `,"id":"`...)
	dst = strconv.AppendUint(dst, s.ID, 16)
	dst = append(dst, `","state":"`...)
	dst = append(dst, state...)
	dst = append(dst, `","startTime":"`...)
	dst = appendTime(dst, s.StartTime)
	leader := s.Leader
	var id string
	if leader.ID == 0 {
		leader = LeaderInfo{}
	} else {
		id = deimos.FormatID(leader.ID)
	}
	dst = append(dst, `","leaderInfo":{"leader":"`...)
	dst = append(dst, id...)
	dst = append(dst, `","uptime":"`...)
	dst = append(dst, leader.Uptime.String()...)
	dst = append(dst, `","startTime":"`...)
	dst = appendTime(dst, leader.StartTime)
	dst = append(dst, `"},`...)
	dst = appendMessageStats(dst, "recv", &s.Recv)
	dst = append(dst, ',')
	dst = appendMessageStats(dst, "send", &s.Send)
	return append(dst, '}', '\n')
}

// appendMessageStats appends the fields of one direction.
func appendMessageStats(dst []byte, direction string, s *MessageStats) []byte {
	dst = append(dst, '"')
	dst = append(dst, direction...)
	dst = append(dst, `AppendRequestCnt":`...)
	dst = strconv.AppendUint(dst, s.AppendRequests, 10)
	for _, rate := range [...]struct {
		name  string
		value float64
	}{{"PkgRate", s.PkgRate}, {"BandwidthRate", s.BandwidthRate}} {
		if finite(rate.value) == 0 {
			continue
		}
		dst = append(dst, ',', '"')
		dst = append(dst, direction...)
		dst = append(dst, rate.name...)
		dst = append(dst, '"', ':')
		dst = appendFloat(dst, rate.value)
	}
	return dst
}

// appendLeaderStats appends s as one line of JSON, its followers by id.
func appendLeaderStats(dst []byte, s *LeaderStats) []byte {
	followers := slices.SortedFunc(slices.Values(s.Followers), func(a, b FollowerStats) int {
		return cmp.Compare(a.ID, b.ID)
	})
	dst = append(dst, `{"leader":"`...)
	dst = strconv.AppendUint(dst, s.Leader, 16)
	dst = append(dst, `","followers":{`...)
	for i := range followers {
		f := &followers[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		dst = strconv.AppendUint(dst, f.ID, 16)
		dst = append(dst, `":{"latency":{"current":`...)
		dst = appendFloat(dst, f.Latency.CurrentMS)
		dst = append(dst, `,"average":`...)
		dst = appendFloat(dst, f.Latency.AverageMS)
		dst = append(dst, `,"standardDeviation":`...)
		dst = appendFloat(dst, f.Latency.StandardDeviationMS)
		dst = append(dst, `,"minimum":`...)
		dst = appendFloat(dst, f.Latency.MinimumMS)
		dst = append(dst, `,"maximum":`...)
		dst = appendFloat(dst, f.Latency.MaximumMS)
		dst = append(dst, `},"counts":{"fail":`...)
		dst = strconv.AppendUint(dst, f.Fail, 10)
		dst = append(dst, `,"success":`...)
		dst = strconv.AppendUint(dst, f.Success, 10)
		dst = append(dst, '}', '}')
	}
	return append(dst, '}', '}', '\n')
}

// appendStoreStats appends s and the reads as one line of JSON.
func appendStoreStats(dst []byte, s *StoreStats, gets OpStats) []byte {
	dst = append(dst, '{')
	for _, op := range [...]struct {
		name string
		OpStats
	}{
		{"gets", gets},
		{"sets", s.Sets},
		{"delete", s.Deletes},
		{"update", s.Updates},
		{"create", s.Creates},
		{"compareAndSwap", s.CompareAndSwaps},
		{"compareAndDelete", s.CompareAndDeletes},
	} {
		dst = append(dst, '"')
		dst = append(dst, op.name...)
		dst = append(dst, `Success":`...)
		dst = strconv.AppendUint(dst, op.Success, 10)
		dst = append(dst, ',', '"')
		dst = append(dst, op.name...)
		dst = append(dst, `Fail":`...)
		dst = strconv.AppendUint(dst, op.Fail, 10)
		dst = append(dst, ',')
	}
	dst = append(dst, `"expireCount":`...)
	dst = strconv.AppendUint(dst, s.Expires, 10)
	dst = append(dst, `,"watchers":`...)
	dst = strconv.AppendUint(dst, s.Watchers, 10)
	return append(dst, '}', '\n')
}

// appendTime appends a moment as RFC 3339 in UTC.
func appendTime(dst []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(dst, time.RFC3339Nano)
}

// appendFloat appends a number, in digits however large it is.
func appendFloat(dst []byte, f float64) []byte {
	return strconv.AppendFloat(dst, finite(f), 'f', -1, 64)
}

// finite returns f, or 0 for what JSON cannot say.
func finite(f float64) float64 {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0
	}
	return f
}
