package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// value returns the value of a node, "" for none.
func value(n *deimos.Node) string {
	if n == nil || n.Value == nil {
		return ""
	}
	return *n.Value
}

// expect checks what a call returned: an error that is want, or none and the
// action.
func expect(t *testing.T, what string, r *Response, err, want error, action deimos.Action) {
	t.Helper()
	switch {
	case want != nil:
		if !errors.Is(err, want) {
			t.Errorf("%s: error %v, want %v", what, err, want)
		}
	case err != nil:
		t.Errorf("%s: %v", what, err)
	case r.Action != action || r.Index == 0 || r.ClusterID == 0 || r.RaftIndex == 0 || r.RaftTerm == 0:
		t.Errorf("%s: %+v, want action %s and all numbers", what, r, action)
	}
}

func TestCallsOnKeys(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 1)
	for _, prefix := range []string{"/keys", "/v2/keys"} {
		t.Run(prefix, func(t *testing.T) {
			c := open(t, Config{Prefix: prefix}, cluster.URLs()...)
			useFiles(t, c, "/files"+prefix)
			useDirs(t, c, "/dirs"+prefix)
		})
	}
}

// useFiles makes all calls on files, below dir.
func useFiles(t *testing.T, c *Client, dir string) {
	ctx := t.Context()
	at := func(key string) string { return dir + key }

	r, err := c.Set(ctx, at("/f"), "1")
	expect(t, "Set", r, err, nil, deimos.ActionSet)
	created := r.Index
	r, err = c.Create(ctx, at("/f"), "2")
	expect(t, "Create of what exists", r, err, deimos.ErrKeyExists, "")
	r, err = c.Create(ctx, at("/g"), "", WithTTL(time.Hour))
	expect(t, "Create", r, err, nil, deimos.ActionCreate)
	if r.Node.TTL != 3600 || r.Node.Value == nil {
		t.Errorf("Create: node %+v, want a TTL of 3600 and an empty value", r.Node)
	}
	r, err = c.Update(ctx, at("/f"), "2")
	expect(t, "Update", r, err, nil, deimos.ActionUpdate)
	if value(r.PrevNode) != "1" || r.Node.CreatedIndex != created {
		t.Errorf("Update: %+v %+v, want the value 1 before, created at %d", r.Node, r.PrevNode, created)
	}
	modified := r.Index
	r, err = c.Update(ctx, at("/nope"), "2")
	expect(t, "Update of nothing", r, err, deimos.ErrKeyNotFound, "")

	r, err = c.CompareAndSwap(ctx, at("/f"), "3", WithPrevIndex(created))
	expect(t, "CompareAndSwap with an old index", r, err, deimos.ErrCompareFailed, "")
	r, err = c.CompareAndSwap(ctx, at("/f"), "3", WithPrevIndex(modified), WithPrevValue("x"))
	expect(t, "CompareAndSwap with another value", r, err, deimos.ErrCompareFailed, "")
	r, err = c.CompareAndSwap(ctx, at("/f"), "3", WithPrevIndex(modified), WithPrevValue("2"), WithNoValue())
	expect(t, "CompareAndSwap", r, err, nil, deimos.ActionCompareAndSwap)
	if r.Node != nil || r.PrevNode != nil {
		t.Errorf("CompareAndSwap without value: %+v", r.Event)
	}
	r, err = c.Refresh(ctx, at("/f"), 90*time.Second)
	expect(t, "Refresh", r, err, nil, deimos.ActionUpdate)
	if value(r.Node) != "3" || r.Node.TTL != 90 {
		t.Errorf("Refresh: %+v, want the value 3 and a TTL of 90", r.Node)
	}
	r, err = c.CompareAndDelete(ctx, at("/f"), WithPrevValue("2"))
	expect(t, "CompareAndDelete with another value", r, err, deimos.ErrCompareFailed, "")
	r, err = c.CompareAndDelete(ctx, at("/f"), WithPrevValue("3"))
	expect(t, "CompareAndDelete", r, err, nil, deimos.ActionCompareAndDelete)
}

