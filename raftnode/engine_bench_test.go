package raftnode_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
	"github.com/marsevilspirit/deimos/snap"
	"github.com/marsevilspirit/deimos/transport"
	"github.com/marsevilspirit/deimos/wal"
)

// BenchmarkEngine measures the raft engine alone: real logs, real peers over
// loopback HTTP, and a machine that does nothing. It reports proposals or reads
// per second at the leader with 64 callers.
func BenchmarkEngine(b *testing.B) {
	for _, members := range []int{1, 3} {
		b.Run(fmt.Sprintf("propose/members=%d", members), func(b *testing.B) {
			leader := startEngine(b, members)
			run(b, 64, func() error {
				_, err := leader.Propose(b.Context(), make([]byte, raftnode.PrefixBytes+128))
				return err
			})
		})
		b.Run(fmt.Sprintf("read/members=%d", members), func(b *testing.B) {
			leader := startEngine(b, members)
			run(b, 64, func() error { return leader.Read(b.Context()) })
		})
	}
}

// run calls f from many goroutines, b.N times in all.
func run(b *testing.B, callers int, f func() error) {
	b.Helper()
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(b.N))
	for range callers {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				if err := f(); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "op/s")
}

type idleMachine struct{}

func (idleMachine) Apply([]raftnode.Entry, []any) error { return nil }
func (idleMachine) ApplyConfChange(raftnode.Entry, raftpb.ConfChange) (bool, any, error) {
	return true, nil, nil
}
func (idleMachine) Capture() func(io.Writer) error {
	return func(w io.Writer) error { _, err := w.Write([]byte{0}); return err }
}
func (idleMachine) Restore(uint64, io.Reader) (int64, error) { return 1, nil }

// startEngine starts members and returns the leader.
func startEngine(b *testing.B, members int) *raftnode.Node {
	b.Helper()
	meta := raftpb.SnapshotMetadata{Index: 1, Term: 1}
	var list []deimos.Member
	handlers := make([]http.Handler, members)
	for i := range members {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handlers[i].ServeHTTP(w, r) }))
		b.Cleanup(server.Close)
		list = append(list, deimos.Member{ID: uint64(i + 1), PeerURLs: []string{server.URL}})
		meta.ConfState.Voters = append(meta.ConfState.Voters, uint64(i+1))
	}
	transports := make([]*transport.HTTP, members)
	nodes := make([]*raftnode.Node, members)
	for i, m := range list {
		nodes[i], transports[i] = openEngine(b, m, meta)
		handlers[i] = transports[i].Handler()
	}
	for i := range list {
		for _, m := range list {
			if err := transports[i].AddPeer(m); err != nil {
				b.Fatal(err)
			}
		}
		nodes[i].Start(transports[i])
	}
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for range ticker.C {
		for _, n := range nodes {
			if n.Status().IsLeader() && n.Read(b.Context()) == nil {
				return n
			}
		}
	}
	panic("unreachable")
}

func openEngine(b *testing.B, m deimos.Member, meta raftpb.SnapshotMetadata) (*raftnode.Node, *transport.HTTP) {
	b.Helper()
	dir := b.TempDir()
	log := slog.New(slog.DiscardHandler)
	snapDir := filepath.Join(dir, "snap")
	snapshots, err := snap.Open(snap.Config{Dir: snapDir, MaxSnapshots: 5})
	if err != nil {
		b.Fatal(err)
	}
	if err := snapshots.Save(meta, idleMachine{}.Capture()); err != nil {
		b.Fatal(err)
	}
	hs := raftpb.HardState{Term: 1, Commit: 1}
	w, err := wal.Create(wal.Config{Dir: filepath.Join(dir, "wal"), MaxWALs: 5}, wal.Identity{ClusterID: 1, MemberID: m.ID}, meta, hs)
	if err != nil {
		b.Fatal(err)
	}
	node, err := raftnode.New(raftnode.Config{
		ID: m.ID, Run: m.ID * 1000, HeartbeatInterval: 100 * time.Millisecond, ElectionTimeout: time.Second,
		SnapshotCount: 10000, Recovered: raftnode.Recovered{Snapshot: meta, TimeMS: 1, HardState: hs},
		Log: w, Snapshots: snapshots, Machine: idleMachine{}, Logger: log,
	})
	if err != nil {
		b.Fatal(err)
	}
	t, err := transport.NewHTTP(transport.Config{ClusterID: 1, MemberID: m.ID, Incarnation: deimos.Incarnation{1}, PeerURLs: m.PeerURLs, SnapDir: snapDir, Receiver: node})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		node.Stop()
		t.Stop()
		if err := w.Close(); err != nil {
			b.Error(err)
		}
	})
	return node, t
}
