package transport

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos"
)

func TestMessagesArriveUnchanged(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		for _, m := range []raftpb.Message{
			heartbeat(1, 2, 7),
			appendMessage(1, 2, 41, "x"),
			appendMessage(1, 2, 42, "y"),
			{Type: raftpb.MsgProp, From: 1, To: 2, Entries: []raftpb.Entry{{Data: []byte("p")}, {Data: []byte("q")}}},
			{Type: raftpb.MsgVote, From: 1, To: 2, Term: 3, LogTerm: 2, Index: 9, Context: []byte("c")},
			{Type: raftpb.MsgReadIndex, From: 3, To: 2, Entries: []raftpb.Entry{{Data: []byte("ctx")}}},
		} {
			t.Run(m.Type.String(), func(t *testing.T) {
				before := len(b.recv.messages())
				want, err := m.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				a.sender.Send([]raftpb.Message{m})
				b.recv.wait(t, "the message", func() bool { return len(b.recv.got) > before }, nil)
				got := b.recv.messages()[before]
				back, err := got.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want, back); diff != "" {
					t.Errorf("message %v changed (-sent +received):\n%s", m, diff)
				}
				if len(m.Entries) > 0 && len(m.Entries[0].Data) > 0 && &m.Entries[0].Data[0] == &got.Entries[0].Data[0] {
					t.Error("the members share memory")
				}
			})
		}
	})
}

func TestMessagesKeepTheirOrder(t *testing.T) {
	const count = 2000
	rigs(t, func(t *testing.T, r rig) {
		nodes := []*node{r.start(t, 1, 2, 3), r.start(t, 2, 1, 3), r.start(t, 3, 1, 2)}
		r.link(t, nodes[0], nodes[2])
		r.link(t, nodes[1], nodes[2])
		for i := range uint64(count) {
			nodes[0].sender.Send([]raftpb.Message{appendMessage(1, 3, i, "a")})
			nodes[1].sender.Send([]raftpb.Message{appendMessage(2, 3, i, "b")})
		}
		nodes[2].recv.wait(t, "all messages", func() bool { return len(nodes[2].recv.got) == 2*count }, nil)
		next := make(map[uint64]uint64)
		for _, m := range nodes[2].recv.messages() {
			if m.Index != next[m.From] {
				t.Fatalf("message from %d has index %d, want %d", m.From, m.Index, next[m.From])
			}
			next[m.From]++
		}
	})
}

func TestPeerThatWasDownIsReachedAgain(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		r.stop(b)
		send := func() { a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)}) }
		a.recv.wait(t, "report of the loss", func() bool { return a.recv.unreachable[2] > 0 }, send)
		eventually(t, "inactive peer", func() bool { return a.sender.ActiveSince(2).IsZero() })
		b = r.start(t, 2, 1)
		b.recv.wait(t, "a message after the return", func() bool { return len(b.recv.got) > 0 }, send)
		eventually(t, "active peer", func() bool { return !a.sender.ActiveSince(2).IsZero() })
	})
}

func TestUnknownTargetIsReported(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a := r.start(t, 1)
		a.sender.Send([]raftpb.Message{{To: raft.None}, heartbeat(1, 9, 1)})
		a.recv.wait(t, "report", func() bool { return a.recv.unreachable[9] > 0 }, nil)
		if got := a.recv.losses(raft.None); got != 0 {
			t.Errorf("ReportUnreachable(None) was called %d times, want 0", got)
		}
		body := &pattern{size: 10}
		a.sender.SendSnapshot(snapshotMessage(1, 9, 5), 10, body)
		waitSnapshot(t, a, 1, snapshotReport{9, raft.SnapshotFailure})
		if body.closes() != 1 {
			t.Errorf("body was closed %d times, want once", body.closes())
		}
	})
}

