package server

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server/serverpb"
	"go.etcd.io/raft/v3/raftpb"
)

// changeServer runs the server of member 1 of a cluster of voters 1 to n and
// the learner 9, all of them active and level with the leader.
func changeServer(t *testing.T, voters int, change func(*fakeNode, *Config)) (*Server, *fakeNode) {
	t.Helper()
	n := &fakeNode{start: time.Now()}
	var members []deimos.Member
	for id := range uint64(voters) {
		members = append(members, deimos.Member{ID: id + 1, Name: "m", PeerURLs: []string{"http://127.0.0.1:" + deimos.FormatID(id+1)}})
		n.progress = append(n.progress, raftnode.Progress{ID: id + 1, Match: 5000, Active: true})
	}
	members = append(members, deimos.Member{ID: 9, PeerURLs: []string{"http://127.0.0.1:9"}, IsLearner: true})
	n.progress = append(n.progress, raftnode.Progress{ID: 9, Match: 5000, Learner: true, Active: true})
	n.log.index = 4999
	n.machine = NewMachine(newTestMachine().Store(), members, nil)
	start(t, n.machine, 9)
	cfg := Config{Self: deimos.Member{ID: 1, Name: "m"}, Machine: n.machine, Node: n}
	if change != nil {
		change(n, &cfg)
	}
	s := New(cfg)
	t.Cleanup(s.Close)
	return s, n
}

// start lets a member publish itself.
func start(t *testing.T, m *Machine, id uint64) {
	t.Helper()
	next, err := m.members.Load().setAttributes(member{Member: deimos.Member{ID: id, Name: "m"}, incarnation: deimos.Incarnation{1, byte(id)}})
	if err != nil {
		t.Fatal(err)
	}
	m.setMembers(next)
}

