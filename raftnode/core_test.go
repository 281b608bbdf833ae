package raftnode

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

func TestProposalsOfAFollowerAreAppliedEverywhereInOrder(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	net.cores[2].Propose(net.now, testProposal(1, "a"), testProposal(2, "b"))
	net.cores[1].Propose(net.now, testProposal(3, "c"))
	net.settle()
	for _, id := range net.ids {
		if got := net.cores[id].texts(); len(got) != 3 {
			t.Errorf("member %d applied %q, want 3 entries", id, got)
		}
		checkTexts(t, net.cores[id], net.cores[1].texts()...)
	}
}

func TestTheLeaderStampsForwardedProposals(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	for range 5 {
		net.tick()
		net.settle()
	}
	want := leader.clock.timeMS()
	net.cores[2].Propose(net.now, testProposal(1, "a"))
	net.settle()
	last := leader.applied[len(leader.applied)-1]
	if got := stampOf(&last); got != want || got < 500 {
		t.Errorf("stamp of a forwarded proposal = %d ms, want the leader's %d ms, at least 500", got, want)
	}
}

func TestManyProposalsShareAMessage(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	for seq := range uint64(2*proposalBatchMax + 1) {
		leader.Propose(net.now, testProposal(seq+1, "x"))
	}
	out := leader.Outputs()
	if got, want := out.Proposed, 2*proposalBatchMax+1; got != want {
		t.Errorf("Proposed = %d, want %d", got, want)
	}
	if len(out.Appends) != 1 {
		t.Errorf("%d appends for one turn, want 1", len(out.Appends))
	}
}

func TestProposalsGatherWhileTheDiskIsBusy(t *testing.T) {
	net := newCoreNet(t, 1)
	c := net.elect(1)
	c.holdAppends = true
	for seq := range uint64(10) {
		c.Propose(net.now, testProposal(seq+1, "x"))
		net.settle()
	}
	if got := len(c.appends); got != appendingMax {
		t.Errorf("%d appends under way, want %d", got, appendingMax)
	}
	if got, want := c.QueuedProposals(), 10-appendingMax; got != want {
		t.Errorf("%d proposals wait, want %d", got, want)
	}
	c.holdAppends = false
	net.settle()
	if got := len(c.texts()); got != 10 {
		t.Errorf("%d proposals applied once the disk is free, want 10", got)
	}
}

func TestProposalsWithoutALeaderAreGivenBackAfterAnElectionTimeout(t *testing.T) {
	net := newCoreNet(t, 3)
	net.isolate(1)
	c := net.cores[1]
	c.Propose(0, testProposal(1, "a"))
	id := c.BeginRead()
	for net.now <= testElection {
		if len(c.refused) != 0 || len(c.reads) != 0 {
			t.Fatalf("refused after %v, want more than %v", net.now, testElection)
		}
		net.tick()
		net.settle()
	}
	if len(c.refused) != 1 || c.refused[0].Proposal.Seq != 1 || !errors.Is(c.refused[0].Err, ErrNoLeader) {
		t.Errorf("refused = %v, want proposal 1", c.refused)
	}
	if len(c.reads) != 1 || c.reads[0].ID != id || !errors.Is(c.reads[0].Err, ErrNoLeader) {
		t.Errorf("reads = %v, want round %d with ErrNoLeader", c.reads, id)
	}
	// From now on there is no wait at all.
	c.Propose(net.now, testProposal(2, "b"))
	net.settle()
	if len(c.refused) != 2 {
		t.Errorf("a proposal to a member that has long been without a leader was not given back at once")
	}
	checkTexts(t, c)
}

func TestProposalsWaitForTheLeaderOfAHandOver(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	net.tick()
	net.settle()
	to := leader.TransferLeadership(raft.None)
	leader.Propose(net.now, testProposal(1, "a")) // raft drops proposals now
	net.settle()
	if !net.cores[to].isLeader() {
		t.Fatalf("member %d does not lead after the hand-over", to)
	}
	net.settle()
	for _, id := range net.ids {
		checkTexts(t, net.cores[id], "a")
	}
}

