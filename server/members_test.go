package server

import (
	"errors"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
)

func TestConfigurationChanges(t *testing.T) {
	record := func(id uint64, url string) []byte {
		data, err := (&serverpb.Member{ID: id, PeerURLs: []string{url}}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	add, learner := raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode
	remove, update := raftpb.ConfChangeRemoveNode, raftpb.ConfChangeUpdateNode
	type step struct {
		cc     raftpb.ConfChange
		reason MemberErrorReason // empty: accepted
	}
	for _, tt := range []struct {
		name   string
		steps  []step
		voters int
	}{
		{"learner is added and promoted", []step{
			{raftpb.ConfChange{Type: learner, NodeID: 3, Context: record(3, "http://127.0.0.1:3")}, ""},
			{raftpb.ConfChange{Type: add, NodeID: 3}, ""},
			{raftpb.ConfChange{Type: add, NodeID: 3}, MemberIsVoter},
		}, 3},
		{"a removed id never comes back", []step{
			{raftpb.ConfChange{Type: remove, NodeID: 2}, ""},
			{raftpb.ConfChange{Type: remove, NodeID: 2}, MemberRemoved},
			{raftpb.ConfChange{Type: learner, NodeID: 2, Context: record(2, "http://127.0.0.1:2")}, MemberRemoved},
		}, 1},
		{"the last voter stays", []step{
			{raftpb.ConfChange{Type: remove, NodeID: 2}, ""},
			{raftpb.ConfChange{Type: remove, NodeID: 1}, MemberLastVoter},
		}, 1},
		{"a URL has one owner", []step{
			{raftpb.ConfChange{Type: learner, NodeID: 3, Context: record(3, "http://127.0.0.1:1")}, MemberURLTaken},
			{raftpb.ConfChange{Type: update, NodeID: 2, Context: record(2, "http://127.0.0.1:1")}, MemberURLTaken},
			{raftpb.ConfChange{Type: update, NodeID: 2, Context: record(2, "http://127.0.0.1:4")}, ""},
		}, 2},
		{"unknown members and broken records", []step{
			{raftpb.ConfChange{Type: remove, NodeID: 9}, MemberUnknown},
			{raftpb.ConfChange{Type: update, NodeID: 9, Context: record(9, "http://127.0.0.1:9")}, MemberUnknown},
			{raftpb.ConfChange{Type: learner, NodeID: 9, Context: []byte{255}}, MemberChangeBroken},
			{raftpb.ConfChange{Type: learner, NodeID: 9, Context: record(8, "http://127.0.0.1:9")}, MemberChangeBroken},
			{raftpb.ConfChange{Type: learner, NodeID: 1, Context: record(1, "http://127.0.0.1:1")}, MemberExists},
			{raftpb.ConfChange{Type: 17, NodeID: 1}, MemberChangeBroken},
		}, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newTestMachine()
			for i, s := range tt.steps {
				accepted, result, err := m.ApplyConfChange(raftnode.Entry{Index: uint64(i + 2)}, s.cc)
				if err != nil {
					t.Fatal(err)
				}
				if accepted != (s.reason == "") {
					t.Errorf("step %d: accepted = %v, want %v", i, accepted, s.reason == "")
				}
				if s.reason == "" {
					continue
				}
				var got *MemberError
				if e, ok := result.(error); !ok || !errors.As(e, &got) || got.Reason != s.reason {
					t.Errorf("step %d: result = %v, want %q", i, result, s.reason)
				}
			}
			if got := m.members.Load().voters(); got != tt.voters {
				t.Errorf("%d voters, want %d", got, tt.voters)
			}
		})
	}
}

func TestAttributesOfAnUnknownMemberChangeNothing(t *testing.T) {
	calls := 0
	m := NewMachine(newTestMachine().Store(), []deimos.Member{{ID: 1}}, func([]deimos.Member) { calls++ })
	log := &logWriter{}
	apply(t, m, log.entry(t, &serverpb.Command{Kind: serverpb.KindAttributes, Attributes: &serverpb.Member{ID: 9, Name: "x"}}))
	if len(m.Members()) != 1 || calls != 0 {
		t.Errorf("%d members and %d notices, want 1 and 0", len(m.Members()), calls)
	}
}