func TestChangesOfTheMemberList(t *testing.T) {
	silent := func(id uint64) func(*fakeNode, *Config) {
		return func(n *fakeNode, _ *Config) {
			for i := range n.progress {
				if n.progress[i].ID == id {
					n.progress[i].Active = false
				}
			}
		}
	}
	learnerAt := func(match uint64) func(*fakeNode, *Config) {
		return func(n *fakeNode, _ *Config) { n.progress[len(n.progress)-1].Match = match }
	}
	url := []string{"http://127.0.0.1:77"}
	for _, tt := range []struct {
		name   string
		voters int
		change deimos.MemberChange
		given  func(*fakeNode, *Config)
		reason deimos.MemberErrorReason // empty: the change is made
		voting int                      // voters afterwards
	}{
		{"an addition is a learner", 1, deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: url}, nil, "", 1},
		{"a URL that is taken", 1, deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: []string{"http://127.0.0.1:9"}}, nil, deimos.MemberURLTaken, 1},
		{"an update", 1, deimos.MemberChange{Op: deimos.MemberUpdate, ID: 9, PeerURLs: url}, nil, "", 1},
		{"an update of nobody", 1, deimos.MemberChange{Op: deimos.MemberUpdate, ID: 5, PeerURLs: url}, nil, deimos.MemberUnknown, 1},
		{"a promotion", 1, deimos.MemberChange{Op: deimos.MemberPromote, ID: 9}, nil, "", 2},
		{"a promotion of a voter", 2, deimos.MemberChange{Op: deimos.MemberPromote, ID: 2}, nil, deimos.MemberIsVoter, 2},
		{"a promotion of a silent learner", 1, deimos.MemberChange{Op: deimos.MemberPromote, ID: 9}, silent(9), deimos.MemberNotCaughtUp, 1},
		{"a learner 1000 entries behind", 1, deimos.MemberChange{Op: deimos.MemberPromote, ID: 9}, learnerAt(4000), "", 2},
		{"a learner 1001 entries behind", 1, deimos.MemberChange{Op: deimos.MemberPromote, ID: 9}, learnerAt(3999), deimos.MemberNotCaughtUp, 1},
		{"a removal", 3, deimos.MemberChange{Op: deimos.MemberRemove, ID: 3}, nil, "", 2},
		{"a removal of a dead voter", 3, deimos.MemberChange{Op: deimos.MemberRemove, ID: 3}, silent(3), "", 2},
		{"a removal that costs the quorum", 3, deimos.MemberChange{Op: deimos.MemberRemove, ID: 2}, silent(3), deimos.MemberCostsQuorum, 3},
		{"a removal of a learner", 3, deimos.MemberChange{Op: deimos.MemberRemove, ID: 9}, silent(3), "", 3},
		{"a removal of the last voter", 1, deimos.MemberChange{Op: deimos.MemberRemove, ID: 1}, nil, deimos.MemberLastVoter, 1},
		{"leadership for a learner", 1, deimos.MemberChange{Op: deimos.MemberLead, ID: 9}, nil, deimos.MemberIsLearner, 1},
		{"leadership for the leader", 1, deimos.MemberChange{Op: deimos.MemberLead, ID: 1}, nil, "", 1},
		{"leadership for one that does not take it", 2, deimos.MemberChange{Op: deimos.MemberLead, ID: 2}, nil, deimos.MemberNotTaken, 2},
		{"leadership for another", 2, deimos.MemberChange{Op: deimos.MemberLead, ID: 2}, func(n *fakeNode, _ *Config) { n.takes = true }, "", 2},
		{"a change while another is under way", 1, deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: url}, func(n *fakeNode, _ *Config) { n.pending = 3 }, "", 1},
		{"an operation of a newer version", 1, deimos.MemberChange{Op: 77, ID: 1}, nil, deimos.MemberChangeBroken, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, n := changeServer(t, tt.voters, tt.given)
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				m, err := s.ChangeMembers(ctx, tt.change)
				var got *deimos.MemberError
				switch {
				case tt.reason == "" && err != nil:
					t.Errorf("ChangeMembers = %v, want nil", err)
				case tt.reason != "" && (!errors.As(err, &got) || got.Reason != tt.reason):
					t.Errorf("ChangeMembers = %v, want %q", err, tt.reason)
				case tt.reason == "" && tt.change.Op == deimos.MemberAdd && (m.ID == 0 || !m.IsLearner):
					t.Errorf("added %+v, want a learner", m)
				}
				if got := n.machine.members.Load().voters(); got != tt.voting {
					t.Errorf("%d voters, want %d", got, tt.voting)
				}
			})
		})
	}
}

func TestAMemberThatWasAddedToVoteIsPromotedWhenItHasCaughtUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, n := changeServer(t, 1, nil)
		m, err := s.ChangeMembers(t.Context(), deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: []string{"http://127.0.0.1:77"}})
		if err != nil {
			t.Fatal(err)
		}
		isLearner := func() bool { return n.machine.members.Load().byID[m.ID].IsLearner }
		<-time.After(time.Minute) // of the bubble's clock
		if !isLearner() {
			t.Fatal("a member that has never been heard of votes")
		}
		n.mu.Lock()
		n.progress = append(n.progress, raftnode.Progress{ID: m.ID, Match: 5000, Learner: true, Active: true})
		n.mu.Unlock()
		<-time.After(10 * promoteInterval)
		if !isLearner() {
			t.Fatal("a member votes that has not published its data directory")
		}
		n.mu.Lock()
		start(t, n.machine, m.ID)
		n.mu.Unlock()
		<-time.After(promoteInterval + time.Millisecond)
		synctest.Wait()
		if isLearner() {
			t.Error("the member has caught up and does not vote")
		}
		if !n.machine.members.Load().byID[9].IsLearner {
			t.Error("a member that was added as a learner was promoted by itself")
		}
	})
}

