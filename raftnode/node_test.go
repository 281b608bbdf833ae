package raftnode

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"go.etcd.io/raft/v3/raftpb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestAProposalReturnsItsResultOnEveryMember(t *testing.T) {
	_, nodes := startNodes(t, 3, nil)
	leaderOf(t, nodes)
	for i, tn := range nodes {
		eventually(t, "a leader to be known", func() bool { return tn.node.Leader() != 0 })
		got, err := tn.node.Propose(t.Context(), proposal(fmt.Sprint(i)))
		if err != nil || got != i+1 {
			t.Errorf("Propose at member %d = %v, %v, want %d", i+1, got, err, i+1)
		}
		if texts := tn.machine.applied(); len(texts) != i+1 {
			t.Errorf("member %d has applied %d entries after its own proposal, want %d", i+1, len(texts), i+1)
		}
	}
}

func TestReadsSeeWritesAcknowledgedElsewhere(t *testing.T) {
	_, nodes := startNodes(t, 3, nil)
	leader := leaderOf(t, nodes)
	for i := range 50 {
		if _, err := leader.node.Propose(t.Context(), proposal("x")); err != nil {
			t.Fatal(err)
		}
		for _, tn := range nodes {
			if err := tn.node.Read(t.Context()); err != nil {
				t.Fatalf("Read: %v", err)
			}
			if got := len(tn.machine.applied()); got <= i {
				t.Fatalf("a linearizable read saw %d entries after %d were acknowledged", got, i+1)
			}
		}
	}
}

func TestTheOnlyMemberIsCurrentUntilItEnds(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(t *testing.T, tn *testNode)
	}{
		{"a stop", func(_ *testing.T, tn *testNode) { tn.node.Stop() }},
		{"a failure", func(t *testing.T, tn *testNode) {
			tn.log.setFail(syscall.EIO)
			if _, err := tn.node.Propose(t.Context(), proposal("lost")); !errors.Is(err, ErrStopped) {
				t.Errorf("Propose over a broken disk = %v, want ErrStopped", err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, nodes := startNodes(t, 1, nil)
			tn := leaderOf(t, nodes)
			for i := range 50 {
				if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
					t.Fatal(err)
				}
				if !tn.node.Current() {
					t.Fatalf("Current() = false after write %d was acknowledged, want true", i+1)
				}
				if got := len(tn.machine.applied()); got <= i {
					t.Fatalf("a current state has %d entries after %d were acknowledged", got, i+1)
				}
			}
			tt.end(t, tn)
			if tn.node.Current() {
				t.Errorf("Current() = true after %s, want false", tt.name)
			}
		})
	}
}

// gatedMachine applies nothing before its gate is closed.
type gatedMachine struct {
	*fakeMachine
	gate chan struct{}
}

func (m *gatedMachine) Apply(entries []Entry, results []any) error {
	<-m.gate
	return m.fakeMachine.Apply(entries, results)
}

func TestARestartedOnlyMemberIsNotCurrentBeforeItHasAppliedItsLog(t *testing.T) {
	net, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
		t.Fatal(err)
	}
	acknowledged := tn.node.Applied()
	tn.node.Stop()
	tn.machine = &fakeMachine{}
	gate := make(chan struct{})
	startNode(t, net, 1, tn, firstSnapshot([]uint64{1}).Metadata, func(c *Config) { c.Machine = &gatedMachine{tn.machine, gate} })
	eventually(t, "an entry of the new term to be committed", func() bool {
		st := tn.node.Status()
		return st.IsLeader() && st.Committed > acknowledged
	})
	early := tn.node.Current()
	close(gate)
	if early {
		t.Error("Current() = true before the log is applied, want false")
	}
	if err := tn.node.Read(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !tn.node.Current() {
		t.Error("Current() = false after a read, want true")
	}
	if got := tn.machine.applied(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("applied %q, want what was acknowledged before the restart", got)
	}
}

