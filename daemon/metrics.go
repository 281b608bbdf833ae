package daemon

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
)

// metrics is the registry of one daemon. The packages below know nothing of
// it: what they count is read when somebody asks.
type metrics struct {
	registry *prometheus.Registry
	fsync    prometheus.Histogram
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		fsync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "deimos_wal_fsync_duration_seconds",
			Help:    "How long writing a batch to the log took, its fsync included.",
			Buckets: []float64{100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
		}),
	}
	m.registry.MustRegister(m.fsync, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) observeFsync(d time.Duration) { m.fsync.Observe(d.Seconds()) }

// watch registers what is read from the node, the machine and the disk.
func (m *metrics) watch(node *raftnode.Node, machine *server.Machine, space *diskSpace) {
	m.registry.MustRegister(&collector{node: node, machine: machine, space: space})
}

// collector reads the state of a member, once per scrape.
type collector struct {
	node    *raftnode.Node
	machine *server.Machine
	space   *diskSpace
}

var descs = struct {
	hasLeader, isLeader, leaderChanges    *prometheus.Desc
	isLearner, voters, learners           *prometheus.Desc
	diskLow, writesRefused                *prometheus.Desc
	committed, applied, failed, pending   *prometheus.Desc
	index, nodes, watchers, expires, term *prometheus.Desc
}{
	hasLeader:     desc("server_has_leader", "1 while a leader is known, else 0."),
	isLeader:      desc("server_is_leader", "1 while this member leads, else 0."),
	isLearner:     desc("server_is_learner", "1 while this member is a learner, else 0."),
	voters:        desc("cluster_voters", "Voting members in the member list."),
	learners:      desc("cluster_learners", "Learners in the member list."),
	diskLow:       desc("server_disk_low", "1 while the disk of this member is below the reserve, else 0."),
	writesRefused: desc("cluster_writes_refused", "1 while the leader has writes refused for want of disk space on a quorum of voters, else 0."),
	leaderChanges: desc("server_leader_changes_total", "Leaders that this process has seen."),
	committed:     desc("server_proposals_committed_total", "Raft index up to which the log is committed."),
	applied:       desc("server_proposals_applied_total", "Raft index up to which the log is applied."),
	failed:        desc("server_proposals_failed_total", "Proposals of this process that ended without an outcome."),
	pending:       desc("server_proposals_pending", "Proposals of this process that wait for their outcome."),
	index:         desc("store_index", "Index of the newest event."),
	nodes:         desc("store_nodes", "Files and directories in the store."),
	watchers:      desc("store_watchers", "Open watches on this member."),
	expires:       desc("store_expires_total", "Nodes that have expired since the process started."),
	term:          desc("server_raft_term", "Current raft term."),
}

func desc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("deimos_"+name, help, nil, nil)
}

// Describe implements [prometheus.Collector].
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

// Collect implements [prometheus.Collector].
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	st, view := c.node.Status(), c.machine.Store().View()
	gauge := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	counter := func(d *prometheus.Desc, v float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v)
	}
	gauge(descs.hasLeader, boolValue(st.Leader != 0))
	gauge(descs.isLeader, boolValue(st.IsLeader()))
	voters, learners, isLearner := 0, 0, false
	for _, m := range c.machine.Members() {
		if m.IsLearner {
			learners++
			isLearner = isLearner || m.ID == st.ID
		} else {
			voters++
		}
	}
	gauge(descs.isLearner, boolValue(isLearner))
	gauge(descs.voters, float64(voters))
	gauge(descs.learners, float64(learners))
	gauge(descs.diskLow, boolValue(c.space.Low()))
	gauge(descs.writesRefused, boolValue(st.WritesRefused))
	counter(descs.leaderChanges, float64(st.LeaderChanges))
	counter(descs.committed, float64(st.Committed))
	counter(descs.applied, float64(st.Applied))
	counter(descs.failed, float64(st.Failed))
	gauge(descs.pending, float64(st.Pending))
	gauge(descs.term, float64(st.Term))
	gauge(descs.index, float64(view.Index()))
	gauge(descs.nodes, float64(view.Len()))
	gauge(descs.watchers, float64(c.machine.Store().Watchers()))
	counter(descs.expires, float64(c.machine.Expired()))
}

func boolValue(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