func TestNothingIsAppliedBeforeItIsDurableHere(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	leader.holdAppends = true
	leader.Propose(net.now, testProposal(1, "a"))
	net.settle()
	checkTexts(t, leader) // a quorum has it, the leader's own disk has not
	leader.holdAppends = false
	net.settle()
	for _, id := range net.ids {
		checkTexts(t, net.cores[id], "a")
	}
}

func TestOneVoterAcknowledgesOnlyWhatIsDurable(t *testing.T) {
	net := newCoreNet(t, 1)
	c := net.elect(1)
	c.holdAppends = true
	c.Propose(net.now, testProposal(1, "a"))
	net.settle()
	checkTexts(t, c)
	c.holdAppends = false
	net.settle()
	checkTexts(t, c, "a")
}

// A commit index that moved alone is not written to disk, so an only voter may
// know less after a restart than it has acknowledged. Its reads must wait for
// an entry of its own term.
func TestReadsOfARestartedOnlyVoterSeeEveryAcknowledgedWrite(t *testing.T) {
	net := newCoreNet(t, 1)
	c := net.elect(1)
	c.Propose(net.now, testProposal(1, "a"))
	net.settle()
	checkTexts(t, c, "a")
	acknowledged := c.applied[len(c.applied)-1].Index

	storage := c.storage
	hs, _, err := storage.InitialState()
	if err != nil {
		t.Fatal(err)
	}
	hs.Commit = 1
	if err := storage.SetHardState(hs); err != nil {
		t.Fatal(err)
	}
	c = net.start(1, storage)
	c.holdAppends = true
	c.Hasten()
	net.settle() // elected as soon as its vote is durable
	id := c.BeginRead()
	net.settle()
	if len(c.reads) != 0 {
		t.Fatalf("read confirmed at raft index %d before anything of this term was committed", c.reads[0].RaftIndex)
	}
	c.holdAppends = false
	net.settle()
	if len(c.reads) != 1 || c.reads[0].ID != id || c.reads[0].RaftIndex < acknowledged {
		t.Errorf("reads = %v, want round %d at raft index %d or later", c.reads, id, acknowledged)
	}
}

// The same restart: until the entry of its own term is applied, the state lacks
// what was acknowledged, and there is nobody to ask but the log itself.
func TestARestartedOnlyMemberIsAloneFromAnEntryOfItsOwnTerm(t *testing.T) {
	net := newCoreNet(t, 1)
	c := net.elect(1)
	c.Propose(net.now, testProposal(1, "a"))
	net.settle()
	acknowledged := c.applied[len(c.applied)-1].Index
	if from := c.AloneFrom(); from == 0 || from > acknowledged {
		t.Errorf("AloneFrom of an only member that leads = %d, want an index up to %d", from, acknowledged)
	}

	hs, _, err := c.storage.InitialState()
	if err != nil {
		t.Fatal(err)
	}
	hs.Commit = 1
	if err := c.storage.SetHardState(hs); err != nil {
		t.Fatal(err)
	}
	c = net.start(1, c.storage)
	c.Hasten()
	for range 10 { // until its vote is durable, and no longer
		if !c.isLeader() {
			net.turn(c)
		}
	}
	c.holdAppends = true
	net.settle()
	if from := c.AloneFrom(); !c.isLeader() || from != 0 {
		t.Errorf("leads = %t, AloneFrom = %d before anything of this term is committed, want true and 0", c.isLeader(), from)
	}
	c.holdAppends = false
	net.settle()
	if from := c.AloneFrom(); from <= acknowledged {
		t.Errorf("AloneFrom = %d after the restart, want more than %d, which was acknowledged before", from, acknowledged)
	}
	from := c.AloneFrom()
	c.Propose(net.now, testProposal(2, "b"))
	net.settle()
	if got := c.AloneFrom(); got != from {
		t.Errorf("AloneFrom = %d after another write, want %d as before: reads would wait for the writes under way", got, from)
	}
}