func TestAMemberThatIsNotAloneIsNeverCurrent(t *testing.T) {
	_, nodes := startNodes(t, 3, nil)
	leader := leaderOf(t, nodes)
	if _, err := leader.node.Propose(t.Context(), proposal("x")); err != nil {
		t.Fatal(err)
	}
	for i, tn := range nodes {
		if tn.node.Current() {
			t.Errorf("Current() of member %d of three = true, want false", i+1)
		}
	}
}

// watchfulSender sees messages when they leave, in the goroutine of the loop.
type watchfulSender struct {
	node    *Node
	left    chan struct{} // closed with the first message
	once    sync.Once
	current atomic.Bool // whether the node was current when one left
}

func (s *watchfulSender) Send([]raftpb.Message) {
	if s.node.Current() {
		s.current.Store(true)
	}
	s.once.Do(func() { close(s.left) })
}

func (s *watchfulSender) SendSnapshot(_ raftpb.Message, _ int64, body io.ReadCloser) {
	_ = body.Close() // it was opened for reading
}

// A learner may acknowledge a write as soon as it has heard that it is
// committed, whether the leader has applied it or not.
func TestAMemberIsNotCurrentWhenTheFirstMessageToANewOneLeaves(t *testing.T) {
	tn := &testNode{
		log:       &fakeLog{hs: raftpb.HardState{Commit: 1}},
		snapshots: &fakeSnapshots{saved: map[uint64]fakeSnapshot{}, inbound: map[uint64][]byte{}},
		machine:   &fakeMachine{},
	}
	cfg := Config{
		ID: 1, Run: 100, HeartbeatInterval: 10 * time.Millisecond, ElectionTimeout: 100 * time.Millisecond, SnapshotCount: 1000,
		Recovered: tn.log.recovered(firstSnapshot([]uint64{1}).Metadata),
		Log:       tn.log, Snapshots: tn.snapshots, Machine: tn.machine, Logger: slog.New(slog.DiscardHandler),
	}
	node, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	sender := &watchfulSender{node: node, left: make(chan struct{})}
	node.Start(sender)
	t.Cleanup(node.Stop)
	if _, err := node.Propose(t.Context(), proposal("x")); err != nil {
		t.Fatal(err)
	}
	if !node.Current() {
		t.Fatal("Current() of the only member = false, want true")
	}
	if _, err := node.ProposeConfChange(t.Context(), raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 2}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-sender.left:
	case <-time.After(20 * time.Second):
		t.Fatal("no message to the new member in 20 s")
	}
	if sender.current.Load() {
		t.Error("Current() = true while a message to the new member left, want false")
	}
}

// The cluster has one member, so what is counted is a round without messages.
func TestAllocationsOfARead(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	told := make(chan error, 1)
	done := func(_ any, err error) { told <- err }
	deadline := time.Now().Add(time.Hour)
	read := func() {
		tn.node.BeginRead(deadline, done)
		if err := <-told; err != nil {
			t.Fatalf("BeginRead = %v, want nil", err)
		}
	}
	read()
	const most = 8
	if got := testing.AllocsPerRun(2000, read); got > most {
		t.Errorf("a read allocates %.0f times, want at most %d", got, most)
	}
}

func TestConcurrentProposalsShareFsyncs(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	gate := make(chan struct{})
	tn.log.mu.Lock()
	before := tn.log.appends
	tn.log.gate = gate
	tn.log.mu.Unlock()
	const count = 500
	var wg sync.WaitGroup
	for range count {
		wg.Go(func() {
			if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
				t.Errorf("Propose: %v", err)
			}
		})
	}
	eventually(t, "all proposals to wait", func() bool { return tn.node.Status().Pending == count })
	close(gate)
	wg.Wait()
	tn.log.mu.Lock()
	defer tn.log.mu.Unlock()
	if got := tn.log.appends - before; got > count/4 {
		t.Errorf("%d appends for %d concurrent proposals, want far fewer", got, count)
	}
}

