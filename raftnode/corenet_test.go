package raftnode

import (
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

const (
	testHeartbeat = 100 * time.Millisecond
	testElection  = time.Second
)

// coreNet runs cores in one goroutine with hand-turned ticks: appends, applies
// and messages are carried out only when the test says so.
type coreNet struct {
	t     *testing.T
	cores map[uint64]*testCore
	ids   []uint64
	now   time.Duration
	cut   map[[2]uint64]bool
	// drop, unless nil, sees every message to a peer and loses it on true.
	drop func(m raftpb.Message) bool
}

type testCore struct {
	*Core
	storage *raft.MemoryStorage
	// holdAppends keeps appends undone, as a disk that hangs.
	holdAppends bool
	appends     []raftpb.Message
	applied     []raftpb.Entry
	reads       []ReadResult
	refused     []Refusal
}

func newCoreNet(t *testing.T, n int) *coreNet {
	net := &coreNet{t: t, cores: map[uint64]*testCore{}, cut: map[[2]uint64]bool{}}
	for id := range uint64(n) {
		net.ids = append(net.ids, id+1)
	}
	for _, id := range net.ids {
		storage := raft.NewMemoryStorage()
		if err := storage.ApplySnapshot(firstSnapshot(net.ids)); err != nil {
			t.Fatal(err)
		}
		net.start(id, storage)
	}
	return net
}

func firstSnapshot(voters []uint64) raftpb.Snapshot {
	return raftpb.Snapshot{Metadata: raftpb.SnapshotMetadata{
		Index: 1, Term: 1, ConfState: raftpb.ConfState{Voters: voters},
	}}
}

func (net *coreNet) start(id uint64, storage *raft.MemoryStorage) *testCore {
	core, err := NewCore(CoreConfig{
		ID: id, Run: 1000 + id, ElectionTicks: 10, ElectionTimeout: testElection,
		Storage: storage, Applied: 1, Logger: raftLogger{slog.New(slog.DiscardHandler)},
	})
	if err != nil {
		net.t.Fatalf("NewCore(%d): %v", id, err)
	}
	net.cores[id] = &testCore{Core: core, storage: storage}
	return net.cores[id]
}

// elect makes id the leader.
func (net *coreNet) elect(id uint64) *testCore {
	net.t.Helper()
	c := net.cores[id]
	if err := c.rn.Campaign(); err != nil {
		net.t.Fatal(err)
	}
	net.settle()
	if !c.isLeader() {
		net.t.Fatalf("member %d did not become leader", id)
	}
	return c
}

// tick counts one heartbeat interval on every member.
func (net *coreNet) tick() {
	net.now += testHeartbeat
	for _, id := range net.ids {
		net.cores[id].Tick(net.now)
	}
}

// settle carries out everything until nothing is left to do.
func (net *coreNet) settle() {
	for range 10000 {
		var peers []raftpb.Message
		busy := false
		for _, id := range net.ids {
			ms, did := net.turn(net.cores[id])
			peers = append(peers, ms...)
			busy = busy || did
		}
		for _, m := range peers {
			net.deliver(m)
		}
		if !busy && len(peers) == 0 {
			return
		}
	}
	net.t.Fatal("the cores do not come to rest")
}

func (net *coreNet) turn(c *testCore) (peers []raftpb.Message, busy bool) {
	out := c.Outputs()
	peers = out.Peers
	c.reads = append(c.reads, out.Reads...)
	c.refused = append(c.refused, out.Refused...)
	c.appends = append(c.appends, out.Appends...)
	if !c.holdAppends {
		for _, m := range c.appends {
			busy = true
			if err := c.storage.Append(m.Entries); err != nil {
				net.t.Fatal(err)
			}
			if hs := hardStateOf(&m); !raft.IsEmptyHardState(hs) {
				if err := c.storage.SetHardState(hs); err != nil {
					net.t.Fatal(err)
				}
			}
			peers = append(peers, net.local(c, m.Responses)...)
		}
		c.appends = nil
	}
	for _, m := range out.Applies {
		busy = true
		c.applied = append(c.applied, m.Entries...)
		peers = append(peers, net.local(c, m.Responses)...)
	}
	return peers, busy
}

func (net *coreNet) local(c *testCore, responses []raftpb.Message) (peers []raftpb.Message) {
	for _, m := range responses {
		if m.To != c.cfg.ID {
			peers = append(peers, m)
			continue
		}
		if err := c.StepLocal(net.now, m); err != nil {
			net.t.Fatal(err)
		}
	}
	return peers
}

func (net *coreNet) deliver(m raftpb.Message) {
	to := net.cores[m.To]
	if to == nil || net.cut[[2]uint64{m.From, m.To}] || (net.drop != nil && net.drop(m)) {
		return
	}
	// A message on a wire is a copy.
	data, err := m.Marshal()
	if err != nil {
		net.t.Fatal(err)
	}
	var copied raftpb.Message
	if err := copied.Unmarshal(data); err != nil {
		net.t.Fatal(err)
	}
	if err := to.Step(net.now, copied); err != nil {
		net.t.Fatalf("Step(%s from %d to %d): %v", m.Type, m.From, m.To, err)
	}
}

func (net *coreNet) isolate(id uint64) {
	for _, other := range net.ids {
		net.cut[[2]uint64{id, other}] = true
		net.cut[[2]uint64{other, id}] = true
	}
}

func testProposal(seq uint64, text string) Proposal {
	data := make([]byte, PrefixBytes, PrefixBytes+len(text))
	putOrigin(data, 7, seq)
	return Proposal{Seq: seq, Data: append(data, text...)}
}

// texts returns what was proposed among the applied entries.
func (c *testCore) texts() []string {
	var out []string
	for i := range c.applied {
		if e := decodeEntry(&c.applied[i]); e.Data != nil {
			out = append(out, string(e.Data))
		}
	}
	return out
}

func checkTexts(t *testing.T, c *testCore, want ...string) {
	t.Helper()
	if got := c.texts(); !slices.Equal(got, want) {
		t.Errorf("member %d applied %q, want %q", c.cfg.ID, got, want)
	}
}

func (c *testCore) String() string { return fmt.Sprintf("member %d", c.cfg.ID) }