func TestOnlyALeaderWithoutAnyOtherMemberIsAlone(t *testing.T) {
	net := newCoreNet(t, 1)
	c := net.elect(1)
	for _, change := range []struct {
		name  string
		cc    raftpb.ConfChange
		alone bool
	}{
		{"a learner is added", raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 2}, false},
		{"the learner is removed", raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: 2}, true},
		{"a voter is added", raftpb.ConfChange{Type: raftpb.ConfChangeAddNode, NodeID: 3}, false},
	} {
		c.ApplyConfChange(change.cc)
		if got := c.AloneFrom() != 0; got != change.alone {
			t.Errorf("alone as soon as %s = %t, want %t", change.name, got, change.alone)
		}
		net.settle()
		if got := c.AloneFrom() != 0; got != change.alone {
			t.Errorf("alone when %s = %t, want %t", change.name, got, change.alone)
		}
	}
	for _, id := range []uint64{1, 2} { // members of three, one of which leads
		net := newCoreNet(t, 3)
		net.elect(1)
		if from := net.cores[id].AloneFrom(); from != 0 {
			t.Errorf("AloneFrom of member %d of three = %d, want 0", id, from)
		}
	}
}

// A member that is removed may have applied, and acknowledged, what comes after
// its removal in the log: its leader told it that a quorum had it. The leader's
// own apply loop can be behind that.
func TestWhoeverIsLeftAloneWaitsForWhatARemovedMemberKnew(t *testing.T) {
	net := newCoreNet(t, 2)
	leader := net.elect(1)
	cc := raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: 2}
	data, err := cc.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	leader.Propose(net.now, Proposal{Seq: 1, Type: raftpb.EntryConfChange, Data: data})
	net.cores[2].Propose(net.now, testProposal(2, "a"))
	net.settle() // which makes the change take effect on nobody
	acknowledged := net.cores[2].applied[len(net.cores[2].applied)-1].Index
	if got, want := acknowledged, leader.lastIndex; got != want {
		t.Fatalf("member 2 has applied up to raft index %d, want %d", got, want)
	}
	leader.ApplyConfChange(cc)
	if from := leader.AloneFrom(); from < acknowledged {
		t.Errorf("AloneFrom = %d once the other voter is removed, want at least %d, which that one has applied", from, acknowledged)
	}
}

// raft confirms a ReadIndex by heartbeat answers that carry its context. If a
// retry used the same context, answers to the first try could confirm it long
// after the leader had been replaced.
func TestEachTryOfAReadHasAContextOfItsOwn(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	var contexts []string
	net.drop = func(m raftpb.Message) bool {
		if m.Type == raftpb.MsgReadIndex {
			contexts = append(contexts, string(m.Entries[0].Data))
			return true
		}
		return false
	}
	c := net.cores[2]
	id := c.BeginRead()
	for range 3 * readRetryTicks {
		net.settle()
		net.tick()
	}
	net.settle()
	if len(contexts) < 3 {
		t.Fatalf("%d tries, want at least 3", len(contexts))
	}
	sorted := slices.Clone(contexts)
	slices.Sort(sorted)
	if got := len(slices.Compact(sorted)); got != len(contexts) {
		t.Errorf("%d different contexts in %d tries", got, len(contexts))
	}
	// The answer to a try that was given up counts for nothing.
	c.confirmReads([]raft.ReadState{{Index: 99, RequestCtx: []byte(contexts[0])}})
	if out := c.Outputs(); len(out.Reads) != 0 {
		t.Errorf("answer to an abandoned try confirmed %v, want nothing", out.Reads)
	}
	net.drop = nil
	for range readRetryTicks {
		net.tick()
		net.settle()
	}
	if len(c.reads) != 1 || c.reads[0].ID != id || c.reads[0].Err != nil {
		t.Errorf("reads = %v, want round %d confirmed", c.reads, id)
	}
}

