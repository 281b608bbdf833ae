package lock_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/lock"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// turn is a time in which somebody believed that it held the lock.
type turn struct {
	token      uint64
	start, end time.Time
}

// turns is all of them.
type turns struct {
	mu   sync.Mutex
	list []turn
}

func (s *turns) add(t turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, t)
}

func (s *turns) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.list)
}

// check reports turns that overlap, and those that did not begin in the order of
// their tokens.
func (s *turns) check(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.SortFunc(s.list, func(a, b turn) int { return a.start.Compare(b.start) })
	for i := 1; i < len(s.list); i++ {
		before, after := s.list[i-1], s.list[i]
		if after.token <= before.token || !after.start.After(before.end) {
			t.Errorf("token %d was held from %v to %v, then token %d from %v on",
				before.token, before.start, before.end, after.token, after.start)
		}
	}
}

// contend takes the lock again and again until ctx ends.
func contend(ctx context.Context, t *testing.T, c *client.Client, s *turns) {
	for ctx.Err() == nil {
		l, err := lock.Acquire(ctx, c, "contended", lock.Options{TTL: 5 * time.Second})
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("Acquire: %v", err)
			}
			return
		}
		now := turn{token: l.Token(), start: time.Now()}
		for i := 0; i < 20; i++ {
			at := time.Now()
			if l.Err() != nil {
				break
			}
			now.end = at
			select {
			case <-time.After(time.Millisecond):
			case <-l.Done():
			}
		}
		s.add(now)
		if err := l.Release(context.WithoutCancel(ctx)); err != nil && !errors.Is(err, lock.ErrLost) {
			t.Errorf("Release: %v", err)
		}
	}
}

// Contenders go on while leader after leader is killed and started again.
func TestHoldersNeverOverlapWhileLeadersAreKilled(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewHTTP(t, 3)
	ctx, stop := context.WithCancel(t.Context())
	var s turns
	var all sync.WaitGroup
	for range 5 {
		c := open(t, cluster.URLs()...)
		all.Go(func() { contend(ctx, t, c, &s) })
	}
	more := func(n int) {
		goal := s.count() + n
		clustertest.Eventually(t, fmt.Sprintf("%d more turns", n), func() bool { return s.count() >= goal })
	}
	for range 3 {
		more(10)
		leader := cluster.Leader()
		leader.Kill()
		more(10)
		leader.Start()
		leader.WaitReady()
	}
	stop()
	all.Wait()
	s.check(t)
	r, err := open(t, cluster.URLs()...).List(t.Context(), "/locks/_queue/contended")
	if err != nil || len(r.Node.Nodes) > 0 {
		t.Errorf("the queue in the end: %+v, %v, want it empty", r, err)
	}
	t.Logf("%d turns", s.count())
}

// queued waits until a queue has so many places.
func queued(t *testing.T, c *client.Client, name string, n int) []*deimos.Node {
	t.Helper()
	var list []*deimos.Node
	clustertest.Eventually(t, fmt.Sprintf("%d places", n), func() bool {
		r, err := c.List(t.Context(), "/locks/_queue/"+name)
		if err != nil {
			return false
		}
		list = r.Node.Nodes
		return len(list) == n
	})
	return list
}

func TestWaitersAreServedInOrder(t *testing.T) {
	t.Parallel()
	c := open(t, endpoints...)
	first, err := lock.Acquire(t.Context(), c, "fair", lock.Options{Owner: "0"})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	order := "0"
	var all sync.WaitGroup
	for i := 1; i < 6; i++ {
		owner := fmt.Sprint(i)
		all.Go(func() {
			l, err := lock.Acquire(t.Context(), c, "fair", lock.Options{Owner: owner})
			if err != nil {
				t.Errorf("Acquire %s: %v", owner, err)
				return
			}
			mu.Lock()
			order += owner
			mu.Unlock()
			if err := l.Release(t.Context()); err != nil {
				t.Errorf("Release %s: %v", owner, err)
			}
		})
		queued(t, c, "fair", i+1)
	}
	if err := first.Release(t.Context()); err != nil {
		t.Error(err)
	}
	all.Wait()
	if order != "012345" {
		t.Errorf("order %s, want 012345", order)
	}
}

