package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/proctest"
)

// meeting is a directory in which the first members of a cluster find each
// other.
type meeting struct{ url string }

// newMeeting prepares a directory for size members at a registry.
func newMeeting(t testing.TB, registry string, size int) meeting {
	t.Helper()
	m := meeting{registry + "/keys/discovery/" + strconv.FormatInt(time.Now().UnixNano(), 36)}
	m.put(t, "_config/size", strconv.Itoa(size))
	return m
}

func (m meeting) put(t testing.TB, key, value string) {
	t.Helper()
	if res, body := ask(t, http.MethodPut, m.url+"/"+key, "value="+value); res.StatusCode/100 != 2 {
		t.Fatalf("PUT %s = %d %s", key, res.StatusCode, body)
	}
}

// registrations are the children of the directory, by name.
func (m meeting) registrations(ctx context.Context) (map[string]deimos.Node, error) {
	status, body, err := get(ctx, m.url+"?quorum=true")
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("GET %s = %d %s: %w", m.url, status, body, err)
	}
	var event deimos.Event
	if err := json.Unmarshal([]byte(body), &event); err != nil {
		return nil, err
	}
	found := map[string]deimos.Node{}
	for _, n := range event.Node.Nodes {
		found[n.Key[strings.LastIndex(n.Key, "/")+1:]] = *n
	}
	return found, nil
}

// waitRegistered waits until that many members are registered.
func (m meeting) waitRegistered(t testing.TB, want int) map[string]deimos.Node {
	t.Helper()
	var found map[string]deimos.Node
	untilWithin(t, readyMax, func(ctx context.Context) (err error) {
		if found, err = m.registrations(ctx); err == nil && len(found) != want {
			err = fmt.Errorf("%d members are registered, want %d", len(found), want)
		}
		return err
	})
	return found
}

// newComer prepares a member that finds the others in a meeting.
func newComer(t testing.TB, name string, m meeting, flags ...string) *node {
	return newNode(t, name, append([]string{"--discovery", m.url}, flags...)...)
}

// wantStop waits until a process ends with a code and one sentence.
func wantStop(t testing.TB, n *node, code int, words ...string) {
	t.Helper()
	if got := n.run.wait(t, exitMax); got != code {
		t.Errorf("%s ended with %d, want %d\n%s", n.name, got, code, n.run.stderr.tail())
	}
	lines := strings.Split(strings.TrimSpace(n.run.stderr.String()), "\n")
	last := lines[len(lines)-1]
	for _, w := range append([]string{"deimos: "}, words...) {
		if !strings.Contains(last, w) {
			t.Errorf("the last words of %s are %q, want %q in them", n.name, last, w)
		}
	}
}

// clusterID is the id of the cluster that somebody answers for.
func clusterID(t testing.TB, n *node) string {
	t.Helper()
	res, _ := ask(t, http.MethodGet, n.client+"/keys/", "")
	return res.Header.Get("X-Deimos-Cluster-Id")
}

// wantOneCluster fails the test unless the members are those of one cluster.
func wantOneCluster(t testing.TB, c *cluster) {
	t.Helper()
	waitPublished(t, c)
	ids := map[string]bool{}
	for _, n := range c.nodes {
		if got := listMembers(t, n); len(got) != len(c.nodes) {
			t.Errorf("%s knows %d members, want %d: %+v", n.name, len(got), len(c.nodes), got)
		}
		ids[clusterID(t, n)] = true
	}
	if len(ids) != 1 || ids[""] {
		t.Errorf("the members belong to the clusters %v, want one", ids)
	}
}

func TestDiscoveryFormsAClusterAndMakesAProxyOfTheRest(t *testing.T) {
	t.Parallel()
	registry := startNode(t)
	m := newMeeting(t, registry.client, 3)
	c := &cluster{}
	for i := range 3 {
		n := newComer(t, fmt.Sprintf("n%d", i+1), m)
		c.nodes = append(c.nodes, n)
		n.start(t)
		m.waitRegistered(t, i+1)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
	}
	wantOneCluster(t, c)
	found := m.waitRegistered(t, 3)
	for _, n := range c.nodes {
		if r := found[idOf(t, n, n.name)]; r.Value == nil || *r.Value != n.name+"="+n.peer {
			t.Errorf("the registration of %s is %+v, want the value %s=%s", n.name, r, n.name, n.peer)
		}
	}

	surplus := newComer(t, "n4", m)
	for _, again := range []string{"first", "second"} {
		surplus.start(t)
		surplus.waitReady(t)
		if got, want := clusterID(t, surplus), clusterID(t, c.nodes[0]); got != want {
			t.Errorf("the surplus member answers for the cluster %q at its %s start, want %q", got, again, want)
		}
		if _, err := put(t.Context(), probe, surplus.client, "/from", again); err != nil {
			t.Error(err)
		}
		surplus.run.signal(t, syscall.SIGTERM)
		if code := surplus.run.wait(t, exitMax); code != 0 {
			t.Errorf("the surplus member ended with %d, want 0", code)
		}
	}
	if got, err := filepath.Glob(filepath.Join(surplus.dir, "*")); err != nil || len(got) != 0 {
		t.Errorf("the surplus member has left %v (%v), want nothing", got, err)
	}
	observer := newProxy(t, "readonly", nil, "--discovery", m.url)
	observer.args = slices.DeleteFunc(observer.args, func(s string) bool { return s == "--bootstrap-config" || s == "" })
	observer.start(t)
	observer.waitReady(t)

	exits := newComer(t, "n5", m, "--discovery-fallback", "exit")
	exits.start(t)
	wantStop(t, exits, 1, "discovery: cluster is full")
	m.waitRegistered(t, 3)

	// The members do not need the registry any more, and leave it alone.
	registry.kill(t)
	for _, n := range c.nodes {
		n.kill(t)
	}
	c.start(t)
	registry.start(t)
	registry.waitReady(t)
	for id, before := range found {
		if now := m.waitRegistered(t, 3)[id]; now.ModifiedIndex != before.ModifiedIndex {
			t.Errorf("the registration %s was written again: %+v, want %+v", id, now, before)
		}
	}
	load := startLoad(t, 2, c.others(nil)...)
	load.waitAcks(t, 50)
	load.stop(t)
	c.wantAgreement(t)
}

