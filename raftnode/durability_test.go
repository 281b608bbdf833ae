package raftnode

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// recordingSender keeps what a node wants to have sent.
type recordingSender struct {
	mu   sync.Mutex
	sent []raftpb.Message
}

func (s *recordingSender) Send(ms []raftpb.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent = append(s.sent, ms...)
}

func (s *recordingSender) SendSnapshot(_ raftpb.Message, _ int64, body io.ReadCloser) {
	_ = body.Close()
}

// count returns how many messages of a type promise something.
func (s *recordingSender) count(kind raftpb.MessageType) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, m := range s.sent {
		if m.Type == kind && !m.Reject {
			n++
		}
	}
	return n
}

// The disk of a member does not answer. Until it does, the member tells nobody
// what it has not made durable.
func TestNothingIsAcknowledgedBeforeItIsDurable(t *testing.T) {
	for _, tt := range []struct {
		name   string
		voters []uint64
		// ask makes the member promise something, promised counts its promises.
		ask      func(n *Node, told chan error)
		promised func(s *recordingSender, told chan error) int
	}{
		{
			"a write", []uint64{1},
			func(n *Node, told chan error) {
				go func() {
					_, err := n.Propose(context.Background(), proposal("x"))
					told <- err
				}()
			},
			func(_ *recordingSender, told chan error) int { return len(told) },
		},
		{
			"an append", []uint64{1, 2},
			func(n *Node, told chan error) {
				told <- n.Process(raftpb.Message{
					Type: raftpb.MsgApp, From: 2, To: 1, Term: 2, Index: 1, LogTerm: 1, Entries: []raftpb.Entry{{Index: 2, Term: 2}},
				})
			},
			func(s *recordingSender, _ chan error) int { return s.count(raftpb.MsgAppResp) },
		},
		{
			"a vote", []uint64{1, 2},
			func(n *Node, told chan error) {
				told <- n.Process(raftpb.Message{Type: raftpb.MsgVote, From: 2, To: 1, Term: 5, Index: 9, LogTerm: 4})
			},
			func(s *recordingSender, _ chan error) int { return s.count(raftpb.MsgVoteResp) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := &fakeLog{hs: raftpb.HardState{Commit: 1}}
				n, sender := startAlone(t, log, tt.voters)
				if len(tt.voters) == 1 {
					<-time.After(10 * n.cfg.ElectionTimeout) // it leads
				}
				gate := make(chan struct{})
				log.mu.Lock()
				log.gate = gate
				log.mu.Unlock()
				told := make(chan error, 1)
				tt.ask(n, told)
				synctest.Wait()
				if got := tt.promised(sender, told); got != 0 {
					t.Errorf("%d promises while the disk was silent, want 0", got)
				}
				close(gate)
				synctest.Wait()
				if got := tt.promised(sender, told); got != 1 {
					t.Errorf("%d promises after the disk had answered, want 1", got)
				}
				if err := <-told; err != nil {
					t.Errorf("the member says %v, want nil", err)
				}
			})
		})
	}
}