// useDirs makes all calls on directories, below dir.
func useDirs(t *testing.T, c *Client, dir string) {
	ctx := t.Context()
	at := func(key string) string { return dir + key }

	r, err := c.Mkdir(ctx, at("/d"), WithTTL(time.Hour))
	expect(t, "Mkdir", r, err, nil, deimos.ActionCreate)
	r, err = c.Mkdir(ctx, at("/d"))
	expect(t, "Mkdir of what exists", r, err, deimos.ErrKeyExists, "")
	r, err = c.Set(ctx, at("/d"), "1")
	expect(t, "Set of a directory", r, err, deimos.ErrNotFile, "")
	r, err = c.Update(ctx, at("/d"), "", WithDir())
	expect(t, "Update of a directory", r, err, nil, deimos.ActionUpdate)
	for range 2 {
		r, err = c.CreateInOrder(ctx, at("/d/q"), "job")
		expect(t, "CreateInOrder", r, err, nil, deimos.ActionCreate)
	}
	last := r.Node.Key
	r, err = c.List(ctx, at("/d"), WithRecursive())
	expect(t, "List", r, err, nil, deimos.ActionGet)
	if q := r.Node.Nodes[0].Nodes; len(q) != 2 || q[1].Key != last {
		t.Errorf("List: %+v, want two jobs, %s the last", q, last)
	}
	r, err = c.List(ctx, last, WithLocalRead())
	expect(t, "List of a file", r, err, deimos.ErrNotDir, "")
	r, err = c.Get(ctx, last+"/x")
	expect(t, "Get below a file", r, err, deimos.ErrNotDir, "")

	r, err = c.Delete(ctx, at("/d"))
	expect(t, "Delete of a directory", r, err, deimos.ErrNotFile, "")
	r, err = c.Delete(ctx, at("/d"), WithDir())
	expect(t, "Delete of a full directory", r, err, deimos.ErrDirNotEmpty, "")
	r, err = c.Delete(ctx, at("/d"), WithRecursive())
	expect(t, "Delete of all", r, err, nil, deimos.ActionDelete)
	r, err = c.Delete(ctx, "/", WithRecursive())
	expect(t, "Delete of the root", r, err, deimos.ErrRootReadOnly, "")
	r, err = c.Get(ctx, "")
	expect(t, "Get of the root", r, err, nil, deimos.ActionGet)
}

func TestLongValuesAreCompared(t *testing.T) {
	t.Parallel()
	ctx, c := t.Context(), open(t, Config{}, clustertest.New(t, 1).URLs()...)
	long := strings.Repeat("ä", 1<<18)
	if _, err := c.Set(ctx, "/long", long); err != nil {
		t.Fatal(err)
	}
	_, err := c.CompareAndDelete(ctx, "/long", WithPrevValue(long[2:]))
	expect(t, "CompareAndDelete with another value", nil, err, deimos.ErrCompareFailed, "")
	r, err := c.CompareAndSwap(ctx, "/long", long+"x", WithPrevValue(long))
	expect(t, "CompareAndSwap", r, err, nil, deimos.ActionCompareAndSwap)
	r, err = c.CompareAndDelete(ctx, "/long", WithPrevValue(long+"x"))
	expect(t, "CompareAndDelete", r, err, nil, deimos.ActionCompareAndDelete)
}

// counted is what a writer did to the keys below /n.
type counted struct {
	acknowledged, unknown atomic.Int64
}

// count writes /n/1, /n/2 and so on, each once, until the context ends. Errors
// other than unknown outcomes fail the test.
func (n *counted) count(ctx context.Context, t *testing.T, c *Client) {
	for i := 1; ctx.Err() == nil; i++ {
		_, err := c.Create(ctx, "/n/"+strconv.Itoa(i), "x", WithNoValue())
		switch {
		case err == nil:
			n.acknowledged.Add(1)
		case errors.Is(err, ErrUnknownOutcome):
			n.unknown.Add(1)
		case ctx.Err() == nil:
			t.Errorf("write %d: %v", i, err)
		}
	}
}

