package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
)

// copyNode prepares a member that runs with a copy of the data directory of
// another one, and listens elsewhere.
func (c *cluster) copyNode(t testing.TB, of *node) *node {
	t.Helper()
	n := newNode(t, of.name)
	var members []string
	for _, m := range c.nodes {
		members = append(members, m.name+"="+m.peer)
	}
	// What a member advertises must be what the others know.
	n.args = append(n.args, "--advertise-peer-urls", of.peer, "--bootstrap-config", strings.Join(members, ","))
	if err := os.CopyFS(n.dir, os.DirFS(of.dir)); err != nil {
		t.Fatal(err)
	}
	return n
}

// write writes n keys through a member.
func (c *cluster) write(t testing.TB, at *node, first, n int) {
	t.Helper()
	for i := first; i < first+n; i++ {
		if _, err := put(t.Context(), probe, at.client, fmt.Sprintf("/k%d", i), fmt.Sprint(i)); err != nil {
			t.Fatalf("PUT /k%d: %v", i, err)
		}
	}
}

// Goal: a member that is started a second time from a copy of its data directory
// is refused, by its peers, and says so; the first one goes on.
func TestCopyOfARunningMemberIsRefused(t *testing.T) {
	for _, flags := range [][]string{nil, {"--peer-secret-file", writeSecret(t, newSecret())}} {
		c := startCluster(t, flags...)
		original := c.follower(t)
		c.write(t, c.leader(t), 0, 5)
		second := c.copyNode(t, original)
		second.args = append(second.args, flags...)
		c.write(t, c.leader(t), 5, 5)
		second.start(t)
		if code := second.run.wait(t, exitMax); code != 73 {
			t.Errorf("the copy ended with %d, want 73\n%s", code, second.run.stderr.tail())
		}
		for _, want := range []string{"runs already in another process", original.peer, "stop one of them", "this data directory is a copy"} {
			if got := second.run.stderr.String(); !strings.Contains(got, want) {
				t.Errorf("the copy does not say %q:\n%s", want, got)
			}
		}
		c.write(t, c.leader(t), 10, 20)
		c.wantAgreement(t)
		for _, n := range c.nodes {
			if n.run.ended() {
				t.Errorf("%s has ended with %d\n%s", n.name, n.run.code, n.run.stderr.tail())
			}
		}
	}
}

// Goal: a copy of a stopped member starts in its place, also where the others do
// not expect it; a member that was killed starts again and is not taken for a
// second process of itself.
func TestCopyOfAStoppedMemberStartsInItsPlace(t *testing.T) {
	c := startCluster(t)
	c.write(t, c.leader(t), 0, 5)
	n := c.follower(t)
	for range 3 {
		n.kill(t)
		n.start(t)
		n.waitReady(t)
	}
	n.kill(t)
	moved := c.copyNode(t, n)
	moved.start(t)
	moved.waitReady(t)
	for i, m := range c.nodes {
		if m == n {
			c.nodes[i] = moved
		}
	}
	c.write(t, c.leader(t), 5, 20)
	c.wantAgreement(t)
	for _, m := range c.nodes {
		if m.run.ended() {
			t.Errorf("%s has ended with %d\n%s", m.name, m.run.code, m.run.stderr.tail())
		}
		ctx, cancel := context.WithTimeout(t.Context(), readyMax)
		for _, reason := range []string{"twin", "unsettled"} {
			name := fmt.Sprintf("deimos_peer_messages_refused_total{reason=%q}", reason)
			if refused, err := metric(ctx, m.client, name); err == nil && refused != 0 {
				t.Errorf("%s refused %v requests with %q, want none", m.name, refused, reason)
			}
		}
		cancel()
	}
}