func TestAFailedAppendEndsTheNodeAndAcknowledgesNothing(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	if _, err := tn.node.Propose(t.Context(), proposal("before")); err != nil {
		t.Fatal(err)
	}
	tn.log.setFail(syscall.EIO)
	if _, err := tn.node.Propose(t.Context(), proposal("after")); !errors.Is(err, ErrStopped) {
		t.Fatalf("Propose over a broken disk = %v, want ErrStopped", err)
	}
	if err := <-tn.node.Failed(); !errors.Is(err, syscall.EIO) {
		t.Errorf("Failed() = %v, want EIO", err)
	}
	tn.log.setFail(nil) // the disk works again: the node must not
	if _, err := tn.node.Propose(t.Context(), proposal("later")); !errors.Is(err, ErrStopped) {
		t.Errorf("Propose after a failure = %v, want ErrStopped", err)
	}
	if err := tn.node.Read(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("Read after a failure = %v, want ErrStopped", err)
	}
	if got := tn.machine.applied(); !slices.Equal(got, []string{"before"}) {
		t.Errorf("applied %q, want only what was durable", got)
	}
}

func TestAnEntryThatTheMachineDoesNotKnowEndsTheNode(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	unknown := errors.New("unknown kind")
	tn.machine.mu.Lock()
	tn.machine.fail = unknown
	tn.machine.mu.Unlock()
	if _, err := tn.node.Propose(t.Context(), proposal("x")); !errors.Is(err, ErrStopped) {
		t.Errorf("Propose = %v, want ErrStopped", err)
	}
	if err := <-tn.node.Failed(); !errors.Is(err, unknown) {
		t.Errorf("Failed() = %v, want the machine's error", err)
	}
}

func TestAFailedSnapshotEndsTheNodeUnlessTheDiskIsFull(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		ends bool
	}{
		{"I/O error", syscall.EIO, true},
		{"disk full", syscall.ENOSPC, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, nodes := startNodes(t, 1, func(c *Config) { c.SnapshotCount = 10 })
			tn := leaderOf(t, nodes)
			tn.snapshots.mu.Lock()
			tn.snapshots.fail = tt.err
			tn.snapshots.mu.Unlock()
			for range 30 {
				if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
					break
				}
			}
			if tt.ends {
				if err := <-tn.node.Failed(); !errors.Is(err, tt.err) {
					t.Errorf("Failed() = %v, want %v", err, tt.err)
				}
				return
			}
			tn.snapshots.mu.Lock()
			tn.snapshots.fail = nil
			tn.snapshots.mu.Unlock()
			eventually(t, "a snapshot once there is space", func() bool {
				if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
					t.Fatalf("Propose: %v", err)
				}
				shot, _ := tn.snapshots.newest()
				return shot.meta.Index > 1
			})
		})
	}
}

func TestSnapshotsReleaseTheLogUpToTheSecondNewest(t *testing.T) {
	_, nodes := startNodes(t, 1, func(c *Config) { c.SnapshotCount = 10 })
	tn := leaderOf(t, nodes)
	for range 100 {
		if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a release", func() bool {
		tn.log.mu.Lock()
		defer tn.log.mu.Unlock()
		return tn.log.released > 1
	})
	tn.node.Stop()
	newest, _ := tn.snapshots.newest()
	if tn.log.released >= newest.meta.Index {
		t.Errorf("released up to raft index %d, the newest snapshot is at %d: the second-newest needs more", tn.log.released, newest.meta.Index)
	}
}

