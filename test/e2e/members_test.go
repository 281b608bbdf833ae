package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// memberOf is a member as the API shows it.
type memberOf struct {
	ID         string   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	IsLearner  bool     `json:"isLearner"`
}

// askMembers sends a request of the members API.
func askMembers(t testing.TB, method, url, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := probe.Do(r)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return resp.StatusCode, string(text)
}

// listMembers returns the member list as a member knows it.
func listMembers(t testing.TB, n *node) []memberOf {
	t.Helper()
	status, body := askMembers(t, http.MethodGet, n.client+"/members", "")
	var list struct{ Members []memberOf }
	if err := json.Unmarshal([]byte(body), &list); err != nil || status != http.StatusOK {
		t.Fatalf("GET /members = %d %s (%v)", status, body, err)
	}
	return list.Members
}

// idOf returns the id of a started member.
func idOf(t testing.TB, at *node, name string) string {
	t.Helper()
	for _, m := range listMembers(t, at) {
		if m.Name == name {
			return m.ID
		}
	}
	t.Fatalf("%s is not in the member list of %s", name, at.name)
	return ""
}

// addMember adds a node that is not running to the cluster, and prepares its
// flags for joining.
func addMember(t testing.TB, at, n *node, bootstrap ...*node) memberOf {
	t.Helper()
	status, body := askMembers(t, http.MethodPost, at.client+"/members", fmt.Sprintf(`{"peerURLs":[%q]}`, n.peer))
	var m memberOf
	if err := json.Unmarshal([]byte(body), &m); err != nil || status != http.StatusCreated || !m.IsLearner || m.Name != "" {
		t.Fatalf("POST /members = %d %s, want 201 and a learner (%v)", status, body, err)
	}
	members := []string{n.name + "=" + n.peer}
	for _, other := range bootstrap {
		members = append(members, other.name+"="+other.peer)
	}
	n.args = append(slices.DeleteFunc(slices.Clone(n.args), func(s string) bool {
		return strings.HasPrefix(s, "--bootstrap-config") || strings.HasPrefix(s, "--initial-cluster-state") || strings.Contains(s, "=http")
	}), "--initial-cluster-state=existing", "--bootstrap-config="+strings.Join(members, ","))
	return m
}