func TestDiscoveryInARaceMakesNoHalfCluster(t *testing.T) {
	t.Parallel()
	m := newMeeting(t, startNode(t).client, 3)
	var all []*node
	for i := range 5 {
		n := newComer(t, fmt.Sprintf("n%d", i+1), m, "--discovery-fallback", "exit")
		all = append(all, n)
		n.start(t)
	}
	c := &cluster{}
	untilWithin(t, readyMax, func(ctx context.Context) error {
		c.nodes = nil
		ended := 0
		for _, n := range all {
			if n.run.ended() {
				ended++
			} else if status, _, err := get(ctx, n.client+"/readyz"); err == nil && status == http.StatusOK {
				c.nodes = append(c.nodes, n)
			}
		}
		if ended != 2 || len(c.nodes) != 3 {
			return fmt.Errorf("%d have ended and %d are ready, want 2 and 3", ended, len(c.nodes))
		}
		return nil
	})
	wantOneCluster(t, c)
	for _, n := range all {
		if n.run.ended() {
			wantStop(t, n, 1, "discovery: cluster is full")
		}
	}
}

func TestDiscoveryRefusesABadDirectory(t *testing.T) {
	t.Parallel()
	registry := startNode(t)
	for i, tt := range []struct {
		name, key, value string
		want             []string
	}{
		{"no size", "_config/other", "3", []string{"discovery: size key not found", "_config/size"}},
		{"a size that is no number", "_config/size", "three", []string{"discovery: size key is bad", `"three"`}},
		{"a size of 0", "_config/size", "0", []string{"discovery: size key is bad"}},
		{"a negative size", "_config/size", "-1", []string{"discovery: size key is bad"}},
		{"a size that is a fraction", "_config/size", "1.5", []string{"discovery: size key is bad"}},
		{"an empty size", "_config/size", "", []string{"discovery: size key is bad"}},
		{"a size that is a directory", "_config/size/x", "3", []string{"discovery: size key is bad"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := meeting{fmt.Sprintf("%s/v2/keys/bad/%d", registry.client, i)}
			m.put(t, tt.key, tt.value)
			n := newComer(t, "n1", m)
			n.start(t)
			wantStop(t, n, 1, tt.want...)
			if found := m.waitRegistered(t, 0); len(found) != 0 {
				t.Errorf("registrations = %v, want none", found)
			}
		})
	}
	for _, tt := range []struct {
		name, key, value string
		want             []string
	}{
		{"a registration that is none", "1234", "nonsense", []string{"bad registration", "/1234"}},
		{"a registration under a name that is no id", "xyz", "n2%3Dhttp://127.0.0.1:7001", []string{"bad registration", "/xyz"}},
		{"a registration of other settings", "1234", "n2%3Dhttp://127.0.0.1:7001", []string{"bad registration", "initial-cluster-token"}},
		{"a directory", "1234/a", "1", []string{"bad registration", "/1234"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMeeting(t, registry.client, 2)
			m.put(t, tt.key, tt.value)
			n := newComer(t, "n1", m)
			n.start(t)
			wantStop(t, n, 1, tt.want...)
			m.waitRegistered(t, 1)
		})
	}
}