// startAlone starts member 1 of a cluster whose other members the test plays.
func startAlone(t *testing.T, log *fakeLog, voters []uint64) (*Node, *recordingSender) {
	t.Helper()
	sender := &recordingSender{}
	n, err := New(Config{
		ID: 1, Run: 100, HeartbeatInterval: 10 * time.Millisecond, ElectionTimeout: 100 * time.Millisecond, SnapshotCount: 1000,
		Recovered: log.recovered(firstSnapshot(voters).Metadata),
		Log:       log, Snapshots: &fakeSnapshots{}, Machine: &fakeMachine{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	n.Start(sender)
	t.Cleanup(n.Stop)
	return n, sender
}

func TestTheLogIsReleasedForSavedSnapshotsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := startNodes(t, 1, func(c *Config) { c.SnapshotCount = 10 })
		tn := leaderOf(t, nodes)
		propose := func() (released, newest uint64) {
			for range 30 {
				if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			shot, _ := tn.snapshots.newest()
			tn.log.mu.Lock()
			defer tn.log.mu.Unlock()
			return tn.log.released, shot.meta.Index
		}
		tn.snapshots.mu.Lock()
		tn.snapshots.fail = syscall.ENOSPC
		tn.snapshots.mu.Unlock()
		if released, newest := propose(); released != 0 || newest != 1 {
			t.Errorf("released up to raft index %d with the newest snapshot at %d, want 0 and 1: no snapshot could be saved", released, newest)
		}
		tn.snapshots.mu.Lock()
		tn.snapshots.fail = nil
		tn.snapshots.mu.Unlock()
		<-time.After(snapshotPause)
		if released, newest := propose(); released == 0 || released >= newest {
			t.Errorf("released up to raft index %d with the newest snapshot at %d, want more than 0 and less than that", released, newest)
		}
	})
}

// There may be no second chance for as many entries as lie between two
// snapshots.
func TestASnapshotThatWasPutOffIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 100
		_, nodes := startNodes(t, 1, func(c *Config) { c.SnapshotCount = count })
		tn := leaderOf(t, nodes)
		setFail := func(err error) {
			tn.snapshots.mu.Lock()
			defer tn.snapshots.mu.Unlock()
			tn.snapshots.fail = err
		}
		propose := func(entries int) (newest uint64) {
			for range entries {
				if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Wait()
			shot, _ := tn.snapshots.newest()
			return shot.meta.Index
		}
		setFail(syscall.ENOSPC)
		if newest := propose(count); newest != 1 {
			t.Fatalf("newest snapshot at raft index %d on a full disk, want 1", newest)
		}
		setFail(nil)
		<-time.After(snapshotPause)
		if newest := propose(1); newest < count {
			t.Errorf("newest snapshot at raft index %d with space again, want one of now", newest)
		}
	})
}

// A member whose snapshots take long does something else most of the time,
// unless what it has applied meanwhile takes too much memory.
func TestSnapshotsThatTakeLongAreFewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const count = 10
		_, nodes := startNodes(t, 1, func(c *Config) { c.SnapshotCount = count })
		tn := leaderOf(t, nodes)
		tn.snapshots.mu.Lock()
		tn.snapshots.takes = time.Second
		tn.snapshots.mu.Unlock()
		// newest proposes, and returns the raft index of the newest snapshot a
		// little after one that was begun now would be there.
		newest := func(entries int, data []byte) uint64 {
			for range entries {
				if _, err := tn.node.Propose(t.Context(), slices.Clone(data)); err != nil {
					t.Fatal(err)
				}
			}
			<-time.After(time.Second + time.Millisecond)
			shot, _ := tn.snapshots.newest()
			return shot.meta.Index
		}
		first := newest(count, proposal("x"))
		if first < count {
			t.Fatalf("newest snapshot at raft index %d after %d entries, want one of these", first, count)
		}
		for range snapshotRest {
			if index := newest(count, proposal("x")); index != first {
				t.Fatalf("newest snapshot at raft index %d during the rest after the one at %d", index, first)
			}
		}
		second := newest(1, proposal("x"))
		if second <= first {
			t.Errorf("newest snapshot at raft index %d after the rest, want a newer one", second)
		}
		big := make([]byte, 32<<20)
		if index := newest(snapshotBytes/len(big)+1, big); index <= second {
			t.Errorf("newest snapshot at raft index %d after %d bytes, want one in spite of the rest", index, snapshotBytes)
		}
	})
}

// One fsync that takes long must not cost an election.
func TestHeartbeatsDoNotWaitForTheDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := startNodes(t, 3, nil)
		leader := leaderOf(t, nodes)
		if _, err := leader.node.Propose(t.Context(), proposal("x")); err != nil {
			t.Fatal(err)
		}
		before := leader.node.Status()
		gate := make(chan struct{})
		leader.log.mu.Lock()
		leader.log.gate = gate
		leader.log.mu.Unlock()
		told := make(chan error, 1)
		go func() {
			_, err := leader.node.Propose(t.Context(), proposal("slow"))
			told <- err
		}()
		<-time.After(slowDiskMin * 9 / 10) // many election timeouts
		for i, tn := range nodes {
			if st := tn.node.Status(); st.Term != before.Term || st.Leader != before.Leader {
				t.Errorf("member %d has leader %d in term %d while the leader's disk was slow, want %d in %d",
					i+1, st.Leader, st.Term, before.Leader, before.Term)
			}
		}
		close(gate)
		if err := <-told; err != nil {
			t.Errorf("Propose over the slow disk = %v, want nil", err)
		}
	})
}