// until waits for more writes to be acknowledged.
func (n *counted) until(t *testing.T, more int64) {
	t.Helper()
	goal := n.acknowledged.Load() + more
	clustertest.Eventually(t, fmt.Sprintf("%d acknowledged writes", more), func() bool { return n.acknowledged.Load() >= goal })
}

// Members are killed and started again one after the other, the leader among
// them, while one client writes and another watches.
func TestCallsAndWatchesSurviveRestartsOfAllMembers(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewHTTP(t, 3)
	c := open(t, Config{RequestTimeout: 30 * time.Second}, cluster.URLs()...)
	first, err := c.Mkdir(t.Context(), "/n")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var n counted
	var running sync.WaitGroup
	var seen atomic.Uint64
	running.Go(func() { n.count(ctx, t, c) })
	watchCtx, stopWatch := context.WithCancel(t.Context())
	running.Go(func() {
		seen.Store(first.Index)
		for e, err := range c.Watch(watchCtx, "/n", WithRecursive(), WithWaitIndex(first.Index+1)) {
			switch {
			case err != nil && watchCtx.Err() == nil:
				t.Errorf("watch: %v", err)
			case err != nil:
			case e.Reset || e.Index != seen.Load()+1:
				t.Errorf("event %d (reset %v) came after %d", e.Index, e.Reset, seen.Load())
				return
			default:
				seen.Store(e.Index)
			}
		}
	})
	for _, m := range append(cluster.Members(), cluster.Leader()) {
		n.until(t, 50)
		m.Kill()
		n.until(t, 50)
		m.Start()
		m.WaitReady()
	}
	n.until(t, 50)
	stop()

	// Each write is one index, so the state tells which events there were.
	var r *Response
	clustertest.Eventually(t, "the end of the writes", func() bool {
		before := uint64(0)
		if r != nil {
			before = r.Index
		}
		if r, err = c.List(t.Context(), "/n"); err != nil {
			t.Fatal(err)
		}
		return r.Index == before
	})
	clustertest.Eventually(t, "all events", func() bool { return seen.Load() == r.Index })
	stopWatch()
	running.Wait()
	known, all := n.acknowledged.Load(), int64(len(r.Node.Nodes))
	if all < known || all > known+n.unknown.Load() {
		t.Errorf("%d keys, want %d acknowledged and at most %d more", all, known, n.unknown.Load())
	}
	t.Logf("%d writes acknowledged, %d unknown, %d keys", known, n.unknown.Load(), all)
}

func TestClientLeavesAMemberWithoutQuorum(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 3, func(cfg *daemon.Config) { cfg.Timing.Request = time.Second })
	leader := cluster.Leader()
	alone := open(t, Config{RequestTimeout: time.Second}, leader.URL())
	all := open(t, Config{}, cluster.URLs()...)
	// Whoever is current: the client has to find out that it is of no use.
	all.endpoints.current = find(t, all.endpoints, leader.URL())
	cluster.Isolate(leader)
	clustertest.Eventually(t, "a write through the others", func() bool {
		_, err := all.Set(t.Context(), "/a", "1")
		return err == nil
	})
	if _, err := all.Get(t.Context(), "/a"); err != nil {
		t.Errorf("Get through the others: %v", err)
	}
	_, err := alone.Set(t.Context(), "/a", "2")
	if !errors.Is(err, deimos.ErrLeaderElection) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("Set through the isolated member: %v, want ErrLeaderElection", err)
	}
	if _, err := alone.Leader(t.Context()); !errors.Is(err, deimos.ErrLeaderElection) {
		t.Errorf("Leader at the isolated member: %v, want ErrLeaderElection", err)
	}
	if healthy, err := all.Health(t.Context(), leader.URL()); healthy || err != nil {
		t.Errorf("Health of the isolated member = %v, %v, want false", healthy, err)
	}
	if _, err := alone.Get(t.Context(), "/a", WithLocalRead()); err != nil && !errors.Is(err, deimos.ErrKeyNotFound) {
		t.Errorf("local read at the isolated member: %v", err)
	}
}

