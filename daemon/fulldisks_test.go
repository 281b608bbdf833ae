package daemon_test

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// metric reports whether a member shows a line among its metrics.
func metric(m *clustertest.Member, line string) bool {
	code, body := m.Do(http.MethodGet, "/metrics", nil)
	return code == http.StatusOK && slices.Contains(strings.Split(body, "\n"), line)
}

// waitRefused waits until all members know whether the cluster refuses writes,
// and checks what they answer to one.
func waitRefused(t *testing.T, c *clustertest.Cluster, refused bool) {
	t.Helper()
	want, line := http.StatusOK, "deimos_cluster_writes_refused 0"
	if refused {
		want, line = http.StatusInsufficientStorage, "deimos_cluster_writes_refused 1"
	}
	for _, m := range c.Members() {
		clustertest.Eventually(t, line, func() bool { return metric(m, line) })
		if code, body := m.Put("/a", "2"); code != want || (refused && !strings.Contains(body, `"cause":"disk space is below the reserve"`)) {
			t.Errorf("PUT at member %x = %d %s, want %d", m.MemberID(), code, body, want)
		}
	}
}

// fillDisk fills the disk of a member and waits until it has noticed.
func fillDisk(t *testing.T, m *clustertest.Member) {
	t.Helper()
	m.FillDisk()
	clustertest.Eventually(t, "a full disk", func() bool { return metric(m, "deimos_server_disk_low 1") })
}

// start3 starts a cluster that has /a, and /ttl for a second, and returns its
// leader and the others.
func start3(t *testing.T) (c *clustertest.Cluster, leader *clustertest.Member, followers []*clustertest.Member) {
	t.Helper()
	c = clustertest.New(t, 3)
	leader = c.Leader()
	for _, m := range c.Members() {
		if m != leader {
			followers = append(followers, m)
		}
	}
	if code, body := leader.Put("/a", "1"); code != http.StatusCreated {
		t.Fatalf("PUT = %d %s, want 201", code, body)
	}
	if code, body := leader.Do(http.MethodPut, "/keys/ttl", url.Values{"value": {"1"}, "ttl": {"1"}}); code != http.StatusCreated {
		t.Fatalf("PUT with a TTL = %d %s, want 201", code, body)
	}
	return c, leader, followers
}

// waitExpired waits until the key with a TTL is gone: expiry and reads go on.
func waitExpired(t *testing.T, c *clustertest.Cluster) {
	t.Helper()
	for _, m := range c.Members() {
		clustertest.Eventually(t, "the key to expire", func() bool {
			code, _ := m.Do(http.MethodGet, "/keys/ttl", nil)
			return code == http.StatusNotFound
		})
		if code, body := m.Do(http.MethodGet, "/keys/a", nil); code != http.StatusOK {
			t.Errorf("GET at member %x = %d %s, want 200", m.MemberID(), code, body)
		}
	}
}

func TestWritesAreRefusedEverywhereWhileBothFollowersAreFull(t *testing.T) {
	t.Parallel()
	c, leader, followers := start3(t)
	term := leader.Status().Term
	fillDisk(t, followers[0])
	if code, body := leader.Put("/a", "2"); code != http.StatusOK {
		t.Errorf("PUT with one of three disks full = %d %s, want 200", code, body)
	}
	fillDisk(t, followers[1])
	waitRefused(t, c, true)
	waitExpired(t, c)
	if metric(leader, "deimos_server_disk_low 1") {
		t.Error("the leader takes its own disk for full")
	}
	followers[0].EmptyDisk()
	clustertest.Eventually(t, "space", func() bool { return metric(followers[0], "deimos_server_disk_low 0") })
	clustertest.Eventually(t, "a quorum with space", func() bool { return metric(followers[0], "deimos_cluster_writes_refused 0") })
	if code, body := followers[0].Put("/a", "3"); code != http.StatusOK {
		t.Errorf("PUT with space on a quorum again = %d %s, want 200", code, body)
	}
	followers[1].EmptyDisk()
	clustertest.Eventually(t, "space", func() bool { return metric(followers[1], "deimos_server_disk_low 0") })
	waitRefused(t, c, false)
	if !leader.Status().IsLeader() || leader.Status().Term != term {
		t.Error("the leader, whose disk was never full, has changed")
	}
}

func TestLeadershipGoesToTheVoterWithSpaceAndStays(t *testing.T) {
	t.Parallel()
	c, leader, followers := start3(t)
	full, roomy := followers[0], followers[1]
	if full.MemberID() > roomy.MemberID() { // of equals, the one with the lower id is asked
		full, roomy = roomy, full
	}
	full.FillDisk()
	clustertest.Eventually(t, "a full disk", func() bool { return metric(full, "deimos_server_disk_low 1") })
	leader.FillDisk()
	clustertest.Eventually(t, "the voter with space to lead", func() bool { return roomy.Status().IsLeader() })
	term := roomy.Status().Term
	waitRefused(t, c, true)
	waitExpired(t, c)
	leader.EmptyDisk()
	full.EmptyDisk()
	for _, m := range c.Members() {
		clustertest.Eventually(t, "space", func() bool { return metric(m, "deimos_server_disk_low 0") })
	}
	waitRefused(t, c, false)
	if st := roomy.Status(); !st.IsLeader() || st.Term != term {
		t.Errorf("the voter with space leads = %v in term %d, want true in %d", st.IsLeader(), st.Term, term)
	}
}

func TestNobodyHandsOverWhileAllDisksAreFull(t *testing.T) {
	t.Parallel()
	c, leader, followers := start3(t)
	term := leader.Status().Term
	fillDisk(t, followers[0])
	fillDisk(t, followers[1])
	waitRefused(t, c, true)
	fillDisk(t, leader)
	waitRefused(t, c, true)
	waitExpired(t, c)
	for _, m := range c.Members() {
		m.EmptyDisk()
	}
	for _, m := range c.Members() {
		clustertest.Eventually(t, "space", func() bool { return metric(m, "deimos_server_disk_low 0") })
	}
	waitRefused(t, c, false)
	if st := leader.Status(); !st.IsLeader() || st.Term != term {
		t.Errorf("the leader leads = %v in term %d, want true in %d: there was nobody to hand over to", st.IsLeader(), st.Term, term)
	}
}