// follower returns the server of member 2, whose calls go to the leader, and
// the leader's machine in the place of its own.
func follower(t *testing.T, leader *Server, n *fakeNode, call func(context.Context, uint64, []byte) ([]byte, error)) *Server {
	t.Helper()
	own := &fakeNode{machine: n.machine, start: n.start, follower: true, leader: 1}
	s := New(Config{Self: deimos.Member{ID: 2, Name: "m"}, Machine: n.machine, Node: own, Call: call})
	t.Cleanup(s.Close)
	return s
}

func TestAFollowerPassesChangesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader, n := changeServer(t, 3, nil)
		calls := 0
		s := follower(t, leader, n, func(ctx context.Context, to uint64, request []byte) ([]byte, error) {
			if calls++; calls == 1 {
				return nil, ErrNotAsked // the first one is lost on the way
			}
			if to != 1 {
				t.Errorf("asked member %d, want 1", to)
			}
			return leader.Answer(ctx, 2, request), nil
		})
		m, err := s.ChangeMembers(t.Context(), deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: []string{"http://127.0.0.1:77"}, Learner: true})
		if err != nil || m.ID == 0 || !m.IsLearner || m.PeerURLs[0] != "http://127.0.0.1:77" {
			t.Errorf("add = %+v, %v, want a learner", m, err)
		}
		if n.machine.members.Load().byID[m.ID].promote {
			t.Error("the wish to stay a learner was lost on the way")
		}
		var refused *deimos.MemberError
		if _, err := s.ChangeMembers(t.Context(), deimos.MemberChange{Op: deimos.MemberPromote, ID: 3}); !errors.As(err, &refused) ||
			refused.Reason != deimos.MemberIsVoter || refused.ID != 3 {
			t.Errorf("promote = %v, want %q", err, deimos.MemberIsVoter)
		}
		if _, err := s.ChangeMembers(t.Context(), deimos.MemberChange{Op: deimos.MemberRemove, ID: 2}); err != nil {
			t.Errorf("remove = %v, want nil", err)
		}
	})
}

func TestChangesAreLoggedInWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var text strings.Builder
		s, _ := changeServer(t, 4, func(_ *fakeNode, cfg *Config) { cfg.Log = slog.New(slog.NewTextHandler(&text, nil)) })
		for _, tt := range []struct {
			change deimos.MemberChange
			want   string
		}{
			{deimos.MemberChange{Op: deimos.MemberAdd, PeerURLs: []string{"http://127.0.0.1:77"}, Learner: true}, `change="added as a learner"`},
			{deimos.MemberChange{Op: deimos.MemberUpdate, ID: 3, PeerURLs: []string{"http://127.0.0.1:78"}}, `change="peer URLs updated" member=3`},
			{deimos.MemberChange{Op: deimos.MemberPromote, ID: 9}, `change="promoted to a voter" member=9`},
			{deimos.MemberChange{Op: deimos.MemberRemove, ID: 4}, "change=removed member=4"},
		} {
			text.Reset()
			if _, err := s.ChangeMembers(t.Context(), tt.change); err != nil || !strings.Contains(text.String(), tt.want) {
				t.Errorf("ChangeMembers(%+v) = %v and logs %q, want %q", tt.change, err, &text, tt.want)
			}
		}
	})
}

func TestAnOutcomeThatNobodyKnowsIsToldAsSuch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader, n := changeServer(t, 3, nil)
		change := deimos.MemberChange{Op: deimos.MemberRemove, ID: 3}
		var e *deimos.Error
		for _, tt := range []struct {
			name string
			call func(context.Context, uint64, []byte) ([]byte, error)
			code deimos.Code
		}{
			{"the connection broke", func(context.Context, uint64, []byte) ([]byte, error) { return nil, errors.New("reset") }, deimos.CodeRaftInternal},
			{"the answer is broken", func(context.Context, uint64, []byte) ([]byte, error) { return []byte{255}, nil }, deimos.CodeRaftInternal},
			{"the answer is empty", func(context.Context, uint64, []byte) ([]byte, error) { return nil, nil }, deimos.CodeRaftInternal},
			{"nobody can be asked", func(context.Context, uint64, []byte) ([]byte, error) { return nil, ErrNotAsked }, deimos.CodeLeaderElection},
		} {
			s := follower(t, leader, n, tt.call)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := s.ChangeMembers(ctx, change); !errors.As(err, &e) || e.Code != tt.code {
				t.Errorf("%s: ChangeMembers = %v, want code %d", tt.name, err, tt.code)
			}
			cancel()
		}
	})
}

