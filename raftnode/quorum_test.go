package raftnode

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

func TestAMemberThatComesBackDisturbsNoLeader(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	term := leader.term()
	net.isolate(3)
	for range 60 {
		net.tick()
		net.settle()
	}
	clear(net.cut)
	for range 60 {
		net.tick()
		net.settle()
	}
	if !leader.isLeader() || leader.term() != term {
		t.Errorf("member 1 leads %v in term %d, want true in %d: a member came back from isolation", leader.isLeader(), leader.term(), term)
	}
	net.cores[3].Propose(net.now, testProposal(1, "a"))
	net.settle()
	checkTexts(t, net.cores[3], "a")
}

func TestALearnerDoesNotCountForTheCommitIndex(t *testing.T) {
	net := &coreNet{t: t, cores: map[uint64]*testCore{}, ids: []uint64{1, 2, 3}, cut: map[[2]uint64]bool{}}
	for _, id := range net.ids {
		storage := raft.NewMemoryStorage()
		first := firstSnapshot([]uint64{1, 2})
		first.Metadata.ConfState.Learners = []uint64{3}
		if err := storage.ApplySnapshot(first); err != nil {
			t.Fatal(err)
		}
		net.start(id, storage)
	}
	leader := net.elect(1)
	net.isolate(2)
	leader.Propose(net.now, testProposal(1, "a"))
	net.settle()
	if got := net.cores[3].lastIndex; got != leader.lastIndex {
		t.Fatalf("the learner's log ends at raft index %d, want %d", got, leader.lastIndex)
	}
	checkTexts(t, leader)
	clear(net.cut)
	for range 3 {
		net.tick()
		net.settle()
	}
	checkTexts(t, leader, "a")
	checkTexts(t, net.cores[3], "a")
}

// An entry that a leader of an older term has left on a majority can still be
// replaced, until an entry of the new leader's own term is on a majority too.
func TestEntriesOfAnOlderTermAreNotCommittedByTheirCopies(t *testing.T) {
	net := newCoreNet(t, 3)
	old := net.elect(1)
	net.drop = func(m raftpb.Message) bool { return m.Type == raftpb.MsgAppResp }
	old.Propose(net.now, testProposal(1, "a"))
	net.settle()
	at := old.lastIndex
	if net.cores[2].lastIndex != at || net.cores[3].lastIndex != at {
		t.Fatalf("the logs end at %d and %d, want %d", net.cores[2].lastIndex, net.cores[3].lastIndex, at)
	}
	net.isolate(1)
	net.drop = func(m raftpb.Message) bool { return m.Type == raftpb.MsgAppResp && !m.Reject && m.Index > at }
	var leader, follower *testCore
	for range 60 {
		net.tick()
		net.settle()
		switch {
		case net.cores[2].isLeader():
			leader, follower = net.cores[2], net.cores[3]
		case net.cores[3].isLeader():
			leader, follower = net.cores[3], net.cores[2]
		default:
			continue
		}
		break
	}
	if leader == nil {
		t.Fatal("nobody was elected")
	}
	// What the follower would have answered to an append without the new entry.
	answer := raftpb.Message{Type: raftpb.MsgAppResp, From: follower.cfg.ID, To: leader.cfg.ID, Term: leader.term(), Index: at}
	if err := leader.Step(net.now, answer); err != nil {
		t.Fatal(err)
	}
	net.settle()
	if got := leader.Status().Committed; got >= at {
		t.Errorf("committed up to raft index %d, want less than %d, which is of an older term", got, at)
	}
	checkTexts(t, leader)
	net.drop = nil
	for range 5 {
		net.tick()
		net.settle()
	}
	checkTexts(t, leader, "a")
}

// What is committed is safe because no majority votes for a member without it.
func TestNobodyVotesForACandidateWhoseLogIsBehind(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	net.isolate(3)
	leader.Propose(net.now, testProposal(1, "a"))
	net.settle()
	checkTexts(t, leader, "a")
	clear(net.cut)
	net.isolate(1)
	asked := 0
	net.drop = func(m raftpb.Message) bool {
		vote := m.Type == raftpb.MsgPreVote || m.Type == raftpb.MsgVote
		if vote && m.From == 3 && m.To == 2 {
			asked++
		}
		return vote && m.From == 2 // only member 3, which lacks the entry, may ask
	}
	for range 60 {
		net.tick()
		net.settle()
	}
	if asked == 0 {
		t.Fatal("member 3 has not asked for a vote")
	}
	if net.cores[3].isLeader() {
		t.Fatal("member 3 leads without a committed entry")
	}
	net.drop = nil
	for range 60 {
		net.tick()
		net.settle()
	}
	if !net.cores[2].isLeader() {
		t.Error("member 2, which has the entry, does not lead")
	}
	checkTexts(t, net.cores[3], "a")
}

func TestAHeartbeatNamesNoMoreThanItsReceiverHasConfirmed(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	behind := net.cores[3]
	heartbeats := 0
	net.drop = func(m raftpb.Message) bool {
		switch {
		case m.To != 3:
		case m.Type == raftpb.MsgApp:
			return true
		case m.Type == raftpb.MsgHeartbeat:
			heartbeats++
			if m.Commit > behind.lastIndex {
				t.Errorf("a heartbeat names raft index %d to a member that holds %d", m.Commit, behind.lastIndex)
				return true
			}
		}
		return false
	}
	leader.Propose(net.now, testProposal(1, "a"))
	for range 5 {
		net.settle()
		net.tick()
	}
	checkTexts(t, leader, "a")
	checkTexts(t, behind)
	if heartbeats == 0 {
		t.Error("there was no heartbeat")
	}
}

func TestAConfigurationChangeCountsWhenItIsApplied(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	before := leader.lastIndex
	net.isolate(1) // so that nothing is committed
	cc := raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: 2}
	data, err := cc.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	leader.Propose(net.now, Proposal{Seq: 1, Type: raftpb.EntryConfChange, Data: data})
	net.settle()
	if leader.lastIndex != before+1 || len(leader.refused) != 0 {
		t.Fatalf("the log ends at raft index %d with %v refused, want %d and nothing", leader.lastIndex, leader.refused, before+1)
	}
	members := func() []uint64 {
		var ids []uint64
		for id := range leader.rn.Status().Config.Voters.IDs() {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		return ids
	}
	if got := members(); !slices.Equal(got, []uint64{1, 2, 3}) {
		t.Errorf("voters = %v while the removal of 2 is not committed, want 1, 2 and 3", got)
	}
	leader.ApplyConfChange(cc)
	if got := members(); !slices.Equal(got, []uint64{1, 3}) {
		t.Errorf("voters = %v after the removal of 2 was applied, want 1 and 3", got)
	}
}
