package daemon_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// What membership and crashes do to each other.

func TestAClusterThatHasShrunkStartsAfterACrash(t *testing.T) {
	c := clustertest.NewHTTP(t, 2)
	l, f := c.Leader(), c.Follower()
	put(t, l, "/a", "1")
	if status, body := doMembers(t, l, http.MethodDelete, fmt.Sprintf("/members/%x", f.MemberID()), ""); status != http.StatusNoContent {
		t.Fatalf("DELETE = %d %s", status, body)
	}
	if err := <-f.Failed(); err == nil {
		t.Error("the removed member ended without a reason")
	}
	f.Kill()
	l.Kill() // nothing was written after the removal
	l.Start()
	l.WaitReady()
	if list := memberList(t, l); len(list) != 1 {
		t.Errorf("%d members, want 1", len(list))
	}
	put(t, l, "/b", "2")
}

func TestForceNewClusterFromAMemberThatWasRemoved(t *testing.T) {
	c := clustertest.New(t, 3)
	x := c.Follower()
	put(t, x, "/a", "1")
	id := x.MemberID()
	if status, body := doMembers(t, c.Leader(), http.MethodDelete, fmt.Sprintf("/members/%x", id), ""); status != http.StatusNoContent {
		t.Fatalf("DELETE = %d %s", status, body)
	}
	for _, m := range c.Members() {
		m.Kill()
	}
	x.Configure(func(cfg *daemon.Config) { cfg.ForceNewCluster = true })
	x.Start()
	x.WaitReady()
	list := memberList(t, x)
	if len(list) != 1 || list[0].ID != fmt.Sprintf("%x", id) || len(list[0].PeerURLs) == 0 || list[0].Name == "" {
		t.Errorf("members %+v, want %x alone with its name and URLs", list, id)
	}
	if status, body := x.Do(http.MethodGet, "/keys/a", nil); status != http.StatusOK {
		t.Errorf("GET = %d %s, want what the member had", status, body)
	}
}

func TestForceNewClusterIsDoneOnce(t *testing.T) {
	c := clustertest.New(t, 3)
	x := c.Follower()
	put(t, x, "/a", "1")
	for _, m := range c.Members() {
		m.Kill()
	}
	x.Configure(func(cfg *daemon.Config) { cfg.ForceNewCluster = true })
	x.Start()
	x.WaitReady()
	// A second member: this one is not alone any more when the flag counts again.
	add(t, x, "http://127.0.0.1:9999", true)
	_, before := x.Put("/b", "2")
	x.Restart()
	x.WaitReady()
	if list := memberList(t, x); len(list) != 2 {
		t.Errorf("%d members after a restart with the flag in place, want 2", len(list))
	}
	_, after := x.Put("/b", "2")
	if !strings.Contains(before, `"modifiedIndex":1000003,`) || !strings.Contains(after, `"modifiedIndex":1000004,`) {
		t.Errorf("PUT before and after the restart = %s and %s, want indexes 1000003 and 1000004", before, after)
	}
	if _, err := os.Stat(filepath.Join(x.DataDir(), "replaced-2")); err == nil {
		t.Error("the data was replaced a second time")
	}
	// Whoever means it removes the mark.
	x.Kill()
	if err := os.Remove(filepath.Join(x.DataDir(), "forced-cluster")); err != nil {
		t.Fatal(err)
	}
	x.Start()
	x.WaitReady()
	if list := memberList(t, x); len(list) != 1 {
		t.Errorf("%d members after another forced cluster, want 1", len(list))
	}
}

func TestADamagedSnapshotIsPassedOverByAMemberThatOnceJoined(t *testing.T) {
	c := clustertest.NewHTTP(t, 1, func(cfg *daemon.Config) { cfg.Limits.SnapshotCount = 10 })
	m := c.Member(0)
	pattern := filepath.Join(m.DataDir(), "snap", "*.snap")
	var names []string
	clustertest.Eventually(t, "three snapshots", func() bool {
		put(t, m, "/k", "v")
		names, _ = filepath.Glob(pattern) // the pattern is sound
		return len(names) >= 3
	})
	m.Stop()
	names, _ = filepath.Glob(pattern)
	if err := os.Truncate(names[len(names)-1], 5); err != nil {
		t.Fatal(err)
	}
	m.Configure(func(cfg *daemon.Config) {
		cfg.InitialClusterState = daemon.ClusterStateExisting
		cfg.Bootstrap = append(cfg.Bootstrap, daemon.BootstrapMember{Name: "gone", PeerURLs: []string{"http://127.0.0.1:1"}})
	})
	m.Start()
	m.WaitReady()
}

func TestTheLeaderIsRemovedThroughAnother(t *testing.T) {
	c := clustertest.New(t, 3)
	l, f := c.Leader(), c.Follower()
	if status, body := doMembers(t, f, http.MethodDelete, fmt.Sprintf("/members/%x", l.MemberID()), ""); status != http.StatusNoContent {
		t.Fatalf("DELETE = %d %s, want 204", status, body)
	}
	if list := memberList(t, f); len(list) != 2 {
		t.Errorf("%d members, want 2", len(list))
	}
	put(t, f, "/a", "1")
}