// A leader whose disk hangs is replaced. What others have given it, and what was
// written at it, has been answered as lost when the disk works again, and others
// may have written the same keys since.
func TestNothingThatWaitedForAHungDiskIsProposedAfterwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := startNodes(t, 3, nil)
		old := leaderOf(t, nodes)
		follower := nodes[0]
		if follower == old {
			follower = nodes[1]
		}
		if _, err := follower.node.Propose(t.Context(), proposal("before")); err != nil {
			t.Fatal(err)
		}
		gate := make(chan struct{})
		old.log.mu.Lock()
		old.log.gate = gate
		old.log.mu.Unlock()
		told := make(chan error, 3)
		propose := func(at *testNode, text string) { // with no deadline at all
			go func() {
				_, err := at.node.Propose(t.Context(), proposal(text))
				told <- err
			}()
			synctest.Wait()
		}
		propose(old, "under way")
		propose(old, "queued")
		propose(follower, "queued by another member")
		for range 3 {
			if err := <-told; !errors.Is(err, ErrLeaderChanged) {
				t.Errorf("Propose() at a leader that was replaced = %v, want %v", err, ErrLeaderChanged)
			}
		}
		if _, err := follower.node.Propose(t.Context(), proposal("newer")); err != nil {
			t.Fatal(err)
		}
		close(gate)
		<-time.After(10 * time.Second)
		if _, err := old.node.Propose(t.Context(), proposal("after")); err != nil {
			t.Fatal(err)
		}
		got := follower.machine.applied()
		got = slices.DeleteFunc(got, func(text string) bool { return text == "under way" }) // its outcome is open
		if want := []string{"before", "newer", "after"}; !slices.Equal(got, want) {
			t.Errorf("applied %q, want %q", got, want)
		}
	})
}

// The newest snapshot was taken before the learner was added. raft does not
// restore a snapshot on a member that the snapshot does not know.
func TestALearnerGetsASnapshotThatKnowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net, nodes := startNodes(t, 1, nil)
		leader := leaderOf(t, nodes)
		if _, err := leader.node.Propose(t.Context(), proposal("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := leader.node.ProposeConfChange(t.Context(), raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 2}); err != nil {
			t.Fatal(err)
		}
		learner := &testNode{
			log:       &fakeLog{},
			snapshots: &fakeSnapshots{saved: map[uint64]fakeSnapshot{}, inbound: map[uint64][]byte{}},
			machine:   &fakeMachine{},
		}
		startNode(t, net, 2, learner, raftpb.SnapshotMetadata{}, nil)
		<-time.After(20 * learner.node.cfg.ElectionTimeout)
		if got := len(learner.machine.applied()); got != 1 {
			t.Fatalf("the learner has applied %d writes, want 1", got)
		}
		shot, _ := learner.snapshots.newest()
		if !knows(&shot.meta.ConfState, 2) {
			t.Errorf("the learner has a snapshot of the configuration %v, want one that knows it", shot.meta.ConfState)
		}
	})
}

func TestAConfirmedReadWaitsUntilItsIndexIsApplied(t *testing.T) {
	net := newCoreNet(t, 1)
	c := net.elect(1)
	r := newReaders(7)
	ended := 0
	_, fresh, err := r.join(time.Time{}, func(_ any, err error) {
		if ended++; err != nil {
			t.Errorf("the read ended with %v, want nil", err)
		}
	})
	if err != nil || !fresh {
		t.Fatalf("join() = fresh %v, %v, want true and no error", fresh, err)
	}
	var late error
	x, _, err := r.join(time.Time{}, func(_ any, err error) { late = err })
	if err != nil {
		t.Fatalf("join() = %v, want nil", err)
	}
	r.begin(c.Core)
	r.finish([]ReadResult{{ID: c.rounds[0].id, RaftIndex: 9}})
	r.advance(8)
	if ended > 0 {
		t.Error("a read that was confirmed at raft index 9 was answered with 8 applied")
	}
	if r.leave(x, context.Canceled); !errors.Is(late, ErrBehind) || !errors.Is(late, context.Canceled) {
		t.Errorf("a confirmed read that was given up ended with %v, want %v and %v", late, ErrBehind, context.Canceled)
	}
	r.advance(9)
	if ended != 1 {
		t.Errorf("a read that was confirmed at raft index 9 was answered %d times with 9 applied, want once", ended)
	}
}

