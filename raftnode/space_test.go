package raftnode

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

// newCoreNetOf is newCoreNet with learners behind the voters.
func newCoreNetOf(t *testing.T, voters, learners int) *coreNet {
	net := &coreNet{t: t, cores: map[uint64]*testCore{}, cut: map[[2]uint64]bool{}}
	first := firstSnapshot(nil)
	conf := &first.Metadata.ConfState
	for id := range uint64(voters + learners) {
		net.ids = append(net.ids, id+1)
	}
	conf.Voters, conf.Learners = net.ids[:voters:voters], net.ids[voters:]
	for _, id := range net.ids {
		storage := raft.NewMemoryStorage()
		if err := storage.ApplySnapshot(first); err != nil {
			t.Fatal(err)
		}
		net.start(id, storage)
	}
	return net
}

// tickWith ticks with the disks of some members below the reserve, and returns
// the voters who were asked to lead because of it.
func (net *coreNet) tickWith(low ...uint64) (asked []uint64) {
	net.tick()
	for _, id := range net.ids {
		if to := net.cores[id].WatchSpace(slices.Contains(low, id)); to != raft.None {
			asked = append(asked, to)
		}
	}
	net.settle()
	return asked
}

// refusing returns the members at which writes are refused.
func (net *coreNet) refusing() []uint64 {
	return slices.DeleteFunc(slices.Clone(net.ids), func(id uint64) bool { return !net.cores[id].WritesRefused() })
}

func TestWritesAreRefusedEverywhereWithoutAQuorumOfDisksWithRoom(t *testing.T) {
	for _, tt := range []struct {
		name             string
		voters, learners int
		low, silent      []uint64
		refused          bool
	}{
		{"all have room", 3, 0, nil, nil, false},
		{"one follower of three is low", 3, 0, []uint64{2}, nil, false},
		{"both followers", 3, 0, []uint64{2, 3}, nil, true},
		{"all", 3, 0, []uint64{1, 2, 3}, nil, true},
		{"two of five", 5, 0, []uint64{2, 3}, nil, false},
		{"three of five", 5, 0, []uint64{2, 3, 4}, nil, true},
		{"one of two", 2, 0, []uint64{2}, nil, true},
		{"one of four", 4, 0, []uint64{2}, nil, false},
		{"two of four", 4, 0, []uint64{2, 3}, nil, true},
		{"the only member", 1, 0, []uint64{1}, nil, true},
		{"the only voter, beside a learner with room", 1, 1, []uint64{1}, nil, true},
		{"learners do not count", 3, 2, []uint64{4, 5}, nil, false},
		{"nor do they help", 3, 2, []uint64{2, 3}, nil, true},
		{"a silent voter is no help", 3, 0, []uint64{2}, []uint64{3}, true},
		{"and no harm", 3, 0, nil, []uint64{3}, false},
		{"nor is one that was low", 3, 0, []uint64{3}, []uint64{3}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			net := newCoreNetOf(t, tt.voters, tt.learners)
			net.elect(1)
			net.tickWith(tt.low...)
			for _, id := range tt.silent {
				net.isolate(id)
			}
			for range 15 { // a silent member counts for an election timeout
				if asked := net.tickWith(tt.low...); tt.refused && len(asked) > 0 {
					t.Errorf("%v were asked to lead, want nobody", asked)
				}
			}
			var want []uint64
			if tt.refused {
				want = slices.DeleteFunc(slices.Clone(net.ids), func(id uint64) bool { return slices.Contains(tt.silent, id) })
			}
			if got := net.refusing(); !slices.Equal(got, want) {
				t.Errorf("writes are refused at %v, want at %v", got, want)
			}
			if !net.cores[1].isLeader() {
				t.Error("member 1 does not lead any more")
			}
			clear(net.cut)
			for range 3 {
				net.tickWith()
			}
			if got := net.refusing(); len(got) > 0 {
				t.Errorf("writes are refused at %v with space again, want nowhere", got)
			}
		})
	}
}

