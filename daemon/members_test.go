package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

type memberOf struct {
	ID        string
	Name      string
	PeerURLs  []string
	IsLearner bool
}

func doMembers(t *testing.T, m *clustertest.Member, method, path, body string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, m.URL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

func memberList(t *testing.T, m *clustertest.Member) []memberOf {
	t.Helper()
	status, body := doMembers(t, m, http.MethodGet, "/members", "")
	var list struct{ Members []memberOf }
	if err := json.Unmarshal([]byte(body), &list); err != nil || status != http.StatusOK {
		t.Fatalf("GET /members = %d %s (%v)", status, body, err)
	}
	return list.Members
}

func add(t *testing.T, at *clustertest.Member, peerURL string, learner bool) memberOf {
	t.Helper()
	status, body := doMembers(t, at, http.MethodPost, "/v2/members", fmt.Sprintf(`{"peerURLs":[%q],"isLearner":%v}`, peerURL, learner))
	var m memberOf
	if err := json.Unmarshal([]byte(body), &m); err != nil || status != http.StatusCreated || !m.IsLearner {
		t.Fatalf("POST /v2/members = %d %s, want 201 and a learner", status, body)
	}
	return m
}

func TestMembersAreChangedThroughAnyMember(t *testing.T) {
	c := clustertest.New(t, 3)
	f := c.Follower()
	m := add(t, f, "http://127.0.0.1:9999", true)
	if list := memberList(t, f); len(list) != 4 {
		t.Errorf("%d members right after the addition was answered here, want 4", len(list))
	}
	path := "/members/" + m.ID
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{http.MethodPost, "/members", `{"peerURLs":["http://127.0.0.1:9999"]}`, 409, "membership: peerURL exists"},
		{http.MethodPut, path, `{"peerURLs":["http://127.0.0.1:9998"]}`, 204, ""},
		{http.MethodPost, path + "/promote", "", 412, "learner " + m.ID + " is not caught up"},
		{http.MethodPost, path + "/lead", "", 409, "member " + m.ID + " is a learner"},
		{http.MethodDelete, path, "", 204, ""},
		{http.MethodDelete, path, "", 410, "Member permanently removed: " + m.ID},
	} {
		status, body := doMembers(t, f, tt.method, tt.path, tt.body)
		if status != tt.status || !strings.Contains(body, tt.want) {
			t.Errorf("%s %s = %d %s, want %d %s", tt.method, tt.path, status, body, tt.status, tt.want)
		}
	}
	if list := memberList(t, f); len(list) != 3 {
		t.Errorf("%d members, want 3", len(list))
	}
}

func TestLeadershipIsHandedToTheMemberThatIsNamed(t *testing.T) {
	c := clustertest.New(t, 3)
	for _, to := range c.Members() {
		f := c.Follower()
		status, body := doMembers(t, f, http.MethodPost, fmt.Sprintf("/members/%x/lead", to.MemberID()), "")
		if status != http.StatusOK || !strings.Contains(body, fmt.Sprintf(`"id":"%x"`, to.MemberID())) {
			t.Fatalf("lead = %d %s, want 200 and the member", status, body)
		}
		clustertest.Eventually(t, "the member that was named to lead", func() bool { return to.Status().IsLeader() })
	}
}

func TestWithoutAQuorumTheMemberListStays(t *testing.T) {
	c := clustertest.New(t, 3)
	left := c.Follower()
	for _, m := range c.Members() {
		if m != left {
			m.Kill()
		}
	}
	clustertest.Eventually(t, "the leader to be missed", func() bool { return left.Status().Leader == 0 })
	status, body := doMembers(t, left, http.MethodPost, "/members", `{"peerURLs":["http://127.0.0.1:9999"]}`)
	if status != http.StatusServiceUnavailable || !strings.Contains(body, "During election") {
		t.Errorf("POST /members = %d %s, want 503", status, body)
	}
	if list := memberList(t, left); len(list) != 3 {
		t.Errorf("%d members, want 3", len(list))
	}
}

func TestAMemberJoinsARunningCluster(t *testing.T) {
	c := clustertest.NewHTTP(t, 1)
	first := c.Member(0)
	first.Put("/a", "1")
	joiner, peerURL := c.Join("m2")
	if err := joiner.TryStart(); err == nil || !strings.Contains(err.Error(), "add this member first") {
		t.Fatalf("start before the addition: %v, want a refusal", err)
	}
	m := add(t, first, peerURL, true)
	joiner.Start()
	// Stopped before it has a state of its own or after: it comes back.
	joiner.Restart()
	joiner.WaitReady()
	if status, body := joiner.Do(http.MethodGet, "/v2/keys/a", nil); status != http.StatusOK || !strings.Contains(body, `"value":"1"`) {
		t.Errorf("local read at the learner = %d %s", status, body)
	}
	if status, body := joiner.Put("/b", "2"); status != http.StatusCreated {
		t.Errorf("write through the learner = %d %s, want 201", status, body)
	}
	if status, body := doMembers(t, joiner, http.MethodPost, "/members/"+m.ID+"/promote", ""); status != http.StatusOK || strings.Contains(body, "isLearner") {
		t.Errorf("promote = %d %s, want 200 and a voter", status, body)
	}
	// Both vote now: without the first one there is no quorum.
	first.Kill()
	clustertest.Eventually(t, "the quorum to be gone", func() bool {
		status, _ := joiner.Put("/c", "3")
		return status == http.StatusInternalServerError
	})
	first.Restart()
	first.WaitReady()
}

