package daemon_test

import (
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// An election would take longer than everything else here by far: who leads
// when the old leader is gone got the leadership from it.
func TestAStoppedLeaderHasASuccessorAtOnce(t *testing.T) {
	c := clustertest.New(t, 3, func(cfg *daemon.Config) {
		cfg.Timing.Heartbeat, cfg.Timing.Election = 50*time.Millisecond, 10*time.Second
	})
	leader := c.Leader()
	term := leader.Status().Term
	began := time.Now()
	leader.Stop()
	took := time.Since(began)
	var successor *clustertest.Member
	for _, m := range c.Members() {
		if m != leader && m.Status().IsLeader() {
			successor = m
		}
	}
	if successor == nil {
		t.Fatalf("nobody leads after the leader was stopped, which took %v", took)
	}
	if got := successor.Status().Term; got != term+1 {
		t.Errorf("term %d after a hand-over from term %d, want one more", got, term)
	}
	if code, body := successor.Put("/a", "1"); code != 201 {
		t.Errorf("PUT at the successor = %d %s, want 201", code, body)
	}
}
