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
		m := serverpb.Member{ID: id, PeerURLs: []string{url}}
		if id != 4 { // it has not started
			m.Incarnation = []byte("0123456789abcdef")
		}
		data, err := m.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	add, learner := raftpb.ConfChangeAddNode, raftpb.ConfChangeAddLearnerNode
	remove, update := raftpb.ConfChangeRemoveNode, raftpb.ConfChangeUpdateNode
	type step struct {
		cc     raftpb.ConfChange
		reason deimos.MemberErrorReason // empty: accepted
	}
	for _, tt := range []struct {
		name   string
		steps  []step
		voters int
	}{
		{"learner is added and promoted", []step{
			{raftpb.ConfChange{Type: learner, NodeID: 3, Context: record(3, "http://127.0.0.1:3")}, ""},
			{raftpb.ConfChange{Type: add, NodeID: 3}, ""},
			{raftpb.ConfChange{Type: add, NodeID: 3}, deimos.MemberIsVoter},
		}, 3},
		{"a learner that has not started stays one", []step{
			{raftpb.ConfChange{Type: learner, NodeID: 4, Context: record(4, "http://127.0.0.1:4")}, ""},
			{raftpb.ConfChange{Type: add, NodeID: 4}, deimos.MemberNotCaughtUp},
		}, 2},
		{"a removed id never comes back", []step{
			{raftpb.ConfChange{Type: remove, NodeID: 2}, ""},
			{raftpb.ConfChange{Type: remove, NodeID: 2}, deimos.MemberRemoved},
			{raftpb.ConfChange{Type: learner, NodeID: 2, Context: record(2, "http://127.0.0.1:2")}, deimos.MemberRemoved},
		}, 1},
		{"the last voter stays", []step{
			{raftpb.ConfChange{Type: remove, NodeID: 2}, ""},
			{raftpb.ConfChange{Type: remove, NodeID: 1}, deimos.MemberLastVoter},
		}, 1},
		{"a URL has one owner", []step{
			{raftpb.ConfChange{Type: learner, NodeID: 3, Context: record(3, "http://127.0.0.1:1")}, deimos.MemberURLTaken},
			{raftpb.ConfChange{Type: update, NodeID: 2, Context: record(2, "http://127.0.0.1:1")}, deimos.MemberURLTaken},
			{raftpb.ConfChange{Type: update, NodeID: 2, Context: record(2, "http://127.0.0.1:4")}, ""},
		}, 2},
		{"unknown members and broken records", []step{
			{raftpb.ConfChange{Type: add, NodeID: 9, Context: record(9, "http://127.0.0.1:9")}, deimos.MemberUnknown},
			{raftpb.ConfChange{Type: remove, NodeID: 9}, deimos.MemberUnknown},
			{raftpb.ConfChange{Type: update, NodeID: 9, Context: record(9, "http://127.0.0.1:9")}, deimos.MemberUnknown},
			{raftpb.ConfChange{Type: learner, NodeID: 9, Context: []byte{255}}, deimos.MemberChangeBroken},
			{raftpb.ConfChange{Type: learner, NodeID: 9, Context: record(8, "http://127.0.0.1:9")}, deimos.MemberChangeBroken},
			{raftpb.ConfChange{Type: learner, NodeID: 1, Context: record(1, "http://127.0.0.1:1")}, deimos.MemberExists},
			{raftpb.ConfChange{Type: 17, NodeID: 1}, deimos.MemberChangeBroken},
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
				var got *deimos.MemberError
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

func TestAMemberKeepsItsIncarnation(t *testing.T) {
	m := NewMachine(newTestMachine().Store(), []deimos.Member{{ID: 1}}, nil)
	log := &logWriter{}
	publish := func(incarnation byte, name string) any {
		attributes := &serverpb.Member{ID: 1, Name: name, Incarnation: make([]byte, 16)}
		attributes.Incarnation[0] = incarnation
		return apply(t, m, log.entry(t, &serverpb.Command{Kind: serverpb.KindAttributes, Attributes: attributes}))[0]
	}
	if got := publish(7, "a"); got != nil {
		t.Errorf("first publication = %v, want nil", got)
	}
	if got := publish(7, "b"); got != nil || m.Members()[0].Name != "b" {
		t.Errorf("second publication = %v and name %q, want nil and b", got, m.Members()[0].Name)
	}
	var refused *deimos.MemberError
	if err, _ := publish(8, "c").(error); !errors.As(err, &refused) || refused.Reason != deimos.MemberOther {
		t.Errorf("publication of another data directory = %v, want %q", err, deimos.MemberOther)
	}
	if got := m.IncarnationOf(1); got[0] != 7 || m.Members()[0].Name != "b" {
		t.Errorf("incarnation %v of %q, want 7… of b", got, m.Members()[0].Name)
	}
	if got := m.IncarnationOf(2); !got.IsZero() {
		t.Errorf("incarnation of nobody = %v, want zero", got)
	}
}

func TestAMachineThatIsLeftAlone(t *testing.T) {
	m := NewMachine(newTestMachine().Store(), []deimos.Member{{ID: 1, Name: "a"}, {ID: 2, IsLearner: true}, {ID: 3}}, nil)
	log := &logWriter{}
	apply(t, m, log.entry(t, &serverpb.Command{Kind: serverpb.KindAttributes, Attributes: &serverpb.Member{ID: 2, Name: "b", Incarnation: make([]byte, 16)}}))
	attributes := &serverpb.Member{ID: 2, Name: "b", Incarnation: []byte("0123456789abcdef")}
	apply(t, m, log.entry(t, &serverpb.Command{Kind: serverpb.KindAttributes, Attributes: attributes}))
	index := m.Store().View().Index()
	m.Abandon(deimos.Member{ID: 2, Name: "other"}, 77, 1000)
	if list := m.Members(); len(list) != 1 || list[0].ID != 2 || list[0].Name != "b" || list[0].IsLearner {
		t.Errorf("Members() = %+v, want member 2 alone, a voter", list)
	}
	if !m.IsRemoved(1) || !m.IsRemoved(3) || m.IsRemoved(2) {
		t.Error("the lost members do not count as removed, or the survivor does")
	}
	if !m.IncarnationOf(2).IsZero() {
		t.Error("the survivor is bound to the data directory of the old cluster")
	}
	if v := m.Store().View(); v.Index() != index+1000 || v.RaftIndex() != 77 {
		t.Errorf("index %d at raft index %d, want %d and 77", v.Index(), v.RaftIndex(), index+1000)
	}
}