func TestADeposedLeaderConfirmsNoRead(t *testing.T) {
	net := newCoreNet(t, 3)
	old := net.elect(1)
	net.isolate(1)
	id := old.BeginRead()
	for range 40 {
		net.tick()
		net.settle()
	}
	if len(old.reads) != 1 || old.reads[0].ID != id || !errors.Is(old.reads[0].Err, ErrNoLeader) {
		t.Errorf("reads of the isolated leader = %v, want round %d refused", old.reads, id)
	}
}

func TestReadIndexOfAnotherMembersContextIsIgnored(t *testing.T) {
	net := newCoreNet(t, 1)
	c := net.elect(1)
	c.rounds = append(c.rounds, readRound{id: 5, context: 9})
	context := make([]byte, 16)
	binary.BigEndian.PutUint64(context, c.cfg.Run+1)
	binary.BigEndian.PutUint64(context[8:], 9)
	c.confirmReads([]raft.ReadState{{Index: 1, RequestCtx: context}, {Index: 1, RequestCtx: []byte("short")}})
	if len(c.out.Reads) != 0 {
		t.Errorf("confirmed %v by a foreign context, want nothing", c.out.Reads)
	}
}

func TestForwardedProposalsWaitForTheLeaderOfAHandOver(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	net.tick()
	net.settle()
	to := leader.TransferLeadership(raft.None)
	from := net.cores[5-to] // the third member
	from.Propose(net.now, testProposal(1, "a"))
	for _, m := range from.Outputs().Peers {
		net.deliver(m)
	}
	net.settle()
	if !net.cores[to].isLeader() {
		t.Fatalf("member %d does not lead after the hand-over", to)
	}
	for _, id := range net.ids {
		checkTexts(t, net.cores[id], "a")
	}
}

func TestAProposalIsNotMadeAfterItsDeadline(t *testing.T) {
	net := newCoreNet(t, 3)
	net.isolate(1)
	c := net.cores[1]
	late, timely := testProposal(1, "late"), testProposal(2, "timely")
	late.Deadline = testHeartbeat
	c.Propose(0, late, timely)
	net.tick()
	net.tick()
	clear(net.cut)
	net.elect(1)
	net.settle()
	checkTexts(t, c, "timely")
	if len(c.refused) != 1 || c.refused[0].Proposal.Seq != 1 {
		t.Errorf("refused = %v, want proposal 1", c.refused)
	}
}

func TestConfigurationChangesAreProposedByTheLeaderOnly(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	data, err := (&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: 4}).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	follower := net.cores[2]
	follower.Propose(net.now, testProposal(1, "a"), Proposal{Seq: 2, Type: raftpb.EntryConfChange, Data: data}, testProposal(3, "b"))
	net.settle()
	if len(follower.refused) != 1 || follower.refused[0].Proposal.Seq != 2 || !errors.Is(follower.refused[0].Err, ErrNotLeader) {
		t.Errorf("refused = %v, want proposal 2 with ErrNotLeader", follower.refused)
	}
	checkTexts(t, follower, "a", "b")
}

func TestProgressTellsWhoIsActive(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	for range 3 {
		net.tick()
		net.settle()
	}
	leader.Propose(net.now, testProposal(1, "a"))
	net.settle()
	if got := net.cores[2].Progress(); got != nil {
		t.Errorf("Progress at a follower = %v, want nil", got)
	}
	for _, p := range leader.Progress() {
		if !p.Active || p.Learner || p.Match != leader.lastIndex {
			t.Errorf("Progress = %+v, want an active voter at raft index %d", p, leader.lastIndex)
		}
	}
	net.isolate(3)
	for range 2 * leader.cfg.ElectionTicks {
		net.tick()
		net.settle()
	}
	if !leader.isLeader() {
		t.Fatal("the leader has stepped down")
	}
	if p := leader.Progress(); len(p) != 3 || !p[0].Active || !p[1].Active || p[2].Active {
		t.Errorf("Progress = %+v, want member 3 alone inactive", p)
	}
	if to := leader.TransferLeadership(3); to != raft.None {
		t.Errorf("TransferLeadership(3) = %d, want none: it is silent", to)
	}
	if to := leader.TransferLeadership(2); to != 2 {
		t.Errorf("TransferLeadership(2) = %d, want 2", to)
	}
}

