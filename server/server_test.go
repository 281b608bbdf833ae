package server

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/store"
)

// fakeNode applies proposals at once, on a clock that the test's bubble turns.
type fakeNode struct {
	mu       sync.Mutex // stands for the apply loop: one entry at a time
	machine  *Machine
	start    time.Time
	log      logWriter
	err      error
	follower bool
	silent   bool // no quorum: reads find no end
	current  atomic.Bool
	applied  atomic.Uint64
	proposed atomic.Int64

	refuses   atomic.Bool // the cluster refuses writes for want of space
	handOvers atomic.Int64
	// What follows is for membership changes.
	leader    uint64 // told by a follower
	progress  []raftnode.Progress
	onPending func() // called at each refusal for that reason
	pending   int    // how many changes are still under way
	takes     bool   // whether the voter that is asked takes over leadership
}

func (n *fakeNode) Propose(ctx context.Context, data []byte) (any, error) {
	n.proposed.Add(1)
	if n.err != nil {
		return nil, n.err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.log.index++
	n.log.seq++
	e := raftnode.Entry{Index: n.log.index + 1, TimeMS: n.ClusterTimeMS(), Run: 1, Seq: n.log.seq, Data: data[raftnode.PrefixBytes:]}
	results := make([]any, 1)
	if err := n.machine.Apply([]raftnode.Entry{e}, results); err != nil {
		return nil, err
	}
	return results[0], nil
}

func (n *fakeNode) BeginPropose(_ time.Time, data []byte, done raftnode.Done) {
	done(n.Propose(context.Background(), data))
}

func (n *fakeNode) BeginRead(_ time.Time, done raftnode.Done) {
	if !n.silent {
		done(nil, n.err)
	}
}

func (n *fakeNode) Read(ctx context.Context) error {
	if n.silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return n.err
}

func (n *fakeNode) Current() bool { return n.current.Load() }

func (n *fakeNode) WritesRefused() bool { return n.refuses.Load() }

func (n *fakeNode) Status() raftnode.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := raftnode.Status{State: raft.StateLeader, Leader: 1, Applied: n.applied.Load(), Committed: n.log.index + 1}
	if n.follower {
		st.State, st.Leader = raft.StateFollower, n.leader
	}
	return st
}

func (n *fakeNode) TransferLeadership(_ context.Context, to uint64) error {
	n.handOvers.Add(1)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.takes {
		n.follower, n.leader = true, max(to, 2)
	}
	return nil
}

func (n *fakeNode) Progress(context.Context) ([]raftnode.Progress, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.follower {
		return nil, nil
	}
	return n.progress, nil
}

func (n *fakeNode) ProposeConfChange(ctx context.Context, cc raftpb.ConfChange) (any, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.err != nil:
		return nil, n.err
	case n.follower:
		return nil, raftnode.ErrNotLeader
	case n.pending > 0:
		n.pending--
		if n.onPending != nil {
			n.onPending()
		}
		return nil, raftnode.ErrConfChangePending
	}
	n.log.index++
	_, result, err := n.machine.ApplyConfChange(raftnode.Entry{Index: n.log.index + 1}, cc)
	return result, err
}

func (n *fakeNode) ClusterTimeMS() int64 { return 1 + time.Since(n.start).Milliseconds() }

// write makes a write and waits for its end.
func write(s *Server, r *deimos.Request) (*store.Event, error) {
	type end struct {
		event *store.Event
		err   error
	}
	told := make(chan end, 1)
	s.Write(time.Time{}, r, func(e *store.Event, err error) { told <- end{e, err} })
	got := <-told
	return got.event, got.err
}

// read makes a linearizable read and waits for its end.
func read(s *Server) (store.View, error) {
	type end struct {
		view store.View
		err  error
	}
	told := make(chan end, 1)
	s.Read(time.Time{}, func(v store.View, err error) { told <- end{v, err} })
	got := <-told
	return got.view, got.err
}

func startServer(t *testing.T, n *fakeNode) *Server {
	t.Helper()
	n.machine = newTestMachine()
	n.start = time.Now()
	s := New(Config{Self: deimos.Member{ID: 1, Name: "a", ClientURLs: []string{"http://127.0.0.1:8"}}, Machine: n.machine, Node: n})
	t.Cleanup(s.Close)
	return s
}