// Each step costs one heartbeat: the members tell the leader, and the leader all.
func TestWritesAreRefusedWithinTwoHeartbeats(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	net.tickWith()
	net.tickWith(2, 3)
	if got := net.refusing(); len(got) > 0 {
		t.Fatalf("writes are refused at %v before the leader knows, want nowhere", got)
	}
	net.tickWith(2, 3)
	if got := net.refusing(); !slices.Equal(got, net.ids) {
		t.Errorf("writes are refused at %v after two heartbeats, want everywhere", got)
	}
}

func TestTheVerdictOnWritesEndsWithItsLeader(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	for range 3 {
		net.tickWith(2, 3)
	}
	if got := net.refusing(); !slices.Equal(got, net.ids) {
		t.Fatalf("writes are refused at %v, want everywhere", got)
	}
	for _, id := range net.ids {
		net.isolate(id)
	}
	for net.cores[1].lead|net.cores[2].lead|net.cores[3].lead != raft.None {
		net.tick()
		net.settle()
	}
	if got := net.refusing(); len(got) > 0 {
		t.Errorf("writes are refused at %v without the leader who said so, want nowhere", got)
	}
	clear(net.cut)
	leader := net.elect(2)
	for range 3 {
		net.tickWith(1, 3)
	}
	if got := net.refusing(); !slices.Equal(got, net.ids) {
		t.Errorf("writes are refused at %v, want everywhere", got)
	}
	if err := leader.Step(net.now, raftpb.Message{
		Type: raftpb.MsgHeartbeatResp, From: 3, To: 2, Term: leader.term() - 1, // of before
	}); err != nil {
		t.Fatal(err)
	}
	if !leader.space.others[3] {
		t.Error("an answer of an older term counts")
	}
	leader.TransferLeadership(1)
	if net.settle(); !net.cores[1].isLeader() {
		t.Fatal("member 1 does not lead after the hand-over")
	}
	if len(leader.space.others) > 0 {
		t.Errorf("a member that leads no more knows %v of the disks, want nothing", leader.space.others)
	}
}

// A change of leader alone is no reason to take writes, nor one to refuse them.
func TestANewLeaderGoesOnWithTheVerdictUntilItHasHeard(t *testing.T) {
	for _, tt := range []struct {
		name    string
		before  []uint64 // the full disks under the old leader
		after   []uint64
		first   []bool // what the new leader says at its first heartbeats
		refused bool
	}{
		{"still full", []uint64{1, 3}, []uint64{1, 3}, []bool{true, true, true}, true},
		{"space again", []uint64{1, 3}, nil, []bool{true, false, false}, false},
		{"newly full", nil, []uint64{1, 3}, []bool{false, true, true}, true},
		{"never full", nil, nil, []bool{false, false, false}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			net := newCoreNet(t, 3)
			old := net.elect(1)
			for range 2 {
				net.tickWith() // so that there is somebody to hand over to
			}
			for range 3 {
				for _, id := range net.ids {
					net.cores[id].space.noHandOverBefore = time.Hour
				}
				net.tickWith(tt.before...)
			}
			old.TransferLeadership(2)
			if net.settle(); !net.cores[2].isLeader() {
				t.Fatal("member 2 does not lead after the hand-over")
			}
			for i, want := range tt.first {
				net.tickWith(tt.after...)
				if got := len(net.refusing()) == 3; got != want {
					t.Errorf("heartbeat %d: writes are refused everywhere = %v, want %v", i+1, got, want)
				}
			}
		})
	}
}