// A loop that is too slow for its stream is cut off by the member, and finds
// that the short history has gone on without it.
func TestSlowWatchIsReset(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 1, func(cfg *daemon.Config) { cfg.Limits.HistoryEvents = 10 })
	c := open(t, Config{}, cluster.URLs()...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // reaching it is a failure
	defer cancel()
	const writers, each = 16, 100
	big := strings.Repeat("x", 8<<10)
	last, resets := uint64(0), 0
	for e, err := range c.Watch(ctx, "/w", WithRecursive(), WithState()) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Index <= last && last > 0 {
			t.Fatalf("index %d came after %d", e.Index, last)
		}
		if !e.Reset && e.Index != last+1 {
			t.Fatalf("event %d came after %d without a Reset", e.Index, last)
		}
		last = e.Index
		switch {
		case e.Reset && resets == 0: // the start; nothing may be behind yet
			resets++
			var start sync.WaitGroup
			start.Go(func() {
				if _, err := c.Set(ctx, "/w/first", "x"); err != nil {
					t.Error(err)
				}
			})
			start.Wait()
		case resets == 1 && value(e.Node) == "x":
			var running sync.WaitGroup
			for i := range writers {
				running.Go(func() {
					for j := range each {
						if _, err := c.Set(ctx, fmt.Sprintf("/w/%d-%d", i, j), big, WithNoValue()); err != nil {
							t.Error(err)
						}
					}
				})
			}
			running.Wait()
		case e.Reset:
			resets++
			if got := len(e.Node.Nodes); got != writers*each+1 {
				t.Errorf("the Reset has %d keys, want %d", got, writers*each+1)
			}
		}
		if resets == 2 {
			if _, err := c.Set(ctx, "/w/last", "end"); err != nil {
				t.Fatal(err)
			}
			resets++
		}
		if value(e.Node) == "end" {
			break
		}
	}
}

func TestRemovalOfParentsReachesWatches(t *testing.T) {
	t.Parallel()
	c := open(t, Config{}, clustertest.New(t, 1).URLs()...)
	r, err := c.Set(t.Context(), "/a/b/c", "1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Refresh(t.Context(), "/a/b/c", time.Hour); err != nil { // which is no event
		t.Fatal(err)
	}
	if _, err := c.Delete(t.Context(), "/a", WithRecursive()); err != nil {
		t.Fatal(err)
	}
	for e, err := range c.Watch(t.Context(), "/a/b/c", WithWaitIndex(r.Index+1)) {
		if err != nil || e.Node.Key != "/a" || !e.Action.Removes() {
			t.Errorf("event %+v, %v, want the removal of /a", e, err)
		}
		break
	}
}