func TestDiscoveryRefusesTheIDOfAnother(t *testing.T) {
	t.Parallel()
	m := newMeeting(t, startNode(t).client, 2)
	n := newComer(t, "n1", m)
	n.start(t)
	var id string
	for id = range m.waitRegistered(t, 1) {
	}
	n.kill(t)
	// Somebody else has written there, who calls himself otherwise.
	m.put(t, id, "other%3Dhttp://127.0.0.1:7001")
	n.start(t)
	wantStop(t, n, 1, "discovery: found duplicate id", id)

	// Two with one name cannot be told apart.
	m = newMeeting(t, strings.Split(m.url, "/keys/")[0], 2)
	first, second := newComer(t, "n1", m), newComer(t, "n1", m)
	first.start(t)
	m.waitRegistered(t, 1)
	second.start(t)
	wantStop(t, second, 1, "both have the name", "n1")
	m.waitRegistered(t, 1)
}

func TestDiscoveryWaitsForItsService(t *testing.T) {
	t.Parallel()
	registry := startNode(t)
	m := newMeeting(t, registry.client, 1)
	registry.kill(t)
	n := newComer(t, "n1", m)
	n.start(t)
	waitSaid := func(words ...string) {
		t.Helper()
		untilWithin(t, readyMax, func(context.Context) error {
			if n.run.ended() {
				t.Fatalf("ended with %d\n%s", n.run.code, n.run.stderr.tail())
			}
			if linesOf(n.run.stderr.String(), words...) == 0 {
				return fmt.Errorf("the log does not say %q:\n%s", words, n.run.stderr.tail())
			}
			return nil
		})
	}
	waitSaid("discovery failed, trying again", "connection refused", "pause=1s")
	waitSaid("discovery failed, trying again", "pause=2s")
	registry.start(t)
	registry.waitReady(t)
	n.waitReady(t)

	// One that is asked to stop while it waits ends at once.
	registry.kill(t)
	other := newComer(t, "n2", m)
	other.start(t)
	n = other
	waitSaid("discovery failed, trying again")
	asked := time.Now()
	other.run.signal(t, syscall.SIGTERM)
	if code := other.run.wait(t, exitMax); code != 0 || time.Since(asked) > 2*time.Second {
		t.Errorf("ended with %d after %v, want 0 at once\n%s", code, time.Since(asked), other.run.stderr.tail())
	}
}

func TestDiscoveryGoesOnAfterAMemberWasKilled(t *testing.T) {
	t.Parallel()
	registry := startNode(t)
	m := newMeeting(t, registry.client, 3)
	c := &cluster{}
	for i := range 3 {
		c.nodes = append(c.nodes, newComer(t, fmt.Sprintf("n%d", i+1), m))
	}
	c.nodes[0].start(t)
	c.nodes[1].start(t)
	before := m.waitRegistered(t, 2)
	// Both wait for the third: one is killed, and the registry with it.
	c.nodes[0].kill(t)
	registry.kill(t)
	c.nodes[0].start(t)
	registry.start(t)
	registry.waitReady(t)
	c.nodes[2].start(t)
	for _, n := range c.nodes {
		n.waitReady(t)
	}
	wantOneCluster(t, c)
	after := m.waitRegistered(t, 3)
	for id, r := range before {
		if after[id].ModifiedIndex != r.ModifiedIndex {
			t.Errorf("the registration %s was written again: %+v, want %+v", id, after[id], r)
		}
	}
}

func TestDiscoveryThroughEtcd(t *testing.T) {
	t.Parallel()
	name, err := exec.LookPath("etcd")
	if err != nil {
		t.Skip("etcd is not installed (Debian package etcd-server)")
	}
	client, peer := "http://"+proctest.FreeAddress(t), "http://"+proctest.FreeAddress(t)
	startCommand(t, "", name, "--enable-v2", "--name", "registry", "--data-dir", filepath.Join(t.TempDir(), "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "registry="+peer)
	untilWithin(t, readyMax, func(ctx context.Context) error {
		status, body, err := get(ctx, client+"/health")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("etcd is not healthy: %d %s", status, body)
		}
		return err
	})
	m := meeting{client + "/v2/keys/discovery/6c0"}
	m.put(t, "_config/size", "3")
	c := &cluster{}
	for i := range 3 {
		n := newComer(t, fmt.Sprintf("n%d", i+1), m)
		c.nodes = append(c.nodes, n)
		n.start(t)
		m.waitRegistered(t, i+1)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
	}
	wantOneCluster(t, c)
	surplus := newComer(t, "n4", m)
	surplus.start(t)
	surplus.waitReady(t)
	if got, want := clusterID(t, surplus), clusterID(t, c.nodes[0]); got != want {
		t.Errorf("the surplus member answers for the cluster %q, want %q", got, want)
	}
}

func TestDiscoveryOfAnAddressThatIsNoRegistry(t *testing.T) {
	t.Parallel()
	// A listener that says nothing must not keep anybody from stopping.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := newComer(t, "n1", meeting{"http://" + l.Addr().String() + "/keys/discovery/6c0"})
	n.start(t)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	asked := time.Now()
	n.run.signal(t, syscall.SIGTERM)
	if code := n.run.wait(t, exitMax); code != 0 || time.Since(asked) > 2*time.Second {
		t.Errorf("ended with %d after %v, want 0 at once\n%s", code, time.Since(asked), n.run.stderr.tail())
	}
}
