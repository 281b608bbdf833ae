package store

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
)

// Members may be started with different flags. What they apply must not depend
// on them.
func TestLocalConfigurationDoesNotChangeTheState(t *testing.T) {
	large, small := New(Config{}), New(Config{HistoryEvents: 1, HistoryBytes: 1})
	for i, r := range []func() (key, value string){
		func() (string, string) { return "/empty", "" },
		func() (string, string) { return "/a", "x" },
		func() (string, string) { return "/a", strings.Repeat("x", 2<<20) },
		func() (string, string) { return "/dir/b", strings.Repeat("y", AppliedValueMaxBytes) },
		func() (string, string) { return "/dir/c", strings.Repeat("z", AppliedValueMaxBytes+1) },
	} {
		key, value := r()
		for _, ttls := range []int64{0, 5} {
			request := set(key, value, ttl(ttls))
			got, want := outcomeText(small.Apply(request, 1000)), outcomeText(large.Apply(request, 1000))
			if got != want {
				t.Errorf("request %d: the outcome depends on the configuration: %.80q and %.80q", i, got, want)
			}
		}
	}
	for _, s := range []*Store{large, small} {
		s.Expire(1001, 1)
		s.Publish(1)
	}
	if !bytes.Equal(snapshot(t, small.View()), snapshot(t, large.View())) {
		t.Error("the states differ with the configuration")
	}
}

// Members give the same index to the same expiry, in whatever order the nodes
// got their deadlines.
func TestNodesDueTogetherGoInTheOrderOfDeadlineAndKey(t *testing.T) {
	const nodes = 300
	name := func(i int) string { return fmt.Sprintf("/k%03d", i) }
	up, down := New(Config{}), New(Config{})
	for i := range nodes {
		j := nodes - 1 - i
		mustApply(t, up, set(name(i), "", ttl(int64(1+i%3))))
		mustApply(t, down, set(name(j), "", ttl(int64(1+j%3))))
	}
	var want []string
	for seconds := range 3 {
		for i := seconds; i < nodes; i += 3 {
			want = append(want, name(i))
		}
	}
	for _, s := range []*Store{up, down} {
		if n := s.Expire(4001, nodes); n != nodes {
			t.Fatalf("Expire() = %d, want %d", n, nodes)
		}
		var got []string
		for _, e := range s.batch {
			got = append(got, e.Node().Key())
		}
		if !slices.Equal(got, want) {
			t.Errorf("the nodes went in the order %q, want %q", got, want)
		}
		s.Publish(1)
	}
}

// Who sees an event and then reads sees its effect. Many watchers behind the
// one that looks make the step long in which it could be woken too early.
func TestAnEventIsReadableWhenItsWatcherWakes(t *testing.T) {
	s := New(Config{})
	first := mustWatch(t, s, "/a", false, 0)
	for range 2000 {
		mustWatch(t, s, "/", true, 0)
	}
	const writes = 100
	var wg sync.WaitGroup
	wg.Go(func() {
		for range writes {
			for !first.Ready() { // without sleeping, so as not to lose a moment
				if t.Context().Err() != nil {
					return
				}
			}
			read := s.View().Index()
			e, err := first.Next(context.Background())
			if err != nil {
				t.Errorf("Next() = %v, want an event", err)
				return
			}
			if read < e.Index() {
				t.Errorf("event %d was delivered while readers saw index %d", e.Index(), read)
				return
			}
		}
	})
	for i := range writes {
		mustApply(t, s, set("/a", fmt.Sprint(i)))
	}
	wg.Wait()
}
