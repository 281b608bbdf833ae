package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// oldText is an answer or an error as deimos-client understood it.
func oldText(a *oldAnswer, err error) string {
	if err != nil {
		return err.Error()
	}
	text := a.Action + " " + oldNodeText(a.Node)
	if a.PrevNode != nil {
		text += ", was " + oldNodeText(a.PrevNode)
	}
	return text
}

func oldNodeText(n *oldNode) string {
	text := n.Key
	if n.Dir {
		text += "/"
	} else if n.Value != "" {
		text += "=" + n.Value
	}
	text += fmt.Sprintf(" %d-%d", n.CreatedIndex, n.ModifiedIndex)
	for _, child := range n.Nodes {
		text += " [" + oldNodeText(child) + "]"
	}
	return text
}

// oldStep is a call and what the client makes of the answer.
type oldStep struct {
	name string
	call func(ctx context.Context, c *oldClient) (*oldAnswer, error)
	want string
}

func oldSets(key, value string, o oldSet) func(context.Context, *oldClient) (*oldAnswer, error) {
	return func(ctx context.Context, c *oldClient) (*oldAnswer, error) { return c.set(ctx, key, value, o) }
}

func oldGets(key string) func(context.Context, *oldClient) (*oldAnswer, error) {
	return func(ctx context.Context, c *oldClient) (*oldAnswer, error) { return c.get(ctx, key) }
}

func oldDeletes(key string, options url.Values) func(context.Context, *oldClient) (*oldAnswer, error) {
	return func(ctx context.Context, c *oldClient) (*oldAnswer, error) { return c.delete(ctx, key, options) }
}

func oldSwaps(key, value string, prev oldCompare, ttl time.Duration) func(context.Context, *oldClient) (*oldAnswer, error) {
	return func(ctx context.Context, c *oldClient) (*oldAnswer, error) {
		return c.compareAndSwap(ctx, key, value, prev, ttl)
	}
}

func oldCompareDeletes(key string, prev oldCompare) func(context.Context, *oldClient) (*oldAnswer, error) {
	return func(ctx context.Context, c *oldClient) (*oldAnswer, error) {
		return c.compareAndDelete(ctx, key, prev)
	}
}