// The answers to a heartbeat come one by one. One that tells of a full disk is
// no reason to refuse writes while a quorum without it may be there.
func TestALeaderWaitsForThoseWhoHaveNotToldYet(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	net.drop = func(m raftpb.Message) bool { return m.Type == raftpb.MsgHeartbeatResp && m.From == 3 }
	for range 5 {
		net.tickWith(2)
	}
	if leader.WritesRefused() {
		t.Error("writes are refused before member 3 has told about its disk")
	}
	net.isolate(3) // and when it is silent, it counts no more
	for range 12 {
		net.tickWith(2)
	}
	if !leader.WritesRefused() {
		t.Error("writes are accepted with one disk above the reserve and one member silent")
	}
}

// A learner never stops to believe in a leader, so silence ends what it said.
func TestALearnerWhoHearsNothingForgetsTheVerdict(t *testing.T) {
	net := newCoreNetOf(t, 1, 1)
	net.elect(1)
	for range 3 {
		net.tickWith(1)
	}
	if got := net.refusing(); !slices.Equal(got, net.ids) {
		t.Fatalf("writes are refused at %v, want everywhere", got)
	}
	net.isolate(2)
	for range 31 {
		net.tickWith(1)
	}
	if got := net.refusing(); !slices.Equal(got, []uint64{1}) {
		t.Errorf("writes are refused at %v, want at the leader only", got)
	}
}

func TestAFullDiskHandsLeadershipToAVoterWithRoom(t *testing.T) {
	for _, tt := range []struct {
		name             string
		voters, learners int
		low, silent      []uint64
		leads            uint64
	}{
		{"there is one", 3, 0, []uint64{1, 2}, nil, 3},
		{"there are two", 3, 0, []uint64{1}, nil, 2},
		{"there is none", 3, 0, []uint64{1, 2, 3}, nil, 1},
		{"it is silent", 3, 0, []uint64{1, 2}, []uint64{3}, 1},
		{"it is a learner", 2, 1, []uint64{1, 2}, nil, 1},
		{"the leader has room", 3, 0, []uint64{2, 3}, nil, 1},
		{"two voters, one of them full", 2, 0, []uint64{1}, nil, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			net := newCoreNetOf(t, tt.voters, tt.learners)
			net.elect(1)
			for _, id := range tt.silent {
				net.isolate(id)
			}
			for range 11 {
				net.tickWith() // the silent one becomes known to be so
			}
			var asked []uint64
			for range 300 {
				asked = append(asked, net.tickWith(tt.low...)...)
			}
			if !net.cores[tt.leads].isLeader() {
				t.Errorf("member %d does not lead", tt.leads)
			}
			var want []uint64
			if tt.leads != 1 {
				want = []uint64{tt.leads}
			}
			if !slices.Equal(asked, want) {
				t.Errorf("%v were asked to lead in 30 s, want %v", asked, want)
			}
		})
	}
}

func TestAVoterWhoDoesNotTakeOverIsAskedOnceInAWhile(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	net.drop = func(m raftpb.Message) bool { return m.Type == raftpb.MsgTimeoutNow }
	asked := 0
	for range 250 { // 25 s: at the beginning, after 10 s and after 20 s
		asked += len(net.tickWith(1))
	}
	if asked != 3 || !leader.isLeader() {
		t.Errorf("somebody was asked %d times in 25 s and member 1 leads = %v, want 3 times and true", asked, leader.isLeader())
	}
	net.drop = nil
	for range 100 {
		net.tickWith(1)
	}
	if leader.isLeader() {
		t.Error("member 1 still leads 10 s after the others could take over")
	}
}

// Whoever has taken over may be asked again as soon as leadership comes back.
func TestAFullDiskThatLeadsAgainHandsOverAgain(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	for range 3 {
		net.tickWith()
	}
	for n := range 3 {
		var asked []uint64
		for range 3 {
			asked = append(asked, net.tickWith(1)...)
		}
		if !slices.Equal(asked, []uint64{2}) || !net.cores[2].isLeader() {
			t.Fatalf("hand-over %d: %v were asked and member 2 leads = %v, want only member 2, and true", n+1, asked, net.cores[2].isLeader())
		}
		net.cores[2].TransferLeadership(1)
		net.settle()
	}
}