func TestOversizedMessageIsDropped(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		small, large := appendMessage(1, 2, 1, ""), appendMessage(1, 2, 1, "")
		overhead := func(n int) int { m := small; m.Entries[0].Data = make([]byte, n); return m.Size() - n }
		large.Entries[0].Data = make([]byte, messageMaxBytes-overhead(messageMaxBytes)+1)
		small.Entries[0].Data = make([]byte, messageMaxBytes-overhead(messageMaxBytes))
		if small.Size() != messageMaxBytes || large.Size() != messageMaxBytes+1 {
			t.Fatalf("sizes = %d and %d, want the limit and one more", small.Size(), large.Size())
		}
		a.sender.Send([]raftpb.Message{large})
		a.recv.wait(t, "report", func() bool { return a.recv.unreachable[2] > 0 }, nil)
		a.sender.Send([]raftpb.Message{small})
		b.recv.wait(t, "the message at the limit", func() bool { return len(b.recv.got) > 0 }, nil)
		if got := b.recv.messages(); len(got) != 1 || got[0].Size() != messageMaxBytes {
			t.Errorf("%d messages arrived, want the one at the limit", len(got))
		}
	})
}

// waitSnapshot waits until n transfers of a node have ended, and checks the
// last.
func waitSnapshot(t testing.TB, a *node, n int, want snapshotReport) {
	t.Helper()
	a.recv.wait(t, "end of the transfer", func() bool { return len(a.recv.snapshots) >= n }, nil)
	a.recv.mu.Lock()
	defer a.recv.mu.Unlock()
	if got := a.recv.snapshots[n-1]; got != want {
		t.Fatalf("ReportSnapshot() = %v, want %v", got, want)
	}
}

// Goal: a snapshot never is in memory as a whole, at either end. Both members
// are in this process; the limit is the one that the fault rules set for the
// leader alone.
func TestSnapshotIsStreamed(t *testing.T) {
	const size, limit = 50 << 20, 32 << 20
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		name := filepath.Join(b.dir, "0000000000000abc.snap.db")
		var atProcess error
		b.recv.refuseWith(func(raftpb.Message) error {
			_, atProcess = os.Stat(name)
			return nil
		})
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		body := &pattern{size: size}
		a.sender.SendSnapshot(snapshotMessage(1, 2, 0xabc), size, body)
		waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFinish})
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > limit {
			t.Errorf("a snapshot of %d bytes took %d bytes of memory, want at most %d", size, got, limit)
		}
		checkFile(t, name, size)
		if got := b.recv.messages(); len(got) != 1 || got[0].Type != raftpb.MsgSnap || got[0].Snapshot.Metadata.Index != 0xabc {
			t.Errorf("messages = %v, want one MsgSnap for raft index abc", got)
		}
		if atProcess != nil {
			t.Errorf("the file when its message was processed: %v", atProcess)
		}
		if body.closes() != 1 {
			t.Errorf("body was closed %d times, want once", body.closes())
		}
		if got := files(t, b.dir); len(got) != 1 {
			t.Errorf("files = %v, want only the snapshot", got)
		}
	})
}

func TestSnapshotFailureLeavesNothing(t *testing.T) {
	const size = 1 << 20
	for _, tt := range []struct {
		name   string
		body   func() *pattern
		refuse error
		files  int
	}{
		{"short body", func() *pattern { return &pattern{size: size - 1} }, nil, 0},
		{"long body", func() *pattern { return &pattern{size: size + 1} }, nil, 0},
		{"empty body", func() *pattern { return &pattern{} }, nil, 0},
		{"failing body", func() *pattern { return &pattern{size: size, fail: errors.New("disk"), failAt: size / 2} }, nil, 0},
		{"refused message", func() *pattern { return &pattern{size: size} }, errors.New("no"), 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rigs(t, func(t *testing.T, r rig) {
				a, b := r.start(t, 1, 2), r.start(t, 2, 1)
				r.link(t, a, b)
				b.recv.refuseWith(func(raftpb.Message) error { return tt.refuse })
				body := tt.body()
				a.sender.SendSnapshot(snapshotMessage(1, 2, 5), size, body)
				waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
				if body.closes() != 1 {
					t.Errorf("body was closed %d times, want once", body.closes())
				}
				if got := b.recv.messages(); len(got) != 0 {
					t.Errorf("messages = %v, want none", got)
				}
				eventually(t, "clean directory", func() bool { return len(files(t, b.dir)) == tt.files })
				b.recv.refuseWith(nil)
				a.sender.SendSnapshot(snapshotMessage(1, 2, 6), size, &pattern{size: size})
				waitSnapshot(t, a, 2, snapshotReport{2, raft.SnapshotFinish})
				checkFile(t, filepath.Join(b.dir, "0000000000000006.snap.db"), size)
			})
		})
	}
}

