package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	client "go.etcd.io/etcd/client/v2"
)

// clientV2 is the client of etcd's v2 API, and what it asks for.
type clientV2 struct {
	client.Client
	keys    client.KeysAPI
	members client.MembersAPI
	seen    *seenRequests
}

// seenRequests is a transport that remembers where requests went.
type seenRequests struct {
	*http.Transport
	mu      sync.Mutex
	last    string // base URL of the member that was asked last
	watches int    // number of requests that were watches
}

// RoundTrip implements [http.RoundTripper].
func (s *seenRequests) RoundTrip(r *http.Request) (*http.Response, error) {
	s.mu.Lock()
	if s.last = r.URL.Scheme + "://" + r.URL.Host; r.URL.Query().Get("wait") == "true" {
		s.watches++
	}
	s.mu.Unlock()
	return s.Transport.RoundTrip(r)
}

func (s *seenRequests) read() (last string, watches int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last, s.watches
}

// newClientV2 returns a client that does not pool its connections with others.
func newClientV2(t testing.TB, cfg client.Config, conf *tls.Config) *clientV2 {
	t.Helper()
	c := &clientV2{seen: &seenRequests{Transport: &http.Transport{TLSClientConfig: conf}}}
	cfg.Transport = c.seen
	if cfg.HeaderTimeoutPerRequest == 0 {
		cfg.HeaderTimeoutPerRequest = 3 * time.Second
	}
	var err error
	if c.Client, err = client.New(cfg); err != nil {
		t.Fatalf("client.New(%v): %v", cfg.Endpoints, err)
	}
	t.Cleanup(c.seen.CloseIdleConnections)
	c.keys, c.members = client.NewKeysAPI(c.Client), client.NewMembersAPI(c.Client)
	return c
}

// next waits for the next event of a watch.
func next(t testing.TB, w client.Watcher) *client.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	r, err := w.Next(ctx)
	if err != nil {
		t.Fatalf("Next() = %v", err)
	}
	return r
}