func TestAMemberThatHasJoinedNeedsNoFlagForIt(t *testing.T) {
	c := clustertest.NewHTTP(t, 1)
	first := c.Member(0)
	joiner, peerURL := c.Join("m2")
	add(t, first, peerURL, true)
	joiner.Start()
	joiner.WaitReady()
	joiner.Kill()
	joiner.Configure(func(cfg *daemon.Config) { cfg.InitialClusterState = daemon.ClusterStateNew })
	if err := joiner.TryStart(); err != nil {
		t.Errorf("start with a state and without --initial-cluster-state existing: %v, want nil", err)
	}
	joiner.WaitReady()
}

func TestARemovedMemberEndsAndStaysOut(t *testing.T) {
	c := clustertest.NewHTTP(t, 3)
	gone := c.Follower()
	id := gone.MemberID()
	if status, body := doMembers(t, gone, http.MethodDelete, fmt.Sprintf("/members/%x", id), ""); status != http.StatusNoContent {
		t.Fatalf("DELETE of itself = %d %s, want 204", status, body)
	}
	var removed *daemon.RemovedError
	if err := <-gone.Failed(); !errors.As(err, &removed) || removed.ID != id {
		t.Errorf("Failed() = %v, want a RemovedError of %x", err, id)
	}
	gone.Kill()
	err := gone.TryStart()
	if err == nil { // its log may end before its removal; the others tell it
		err = <-gone.Failed()
		gone.Kill()
	}
	if !errors.As(err, &removed) {
		t.Errorf("second start: %v, want a RemovedError", err)
	}
	if got := daemon.FailureOf(err); got != daemon.FailureRuntime {
		t.Errorf("FailureOf = %v, want FailureRuntime", got)
	}
}

func TestAWipedMemberIsRecognised(t *testing.T) {
	c := clustertest.NewHTTP(t, 3)
	wiped := c.Follower()
	clustertest.Eventually(t, "all members to be published", func() bool {
		for _, m := range memberList(t, c.Leader()) {
			if m.Name == "" {
				return false
			}
		}
		return true
	})
	wiped.Kill()
	if err := os.RemoveAll(wiped.DataDir()); err != nil {
		t.Fatal(err)
	}
	wiped.Start()
	err := <-wiped.Failed()
	if got := daemon.FailureOf(err); got != daemon.FailureDataDir || !strings.Contains(err.Error(), "curl -X DELETE http://127.0.0.1:") {
		t.Errorf("Failed() = %v (kind %v), want the commands that replace the member", err, got)
	}
}

func TestForceNewClusterKeepsWhatTheSurvivorHas(t *testing.T) {
	c := clustertest.New(t, 3)
	survivor := c.Follower()
	for i := range 20 {
		survivor.Put(fmt.Sprintf("/k%d", i), "v")
	}
	if status, body := survivor.Do(http.MethodPut, "/keys/ttl", url.Values{"ttl": {"1000"}}); status != http.StatusCreated {
		t.Fatalf("PUT = %d %s", status, body)
	}
	for _, m := range c.Members() {
		m.Kill()
	}
	survivor.Configure(func(cfg *daemon.Config) { cfg.ForceNewCluster = true })
	survivor.Start()
	survivor.WaitReady()
	if list := memberList(t, survivor); len(list) != 1 || list[0].IsLearner {
		t.Errorf("members %+v, want this one alone", list)
	}
	if status, body := survivor.Do(http.MethodGet, "/keys/?recursive=true", nil); status != http.StatusOK || strings.Count(body, `"value":"v"`) != 20 ||
		!strings.Contains(body, `"ttl":`) {
		t.Errorf("GET = %d %s, want 20 keys and one with a TTL", status, body)
	}
	if _, body := survivor.Put("/next", "1"); !strings.Contains(body, `"modifiedIndex":1000023,`) {
		t.Errorf("PUT = %s, want index 1000023", body)
	}
	if status, body := survivor.Do(http.MethodGet, "/keys/k1?wait=true&waitIndex=5", nil); status != http.StatusBadRequest || !strings.Contains(body, `"errorCode":401`) {
		t.Errorf("watch of the old history = %d %s, want 400/401", status, body)
	}
	// It is an ordinary cluster: it restarts, with the flag in place or not.
	survivor.Restart()
	survivor.WaitReady()
	if _, body := survivor.Put("/next", "2"); !strings.Contains(body, `"modifiedIndex":1000024,`) {
		t.Errorf("PUT after a restart = %s, want index 1000024", body)
	}
}