func TestOneSnapshotAtATimeToAPeer(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		release := make(chan struct{})
		first := &pattern{size: 1 << 20, pace: func(at int64) {
			if at > 0 {
				<-release
			}
		}}
		a.sender.SendSnapshot(snapshotMessage(1, 2, 5), 1<<20, first)
		second := &pattern{size: 10}
		a.sender.SendSnapshot(snapshotMessage(1, 2, 6), 10, second)
		waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
		if second.closes() != 1 {
			t.Errorf("second body was closed %d times, want once", second.closes())
		}
		close(release)
		waitSnapshot(t, a, 2, snapshotReport{2, raft.SnapshotFinish})
	})
}

func TestSnapshotMessageIsNotSentAsAMessage(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		a.sender.Send([]raftpb.Message{snapshotMessage(1, 2, 5)})
		waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
		a.sender.SendSnapshot(raftpb.Message{Type: raftpb.MsgSnap, From: 1, To: 2}, 1, &pattern{size: 1})
		waitSnapshot(t, a, 2, snapshotReport{2, raft.SnapshotFailure})
		if got := b.recv.messages(); len(got) != 0 {
			t.Errorf("messages = %v, want none", got)
		}
	})
}

func TestRemovedMemberIsRefusedAndTold(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		r.markRemoved(1)
		b.sender.RemovePeer(1)
		before := len(b.recv.messages())
		var err error
		a.recv.wait(t, "news of the removal", func() bool {
			select {
			case err = <-a.sender.Err():
				return true
			default:
				return false
			}
		}, func() { a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)}) })
		if !errors.Is(err, ErrRemoved) {
			t.Errorf("Err() = %v, want %v", err, ErrRemoved)
		}
		a.sender.SendSnapshot(snapshotMessage(1, 2, 5), 10, &pattern{size: 10})
		waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
		if got := b.recv.messages()[before:]; len(got) != 0 {
			t.Errorf("messages of a removed member = %v, want none", got)
		}
		if err := b.sender.AddPeer(deimos.Member{ID: 1, PeerURLs: []string{"http://127.0.0.1:1"}}); err == nil {
			t.Error("AddPeer(removed member) = nil, want an error")
		}
	})
}

func TestPeersAreAddedAndRemovedAtAnyTime(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		member := deimos.Member{ID: 2, PeerURLs: []string{"http://127.0.0.1:1"}}
		if h, ok := r.(*httpRig); ok {
			member.PeerURLs = []string{h.url(t, 2)}
		}
		for range 3 {
			a.sender.RemovePeer(2)
			a.sender.RemovePeer(2)
			a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
			if err := a.sender.UpdatePeer(member); !errors.Is(err, ErrUnknownPeer) {
				t.Errorf("UpdatePeer() after RemovePeer = %v, want %v", err, ErrUnknownPeer)
			}
			for range 2 {
				if err := a.sender.AddPeer(member); err != nil {
					t.Errorf("AddPeer() = %v, want nil", err)
				}
			}
			if err := a.sender.UpdatePeer(member); err != nil {
				t.Errorf("UpdatePeer() = %v, want nil", err)
			}
			before := len(b.recv.messages())
			b.recv.wait(t, "a message", func() bool { return len(b.recv.got) > before }, func() {
				a.sender.Send([]raftpb.Message{heartbeat(1, 2, 2)})
			})
		}
		if err := a.sender.AddPeer(deimos.Member{}); err == nil {
			t.Error("AddPeer(id 0) = nil, want an error")
		}
		if err := a.sender.AddPeer(deimos.Member{ID: 1, PeerURLs: member.PeerURLs}); err != nil {
			t.Errorf("AddPeer(self) = %v, want nil", err)
		}
	})
}