func TestMemberCalls(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewHTTP(t, 3)
	ctx, c := t.Context(), open(t, Config{}, cluster.Member(0).URL())
	clustertest.Eventually(t, "all members to have told their client URLs", func() bool {
		if err := c.Sync(ctx); err != nil {
			t.Fatal(err)
		}
		return len(c.Endpoints()) == 3
	})
	status := func(what string, err error, want int) {
		t.Helper()
		var e *StatusError
		if !errors.As(err, &e) || e.Status != want || e.Message == "" {
			t.Errorf("%s: %v, want status %d and a message", what, err, want)
		}
	}
	joining, peerURL := cluster.Join("m4")
	added, err := c.AddMember(ctx, []string{peerURL}, true)
	if err != nil || !added.IsLearner || added.ID == 0 {
		t.Fatalf("AddMember = %+v, %v, want a learner", added, err)
	}
	_, err = c.AddMember(ctx, []string{peerURL}, true)
	status("AddMember of the same URL", err, http.StatusConflict)
	_, err = c.AddMember(ctx, []string{"nonsense"}, true)
	status("AddMember of nonsense", err, http.StatusBadRequest)
	joining.Start()
	joining.WaitReady()
	clustertest.Eventually(t, "the learner to be promoted", func() bool {
		m, err := c.PromoteMember(ctx, added.ID)
		var e *StatusError
		if err != nil && !(errors.As(err, &e) && e.Status == http.StatusPreconditionFailed) {
			t.Fatalf("PromoteMember: %v", err)
		}
		return err == nil && !m.IsLearner
	})
	_, err = c.PromoteMember(ctx, added.ID)
	status("PromoteMember of a voter", err, http.StatusConflict)

	clustertest.Eventually(t, "the new member to lead", func() bool {
		m, err := c.MoveLeader(ctx, added.ID)
		return err == nil && m.Name == "m4"
	})
	leader, err := c.Leader(ctx)
	if err != nil || leader.ID != added.ID {
		t.Errorf("Leader = %+v, %v, want %x", leader, err, added.ID)
	}
	if err := c.UpdateMember(ctx, added.ID, []string{peerURL}); err != nil {
		t.Errorf("UpdateMember: %v", err)
	}
	if s, err := c.LeaderStats(ctx, joining.URL()); err != nil || len(s.Followers) != 3 || s.Leader != deimos.FormatID(added.ID) {
		t.Errorf("LeaderStats = %+v, %v, want 3 followers of %x", s, err, added.ID)
	}
	_, err = c.LeaderStats(ctx, cluster.Member(0).URL())
	status("LeaderStats of a follower", err, http.StatusForbidden)

	if err := c.RemoveMember(ctx, added.ID); err != nil {
		t.Errorf("RemoveMember: %v", err)
	}
	status("RemoveMember again", c.RemoveMember(ctx, added.ID), http.StatusGone)
	status("RemoveMember of a stranger", c.RemoveMember(ctx, 77), http.StatusNotFound)
	if members, err := c.Members(ctx); err != nil || len(members) != 3 || members[0].Name == "" || len(members[0].ClientURLs) != 1 {
		t.Errorf("Members = %+v, %v, want 3 with their client URLs", members, err)
	}
}

func TestWhatOneMemberTells(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 1, func(cfg *daemon.Config) { cfg.Version = "1.2.3" })
	u := cluster.Member(0).URL()
	ctx, c := t.Context(), open(t, Config{}, u)
	if healthy, err := c.Health(ctx, u+"/"); !healthy || err != nil {
		t.Errorf("Health = %v, %v, want true", healthy, err)
	}
	if v, err := c.Version(ctx, u); err != nil || v.Deimos != "1.2.3" || v.EtcdServer == "" {
		t.Errorf("Version = %+v, %v, want 1.2.3", v, err)
	}
	if s, err := c.SelfStats(ctx, u); err != nil || s.Name != "m1" || s.State != "StateLeader" || s.LeaderInfo.Leader != s.ID || s.StartTime.IsZero() {
		t.Errorf("SelfStats = %+v, %v", s, err)
	}
	if _, err := c.Set(ctx, "/a", "1"); err != nil {
		t.Fatal(err)
	}
	if s, err := c.StoreStats(ctx, u); err != nil || s.SetsSuccess != 1 {
		t.Errorf("StoreStats = %+v, %v, want one set", s, err)
	}
	dead := "http://" + clustertest.FreeAddress(t)
	if _, err := c.Health(ctx, dead); !errors.Is(err, ErrNoEndpoint) {
		t.Errorf("Health of nobody: %v, want ErrNoEndpoint", err)
	}
	if _, err := c.Version(ctx, "localhost"); !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("Version of no URL: %v, want ErrInvalidArgument", err)
	}
}