func TestALeaderThatIsToBeRemovedMakesWayFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked uint64
		s, n := changeServer(t, 3, func(n *fakeNode, cfg *Config) {
			n.takes = true
			cfg.Call = func(_ context.Context, to uint64, _ []byte) ([]byte, error) {
				asked = to
				return (&serverpb.MemberAnswer{Member: &serverpb.Member{}}).Marshal()
			}
		})
		if _, err := s.ChangeMembers(t.Context(), deimos.MemberChange{Op: deimos.MemberRemove, ID: 1}); err != nil {
			t.Errorf("ChangeMembers = %v, want nil", err)
		}
		if n.handOvers.Load() != 1 || asked != 2 {
			t.Errorf("%d hand-overs and member %d was asked, want 1 and 2", n.handOvers.Load(), asked)
		}
	})
}

func TestACallThatCannotBeReadIsAnsweredAllTheSame(t *testing.T) {
	s, _ := changeServer(t, 1, nil)
	f := follower(t, s, s.cfg.Node.(*fakeNode), func(ctx context.Context, _ uint64, _ []byte) ([]byte, error) {
		return s.Answer(ctx, 2, []byte{255}), nil
	})
	var e *deimos.Error
	if _, err := f.ChangeMembers(t.Context(), deimos.MemberChange{Op: deimos.MemberPromote, ID: 9}); !errors.As(err, &e) {
		t.Errorf("ChangeMembers = %v, want an error of the keys API", err)
	}
}

func TestALeaderMakesWayAlsoForThoseWhoAskItToGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		leader, n := changeServer(t, 3, func(n *fakeNode, _ *Config) { n.takes = true })
		request, err := (&serverpb.MemberCall{Op: uint32(deimos.MemberRemove), ID: 1}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		var a serverpb.MemberAnswer
		if err := a.Unmarshal(leader.Answer(t.Context(), 2, request)); err != nil || !a.NotLeader {
			t.Errorf("answer = %+v, %v, want that it does not lead any more", a, err)
		}
		if n.handOvers.Load() != 1 || n.machine.members.Load().voters() != 3 {
			t.Errorf("%d hand-overs and %d voters, want 1 and 3", n.handOvers.Load(), n.machine.members.Load().voters())
		}
	})
}

func TestAChangeIsJudgedAnewAfterAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		// Of four voters 4 is dead, and the removal of 2 is under way. To remove 3
		// is safe as long as there are 2 and 3, and not afterwards.
		s, n := changeServer(t, 4, func(n *fakeNode, _ *Config) {
			n.progress[3].Active = false
			n.pending = 1
			n.onPending = func() {
				next, err := n.machine.members.Load().change(raftpb.ConfChange{Type: raftpb.ConfChangeRemoveNode, NodeID: 2})
				if err != nil {
					t.Error(err)
				}
				n.machine.setMembers(next)
				n.progress = slices.Delete(n.progress, 1, 2)
			}
		})
		var refused *deimos.MemberError
		if _, err := s.ChangeMembers(t.Context(), deimos.MemberChange{Op: deimos.MemberRemove, ID: 3}); !errors.As(err, &refused) ||
			refused.Reason != deimos.MemberCostsQuorum {
			t.Errorf("ChangeMembers = %v, want %q", err, deimos.MemberCostsQuorum)
		}
		if got := n.machine.members.Load().voters(); got != 3 {
			t.Errorf("%d voters, want 3", got)
		}
	})
}