func TestKeyHoldsOwnerTokenAndTTL(t *testing.T) {
	t.Parallel()
	c := open(t, endpoints...)
	l, err := lock.Acquire(t.Context(), c, "layout", lock.Options{Owner: "anna on host 1", TTL: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	n := queued(t, c, "layout", 1)[0]
	if n.Key != l.Key() || n.Key != fmt.Sprintf("/locks/_queue/layout/%020d", l.Token()) || n.CreatedIndex != l.Token() ||
		!strings.HasPrefix(*n.Value, "anna on host 1 ") || n.TTL < 1 || n.TTL > 3 {
		t.Errorf("node %+v with value %q, token %d, key %s", n, *n.Value, l.Token(), l.Key())
	}
	clustertest.Eventually(t, "a renewal", func() bool {
		n := queued(t, c, "layout", 1)[0]
		return n.ModifiedIndex > n.CreatedIndex && n.CreatedIndex == l.Token()
	})
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLossOfTheKeyIsReported(t *testing.T) {
	t.Parallel()
	c := open(t, endpoints...)
	type key struct{}
	l, err := lock.Acquire(context.WithValue(t.Context(), key{}, "x"), c, "stolen", lock.Options{TTL: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if l.Context().Value(key{}) != "x" {
		t.Error("the context of the lock has not the values of that of Acquire")
	}
	if _, err := c.Delete(t.Context(), l.Key()); err != nil {
		t.Fatal(err)
	}
	<-l.Done()
	for what, err := range map[string]error{"Err": l.Err(), "Cause": context.Cause(l.Context()), "Release": l.Release(t.Context())} {
		if !errors.Is(err, lock.ErrLost) {
			t.Errorf("%s = %v, want ErrLost", what, err)
		}
	}
}

// The holder's only member is gone for good.
func TestLossOfTheClusterIsReported(t *testing.T) {
	t.Parallel()
	cluster := clustertest.New(t, 1)
	c := open(t, cluster.URLs()...)
	l, err := lock.Acquire(t.Context(), c, "alone", lock.Options{TTL: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	cluster.Member(0).Kill()
	start := time.Now()
	<-l.Done()
	if took := time.Since(start); took > 10*time.Second || !errors.Is(l.Err(), lock.ErrLost) {
		t.Errorf("lost after %v with %v", took, l.Err())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := l.Release(ctx); !errors.Is(err, lock.ErrLost) || !errors.Is(err, client.ErrNoEndpoint) && !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Release = %v, want ErrLost and that nobody answers", err)
	}
	if _, err := lock.Acquire(t.Context(), c, "alone", lock.Options{}); !errors.Is(err, client.ErrNoEndpoint) {
		t.Errorf("Acquire = %v, want ErrNoEndpoint", err)
	}
}

func TestWhoStopsWaitingLeavesTheQueue(t *testing.T) {
	t.Parallel()
	c := open(t, endpoints...)
	l, err := lock.Acquire(t.Context(), c, "left", lock.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := lock.Acquire(ctx, c, "left", lock.Options{})
		done <- err
	}()
	queued(t, c, "left", 2)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("Acquire = %v, want context.Canceled", err)
	}
	if n := queued(t, c, "left", 1)[0]; n.Key != l.Key() {
		t.Errorf("%s is left, want %s", n.Key, l.Key())
	}
	if err := l.Release(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBadArgumentsAreNamed(t *testing.T) {
	c := open(t, endpoints...)
	for _, tt := range []struct {
		name string
		o    lock.Options
		want string
	}{
		{"a/b", lock.Options{}, `lock: the name is "a/b"; make it of letters, digits, '-', '_' and '.', a letter or digit first`},
		{"a", lock.Options{TTL: time.Second}, "lock: the TTL is 1s, must be at least 2s"},
		{"a", lock.Options{Owner: strings.Repeat("a", 513)}, "lock: the text for others has 513 bytes, may have at most 512"},
	} {
		_, err := lock.Acquire(t.Context(), c, tt.name, tt.o)
		if !errors.Is(err, client.ErrInvalidArgument) || err.Error() != tt.want {
			t.Errorf("Acquire = %v, want %s", err, tt.want)
		}
	}
	if _, err := c.Set(t.Context(), "/locks/_queue/file", "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := lock.Acquire(t.Context(), c, "file", lock.Options{}); !errors.Is(err, deimos.ErrNotDir) {
		t.Errorf("Acquire of a file = %v, want ErrNotDir", err)
	}
}