func TestASecondConfigurationChangeIsRefusedWhileOneIsUnderWay(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	change := func(seq, id uint64) Proposal {
		data, err := (&raftpb.ConfChange{Type: raftpb.ConfChangeAddLearnerNode, NodeID: id}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return Proposal{Seq: seq, Type: raftpb.EntryConfChange, Data: data}
	}
	leader.Propose(net.now, change(1, 4), testProposal(2, "a"), change(3, 5))
	out := leader.Outputs()
	if len(out.Refused) != 1 || out.Refused[0].Proposal.Seq != 3 || !errors.Is(out.Refused[0].Err, ErrConfChangePending) {
		t.Errorf("Refused = %v, want proposal 3 with ErrConfChangePending", out.Refused)
	}
	if out.Proposed != 2 {
		t.Errorf("Proposed = %d, want 2", out.Proposed)
	}
}

// raft takes over the configuration of a snapshot when it is stepped. An older
// change that is applied after that would come to lie on top of it.
func TestASnapshotWaitsForTheAppliesBeforeIt(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	c := net.cores[2]
	net.cores[1].Propose(net.now, testProposal(1, "a"))
	var applies []raftpb.Message
	for len(applies) == 0 { // let everything happen but member 2's applies
		for _, id := range []uint64{1, 3} {
			peers, _ := net.turn(net.cores[id])
			for _, m := range peers {
				net.deliver(m)
			}
		}
		out := c.Outputs()
		applies = append(applies, out.Applies...)
		for _, m := range out.Appends {
			if err := c.storage.Append(m.Entries); err != nil {
				t.Fatal(err)
			}
			for _, peer := range net.local(c, m.Responses) {
				net.deliver(peer)
			}
		}
		for _, m := range out.Peers {
			net.deliver(m)
		}
		net.tick()
	}
	snapshot := firstSnapshot([]uint64{1, 2, 3, 4})
	snapshot.Metadata.Index, snapshot.Metadata.Term = 50, c.term()
	if err := c.Step(net.now, raftpb.Message{Type: raftpb.MsgSnap, From: 1, To: 2, Term: c.term(), Snapshot: &snapshot}); err != nil {
		t.Fatal(err)
	}
	if _, taken := c.members[4]; taken {
		t.Fatal("the snapshot's configuration was taken over while applies were under way")
	}
	for _, m := range applies {
		net.local(c, m.Responses)
	}
	out := c.Outputs()
	if len(out.Appends) != 1 || out.Appends[0].Snapshot == nil {
		t.Fatalf("appends = %v, want the snapshot once the applies are answered", out.Appends)
	}
	if _, taken := c.members[4]; !taken {
		t.Error("the snapshot's configuration was not taken over")
	}
}

func TestClusterTimeStandsStillWithoutALeader(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	for range 20 {
		net.tick()
		net.settle()
	}
	before := leader.clock.timeMS()
	if before < 1900 {
		t.Fatalf("the leader counted %d ms in 2 s", before)
	}
	for _, id := range net.ids {
		net.isolate(id)
	}
	for range 100 {
		net.tick()
		net.settle()
	}
	clear(net.cut)
	for range 60 {
		net.tick()
		net.settle()
	}
	after := net.cores[2].clock.timeMS()
	// A leader counts on until it notices, at most two election timeouts.
	if passed := after - before; passed < 0 || passed > 2000+6000 {
		t.Errorf("cluster time went on by %d ms over 10 s without a leader and 6 s of recovery", passed)
	}
}

func TestANewLeaderGoesOnFromTheRunningTime(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	for range 50 { // idle: no stamp in the log says that time passes
		net.tick()
		net.settle()
	}
	old := net.cores[1].clock.timeMS()
	net.isolate(1)
	var second *testCore
	for i := 0; second == nil && i < 100; i++ {
		net.tick()
		net.settle()
		for _, id := range net.ids[1:] {
			if net.cores[id].isLeader() {
				second = net.cores[id]
			}
		}
	}
	if second == nil {
		t.Fatal("no new leader after 10 s")
	}
	if got := second.clock.timeMS(); got < old-2*testHeartbeat.Milliseconds() || got > old+testHeartbeat.Milliseconds() {
		t.Errorf("cluster time of the new leader = %d ms, want about %d ms: the gap does not count", got, old)
	}
}

// A member that missed idle time may lead with a clock that is behind. What it
// stamps is the cluster's time then: the others give up what they had counted,
// or its keys would be overdue under the next of them.
func TestFollowersTakeOverTheTimeOfALeaderWhoIsBehind(t *testing.T) {
	for _, tt := range []struct {
		name  string
		learn func(net *coreNet, leader *testCore)
	}{
		{"by an entry", func(net *coreNet, leader *testCore) {
			leader.Propose(net.now, testProposal(1, "a"))
			net.settle()
		}},
		{"by a heartbeat", func(net *coreNet, _ *testCore) {
			net.tick()
			net.settle()
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			net := newCoreNet(t, 3)
			for _, id := range net.ids[1:] {
				net.cores[id].clock.adopt(100_000)
			}
			leader := net.elect(1)
			tt.learn(net, leader)
			for _, id := range net.ids {
				if got := net.cores[id].clock.timeMS(); got > 1000 {
					t.Errorf("cluster time at member %d = %d ms, want the leader's, which is below 1000", id, got)
				}
			}
		})
	}
}

// The other way round: a restarted member knows only the newest stamp, which
// can be old on an idle cluster.
func TestARestartedMemberLearnsTheTimeByAHeartbeat(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	for range 200 {
		net.tick()
		net.settle()
	}
	restarted := net.start(3, net.cores[3].storage)
	for range 2 {
		net.tick()
		net.settle()
	}
	if got, want := restarted.clock.timeMS(), leader.clock.timeMS(); got < want-2*testHeartbeat.Milliseconds() || got > want {
		t.Errorf("cluster time after a restart = %d ms, want about the leader's %d ms and not more", got, want)
	}
}

// Nobody remembers the running time then: a key may live longer by the age of
// the newest entry, never shorter.
func TestARestartOfAllMembersGoesOnFromTheNewestStamp(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	net.tick()
	leader.Propose(net.now, testProposal(1, "a"))
	net.settle()
	stamped := leader.clock.timeMS()
	for range 50 { // idle
		net.tick()
		net.settle()
	}
	if got := leader.clock.timeMS(); got < stamped+4900 {
		t.Fatalf("the leader counted %d ms in 5 s", got-stamped)
	}
	for _, id := range net.ids {
		net.start(id, net.cores[id].storage)
	}
	if got := net.elect(2).clock.timeMS(); got != stamped {
		t.Errorf("cluster time after a restart of all members = %d ms, want the %d ms of the newest entry", got, stamped)
	}
}

func TestClock(t *testing.T) {
	c := clock{gapMax: time.Second}
	if got := c.timeMS(); got != 1 {
		t.Errorf("timeMS() of a new clock = %d, want 1", got)
	}
	c.adopt(9000)
	c.stamped(5000, false)
	if got := c.timeMS(); got != 5000 {
		t.Errorf("timeMS() at a follower after a stamp of 5000 = %d, want 5000: the leader's deadlines are by that", got)
	}
	c.adopt(10)
	if got := c.timeMS(); got != 5000 {
		t.Errorf("timeMS() after a late heartbeat = %d, want 5000: stamps never fall along a log", got)
	}
	c.stamped(4000, true)
	c.stamped(0, true)
	if got := c.timeMS(); got != 5000 {
		t.Errorf("timeMS() at a leader after its own stamps = %d, want 5000", got)
	}
	c.begin(time.Hour)
	c.count(time.Hour + time.Second)
	c.count(time.Hour + 2*time.Second)
	c.count(time.Hour)
	if got := c.timeMS(); got != 7000 {
		t.Errorf("timeMS() after counting 2 s = %d, want 7000", got)
	}
	c.count(2 * time.Hour)
	if got := c.timeMS(); got != 7000 {
		t.Errorf("timeMS() after an hour's pause = %d, want 7000: there may have been no leader", got)
	}
	c.count(2*time.Hour + time.Second)
	if got := c.timeMS(); got != 8000 {
		t.Errorf("timeMS() one second after the pause = %d, want 8000", got)
	}
}

func TestJudge(t *testing.T) {
	prefix := make([]byte, PrefixBytes)
	snapshot := firstSnapshot([]uint64{1, 2})
	confSnapshot := func(cs raftpb.ConfState) raftpb.Message {
		return raftpb.Message{Type: raftpb.MsgSnap, Snapshot: &raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{Index: 5, Term: 1, ConfState: cs}}}
	}
	entry := func(index, term uint64) raftpb.Entry { return raftpb.Entry{Index: index, Term: term} }
	for _, tt := range []struct {
		name string
		m    raftpb.Message
		ok   bool
	}{
		{"heartbeat", raftpb.Message{Type: raftpb.MsgHeartbeat, Term: 3, Commit: 10, Context: make([]byte, timeBytes)}, true},
		{"heartbeat without a time", raftpb.Message{Type: raftpb.MsgHeartbeat, Term: 3, Commit: 10}, false},
		{"append", raftpb.Message{Type: raftpb.MsgApp, Term: 3, Index: 4, LogTerm: 2, Entries: []raftpb.Entry{entry(5, 2), entry(6, 3)}}, true},
		{"gap between entries", raftpb.Message{Type: raftpb.MsgApp, Term: 3, Index: 4, LogTerm: 2, Entries: []raftpb.Entry{entry(6, 2)}}, false},
		{"falling term", raftpb.Message{Type: raftpb.MsgApp, Term: 3, Index: 4, LogTerm: 2, Entries: []raftpb.Entry{entry(5, 1)}}, false},
		{"term above the message's", raftpb.Message{Type: raftpb.MsgApp, Term: 3, Index: 4, LogTerm: 2, Entries: []raftpb.Entry{entry(5, 4)}}, false},
		{"snapshot", raftpb.Message{Type: raftpb.MsgSnap, Term: 3, Snapshot: &snapshot}, true},
		{"snapshot without metadata", raftpb.Message{Type: raftpb.MsgSnap, Term: 3, Snapshot: &raftpb.Snapshot{}}, false},
		{"no snapshot", raftpb.Message{Type: raftpb.MsgSnap, Term: 3}, false},
		{"proposal", raftpb.Message{Type: raftpb.MsgProp, Entries: []raftpb.Entry{{Data: prefix}}}, true},
		{"empty proposal", raftpb.Message{Type: raftpb.MsgProp}, false},
		{"proposal without prefix", raftpb.Message{Type: raftpb.MsgProp, Entries: []raftpb.Entry{{Data: prefix[1:]}}}, false},
		{"configuration change as a proposal", raftpb.Message{Type: raftpb.MsgProp, Entries: []raftpb.Entry{{Type: raftpb.EntryConfChange, Data: []byte{255}}}}, false},
		{"joint configuration change", raftpb.Message{Type: raftpb.MsgProp, Entries: []raftpb.Entry{{Type: raftpb.EntryConfChangeV2}}}, false},
		{"read without context", raftpb.Message{Type: raftpb.MsgReadIndex}, false},
		{"read answer without context", raftpb.Message{Type: raftpb.MsgReadIndexResp}, false},
		{"local only", raftpb.Message{Type: raftpb.MsgHup}, false},
		{"storage answer", raftpb.Message{Type: raftpb.MsgStorageAppendResp}, false},
		{"from the append loop", raftpb.Message{Type: raftpb.MsgHeartbeat, From: raft.LocalAppendThread}, false},
		{"from this member itself", raftpb.Message{Type: raftpb.MsgAppResp, From: 1, Index: 5}, false},
		{"term 0", raftpb.Message{Type: raftpb.MsgApp}, false},
		{"proposal with a term", raftpb.Message{Type: raftpb.MsgProp, Term: 3, Entries: []raftpb.Entry{{Data: prefix}}}, false},
		{"hand-over asked for by a peer", raftpb.Message{Type: raftpb.MsgTransferLeader}, false},
		{"snapshot that names a voter twice", confSnapshot(raftpb.ConfState{Voters: []uint64{1, 2, 1}}), false},
		{"snapshot with a voter who is a learner", confSnapshot(raftpb.ConfState{Voters: []uint64{1, 2}, Learners: []uint64{2}}), false},
		{"snapshot with a joint configuration", confSnapshot(raftpb.ConfState{Voters: []uint64{1}, VotersOutgoing: []uint64{2}}), false},
		{"from nobody", raftpb.Message{Type: raftpb.MsgHeartbeat, From: raft.None}, false},
		{"to another member", raftpb.Message{Type: raftpb.MsgHeartbeat, To: 3}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := tt.m
			if m.From == 0 && tt.name != "from nobody" {
				m.From = 2
			}
			if m.To == 0 {
				m.To = 1
			}
			if m.Term == 0 && m.Type != raftpb.MsgProp && m.Type != raftpb.MsgReadIndex && tt.name != "term 0" {
				m.Term = 3
			}
			err := judgeForm(&m, 1)
			if (err == nil) != tt.ok {
				t.Errorf("judgeForm(%s) = %v, want ok %v", m.Type, err, tt.ok)
			}
			if err != nil && !errors.Is(err, ErrMessage) {
				t.Errorf("judgeForm(%s) = %v, want an ErrMessage", m.Type, err)
			}
		})
	}
}

