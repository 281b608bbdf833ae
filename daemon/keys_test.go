package daemon_test

import (
	"context"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/daemon"
	"github.com/marsevilspirit/deimos/httpapi"
	"github.com/marsevilspirit/deimos/internal/clustertest"
	"github.com/marsevilspirit/deimos/internal/keystest"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/server"
	"github.com/marsevilspirit/deimos/store"
)

// The conformance suite, through the doors inside one process. The real binary
// has its own in test/e2e.

func TestKeysOfOneMember(t *testing.T) {
	t.Parallel()
	keystest.Run(t, memberDoor{keystest.URL(clustertest.New(t, 1).Member(0).URL())}, keystest.Options{})
}

func TestKeysOfAFollowerOfThree(t *testing.T) {
	t.Parallel()
	keystest.Run(t, keystest.URL(clustertest.New(t, 3).Follower().URL()), keystest.Options{})
}

func TestKeysOfAServerWithoutRaft(t *testing.T) {
	t.Parallel()
	keystest.Run(t, newServerDoor(t, daemon.Config{}), keystest.Options{KnownDifferences: map[string]string{
		"other/metrics": "there is no raft node to measure",
	}})
}

// memberDoor leads to one member and can start others.
type memberDoor struct{ keystest.Door }

// Fresh implements [keystest.Fresher].
func (memberDoor) Fresh(t testing.TB, flags ...string) keystest.Door {
	c := clustertest.New(t, 1, func(cfg *daemon.Config) { setFlags(t, cfg, flags) })
	return keystest.URL(c.Member(0).URL())
}

// setFlags changes a configuration as flags of the program would.
func setFlags(t testing.TB, cfg *daemon.Config, flags []string) {
	t.Helper()
	for i := 0; i+1 < len(flags); i += 2 {
		value := flags[i+1]
		switch flags[i] {
		case "--history-events":
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Limits.HistoryEvents = n
		case "--max-value-bytes":
			n, err := strconv.Atoi(value)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Limits.MaxValueBytes = n
		case "--cors":
			cfg.CORS = strings.Split(value, ",")
		case "--watch-timeout":
			d, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			cfg.Timing.Watch = d
		default:
			t.Skipf("this door does not know %s", flags[i])
		}
	}
}

// serverDoor is store, server and front end without raft, disk or time: what is
// proposed is applied at once, and the clock is turned by hand.
type serverDoor struct {
	keystest.Door
	*applyNode
}

func newServerDoor(t testing.TB, cfg daemon.Config) serverDoor {
	t.Helper()
	st := store.New(store.Config{HistoryEvents: cfg.Limits.HistoryEvents, HistoryBytes: int64(cfg.Limits.HistoryBytes)})
	self := deimos.Member{ID: 1, Name: "default", ClientURLs: []string{"http://127.0.0.1:4001"}}
	node := &applyNode{machine: server.NewMachine(st, []deimos.Member{self}, nil), index: 1, start: time.Now()}
	s := server.New(server.Config{Self: self, Machine: node.machine, Node: node, ExpiryInterval: 5 * time.Millisecond})
	handler, err := httpapi.New(httpapi.Config{
		Backend: serverBackend{s, node}, WatchTimeout: cfg.Timing.Watch, ValueMaxBytes: cfg.Limits.MaxValueBytes,
		CORS: cfg.CORS, Now: node.Now, Version: "test",
	})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(handler)
	front.Config = httpapi.Server(handler, nil)
	front.Start()
	t.Cleanup(func() {
		s.EndWatches()
		front.Close()
		s.Close()
	})
	return serverDoor{keystest.URL(front.URL), node}
}

// Fresh implements [keystest.Fresher].
func (serverDoor) Fresh(t testing.TB, flags ...string) keystest.Door {
	var cfg daemon.Config
	setFlags(t, &cfg, flags)
	return newServerDoor(t, cfg)
}

// applyNode stands for a raftnode.Node whose proposals are applied at once.
type applyNode struct {
	mu      sync.Mutex
	machine *server.Machine
	index   uint64
	start   time.Time
	ahead   time.Duration // by which the clock was advanced
}

func (n *applyNode) Propose(_ context.Context, data []byte) (any, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.index++
	results := make([]any, 1)
	err := n.machine.Apply([]raftnode.Entry{{
		Index: n.index, Term: 1, TimeMS: n.timeMS(), Run: 1, Seq: n.index, Data: data[raftnode.PrefixBytes:],
	}}, results)
	return results[0], err
}

func (n *applyNode) BeginPropose(_ time.Time, data []byte, done raftnode.Done) {
	done(n.Propose(context.Background(), data))
}

func (n *applyNode) BeginRead(_ time.Time, done raftnode.Done) { done(nil, nil) }

func (n *applyNode) Read(context.Context) error { return nil }

// Current lets reads go the long way: they have the short one on an only member.
func (n *applyNode) Current() bool { return false }

func (n *applyNode) TransferLeadership(context.Context, uint64) error { return nil }

func (n *applyNode) WritesRefused() bool { return false }

func (n *applyNode) Progress(context.Context) ([]raftnode.Progress, error) { return nil, nil }

func (n *applyNode) ProposeConfChange(context.Context, raftpb.ConfChange) (any, error) {
	return nil, raftnode.ErrNotLeader // there is no raft under this node
}

func (n *applyNode) Status() raftnode.Status {
	n.mu.Lock()
	defer n.mu.Unlock()
	return raftnode.Status{ID: 1, Leader: 1, Term: 1, State: raft.StateLeader, Applied: n.index}
}

func (n *applyNode) ClusterTimeMS() int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.timeMS()
}

func (n *applyNode) timeMS() int64 { return 1 + (time.Since(n.start) + n.ahead).Milliseconds() }

// Now implements [keystest.Clock].
func (n *applyNode) Now() time.Time {
	n.mu.Lock()
	defer n.mu.Unlock()
	return time.Now().Add(n.ahead)
}

// Advance implements [keystest.Clock].
func (n *applyNode) Advance(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ahead += d
}

type serverBackend struct {
	*server.Server
	node *applyNode
}

func (b serverBackend) Status() httpapi.Status {
	st := b.node.Status()
	return httpapi.Status{ClusterID: 1, RaftIndex: st.Applied, RaftTerm: st.Term}
}

func (b serverBackend) Leader() uint64 { return 1 }

func (b serverBackend) SelfStats() httpapi.SelfStats { return httpapi.SelfStats{} }

func (b serverBackend) LeaderStats() (httpapi.LeaderStats, bool) { return httpapi.LeaderStats{}, false }

func (b serverBackend) StoreStats() httpapi.StoreStats { return httpapi.StoreStats{} }

func (b serverBackend) Ready(context.Context) error { return nil }