func TestAFollowerThatIsFarBehindGetsASnapshot(t *testing.T) {
	net, nodes := startNodes(t, 3, func(c *Config) { c.SnapshotCount = 500 })
	leader := leaderOf(t, nodes)
	var away *testNode
	for i, tn := range nodes {
		if tn != leader {
			away = tn
			net.mu.Lock()
			net.cut[uint64(i+1)] = true
			net.mu.Unlock()
			break
		}
	}
	const count = (catchUpEntries + 2000) / 16 * 16
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range count / 16 {
				if _, err := leader.node.Propose(t.Context(), proposal("x")); err != nil {
					t.Errorf("Propose: %v", err)
					return
				}
			}
		})
	}
	wg.Wait()
	eventually(t, "the log to be compacted", func() bool {
		first, err := leader.node.storage.FirstIndex()
		return err == nil && first > 500
	})
	net.mu.Lock()
	clear(net.cut)
	net.mu.Unlock()
	eventually(t, "the follower to catch up", func() bool { return len(away.machine.applied()) == count })
	if shot, _ := away.snapshots.newest(); shot.meta.Index < 500 {
		t.Errorf("the follower's newest snapshot is at raft index %d: it did not get one", shot.meta.Index)
	}
	if _, err := away.node.Propose(t.Context(), proposal("y")); err != nil {
		t.Errorf("Propose after a snapshot: %v", err)
	}
}

