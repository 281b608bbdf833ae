package daemon

import (
	"time"

	"github.com/marsevilspirit/deimos/httpapi"
	"github.com/marsevilspirit/deimos/server"
)

// SelfStats implements [httpapi.Stats].
func (b *backend) SelfStats() httpapi.SelfStats {
	d := b.daemon
	st, ts := d.node.Status(), d.peers.Stats()
	s := httpapi.SelfStats{
		Name: d.cfg.Name, ID: d.storage.identity.MemberID, Leads: st.IsLeader(), StartTime: d.started,
		Recv: httpapi.MessageStats{AppendRequests: ts.RecvAppendRequests, PkgRate: ts.RecvPkgRate, BandwidthRate: ts.RecvBandwidthRate},
		Send: httpapi.MessageStats{AppendRequests: ts.SendAppendRequests, PkgRate: ts.SendPkgRate, BandwidthRate: ts.SendBandwidthRate},
	}
	if st.Leader != 0 {
		s.Leader = httpapi.LeaderInfo{ID: st.Leader, Uptime: time.Since(st.LeaderSince), StartTime: st.LeaderSince}
	}
	return s
}

// LeaderStats implements [httpapi.Stats].
func (b *backend) LeaderStats() (httpapi.LeaderStats, bool) {
	d := b.daemon
	if !d.node.Status().IsLeader() {
		return httpapi.LeaderStats{}, false
	}
	stats := httpapi.LeaderStats{Leader: d.storage.identity.MemberID}
	for id, f := range d.peers.Stats().Followers {
		l := f.Latency
		stats.Followers = append(stats.Followers, httpapi.FollowerStats{
			ID: id, Success: f.Success, Fail: f.Fail,
			Latency: httpapi.LatencyStats{
				CurrentMS: l.Current, AverageMS: l.Average, StandardDeviationMS: l.StandardDeviation,
				MinimumMS: l.Minimum, MaximumMS: l.Maximum,
			},
		})
	}
	return stats, true
}

// StoreStats implements [httpapi.Stats].
func (b *backend) StoreStats() httpapi.StoreStats {
	c := b.daemon.machine.WriteCounts()
	of := func(n server.Count) httpapi.OpStats { return httpapi.OpStats{Success: n.Success, Fail: n.Fail} }
	return httpapi.StoreStats{
		Sets: of(c.Set), Creates: of(c.Create), Updates: of(c.Update), Deletes: of(c.Delete),
		CompareAndSwaps: of(c.CompareAndSwap), CompareAndDeletes: of(c.CompareAndDelete),
		Expires: c.Expired, Watchers: uint64(b.daemon.machine.Store().Watchers()),
	}
}