func TestNothingHappensAfterStop(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		started := make(chan struct{})
		release := make(chan struct{})
		body := &pattern{size: 1 << 20, pace: func(at int64) {
			if at == 0 {
				close(started)
				return
			}
			<-release
		}}
		a.sender.SendSnapshot(snapshotMessage(1, 2, 5), 1<<20, body)
		<-started
		stopped := make(chan struct{})
		go func() {
			for range 100 {
				a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
				b.sender.Send([]raftpb.Message{heartbeat(2, 1, 1)})
			}
			close(release)
			close(stopped)
		}()
		a.sender.Stop()
		a.sender.Stop()
		after := len(a.recv.messages())
		<-stopped
		for range 100 {
			b.sender.Send([]raftpb.Message{heartbeat(2, 1, 2)})
		}
		waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
		late := &pattern{size: 10}
		a.sender.SendSnapshot(snapshotMessage(1, 2, 6), 10, late)
		a.sender.Send([]raftpb.Message{heartbeat(1, 2, 3)})
		if late.closes() != 1 || body.closes() != 1 {
			t.Errorf("bodies were closed %d and %d times, want once each", body.closes(), late.closes())
		}
		if err := a.sender.AddPeer(deimos.Member{ID: 3, PeerURLs: []string{"http://127.0.0.1:1"}}); !errors.Is(err, ErrStopped) {
			t.Errorf("AddPeer() after Stop = %v, want %v", err, ErrStopped)
		}
		a.sender.RemovePeer(2)
		r.stop(b)
		if got := len(a.recv.messages()); got != after {
			t.Errorf("%d messages were delivered after Stop, want 0", got-after)
		}
	})
}

func TestSendDoesNotCallBackOnItsGoroutine(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a := r.start(t, 1, 2)
		// The receiver is busy, as the loop of a node is while it sends.
		a.recv.mu.Lock()
		for range 3 * linkQueueMax {
			a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1), heartbeat(1, 9, 1)})
		}
		a.sender.SendSnapshot(snapshotMessage(1, 9, 5), 10, io.NopCloser(&pattern{size: 10}))
		a.recv.mu.Unlock()
		a.recv.wait(t, "reports", func() bool {
			return a.recv.unreachable[2] > 0 && a.recv.unreachable[9] > 0 && len(a.recv.snapshots) == 1
		}, nil)
	})
}

func BenchmarkSend(b *testing.B) {
	for _, bench := range []struct {
		name string
		rig  rig
	}{
		{"HTTP", newHTTPRig(b)},
		{"Network", &networkRig{NewNetwork()}},
	} {
		for _, size := range []int{128, 16 << 10} {
			b.Run(fmt.Sprintf("%s/%dB", bench.name, size), func(b *testing.B) { benchmarkSend(b, bench.rig, size) })
		}
	}
}

// benchmarkSend measures append messages with one entry that go one way over
// loopback, with 512 at most on their way.
func benchmarkSend(b *testing.B, r rig, size int) {
	from, to := r.start(b, 1, 2), r.start(b, 2, 1)
	r.link(b, from, to)
	window := make(chan struct{}, 512)
	to.recv.refuseWith(func(raftpb.Message) error {
		<-window
		return errTaken
	})
	data := string(make([]byte, size))
	b.SetBytes(int64(size))
	i := uint64(0)
	for b.Loop() {
		window <- struct{}{}
		from.sender.Send([]raftpb.Message{appendMessage(1, 2, i, data)})
		i++
	}
	b.ReportMetric(float64(i)/b.Elapsed().Seconds(), "messages/s")
}