func TestARestartedMemberHasEverythingItAcknowledged(t *testing.T) {
	net, nodes := startNodes(t, 1, func(c *Config) { c.SnapshotCount = 30 })
	tn := leaderOf(t, nodes)
	var want []string
	for round := range 3 {
		for i := range 40 {
			text := fmt.Sprintf("%d-%d", round, i)
			if _, err := tn.node.Propose(t.Context(), proposal(text)); err != nil {
				t.Fatal(err)
			}
			want = append(want, text)
		}
		tn.node.Stop()
		shot, _ := tn.snapshots.newest()
		tn.machine = &fakeMachine{}
		if err := tn.snapshots.Load(shot.meta.Index, func(r2 io.Reader) error {
			_, err := tn.machine.Restore(shot.meta.Index, r2)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		startNode(t, net, 1, tn, shot.meta, func(c *Config) { c.SnapshotCount = 30 })
		if err := tn.node.Read(t.Context()); err != nil {
			t.Fatalf("Read after restart: %v", err)
		}
		if got := tn.machine.applied(); !slices.Equal(got, want) {
			t.Fatalf("after restart %d: %d entries, want %d", round, len(got), len(want))
		}
	}
}

func TestALogThatEndsBeforeItsCommitIndexIsRefused(t *testing.T) {
	tn := &testNode{log: &fakeLog{hs: raftpb.HardState{Term: 1, Commit: 9}}, snapshots: &fakeSnapshots{}, machine: &fakeMachine{}}
	_, err := New(Config{
		ID: 1, Run: 1, HeartbeatInterval: time.Millisecond, ElectionTimeout: 10 * time.Millisecond,
		Recovered: tn.log.recovered(firstSnapshot([]uint64{1}).Metadata), Log: tn.log,
	})
	var lost *LostLogError
	if !errors.As(err, &lost) {
		t.Errorf("New = %v, want a LostLogError", err)
	}
}

func TestStoppingEndsWhatWaits(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	gate := make(chan struct{})
	tn.log.mu.Lock()
	tn.log.gate = gate
	tn.log.mu.Unlock()
	ended := make(chan error, 1)
	go func() {
		_, err := tn.node.Propose(context.Background(), proposal("x"))
		ended <- err
	}()
	eventually(t, "the proposal to wait", func() bool { return tn.node.Status().Pending == 1 })
	go close(gate)
	tn.node.Stop()
	if err := <-ended; err != nil && !errors.Is(err, ErrStopped) {
		t.Errorf("Propose across Stop = %v, want nil or ErrStopped", err)
	}
	if _, err := tn.node.Propose(context.Background(), proposal("y")); !errors.Is(err, ErrStopped) {
		t.Errorf("Propose after Stop = %v, want ErrStopped", err)
	}
	if err := tn.node.Process(raftpb.Message{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 1, Context: make([]byte, timeBytes)}); !errors.Is(err, ErrStopped) {
		t.Errorf("Process after Stop = %v, want ErrStopped", err)
	}
}

func TestADeadlineEndsAWaitWithTheOutcomeUnknown(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	gate := make(chan struct{})
	defer close(gate)
	tn.log.mu.Lock()
	tn.log.gate = gate
	tn.log.mu.Unlock()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := tn.node.Propose(ctx, proposal("x")); !errors.Is(err, context.Canceled) {
		t.Errorf("Propose with an ended context = %v, want context.Canceled", err)
	}
	told := make(chan error, 2)
	tn.node.BeginPropose(time.Now().Add(time.Millisecond), proposal("y"), func(_ any, err error) { told <- err })
	if err := <-told; !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errExpired) {
		t.Errorf("a proposal whose time is over ended with %v, want %v or %v", err, context.DeadlineExceeded, errExpired)
	}
	if got := tn.node.Status().Pending; got != 0 {
		t.Errorf("%d proposals pending after the wait ended, want 0", got)
	}
}

func TestTooManyWaitingProposalsAreRefused(t *testing.T) {
	b := newInbox()
	for i := range queuedMax {
		if err := b.propose(Proposal{Seq: uint64(i)}); err != nil {
			t.Fatalf("proposal %d: %v", i, err)
		}
	}
	if err := b.propose(Proposal{}); !errors.Is(err, ErrOverloaded) {
		t.Errorf("proposal %d = %v, want ErrOverloaded", queuedMax+1, err)
	}
	b.dequeued(1, 0)
	if err := b.propose(Proposal{Data: make([]byte, queuedBytesMax+1)}); !errors.Is(err, ErrOverloaded) {
		t.Errorf("a proposal above the bound of bytes = %v, want ErrOverloaded", err)
	}
	if err := b.propose(Proposal{}); err != nil {
		t.Errorf("a proposal with room = %v, want nil", err)
	}
}

func TestLeadershipIsHandedOver(t *testing.T) {
	_, nodes := startNodes(t, 3, nil)
	leader := leaderOf(t, nodes)
	if _, err := leader.node.Propose(t.Context(), proposal("x")); err != nil {
		t.Fatal(err)
	}
	if err := leader.node.TransferLeadership(t.Context(), 0); err != nil {
		t.Fatalf("TransferLeadership: %v", err)
	}
	if leader.node.Status().IsLeader() {
		t.Error("the old leader still leads")
	}
	eventually(t, "another leader", func() bool { return leaderOf(t, nodes) != leader })
	for _, tn := range nodes {
		if !tn.node.Status().IsLeader() {
			if err := tn.node.TransferLeadership(t.Context(), 0); err != nil {
				t.Errorf("TransferLeadership at a follower = %v, want nil", err)
			}
		}
	}
}

// A disk that takes for ever must not keep its member leader.
func TestALeaderWithASlowDiskGivesUpLeadership(t *testing.T) {
	_, nodes := startNodes(t, 3, nil)
	leader := leaderOf(t, nodes)
	if _, err := leader.node.Propose(t.Context(), proposal("x")); err != nil {
		t.Fatal(err)
	}
	gate := make(chan struct{})
	defer close(gate)
	leader.log.mu.Lock()
	leader.log.gate = gate
	leader.log.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := leader.node.Propose(ctx, proposal("stuck")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Propose over a hanging disk = %v, want the deadline", err)
	}
	eventually(t, "another leader", func() bool {
		for _, tn := range nodes {
			if tn != leader && tn.node.Status().IsLeader() {
				return true
			}
		}
		return false
	})
}

func TestASnapshotThatDoesNotVerifyIsRefusedAndHarmsNobody(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	snapshot := firstSnapshot([]uint64{1})
	snapshot.Metadata.Index = 99 // nothing was received for it
	if err := tn.node.Process(raftpb.Message{Type: raftpb.MsgSnap, From: 2, To: 1, Term: 9, Snapshot: &snapshot}); err == nil {
		t.Error("Process of a snapshot without a file = nil, want an error")
	}
	if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
		t.Errorf("Propose after a refused snapshot: %v", err)
	}
}