// Room that appears after a vain look is used at once.
func TestAVoterThatGetsRoomLeadsAtOnce(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	for range 50 {
		if asked := net.tickWith(1, 2, 3); len(asked) > 0 {
			t.Fatalf("%v were asked to lead without room", asked)
		}
	}
	net.tickWith(1, 2) // member 3 tells that it has room
	net.tickWith(1, 2)
	if !net.cores[3].isLeader() {
		t.Error("member 3 does not lead two heartbeats after it has told that it has room")
	}
}

func TestAnyHandOverPrefersAVoterWithRoom(t *testing.T) {
	net := newCoreNet(t, 3)
	leader := net.elect(1)
	net.cut[[2]uint64{1, 3}] = true // so that member 2 is ahead
	leader.Propose(net.now, testProposal(1, "a"))
	net.settle()
	clear(net.cut)
	leader.space.others[2], leader.space.others[3] = true, false
	leader.heardFrom[2], leader.heardFrom[3] = net.now, net.now
	if got := leader.TransferLeadership(raft.None); got != 3 {
		t.Errorf("TransferLeadership(0) = %d, want 3, the voter with room", got)
	}
	if got := leader.TransferLeadership(2); got != 2 {
		t.Errorf("TransferLeadership(2) = %d, want 2, who was asked for", got)
	}
}

// A voter that is added while the disks are full counts from when its addition
// is applied, and one that is removed no more.
func TestMembershipChangesGoOnWhileWritesAreRefused(t *testing.T) {
	net := newCoreNetOf(t, 3, 1)
	leader := net.elect(1)
	low := []uint64{2, 3}
	for range 3 {
		net.tickWith(low...)
	}
	change := func(kind raftpb.ConfChangeType, id uint64) {
		cc := raftpb.ConfChange{Type: kind, NodeID: id}
		data, err := cc.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		before := leader.Status().Committed
		leader.Propose(net.now, Proposal{Seq: id, Type: raftpb.EntryConfChange, Data: data})
		net.settle()
		if got := leader.Status().Committed; got != before+1 {
			t.Fatalf("committed up to raft index %d after %v of member %d, want %d", got, kind, id, before+1)
		}
		for _, id := range net.ids {
			net.cores[id].ApplyConfChange(cc)
		}
		for range 2 {
			net.tickWith(low...)
		}
	}
	change(raftpb.ConfChangeAddNode, 4) // two of four have room
	if got := net.refusing(); !slices.Equal(got, net.ids) {
		t.Errorf("writes are refused at %v with room on two of four voters, want everywhere", got)
	}
	change(raftpb.ConfChangeRemoveNode, 3)
	if got := net.refusing(); len(got) > 0 && !slices.Equal(got, []uint64{3}) { // nobody tells a removed member anything
		t.Errorf("writes are refused at %v with room on two of three voters, want nowhere", got)
	}
	if _, known := leader.space.others[3]; known {
		t.Error("the leader still knows the disk of a member that was removed")
	}
}

// The bits travel in a field of raft's, which must not see them.
func TestRaftDoesNotSeeWhatIsSaidAboutDisks(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	said := map[raftpb.MessageType]int{}
	net.drop = func(m raftpb.Message) bool {
		if m.Reject {
			said[m.Type]++
		}
		return false
	}
	for range 5 {
		net.tickWith(2, 3)
	}
	if said[raftpb.MsgHeartbeat] == 0 || said[raftpb.MsgHeartbeatResp] == 0 || len(said) != 2 {
		t.Errorf("messages that reject = %v, want heartbeats and their answers only", said)
	}
	for _, kind := range []raftpb.MessageType{raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgAppResp} {
		m := raftpb.Message{Type: kind, From: 2, To: 1, Term: 1, Reject: true}
		net.cores[1].takeSpace(&m)
		if want := kind == raftpb.MsgAppResp; m.Reject != want {
			t.Errorf("takeSpace() leaves Reject of a %s %v, want %v", kind, m.Reject, want)
		}
	}
}

