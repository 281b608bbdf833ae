package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// cluster is a set of members that were started together.
type cluster struct{ nodes []*node }

// startCluster starts three members and waits until all are ready.
func startCluster(t testing.TB, flags ...string) *cluster {
	t.Helper()
	c := &cluster{}
	var members []string
	for i := range 3 {
		n := newNode(t, fmt.Sprintf("n%d", i+1), flags...)
		c.nodes = append(c.nodes, n)
		members = append(members, n.name+"="+n.peer)
	}
	for _, n := range c.nodes {
		n.args = append(n.args, "--bootstrap-config", strings.Join(members, ","))
	}
	c.start(t)
	return c
}

// start starts all members and waits until they are ready.
func (c *cluster) start(t testing.TB) {
	t.Helper()
	for _, n := range c.nodes {
		n.start(t)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
	}
}

// leader waits until exactly one of the running members says that it leads.
func (c *cluster) leader(t testing.TB) *node {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	var found *node
	err := until(ctx, func() error {
		found = nil
		for _, n := range c.nodes {
			if n.run.ended() {
				continue
			}
			leads, err := metric(ctx, n.client, "deimos_server_is_leader")
			if err != nil {
				return err
			}
			if leads == 1 && found != nil {
				return errors.New("two members say that they lead")
			}
			if leads == 1 {
				found = n
			}
		}
		if found == nil {
			return errors.New("no member says that it leads")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("looking for the leader: %v", err)
	}
	return found
}

// follower is a running member that does not lead.
func (c *cluster) follower(t testing.TB) *node {
	t.Helper()
	leader := c.leader(t)
	for _, n := range c.nodes {
		if n != leader && !n.run.ended() {
			return n
		}
	}
	t.Fatal("no follower runs")
	return nil
}

// others are the client URLs of all members but one.
func (c *cluster) others(but *node) []string {
	var urls []string
	for _, n := range c.nodes {
		if n != but {
			urls = append(urls, n.client)
		}
	}
	return urls
}

// wantAgreement waits until all members hold the same tree at the same index,
// and returns the tree as JSON.
func (c *cluster) wantAgreement(t testing.TB) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	var trees []string
	err := until(ctx, func() error {
		trees = nil
		var indexes []string
		for _, n := range c.nodes {
			index, tree, err := localTree(ctx, n.client)
			if err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			trees, indexes = append(trees, tree), append(indexes, index)
		}
		if len(slices.Compact(indexes)) != 1 {
			return fmt.Errorf("the members are at different indexes %v", indexes)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("the members do not agree after %v: %v", readyMax, err)
	}
	for i, tree := range trees {
		if tree != trees[0] {
			t.Errorf("%s and %s hold different trees at the same index:\n%.2000s\n%.2000s", c.nodes[0].name, c.nodes[i].name, trees[0], tree)
		}
	}
	return trees[0]
}

// localTree reads what a member has applied, and the index of it.
func localTree(ctx context.Context, base string) (index, tree string, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/keys/?recursive=true&quorum=false", nil)
	if err != nil {
		return "", "", err
	}
	res, err := probe.Do(r)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", "", fmt.Errorf("e2e: reading the tree: status %d", res.StatusCode)
	}
	body, err := io.ReadAll(res.Body)
	return res.Header.Get("X-Deimos-Index"), string(body), err
}

func TestLeaderKilledDuringWrites(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	old := c.leader(t)
	load := startLoad(t, 8, c.others(old)...)
	load.waitAcks(t, 1000)

	before := load.acks()
	killedAt := time.Now()
	old.kill(t)
	first := load.waitAckAfter(t, killedAt, 10*time.Second)
	if gap := first.Sub(killedAt); gap > 3*time.Second {
		t.Errorf("the first write after the leader was killed was acknowledged after %v, want at most 3 s", gap)
	}
	load.waitAcks(t, before+1000)
	if now := c.leader(t); now == old {
		t.Errorf("leader = %s, want another one than the member that was killed", now.name)
	}

	old.start(t)
	old.waitReady(t)
	load.waitAcks(t, load.acks()+200)
	load.stop(t)
	load.wantNotVoid(t)
	c.wantAgreement(t)
	for _, n := range c.nodes {
		load.wantAll(t, n.client)
	}
}

func TestAllThreeKilledAndRestarted(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	load := startLoad(t, 8, c.others(nil)...)
	load.waitAcks(t, 1000)
	for _, n := range c.nodes {
		n.kill(t)
	}
	load.stop(t)
	load.wantNotVoid(t)

	c.start(t)
	c.wantAgreement(t)
	for _, n := range c.nodes {
		load.wantAll(t, n.client)
	}
	again := startLoad(t, 2, c.others(nil)...)
	again.waitAcks(t, 20)
	again.stop(t)
}

func TestFollowerThatWasDownLongGetsASnapshot(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "--snapshot-count", "100")
	behind := c.follower(t)
	load := startLoad(t, 16, c.others(behind)...)
	load.waitAcks(t, 300)
	behind.kill(t)
	index := load.lastIndex()
	// More than the log keeps in memory for members that are behind, and many
	// snapshots.
	load.waitAcks(t, load.acks()+7000)
	load.stop(t)
	load.wantNotVoid(t)

	behind.start(t)
	behind.waitReady(t)
	c.wantAgreement(t)
	load.wantAll(t, behind.client)
	// Entries would have brought their events; a snapshot brings none.
	status, body, err := get(t.Context(), fmt.Sprintf("%s/keys/none?wait=true&waitIndex=%d", behind.client, index+1))
	if err != nil || status != http.StatusBadRequest || !strings.Contains(body, `"errorCode":401`) {
		t.Errorf("watch from index %d on the member that was behind = %d %s (%v), want 400/401, for it should have been sent a snapshot", index+1, status, body, err)
	}
	again := startLoad(t, 2, behind.client)
	again.waitAcks(t, 20)
	again.stop(t)
	c.wantAgreement(t)
}

func TestFollowerKilledKeepsWritesGoing(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	behind := c.follower(t)
	load := startLoad(t, 4, c.others(behind)...)
	load.waitAcks(t, 300)
	behind.kill(t)
	load.waitAcks(t, load.acks()+300)
	behind.start(t)
	behind.waitReady(t)
	load.stop(t)
	load.wantNotVoid(t)
	c.wantAgreement(t)
	load.wantAll(t, behind.client)
}