func TestAMemberThatLostItsLogSaysSo(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	net.cores[1].Propose(net.now, testProposal(1, "a"))
	net.settle()
	c := net.cores[2]
	var lost *LostLogError
	err := c.Step(net.now, raftpb.Message{Type: raftpb.MsgHeartbeat, From: 1, To: 2, Term: c.term(), Commit: c.lastIndex + 1, Context: make([]byte, timeBytes)})
	if !errors.As(err, &lost) || lost.LastIndex != c.lastIndex {
		t.Errorf("Step(heartbeat beyond the log) = %v, want a LostLogError with raft index %d", err, c.lastIndex)
	}
	err = c.Step(net.now, raftpb.Message{Type: raftpb.MsgHeartbeat, From: 77, To: 2, Term: c.term(), Commit: c.lastIndex + 1, Context: make([]byte, timeBytes)})
	if !errors.Is(err, ErrMessage) {
		t.Errorf("Step(heartbeat of a stranger beyond the log) = %v, want ErrMessage", err)
	}
	err = c.Step(net.now, raftpb.Message{Type: raftpb.MsgAppResp, From: 1, To: 2, Term: c.term(), Index: c.lastIndex + 1})
	if !errors.Is(err, ErrMessage) {
		t.Errorf("Step(confirmation beyond the log) = %v, want ErrMessage", err)
	}
}

func FuzzStep(f *testing.F) {
	for _, m := range []raftpb.Message{
		{Type: raftpb.MsgHeartbeat, From: 2, To: 1, Term: 3, Context: make([]byte, timeBytes)},
		{Type: raftpb.MsgApp, From: 2, To: 1, Term: 3, Index: 1, LogTerm: 1, Entries: []raftpb.Entry{{Index: 2, Term: 3}}},
		{Type: raftpb.MsgProp, From: 2, To: 1, Entries: []raftpb.Entry{{Data: make([]byte, PrefixBytes)}}},
		{Type: raftpb.MsgVote, From: 3, To: 1, Term: 9, Index: 2, LogTerm: 1},
	} {
		data, err := m.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var m raftpb.Message
		if m.Unmarshal(data) != nil {
			return
		}
		net := newCoreNet(t, 3)
		c := net.elect(1)
		_ = c.Step(net.now, m) // refused or not, it must not panic
		c.Outputs()
	})
}