func TestForceNewClusterNeedsAMember(t *testing.T) {
	cfg := daemon.Config{DataDir: t.TempDir(), ForceNewCluster: true, URLs: daemon.URLs{ListenClient: []string{"http://127.0.0.1:0"}}}
	if _, err := daemon.Open(t.Context(), cfg); daemon.FailureOf(err) != daemon.FailureUsage {
		t.Errorf("Open = %v, want a usage error", err)
	}
}

func TestAMemberThatForgetsToJoinHarmsNobody(t *testing.T) {
	var said words
	c := clustertest.NewHTTP(t, 1, func(cfg *daemon.Config) { cfg.Log = slog.New(slog.NewTextHandler(&said, nil)) })
	first := c.Member(0)
	put(t, first, "/a", "1")
	joiner, peerURL := c.Join("m2")
	add(t, first, peerURL, true)
	joiner.Configure(func(cfg *daemon.Config) { cfg.InitialClusterState = daemon.ClusterStateNew })
	refused := func(want string) {
		t.Helper()
		if err := joiner.TryStart(); daemon.FailureOf(err) != daemon.FailureUsage || !strings.Contains(err.Error(), want) {
			t.Errorf("start = %v, want a usage error with %q", err, want)
		}
	}
	refused("--initial-cluster-state existing")
	var configured []daemon.BootstrapMember
	with := func(peerURLs ...string) func(cfg *daemon.Config) {
		return func(cfg *daemon.Config) {
			configured = cfg.Bootstrap
			cfg.Bootstrap = slices.Clone(configured)
			cfg.Bootstrap[0].PeerURLs = slices.Concat(peerURLs, configured[0].PeerURLs)
		}
	}
	back := func(cfg *daemon.Config) { cfg.Bootstrap = configured }
	// Nobody answers at the first member's first URL, but at its second.
	hung, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	joiner.Configure(with("http://" + hung.Addr().String()))
	refused("--initial-cluster-state existing")
	joiner.Configure(back)
	// One of the others is of yet another cluster.
	var otherURLs []string
	clustertest.NewHTTP(t, 1, func(cfg *daemon.Config) {
		cfg.InitialClusterToken, otherURLs = "another", cfg.Bootstrap[0].PeerURLs
	})
	joiner.Configure(func(cfg *daemon.Config) {
		with()(cfg)
		cfg.Bootstrap = append(cfg.Bootstrap, daemon.BootstrapMember{Name: "m3", PeerURLs: otherURLs})
	})
	refused("bootstrap-config has to list members of one cluster")
	joiner.Configure(back)
	// Nor does one that began a cluster of its own while nobody could be asked.
	first.Kill()
	joiner.Start()
	first.Start()
	first.WaitReady()
	if err := <-joiner.Failed(); daemon.FailureOf(err) != daemon.FailureDataDir || !strings.Contains(err.Error(), "--initial-cluster-state existing") {
		t.Errorf("the foreign member ended with %v, want what to do with its data directory", err)
	}
	joiner.Kill()
	joiner.Start() // until the other has seen it for long enough, too
	clustertest.Eventually(t, "the sound member to say that it goes on", func() bool { return said.contain("this member goes on") })
	select {
	case err := <-first.Failed():
		t.Errorf("the sound member ended: %v", err)
	default:
	}
	put(t, first, "/b", "2")
}

// words is what members log, from any goroutine.
type words struct{ syncbuf.Buffer }

func (w *words) contain(s string) bool { return strings.Contains(w.String(), s) }

// Neither the list of first members nor where to listen is needed once a member
// has data, also after its address was changed.
func TestAMemberWithDataListensWhereTheListSays(t *testing.T) {
	c := clustertest.NewHTTP(t, 3)
	m := c.Follower()
	m.Configure(func(cfg *daemon.Config) { cfg.Bootstrap = nil })
	before := m.PeerAddrs()
	m.Stop()
	m.Start()
	m.WaitReady()
	if got := m.PeerAddrs(); !slices.Equal(got, before) {
		t.Fatalf("PeerAddrs() after a start without bootstrap-config = %q, want %q", got, before)
	}
	address := clustertest.FreeAddress(t)
	body := fmt.Sprintf(`{"peerURLs":["http://%s"]}`, address)
	if status, text := doMembers(t, c.Leader(), http.MethodPut, fmt.Sprintf("/members/%x", m.MemberID()), body); status != http.StatusNoContent {
		t.Fatalf("PUT = %d %s, want 204", status, text)
	}
	clustertest.Eventually(t, "the member to hear of its new address", func() bool {
		return slices.ContainsFunc(memberList(t, m), func(l memberOf) bool { return slices.Contains(l.PeerURLs, "http://"+address) })
	})
	m.Restart()
	m.WaitReady()
	if got := m.PeerAddrs(); !slices.Equal(got, []string{address}) {
		t.Errorf("PeerAddrs() after the address was changed = %q, want %q", got, address)
	}
}