func TestErrorsOfTheNodeAreToldToTheUser(t *testing.T) {
	for _, tt := range []struct {
		name        string
		err         error
		code        deimos.Code
		write, read string
	}{
		{"no leader", raftnode.ErrNoLeader, 301, deimos.CauseNoLeader, deimos.CauseNoLeader},
		{"overloaded", raftnode.ErrOverloaded, 300, deimos.CauseOverloaded, deimos.CauseOverloaded},
		{"stopping", raftnode.ErrStopped, 300, deimos.CauseStopping, deimos.CauseStopping},
		{"deadline", context.DeadlineExceeded, 300, deimos.CauseWriteTimeout, deimos.CauseReadTimeout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := startServer(t, &fakeNode{err: tt.err})
			var e *deimos.Error
			_, err := write(s, &deimos.Request{Op: deimos.OpSet, Key: "/a"})
			if !errors.As(err, &e) || e.Code != tt.code || e.Cause != tt.write || e.Index != 0 {
				t.Errorf("Write = %v, want %d %q", err, tt.code, tt.write)
			}
			_, err = read(s)
			if !errors.As(err, &e) || e.Code != tt.code || e.Cause != tt.read {
				t.Errorf("Read = %v, want %d %q", err, tt.code, tt.read)
			}
			if _, err := s.AwaitView(t.Context()); err != nil {
				t.Errorf("local Read = %v, want nil", err)
			}
		})
	}
}

func TestNodesExpireSoonAfterTheirDeadlineAndNeverBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNode{}
		s := startServer(t, n)
		begin := time.Now()
		for i := range int64(3 * expiryBatchMax) {
			key := "/k" + string(rune('a'+i%26)) + time.Duration(i).String()
			if _, err := write(s, &deimos.Request{Op: deimos.OpSet, Key: key, HasTTL: true, TTLSeconds: 5}); err != nil {
				t.Fatal(err)
			}
		}
		w, err := s.Watch("/", true, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		if _, err := w.Next(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took <= 5*time.Second || took > 5500*time.Millisecond {
			t.Errorf("the first node expired after %v, want just over 5 s", took)
		}
		synctest.Wait()
		if got := n.machine.Store().View().Len(); got != 0 {
			t.Errorf("%d nodes are left, want none", got)
		}
	})
}

func TestAnIdleServerProposesNothing(t *testing.T) {
	for _, tt := range []struct {
		name     string
		follower bool
		ttl      int64
	}{
		{"leader with a key that is not due", false, 3600},
		{"follower with a key that is due", true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &fakeNode{follower: tt.follower}
				s := startServer(t, n)
				if _, err := write(s, &deimos.Request{Op: deimos.OpSet, Key: "/a", HasTTL: true, TTLSeconds: tt.ttl}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				before := n.proposed.Load()
				<-time.After(time.Minute)
				synctest.Wait()
				if got := n.proposed.Load() - before; got != 0 {
					t.Errorf("%d proposals in an idle minute, want 0", got)
				}
			})
		})
	}
}

func TestACurrentViewIsToldOnlyByANodeThatIsCurrent(t *testing.T) {
	n := &fakeNode{}
	s := startServer(t, n)
	if _, err := write(s, &deimos.Request{Op: deimos.OpSet, Key: "/a", Value: "1"}); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.CurrentView(); ok {
		t.Error("CurrentView() of a node that is not current = true, want false")
	}
	n.current.Store(true)
	v, ok := s.CurrentView()
	if !ok {
		t.Fatal("CurrentView() of a node that is current = false, want true")
	}
	if got, err := v.Get("/a"); err != nil || got.Value() != "1" {
		t.Errorf("Get(/a) = %v, %v, want what was acknowledged", got, err)
	}
}

func TestAMemberPublishesItsAddressesOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &fakeNode{}
		startServer(t, n)
		synctest.Wait()
		if got := n.machine.Members()[0].ClientURLs; len(got) != 1 || got[0] != "http://127.0.0.1:8" {
			t.Errorf("client URLs in the member list = %q", got)
		}
		if got := n.machine.Store().View().Index(); got != 1 {
			t.Errorf("store index = %d after publishing, want 1", got)
		}
		before := n.proposed.Load()
		second := New(Config{Self: deimos.Member{ID: 1, Name: "a", ClientURLs: []string{"http://127.0.0.1:8"}}, Machine: n.machine, Node: n})
		synctest.Wait()
		second.Close()
		if got := n.proposed.Load() - before; got != 0 {
			t.Errorf("a restart proposed %d entries, want 0", got)
		}
	})
}