// oldCalls is one story on a fresh cluster.
var oldCalls = []oldStep{
	{"set", oldSets("/a", "1", oldSet{}), "set /a=1 2-2"},
	{"set again", oldSets("/a", "x=y & z;+", oldSet{}), "set /a=x=y & z;+ 3-3, was /a=1 2-2"},
	{"set with prevExists=true", oldSets("/a", "2", oldSet{prevExists: "true"}), "update /a=2 3-4, was /a=x=y & z;+ 3-3"},
	{"set with prevExists=true of nothing", oldSets("/b", "2", oldSet{prevExists: "true"}), "404/100 Key not found"},
	{"set with prevExists=false", oldSets("/b", "", oldSet{prevExists: "false", ttl: time.Hour}), "create /b 5-5"},
	{"set with prevExists=false of a key", oldSets("/b", "2", oldSet{prevExists: "false", ttl: time.Hour}), "412/105 Key already exists"},
	{"set of a directory", oldSets("/d", "", oldSet{dir: true}), "set /d/ 6-6"},
	{"set of a directory that is there", oldSets("/d", "", oldSet{dir: true}), "403/102 Not a file"},
	{"get of an empty directory", oldGets("/d"), "get /d/ 6-6"},
	{"get of nothing", oldGets("/none"), "404/100 Key not found"},

	{"swap with a wrong value", oldSwaps("/a", "3", oldCompare{value: "1"}, 0), "412/101 Compare failed"},
	{"swap with a value", oldSwaps("/a", "3", oldCompare{value: "2"}, 0), "compareAndSwap /a=3 3-7, was /a=2 3-4"},
	{"swap with a wrong index", oldSwaps("/a", "4", oldCompare{index: 3}, 0), "412/101 Compare failed"},
	{"swap with an index", oldSwaps("/a", "4", oldCompare{index: 7}, time.Hour), "compareAndSwap /a=4 3-8, was /a=3 3-7"},
	{"swap with one of both wrong", oldSwaps("/a", "5", oldCompare{value: "4", index: 7}, 0), "412/101 Compare failed"},
	{"swap with both", oldSwaps("/a", "5", oldCompare{value: "4", index: 8}, 0), "compareAndSwap /a=5 3-9, was /a=4 3-8"},
	{"swap of nothing", oldSwaps("/none", "5", oldCompare{value: "4"}, 0), "404/100 Key not found"},

	{"compare and delete with a wrong value", oldCompareDeletes("/a", oldCompare{value: "4"}), "412/101 Compare failed"},
	{"compare and delete with a wrong index", oldCompareDeletes("/a", oldCompare{index: 8}), "412/101 Compare failed"},
	{"compare and delete with one of both wrong", oldCompareDeletes("/a", oldCompare{value: "5", index: 8}), "412/101 Compare failed"},
	{"the key is still there", oldGets("/a"), "get /a=5 3-9"},
	{"compare and delete with a value", oldCompareDeletes("/a", oldCompare{value: "5"}), "compareAndDelete /a 3-10, was /a=5 3-9"},
	{"compare and delete with an index", oldCompareDeletes("/b", oldCompare{index: 5}), "compareAndDelete /b 5-11, was /b 5-5"},
	{"compare and delete of nothing", oldCompareDeletes("/b", oldCompare{value: "5"}), "404/100 Key not found"},
	{"compare and delete of a directory", oldCompareDeletes("/d", oldCompare{index: 6}), "403/102 Not a file"},

	{"set below", oldSets("/d/tcp@[::1]:80", "1", oldSet{ttl: time.Hour}), "set /d/tcp@[::1]:80=1 12-12"},
	{"get of a directory", oldGets("/d"), "get /d/ 6-6 [/d/tcp@[::1]:80=1 12-12]"},
	{"delete of a directory as a key", oldDeletes("/d", nil), "403/102 Not a file"},
	{"delete of a full directory", oldDeletes("/d", url.Values{"dir": {"true"}}), "403/108 Directory not empty"},
	{"delete of a tree", oldDeletes("/d", url.Values{"recursive": {"true"}}), "delete /d/ 6-13, was /d/ 6-6"},
	{"delete of nothing", oldDeletes("/d", url.Values{"recursive": {"true"}, "dir": {"true"}}), "404/100 Key not found"},
	{"set with less than a second to live", oldSets("/a", "1", oldSet{ttl: 900 * time.Millisecond}), "set /a=1 14-14"},
}

func TestOldClientCalls(t *testing.T) {
	t.Parallel()
	n := startNode(t)
	c := newOldClient(t, n.client, oldLimit)
	for _, step := range oldCalls {
		if got := oldText(step.call(t.Context(), c)); got != step.want {
			t.Errorf("%s = %s, want %s", step.name, got, step.want)
		}
	}
	// ttl=0 is due at once.
	untilWithin(t, 2*time.Second, func(context.Context) error {
		a, err := c.get(t.Context(), "/a")
		if !isOldError(err, 404, 100) {
			return fmt.Errorf("a key that was set with less than a second to live = %s, want 404/100", oldText(a, err))
		}
		return nil
	})
}