// waitVoter waits until a member votes.
func waitVoter(t testing.TB, at *node, name string, most time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), most)
	defer cancel()
	if err := until(ctx, func() error {
		for _, m := range listMembers(t, at) {
			if m.Name == name && !m.IsLearner {
				return nil
			}
		}
		return fmt.Errorf("%s does not vote: %+v", name, listMembers(t, at))
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAClusterGrowsAndShrinksUnderLoad(t *testing.T) {
	t.Parallel()
	n1 := startNode(t)
	l := startLoad(t, 4, n1.client)
	n2, n3 := newNode(t, "n2"), newNode(t, "n3")
	addMember(t, n1, n2, n1)
	n2.start(t)
	n2.waitReady(t)
	waitVoter(t, n1, "n2", 30*time.Second)
	addMember(t, n2, n3, n1, n2)
	n3.start(t)
	n3.waitReady(t)
	waitVoter(t, n1, "n3", 30*time.Second)
	l.waitAcks(t, 500)
	l.stop(t)
	l.wantAll(t, n3.client)

	// The first member, which leads, is removed: it ends with 1, and stays out.
	id := idOf(t, n3, "n1")
	if status, body := askMembers(t, http.MethodDelete, n1.client+"/v2/members/"+id, ""); status != http.StatusNoContent {
		t.Fatalf("DELETE = %d %s, want 204", status, body)
	}
	for _, again := range []string{"the removed member", "its second start"} {
		if code := n1.run.wait(t, exitMax); code != 1 {
			t.Errorf("%s ended with %d, want 1", again, code)
		}
		if text := n1.run.stderr.String(); !strings.Contains(text, "was removed from the cluster") {
			t.Errorf("%s did not say why it ended:\n%s", again, n1.run.stderr.tail())
		}
		n1.start(t)
	}
	n1.run.wait(t, exitMax)
	n2.waitReady(t)
	l = startLoad(t, 2, n2.client, n3.client)
	l.waitAcks(t, 200)
	l.stop(t)
	l.wantAll(t, n2.client)
	if status, body := askMembers(t, http.MethodDelete, n2.client+"/members/"+id, ""); status != http.StatusGone {
		t.Errorf("second DELETE = %d %s, want 410", status, body)
	}
}

func TestAWipedMemberIsRefusedAndComesBackAsANewOne(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	l := startLoad(t, 4, c.nodes[0].client)
	l.waitAcks(t, 200)
	l.stop(t)
	waitPublished(t, c)
	wiped := c.nodes[2]
	wiped.kill(t)
	id := idOf(t, c.nodes[0], wiped.name)
	if err := os.RemoveAll(wiped.dir); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	wiped.start(t)
	if code := wiped.run.wait(t, exitMax); code != 73 {
		t.Fatalf("the wiped member ended with %d, want 73\n%s", code, wiped.run.stderr.tail())
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the wiped member ran for %v, want at most 5 s", took)
	}
	text := wiped.run.stderr.String()
	for _, want := range []string{id, "curl -X DELETE ", "/members/" + id, "curl -X POST ", wiped.peer, "--initial-cluster-state existing"} {
		if !strings.Contains(text, want) {
			t.Errorf("the message does not name %q:\n%s", want, wiped.run.stderr.tail())
		}
	}
	// Joining under the old entry is refused as well.
	joining := *wiped
	joining.dir = filepath.Join(t.TempDir(), "other")
	joining.args = append(slices.Clone(wiped.args), "--initial-cluster-state=existing", "--data-dir", joining.dir)
	joining.start(t)
	if code := joining.run.wait(t, 20*time.Second); code != 73 {
		t.Errorf("joining under the entry of a started member ended with %d, want 73\n%s", code, joining.run.stderr.tail())
	}
	if status, body := askMembers(t, http.MethodDelete, c.nodes[1].client+"/members/"+id, ""); status != http.StatusNoContent {
		t.Fatalf("DELETE = %d %s", status, body)
	}
	if err := os.RemoveAll(wiped.dir); err != nil {
		t.Fatal(err)
	}
	if m := addMember(t, c.nodes[1], wiped, c.nodes[0], c.nodes[1]); m.ID == id {
		t.Errorf("the id %s was given again", id)
	}
	wiped.start(t)
	wiped.waitReady(t)
	waitVoter(t, c.nodes[0], wiped.name, 30*time.Second)
	c.wantAgreement(t)
	l.wantAll(t, wiped.client)
}

// waitPublished waits until every member is in the list under its name.
func waitPublished(t testing.TB, c *cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if err := until(ctx, func() error {
		for _, n := range c.nodes {
			for _, m := range listMembers(t, n) {
				if m.Name == "" || len(m.ClientURLs) == 0 {
					return fmt.Errorf("member %s has no name at %s", m.ID, n.name)
				}
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

func TestAMemberWithAWrongURLCostsNothing(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	l := startLoad(t, 2, n.client)
	l.waitAcks(t, 100)
	status, body := askMembers(t, http.MethodPost, n.client+"/members", `{"peerURLs":["http://127.0.0.1:1"]}`)
	var m memberOf
	if err := json.Unmarshal([]byte(body), &m); err != nil || status != http.StatusCreated {
		t.Fatalf("POST /members = %d %s", status, body)
	}
	l.waitAcks(t, 400)
	if status, body := askMembers(t, http.MethodPost, n.client+"/members/"+m.ID+"/promote", ""); status != http.StatusPreconditionFailed ||
		body != fmt.Sprintf("{\"message\":\"learner %s is not caught up\"}\n", m.ID) {
		t.Errorf("promote = %d %s, want 412", status, body)
	}
	l.waitAcks(t, 600)
	l.stop(t)
	l.wantAll(t, n.client)
	if status, body := askMembers(t, http.MethodDelete, n.client+"/members/"+m.ID, ""); status != http.StatusNoContent {
		t.Errorf("DELETE = %d %s, want 204", status, body)
	}
}

func TestJoiningWithoutBeingAddedIsRefused(t *testing.T) {
	t.Parallel()
	n1 := startNode(t)
	n2 := newNode(t, "n2")
	n2.args = append(n2.args, "--initial-cluster-state=existing", "--bootstrap-config", "n1="+n1.peer+",n2="+n2.peer)
	n2.start(t)
	if code := n2.run.wait(t, 20*time.Second); code != 1 {
		t.Errorf("ended with %d, want 1", code)
	}
	for _, want := range []string{"has no member with the peer URL " + n2.peer, "curl -X POST"} {
		if !strings.Contains(n2.run.stderr.String(), want) {
			t.Errorf("the message does not say %q:\n%s", want, n2.run.stderr.tail())
		}
	}
	if _, err := os.Stat(filepath.Join(n2.dir, "wal")); !os.IsNotExist(err) {
		t.Errorf("a log was made all the same: %v", err)
	}
}

func TestForceNewClusterGoesOnFromOneSurvivor(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	l := startLoad(t, 4, c.nodes[0].client)
	l.waitAcks(t, 500)
	l.stop(t)
	before := l.lastIndex()
	waitPublished(t, c)
	c.wantAgreement(t)
	for _, n := range c.nodes {
		n.kill(t)
	}
	survivor := c.nodes[1]
	survivor.args = append(survivor.args, "--force-new-cluster")
	survivor.start(t)
	survivor.waitReady(t)
	l.wantAll(t, survivor.client)
	if text := survivor.run.stderr.String(); !strings.Contains(text, "lastDurableRaftIndex=") {
		t.Errorf("the last durable index was not told:\n%s", survivor.run.stderr.tail())
	}
	if members := listMembers(t, survivor); len(members) != 1 || members[0].Name != survivor.name || members[0].IsLearner {
		t.Errorf("members = %+v, want %s alone", members, survivor.name)
	}
	index, err := put(t.Context(), probe, survivor.client, "/after", "1")
	if err != nil || index <= before+1_000_000 {
		t.Errorf("the next index is %d (%v), want it above %d", index, err, before+1_000_000)
	}
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if err := until(ctx, func() error {
		if !strings.Contains(survivor.run.stderr.String(), "member published") {
			return fmt.Errorf("the member has not published itself in the new cluster")
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	// A second start with the flag in place forces nothing again.
	survivor.run.signal(t, syscall.SIGTERM)
	if code := survivor.run.wait(t, exitMax); code != 0 {
		t.Errorf("ended with %d, want 0", code)
	}
	survivor.start(t)
	survivor.waitReady(t)
	if again, err := put(t.Context(), probe, survivor.client, "/after", "2"); err != nil || again != index+1 {
		t.Errorf("the index after a second start is %d (%v), want %d", again, err, index+1)
	}
	// An old member is refused: it belongs to another cluster.
	old := c.nodes[0]
	old.start(t)
	if err := until(ctx, func() error {
		refused, err := metric(ctx, survivor.client, `deimos_peer_messages_refused_total{reason="cluster"}`)
		if err == nil && refused == 0 {
			err = fmt.Errorf("no message was refused")
		}
		return err
	}); err != nil {
		t.Errorf("the old member was not refused: %v\n%s", err, old.run.stderr.tail())
	}
	l.wantAll(t, survivor.client)
}
