package election_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/client"
	"github.com/marsevilspirit/deimos/client/election"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

// start returns an election whose terms outlive any other one of the cluster.
func start(t *testing.T, c *client.Client, name string) *election.Election {
	t.Helper()
	e, err := election.New(c, name, election.Options{TTL: 30 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// seen is what an observer was told.
type seen struct {
	mu   sync.Mutex
	list []election.Leader
}

// observe notes all leaders until ctx ends.
func (s *seen) observe(ctx context.Context, t *testing.T, e *election.Election) {
	for l, err := range e.Observe(ctx) {
		if err != nil {
			if ctx.Err() == nil {
				t.Errorf("Observe: %v", err)
			}
			return
		}
		s.mu.Lock()
		s.list = append(s.list, l)
		s.mu.Unlock()
	}
}

func (s *seen) has(value string, token uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.list {
		if l.Value == value && l.Token == token {
			return true
		}
	}
	return false
}

// Candidates lead one after the other while leaders of the cluster are killed,
// and an observer is told of each in order.
func TestObserverSeesEveryLeaderWhileMembersAreKilled(t *testing.T) {
	t.Parallel()
	cluster := clustertest.NewHTTP(t, 3)
	ctx, stop := context.WithCancel(t.Context())
	var s seen
	var all sync.WaitGroup
	c := open(t, cluster.URLs()...)
	all.Go(func() { s.observe(ctx, t, start(t, c, "office")) })
	clustertest.Eventually(t, "that nobody leads", func() bool { return s.has("", 0) })

	last := uint64(0)
	for i := range 3 {
		e := start(t, c, "office")
		value := fmt.Sprintf("http://10.0.0.%d:80/a b", i)
		term, err := e.Campaign(t.Context(), value)
		if err != nil {
			t.Fatal(err)
		}
		if term.Token() <= last {
			t.Errorf("token %d came after %d", term.Token(), last)
		}
		last = term.Token()
		next := make(chan error)
		nextCtx, cancel := context.WithCancel(t.Context())
		go func() {
			_, err := e.Campaign(nextCtx, "second")
			next <- err
		}()
		leader := cluster.Leader()
		leader.Kill()
		l, err := e.Leader(t.Context())
		if err != nil || l.Value != value || l.Token != last {
			t.Errorf("Leader = %+v, %v, want %s with %d", l, err, value, last)
		}
		leader.Start()
		leader.WaitReady()
		clustertest.Eventually(t, "the leader to be seen", func() bool { return s.has(value, last) })
		cancel()
		if err := <-next; !errors.Is(err, context.Canceled) {
			t.Errorf("Campaign of the second = %v, want context.Canceled", err)
		}
		if err := term.Err(); err != nil {
			t.Errorf("Err = %v", err)
		}
		if err := term.Resign(t.Context()); err != nil {
			t.Errorf("Resign = %v", err)
		}
		if err := term.Err(); !errors.Is(err, election.ErrResigned) {
			t.Errorf("Err = %v, want ErrResigned", err)
		}
	}
	clustertest.Eventually(t, "all to be seen", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.list) == 7
	})
	stop()
	all.Wait()
	for i, l := range s.list {
		if (i%2 == 0) != (l.Token == 0) {
			t.Errorf("the observer saw %+v, want nobody and somebody in turn", s.list)
			break
		}
	}
	if _, err := start(t, c, "office").Leader(t.Context()); !errors.Is(err, election.ErrNoLeader) {
		t.Errorf("Leader = %v, want ErrNoLeader", err)
	}
}

func TestObserverIsToldOfTheNextAndOfRemovedQueues(t *testing.T) {
	t.Parallel()
	c := open(t, endpoints...)
	e, err := election.New(c, "queue", election.Options{TTL: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	first, err := e.Campaign(t.Context(), "first")
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan *election.Term)
	go func() {
		term, err := e.Campaign(t.Context(), "second")
		if err != nil {
			t.Errorf("Campaign: %v", err)
		}
		second <- term
	}()
	clustertest.Eventually(t, "two candidates", func() bool {
		r, err := c.List(t.Context(), "/elections/_queue/queue")
		return err == nil && len(r.Node.Nodes) == 2
	})
	// What is no place does not lead.
	for _, key := range []string{"/0", "/x/00000000000000000001"} {
		if _, err := c.Set(t.Context(), "/elections/_queue/queue"+key, "stranger"); err != nil {
			t.Fatal(err)
		}
	}
	step, term := 0, first
	for l, err := range e.Observe(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"first", "second", ""}[step]
		if l.Value != want || (l.Token == 0) != (want == "") {
			t.Errorf("the observer sees %+v, want %q", l, want)
		}
		switch step {
		case 0:
			err = term.Resign(t.Context())
			term = <-second
		case 1:
			_, err = c.Delete(t.Context(), "/elections/_queue", client.WithRecursive())
		}
		if err != nil {
			t.Fatal(err)
		}
		if step++; step == 3 {
			break
		}
	}
	<-term.Done()
	if err := term.Resign(t.Context()); !errors.Is(err, election.ErrLost) {
		t.Errorf("Resign = %v, want ErrLost", err)
	}
}

func TestBadArgumentsAreNamed(t *testing.T) {
	c := open(t, endpoints...)
	if _, err := election.New(c, "_a", election.Options{}); !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("New = %v, want ErrInvalidArgument", err)
	}
	if _, err := election.New(c, "a", election.Options{TTL: time.Second}); !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("New = %v, want ErrInvalidArgument", err)
	}
	_, err := start(t, c, "a").Campaign(t.Context(), strings.Repeat("a", election.ValueMaxBytes+1))
	if !errors.Is(err, client.ErrInvalidArgument) {
		t.Errorf("Campaign = %v, want ErrInvalidArgument", err)
	}
}