func TestOldClientWatch(t *testing.T) {
	t.Parallel()
	const watchTimeout = 100 * time.Millisecond
	n := startNode(t, "--watch-timeout", watchTimeout.String())
	writer, c := newOldClient(t, n.client, oldLimit), newOldClient(t, n.client, oldLimit)
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	defer cancel()
	began := time.Now()
	events := c.watch(ctx, "/w", true, 2)
	waitEmpty := func(more int64) {
		t.Helper()
		least := c.empty.Load() + more
		untilWithin(t, readyMax, func(context.Context) error {
			if got := c.empty.Load(); got < least {
				return fmt.Errorf("%d watches had an empty answer, want at least %d", got, least)
			}
			return nil
		})
	}
	for round := range 3 {
		waitEmpty(3)
		for i := range 2 { // one is answered live, the other one from the history
			want := fmt.Sprintf("set /w/%d=%d %d-%d", round, i, 2*round+i+2, 2*round+i+2)
			if a, err := writer.set(ctx, fmt.Sprintf("/w/%d", round), fmt.Sprint(i), oldSet{}); !strings.HasPrefix(oldText(a, err), want) {
				t.Fatalf("set = %s, want %s", oldText(a, err), want)
			}
		}
		for i := range 2 {
			want := fmt.Sprintf("set /w/%d=%d %d-%d", round, i, 2*round+i+2, 2*round+i+2)
			if a, ok := <-events; !ok || !strings.HasPrefix(oldText(a, nil), want) {
				t.Fatalf("event of the watch = %+v, %t, want %s", a, ok, want)
			}
		}
	}
	// The client makes no pause: it is the member that holds each one.
	if got, most := c.empty.Load(), int64(time.Since(began)/watchTimeout); got > most {
		t.Errorf("%d watches had an empty answer in %v, want at most %d", got, time.Since(began), most)
	}

	// A member that stops ends watches with an empty body, and must not be
	// asked for ever by who asks again at once.
	before := c.asked.Load()
	n.run.signal(t, syscall.SIGTERM)
	if code := n.run.wait(t, exitMax); code != 0 {
		t.Errorf("the member has ended with %d, want 0", code)
	}
	if a, ok := <-events; ok {
		t.Errorf("event of a member that stops = %s, want the end of the watch", oldText(a, nil))
	}
	if got := c.asked.Load() - before; got > 5 {
		t.Errorf("%d watches were sent to a member that stops, want at most 5", got)
	}
}

func TestOldClientLockIsItsHoldersAlone(t *testing.T) {
	t.Parallel()
	const ttl = 2 * time.Second
	n := startNode(t)
	ctx, cancel := context.WithTimeout(t.Context(), readyMax)
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer cancel()
	lockOf := func(value string) *oldLock {
		// Watches have the whole limit, so that what wakes a waiter in time is
		// an event.
		return &oldLock{c: newOldClient(t, n.client, oldLimit), key: "/locks/m", value: value, ttl: ttl}
	}
	first, second, third := lockOf("first"), lockOf("second"), lockOf("third")
	if err := first.try(ctx); err != nil {
		t.Fatalf("try() of a lock that is free = %v", err)
	}
	if err := second.try(ctx); !isOldError(err, 412, 105) {
		t.Errorf("try() of a lock that is held = %v, want 412/105", err)
	}
	if err := second.unlock(ctx); !isOldError(err, 412, 101) {
		t.Errorf("unlock() of another's lock = %v, want 412/101", err)
	}
	if err := second.renew(ctx); !isOldError(err, 412, 101) {
		t.Errorf("renew() of another's lock = %v, want 412/101", err)
	}
	if err := first.renew(ctx); err != nil {
		t.Errorf("renew() by the holder after that = %v", err)
	}

	// awaits returns when a client has got the lock that others held.
	awaits := func(l *oldLock, meanwhile func()) time.Time {
		t.Helper()
		got := make(chan error, 1)
		waiting.Go(func() { got <- l.lock(ctx) })
		waitWatchers(t, 1, n)
		meanwhile()
		if err := <-got; err != nil {
			t.Fatalf("lock() by %s = %v", l.value, err)
		}
		return time.Now()
	}
	var left time.Time
	got := awaits(second, func() {
		// A renewal wakes the waiter, but is no end.
		if err := first.renew(ctx); err != nil {
			t.Errorf("renew() while another waits = %v", err)
		}
		left = time.Now()
		if err := first.unlock(ctx); err != nil {
			t.Errorf("unlock() while another waits = %v", err)
		}
	})
	if took := got.Sub(left); took < 0 || took > ttl/2 {
		t.Errorf("the waiter got the lock %v after it was left, want at once", took)
	}
	// The second holder dies now.
	if got := awaits(third, func() {}); got.Before(second.until) || got.After(second.until.Add(time.Second)) {
		t.Errorf("the lock of a dead holder was free %v after its TTL, want between 0 and 1 s", got.Sub(second.until))
	}
	if err := second.unlock(ctx); !isOldError(err, 412, 101) {
		t.Errorf("unlock() by who was thought dead = %v, want 412/101", err)
	}
	if err := third.unlock(ctx); err != nil {
		t.Errorf("unlock() = %v", err)
	}
	if err := third.unlock(ctx); !isOldError(err, 404, 100) {
		t.Errorf("unlock() of nothing = %v, want 404/100", err)
	}
	waitWatchers(t, 0, n)
}