func TestADeadlineEndsARead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCoreNet(t, 1).elect(1)
		r := newReaders(7)
		told := make(chan error, 3)
		join := func(in time.Duration) {
			if _, _, err := r.join(time.Now().Add(in), func(_ any, err error) { told <- err }); err != nil {
				t.Fatalf("join() = %v, want nil", err)
			}
		}
		join(time.Second)
		if err := <-told; !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrBehind) {
			t.Errorf("a read without confirmation ended with %v, want %v", err, context.DeadlineExceeded)
		}
		join(time.Second)
		join(time.Minute)
		r.begin(c.Core)
		r.finish([]ReadResult{{ID: c.rounds[0].id, RaftIndex: 9}})
		if err := <-told; !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, ErrBehind) {
			t.Errorf("a confirmed read ended with %v, want %v and %v", err, context.DeadlineExceeded, ErrBehind)
		}
		r.advance(9)
		if err := <-told; err != nil { // the other one of the same batch
			t.Errorf("a read that was applied in time ended with %v, want nil", err)
		}
		if r.deadlines.first != nil {
			t.Error("a deadline is left behind")
		}
	})
}

// savingLog tells when a commit index is saved.
type savingLog struct {
	*fakeLog
	onSave func()
}

func (l savingLog) SaveCommit(raftIndex uint64) error {
	l.onSave()
	return l.fakeLog.SaveCommit(raftIndex)
}

// A start begins with the configuration at the durable commit index. If that
// were older than one that has taken effect, a removed member could be needed.
func TestAConfigurationChangeIsDurablyCommittedBeforeItTakesEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tn *testNode
		var saves int
		var before uint64 // what is applied before the change
		_, nodes := startNodes(t, 1, func(c *Config) {
			c.Log = savingLog{c.Log.(*fakeLog), func() {
				if saves++; tn.node.Applied() != before {
					t.Error("the change was applied before its commit index was saved")
				}
			}}
		})
		tn = leaderOf(t, nodes)
		if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
			t.Fatal(err)
		}
		before = tn.node.Applied()
		if _, err := tn.node.ProposeConfChange(t.Context(), raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 2}); err != nil {
			t.Fatal(err)
		}
		if saves != 1 {
			t.Errorf("the commit index was saved %d times, want once", saves)
		}
		// Not what the append loop had heard by then, which may be less.
		if saved, change := tn.log.saved, tn.node.Applied(); saved != change {
			t.Errorf("the log was saved as committed up to %d, want %d, the change itself", saved, change)
		}
	})
}

func TestACommitIndexThatCannotBeSavedEndsTheNodeAndChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, nodes := startNodes(t, 1, func(c *Config) {
			log := c.Log.(*fakeLog)
			c.Log = savingLog{log, func() { log.setFail(syscall.EIO) }}
		})
		tn := leaderOf(t, nodes)
		change := raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 2}
		if _, err := tn.node.ProposeConfChange(t.Context(), change); !errors.Is(err, ErrStopped) {
			t.Errorf("ProposeConfChange() over a broken disk = %v, want %v", err, ErrStopped)
		}
		if err := <-tn.node.Failed(); !errors.Is(err, syscall.EIO) {
			t.Errorf("Failed() = %v, want %v", err, syscall.EIO)
		}
		tn.node.Stop()
		if changes := tn.machine.changes; len(changes) > 0 {
			t.Errorf("changes applied = %v, want none: the commit index was not saved", changes)
		}
	})
}