func TestWritesAreRefusedWithoutDiskSpace(t *testing.T) {
	for _, tt := range []struct {
		name string
		fill func(n *fakeNode, low *atomic.Bool, full bool)
	}{
		{"on this member", func(_ *fakeNode, low *atomic.Bool, full bool) { low.Store(full) }},
		{"on a quorum", func(n *fakeNode, _ *atomic.Bool, full bool) { n.refuses.Store(full) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &fakeNode{machine: newTestMachine(), start: time.Now()}
				var low atomic.Bool
				s := New(Config{Self: deimos.Member{ID: 1}, Machine: n.machine, Node: n, DiskLow: low.Load})
				defer s.Close()
				write := func() error {
					_, err := write(s, &deimos.Request{Op: deimos.OpSet, Key: "/a", HasTTL: true, TTLSeconds: 1})
					return err
				}
				if err := write(); err != nil {
					t.Fatal(err)
				}
				synctest.Wait() // the member has published itself
				tt.fill(n, &low, true)
				before := n.proposed.Load()
				var e *deimos.Error
				if err := write(); !errors.As(err, &e) || e.Code != deimos.CodeRaftInternal || e.Cause != deimos.CauseDiskReserve {
					t.Errorf("Write() without space = %v, want code 300 with %q", err, deimos.CauseDiskReserve)
				}
				if n.proposed.Load() != before {
					t.Error("a refused write was proposed")
				}
				if _, err := read(s); err != nil {
					t.Errorf("Read() without space = %v, want nil", err)
				}
				<-time.After(10 * time.Second)
				synctest.Wait()
				if got := n.machine.Store().View().Len(); got != 0 {
					t.Errorf("%d nodes left, want 0: expiry must go on below the reserve", got)
				}
				add := deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: []string{"http://127.0.0.1:9"}, Learner: true}
				if _, err := s.ChangeMembers(t.Context(), add); err != nil {
					t.Errorf("ChangeMembers() without space = %v, want nil", err)
				}
				tt.fill(n, &low, false)
				if err := write(); err != nil {
					t.Errorf("Write() with space again = %v, want nil", err)
				}
			})
		})
	}
}

func TestLocalReadsAndWatchesWaitForWhatWasSeenBeforeARestart(t *testing.T) {
	for _, tt := range []struct {
		name   string
		silent bool
		want   time.Duration
	}{
		{"with a quorum", false, 0},
		{"without one, until the log is applied", true, 5 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &fakeNode{machine: newTestMachine(), start: time.Now(), silent: tt.silent}
				s := New(Config{Self: deimos.Member{ID: 1, Name: "a"}, Machine: n.machine, Node: n, Recovered: 7, RecoverTimeout: 2 * time.Second})
				defer s.Close()
				time.AfterFunc(5*time.Second, func() { n.applied.Store(7) })
				began := time.Now()
				if _, err := s.AwaitView(t.Context()); err != nil {
					t.Errorf("local Read: %v", err)
				}
				w, err := s.Watch("/", true, 0)
				if err != nil {
					t.Fatal(err)
				}
				w.Close()
				if took := time.Since(began); took < tt.want || took > tt.want+recoverPause {
					t.Errorf("a local read and a watch took %v, want %v", took, tt.want)
				}
			})
		})
	}
	t.Run("a stop ends the wait", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			n := &fakeNode{machine: newTestMachine(), start: time.Now(), silent: true}
			s := New(Config{Self: deimos.Member{ID: 1}, Machine: n.machine, Node: n, Recovered: 7, RecoverTimeout: time.Hour})
			time.AfterFunc(time.Second, s.Close)
			var e *deimos.Error
			if _, err := s.AwaitView(t.Context()); !errors.As(err, &e) || e.Cause != deimos.CauseStopping {
				t.Errorf("local Read while stopping = %v, want %q", err, deimos.CauseStopping)
			}
			if _, err := s.Watch("/", true, 0); err == nil {
				t.Error("Watch while stopping = nil, want an error")
			}
			synctest.Wait()
		})
	})
}