// contendOldWay takes a lock over and over, renews it, and leaves it. It uses each
// value once, so that a request whose outcome it was not told concerns no later
// hold of its own.
func contendOldWay(ctx context.Context, c *oldClient, who string, h *holds) {
	for turn := 0; ctx.Err() == nil; turn++ {
		l := &oldLock{c: c, key: "/locks/m", value: fmt.Sprintf("%s/%d", who, turn), ttl: time.Second}
		if l.lock(ctx) != nil {
			return
		}
		from := time.Now()
		mine := l.work(ctx)
		if to := time.Now(); to.Before(l.until) {
			h.add(who, from, to)
		} else {
			h.add(who, from, l.until)
		}
		if mine {
			// An unlock that failed leaves the lock to its TTL.
			if errors.Is(l.unlock(ctx), errContract) {
				return
			}
		}
		pause(ctx, 30*time.Millisecond) // the others' turn
	}
}

// work holds the lock for a while, and renews it. It returns false when the
// lock could not be renewed, at the end of what the holder may believe.
func (l *oldLock) work(ctx context.Context) (mine bool) {
	for range 2 {
		pause(ctx, 5*time.Millisecond)
		if l.renew(ctx) != nil {
			pause(ctx, time.Until(l.until))
			return false
		}
	}
	return true
}

func TestOldClientLockWhileTheLeaderIsKilled(t *testing.T) {
	t.Parallel()
	c := startCluster(t)
	leader := c.leader(t)
	ctx, cancel := context.WithCancel(t.Context())
	h := &holds{}
	var done sync.WaitGroup
	defer done.Wait()
	defer cancel()
	contenders := map[*node][]string{}
	for _, n := range c.nodes {
		for i := range 2 {
			who := fmt.Sprintf("%s-%d", n.name, i)
			contenders[n] = append(contenders[n], who)
			client := newOldClient(t, n.client, 300*time.Millisecond)
			done.Go(func() { contendOldWay(ctx, client, who, h) })
		}
	}
	wait := func(count int, since time.Time, nodes ...*node) {
		t.Helper()
		untilWithin(t, readyMax, func(context.Context) error {
			for _, n := range nodes {
				for _, who := range contenders[n] {
					if got := h.count(who, since); got < count {
						return fmt.Errorf("%s has held the lock %d times, want at least %d", who, got, count)
					}
				}
			}
			return nil
		})
	}
	wait(3, time.Time{}, c.nodes...)

	// The leader dies while one of its clients holds the lock.
	hostage := &oldLock{c: newOldClient(t, leader.client, 300*time.Millisecond), key: "/locks/m", value: "hostage", ttl: 2 * time.Second}
	if err := hostage.lock(ctx); err != nil {
		t.Fatal(err)
	}
	from := time.Now()
	leader.kill(t)
	killedAt := time.Now()
	if err := hostage.renew(ctx); err == nil {
		t.Error("renew() at a member that was killed = nil")
	}
	h.add("hostage", from, hostage.until)
	if !killedAt.Before(hostage.until) {
		t.Errorf("void: the TTL was over %v before the leader was dead", killedAt.Sub(hostage.until))
	}
	var survivors []*node
	for _, n := range c.nodes {
		if n != leader {
			survivors = append(survivors, n)
		}
	}
	wait(3, killedAt, survivors...)
	leader.start(t)
	leader.waitReady(t)
	wait(2, time.Now(), c.nodes...)
	cancel()
	done.Wait()
	h.wantNoOverlap(t)
	waitWatchers(t, 0, c.nodes...)
	// All have left it, or lost it.
	last := newOldClient(t, leader.client, oldLimit)
	untilWithin(t, readyMax, func(context.Context) error {
		a, err := last.get(t.Context(), "/locks/m")
		if !isOldError(err, 404, 100) {
			return fmt.Errorf("the lock that nobody holds = %s, want 404/100", oldText(a, err))
		}
		return nil
	})
	c.wantAgreement(t)
}