func TestMuchAppliedDataMakesASnapshotBeforeItsCount(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	big := make([]byte, 32<<20)
	for range snapshotBytes/len(big) + 1 {
		if _, err := tn.node.Propose(t.Context(), slices.Clone(big)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "a snapshot", func() bool {
		shot, _ := tn.snapshots.newest()
		return shot.meta.Index > 1
	})
	eventually(t, "the entries to leave memory", func() bool {
		first, err := tn.node.storage.FirstIndex()
		return err == nil && first > 3
	})
}

// A proposal that was given to a leader who died is never made again. Who made
// it is told so soon after another one leads, long before its deadline.
func TestAProposalLostWithItsLeaderIsGivenUpSoon(t *testing.T) {
	net, nodes := startNodes(t, 3, nil)
	leader := leaderOf(t, nodes)
	var follower *testNode
	for _, tn := range nodes {
		if tn != leader {
			follower = tn
		}
	}
	eventually(t, "the follower to know the leader", func() bool { return follower.node.Leader() != 0 })
	net.mu.Lock()
	for id, tn := range net.members {
		net.cut[id] = tn == leader
	}
	net.mu.Unlock()
	_, err := follower.node.Propose(t.Context(), proposal("lost")) // no deadline at all
	if !errors.Is(err, ErrLeaderChanged) {
		t.Errorf("Propose through a leader that died = %v, want ErrLeaderChanged", err)
	}
	eventually(t, "writes to go on", func() bool {
		_, err := follower.node.Propose(t.Context(), proposal("next"))
		return err == nil
	})
}

func TestAMemberThatIsFarBehindDropsMessagesOfPeers(t *testing.T) {
	for _, tt := range []struct {
		name  string
		m     raftpb.Message
		taken int
	}{
		{"by their number", raftpb.Message{Type: raftpb.MsgHeartbeat}, peersMax},
		{"by their bytes", raftpb.Message{Type: raftpb.MsgApp, Entries: []raftpb.Entry{{Data: make([]byte, peersBytesMax/4)}}}, 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newInbox()
			for i := range tt.taken {
				if !b.peer(tt.m) {
					t.Fatalf("message %d was dropped, want %d taken", i+1, tt.taken)
				}
			}
			if b.peer(tt.m) {
				t.Errorf("message %d was taken, want it dropped", tt.taken+1)
			}
			b.take(inputs{})
			if !b.peer(tt.m) {
				t.Error("a message was dropped although the loop had caught up")
			}
		})
	}
}

func TestACaptureOlderThanAnInstalledSnapshotIsDiscarded(t *testing.T) {
	_, nodes := startNodes(t, 1, nil)
	tn := leaderOf(t, nodes)
	for range 10 {
		if _, err := tn.node.Propose(t.Context(), proposal("x")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tn.node.storage.CreateSnapshot(8, nil, nil); err != nil { // as an installation leaves it
		t.Fatal(err)
	}
	old := firstSnapshot([]uint64{1}).Metadata
	old.Index = 5
	tn.node.shots <- capture{meta: old, write: tn.machine.Capture()}
	saved := func() bool {
		tn.snapshots.mu.Lock()
		defer tn.snapshots.mu.Unlock()
		_, ok := tn.snapshots.saved[5]
		return ok
	}
	// A second capture is taken from the channel only when the first is done.
	tn.node.shots <- capture{meta: old, write: tn.machine.Capture()}
	eventually(t, "the old captures to be gone", func() bool { return len(tn.node.shots) == 0 && !saved() })
	tn.log.mu.Lock()
	defer tn.log.mu.Unlock()
	if tn.log.snapshot.Index == 5 {
		t.Error("the log names a snapshot that is older than the installed one")
	}
}