func TestClientV2Watcher(t *testing.T) {
	t.Parallel()
	n := startNode(t, "--watch-timeout", "100ms", "--history-events", "5")
	c := newClientV2(t, client.Config{Endpoints: []string{n.client}}, nil)
	set := func(key, value string) {
		t.Helper()
		if _, err := c.keys.Set(t.Context(), key, value, nil); err != nil {
			t.Fatalf("Set(%q, %q) = %v", key, value, err)
		}
	}
	want := func(w client.Watcher, want string) {
		t.Helper()
		if got := responseText(next(t, w), nil); got != want {
			t.Errorf("Next() = %s, want %s", got, want)
		}
	}
	// The empty answers of watches that time out are no events.
	live := c.keys.Watcher("/w", &client.WatcherOptions{Recursive: true, AfterIndex: 1})
	got := make(chan *client.Response, 1)
	go func() {
		defer close(got)
		if r, err := live.Next(t.Context()); err == nil {
			got <- r
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if err := until(ctx, func() error {
		if _, watches := c.seen.read(); watches < 4 {
			return fmt.Errorf("%d watches were asked for, want at least 4", watches)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	set("/w/a", "1")
	if r, ok := <-got; !ok || responseText(r, nil) != "set /w/a=1 2-2" {
		t.Errorf("the live event = %v, want that of index 2", r)
	}

	set("/w/b", "2")
	set("/other", "3")
	if _, err := c.keys.Delete(t.Context(), "/w", &client.DeleteOptions{Recursive: true}); err != nil {
		t.Fatal(err)
	}
	want(live, "set /w/b=2 3-3")
	want(live, "delete /w/ 2-5, was /w/ 2-2")
	one := c.keys.Watcher("/w/b", &client.WatcherOptions{AfterIndex: 2})
	want(one, "set /w/b=2 3-3")
	want(one, "delete /w/ 2-5, was /w/ 2-2") // its directory went

	for range 5 {
		set("/other", "4")
	}
	var e client.Error
	if r, err := c.keys.Watcher("/w", &client.WatcherOptions{AfterIndex: 2}).Next(t.Context()); !errors.As(err, &e) || e.Code != client.ErrorCodeEventIndexCleared {
		t.Errorf("Next() after an index that is cleared = %v, %v, want error %d", r, err, client.ErrorCodeEventIndexCleared)
	}
	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if r, err := live.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Next() without an event = %v, %v, want %v", r, err, context.DeadlineExceeded)
	}
	waitWatchers(t, 0, n)
}

func TestClientV2WatcherGoesOnWhenItsMemberDies(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	watcher := newClientV2(t, client.Config{Endpoints: c.others(nil)}, nil)
	w := watcher.keys.Watcher("/load", &client.WatcherOptions{Recursive: true, AfterIndex: 1})
	load := startLoad(t, 4, c.others(nil)...)
	seen := map[uint64]acked{}
	var last uint64
	read := func(while func() bool) {
		for while() {
			r := next(t, w)
			if r.Node.ModifiedIndex <= last {
				t.Fatalf("event %d came after event %d, want rising indexes", r.Node.ModifiedIndex, last)
			}
			last = r.Node.ModifiedIndex
			seen[last] = acked{last, r.Node.Key, r.Node.Value}
		}
	}
	read(func() bool { return len(seen) < 100 })
	base, _ := watcher.seen.read()
	for _, n := range c.nodes {
		if n.client == base {
			n.kill(t)
		}
	}
	load.waitAcks(t, load.acks()+200)
	load.stop(t)
	end := load.lastIndex()
	read(func() bool { return last < end })
	if now, _ := watcher.seen.read(); now == base {
		t.Errorf("the watch is still at %s, which was killed", base)
	}
	load.mu.Lock()
	defer load.mu.Unlock()
	for _, e := range load.events {
		if seen[e.index] != e {
			t.Errorf("event %d = %v, want %v as acknowledged", e.index, seen[e.index], e)
		}
	}
}

func TestClientV2Members(t *testing.T) {
	t.Parallel()
	n1, n2 := startPublished(t), newNode(t, "n2")
	c := newClientV2(t, client.Config{Endpoints: []string{n1.client}}, nil)
	ctx := t.Context()
	self := client.Member{ID: idOf(t, n1, "n1"), Name: "n1", PeerURLs: []string{n1.peer}, ClientURLs: []string{n1.client}}
	text := func(v any) string { return fmt.Sprintf("%+v", v) }
	wantList := func(want ...client.Member) {
		t.Helper()
		slices.SortFunc(want, func(a, b client.Member) int {
			return strings.Compare(fmt.Sprintf("%16s", a.ID), fmt.Sprintf("%16s", b.ID))
		})
		if got, err := c.members.List(ctx); err != nil || text(got) != text(want) {
			t.Errorf("List() = %+v, %v, want %+v", got, err, want)
		}
	}
	wantError := func(call string, err error, want string) {
		t.Helper()
		if err == nil || err.Error() != want {
			t.Errorf("%s = %v, want %q", call, err, want)
		}
	}
	wantList(self)
	if got, err := c.members.Leader(ctx); err != nil || text(*got) != text(self) {
		t.Errorf("Leader() = %+v, %v, want %+v", got, err, self)
	}

	m, err := c.members.Add(ctx, "http://127.0.0.1:1")
	if err != nil || m.ID == "" || m.Name != "" || !slices.Equal(m.PeerURLs, []string{"http://127.0.0.1:1"}) || len(m.ClientURLs) != 0 {
		t.Fatalf("Add() = %+v, %v, want a member without a name", m, err)
	}
	wantList(self, *m)
	_, err = c.members.Add(ctx, n1.peer)
	wantError("Add() of a URL that is taken", err, "membership: peerURL exists")
	wantError("Update() to it", c.members.Update(ctx, m.ID, []string{n1.peer}), "membership: peerURL exists")
	wantError("Update() of nobody", c.members.Update(ctx, "abc", []string{n2.peer}), "No such member: abc")
	if err := c.members.Update(ctx, m.ID, []string{n2.peer}); err != nil {
		t.Errorf("Update() = %v", err)
	}
	m.PeerURLs = []string{n2.peer}
	wantList(self, *m)

	n2.args = append(n2.args, "--initial-cluster", "n1="+n1.peer+",n2="+n2.peer, "--initial-cluster-state", "existing")
	n2.start(t)
	n2.waitReady(t)
	waitVoter(t, n1, "n2", 30*time.Second)
	if err := c.Sync(ctx); err != nil {
		t.Errorf("Sync() = %v", err)
	}
	if got, want := slices.Sorted(slices.Values(c.Endpoints())), slices.Sorted(slices.Values([]string{n1.client, n2.client})); !slices.Equal(got, want) {
		t.Errorf("Endpoints() after Sync() = %v, want %v", got, want)
	}
	if err := c.members.Remove(ctx, m.ID); err != nil {
		t.Errorf("Remove() = %v", err)
	}
	if code := n2.run.wait(t, exitMax); code != 1 {
		t.Errorf("n2 ended with %d after its removal, want 1", code)
	}
	if err := c.members.Remove(ctx, m.ID); err != nil { // gone is gone
		t.Errorf("second Remove() = %v", err)
	}
	wantError("Update() of a removed member", c.members.Update(ctx, m.ID, []string{n2.peer}), "unexpected status code 410")
	wantError("Remove() of nobody", c.members.Remove(ctx, "abc"), "unexpected status code 404")
	wantError("Remove() of the last voter", c.members.Remove(ctx, self.ID), "unexpected status code 409")
	wantList(self)
}

func TestClientV2FollowsTheLeaderAndTheMembers(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	waitPublished(t, c)
	leader := c.leader(t)
	v2 := newClientV2(t, client.Config{Endpoints: []string{c.follower(t).client}, SelectionMode: client.EndpointSelectionPrioritizeLeader}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	running.Go(func() {
		for ctx.Err() == nil {
			// Ends with an error whenever there is no leader, as its documentation
			// says; the caller begins again.
			_ = v2.AutoSync(ctx, 20*time.Millisecond)
		}
	})
	waitFor := func(what string, ok func() bool) {
		t.Helper()
		limit, cancel := context.WithTimeout(ctx, readyMax)
		defer cancel()
		if err := until(limit, func() error {
			if !ok() {
				return fmt.Errorf("%s: still not so", what)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	asks := func(n *node) func() bool {
		return func() bool {
			if _, err := v2.keys.Set(ctx, "/a", "1", nil); err != nil {
				return false
			}
			last, _ := v2.seen.read()
			return last == n.client
		}
	}
	waitFor("the leader is asked", asks(leader))
	waitFor("all three members are endpoints", func() bool { return len(v2.Endpoints()) == 3 })
	id := idOf(t, leader, leader.name)
	leader.kill(t)
	waitFor("the new leader is asked", asks(c.leader(t)))
	if err := v2.members.Remove(ctx, id); err != nil {
		t.Fatalf("Remove() of the old leader = %v", err)
	}
	waitFor("the member that was removed is no endpoint", func() bool { return len(v2.Endpoints()) == 2 })
}

func TestClientV2TurnsToAnotherMember(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	waitPublished(t, c)
	v2 := newClientV2(t, client.Config{Endpoints: []string{"http://127.0.0.1:1", c.nodes[0].client}}, nil)
	if err := v2.Sync(t.Context()); err != nil { // although one endpoint is dead
		t.Fatalf("Sync() = %v", err)
	}
	if got := slices.Sorted(slices.Values(v2.Endpoints())); !slices.Equal(got, slices.Sorted(slices.Values(c.others(nil)))) {
		t.Errorf("Endpoints() = %v, want %v", got, c.others(nil))
	}
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	if _, err := v2.keys.Set(ctx, "/a", "1", nil); err != nil {
		t.Fatal(err)
	}
	// The read below is local, and a member may hear of a write after its client did.
	for _, n := range c.nodes {
		if err := until(ctx, func() error {
			status, body, err := get(ctx, n.client+"/v2/keys/a")
			if err == nil && status != http.StatusOK {
				err = errors.New(body)
			}
			return err
		}); err != nil {
			t.Fatalf("the write does not reach %s: %v", n.name, err)
		}
	}
	pinned, _ := v2.seen.read()
	i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.client == pinned })
	c.nodes[i].kill(t)
	if r, err := v2.keys.Get(ctx, "/a", nil); err != nil || r.Node.Value != "1" {
		t.Errorf("Get() with the pinned member dead = %s, want 1", responseText(r, err))
	}
	if now, _ := v2.seen.read(); now == pinned {
		t.Errorf("the client is still at %s", now)
	}
	// The client never repeats these two by itself. While there is no leader it
	// is told so, with nothing done, and its caller repeats them.
	for _, call := range []func() (*client.Response, error){
		func() (*client.Response, error) { return v2.keys.Create(ctx, "/b", "1") },
		func() (*client.Response, error) { return v2.keys.Delete(ctx, "/b", nil) },
	} {
		if err := until(ctx, func() error { _, err := call(); return err }); err != nil {
			t.Error(err)
		}
	}
	for j, n := range c.nodes {
		if j != i {
			n.kill(t)
		}
	}
	_, err := v2.keys.Get(ctx, "/a", nil)
	var all *client.ClusterError
	if !errors.As(err, &all) || len(all.Errors) != 3 {
		t.Errorf("Get() with all members dead = %v, want the errors of all three", err)
	}
}