// A peer of an older version never says anything about its disk.
func TestPeersThatSayNothingAboutTheirDisksHaveRoom(t *testing.T) {
	net := newCoreNet(t, 3)
	net.elect(1)
	for range 5 {
		net.tick()
		net.cores[1].WatchSpace(false)
		net.settle()
	}
	if got := net.refusing(); len(got) > 0 {
		t.Errorf("writes are refused at %v, want nowhere", got)
	}
}

func TestANodeSaysWhenTheClusterRefusesWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		logs, full := map[uint64]*syncbuf.Buffer{}, map[uint64]*atomic.Bool{}
		_, nodes := startNodes(t, 3, func(cfg *Config) {
			logs[cfg.ID], full[cfg.ID] = new(syncbuf.Buffer), new(atomic.Bool)
			cfg.Logger = slog.New(slog.NewTextHandler(logs[cfg.ID], nil))
			cfg.DiskLow = full[cfg.ID].Load
		})
		leader := leaderOf(t, nodes)
		leads := leader.node.cfg.ID
		var low []string
		for id, f := range full {
			if f.Store(id != leads); id != leads {
				low = append(low, fmt.Sprintf("%x", id))
			}
		}
		slices.Sort(low)
		expect := func(refused bool, begins, ends int) {
			t.Helper()
			for _, tn := range nodes {
				if got := tn.node.WritesRefused(); got != refused {
					t.Errorf("WritesRefused() of member %d = %v, want %v", tn.node.cfg.ID, got, refused)
				}
				said := logs[tn.node.cfg.ID].String()
				if got := strings.Count(said, "level=WARN msg=\"writes are refused in the cluster"); got != begins {
					t.Errorf("member %d has said %d times that writes are refused, want %d:\n%s", tn.node.cfg.ID, got, begins, said)
				}
				if got := strings.Count(said, "level=INFO msg=\"writes are accepted in the cluster"); got != ends {
					t.Errorf("member %d has said %d times that writes are accepted, want %d:\n%s", tn.node.cfg.ID, got, ends, said)
				}
			}
		}
		<-time.After(time.Minute)
		expect(true, 1, 0)
		if want := fmt.Sprintf("low=\"[%s]\" silent=[]", strings.Join(low, " ")); !strings.Contains(logs[leads].String(), want) {
			t.Errorf("the leader has not said %s:\n%s", want, logs[leads])
		}
		// What does not come from clients goes on.
		if _, err := nodes[0].node.Propose(t.Context(), proposal("expiry")); err != nil {
			t.Errorf("Propose() while writes are refused = %v, want nil", err)
		}
		for _, f := range full {
			f.Store(false)
		}
		<-time.After(time.Minute)
		expect(false, 1, 1)
	})
}

func TestTheLossOfALeaderIsNoEndOfTheWantOfSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log syncbuf.Buffer
		net, nodes := startNodes(t, 2, func(cfg *Config) {
			if cfg.DiskLow = func() bool { return true }; cfg.ID == 1 {
				cfg.Logger = slog.New(slog.NewTextHandler(&log, nil))
			}
		})
		leaderOf(t, nodes)
		<-time.After(time.Second)
		net.mu.Lock()
		net.cut[2] = true
		net.mu.Unlock()
		<-time.After(time.Minute)
		if nodes[0].node.WritesRefused() {
			t.Error("WritesRefused() without a leader = true, want false")
		}
		if said := log.String(); !strings.Contains(said, "writes are refused in the cluster") || strings.Contains(said, "writes are accepted") {
			t.Errorf("member 1 has said %s, want that writes are refused and nothing of an end", said)
		}
	})
}
