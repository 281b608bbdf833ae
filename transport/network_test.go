package transport

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
)

// pairOnNetwork joins members 1 and 2.
func pairOnNetwork(t *testing.T) (*Network, *node, *node) {
	t.Helper()
	r := &networkRig{NewNetwork()}
	return r.network, r.start(t, 1), r.start(t, 2)
}

func TestNetworkCutsAndHeals(t *testing.T) {
	for _, tt := range []struct {
		name     string
		cut      func(*Network)
		forward  bool // 1 reaches 2
		backward bool
	}{
		{"no cut", func(*Network) {}, true, true},
		{"cut", func(n *Network) { n.Cut(1, 2) }, false, false},
		{"one way", func(n *Network) { n.CutOneWay(1, 2) }, false, true},
		{"other way", func(n *Network) { n.CutOneWay(2, 1) }, true, false},
		{"isolated", func(n *Network) { n.Isolate(2) }, false, false},
		{"another pair", func(n *Network) { n.Cut(1, 3) }, true, true},
		{"mended", func(n *Network) { n.Cut(1, 2); n.Mend(2, 1) }, true, true},
		{"healed", func(n *Network) { n.Isolate(1); n.Heal() }, true, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := NewNetwork()
				a, b := newRecorder(), newRecorder()
				one, two := n.Join(JoinConfig{ID: 1, Receiver: a}), n.Join(JoinConfig{ID: 2, Receiver: b})
				defer one.Stop()
				defer two.Stop()
				tt.cut(n)
				one.Send([]raftpb.Message{heartbeat(1, 2, 1)})
				two.Send([]raftpb.Message{heartbeat(2, 1, 1)})
				synctest.Wait()
				if got := len(b.messages()) == 1; got != tt.forward || (a.losses(2) == 0) != tt.forward {
					t.Errorf("2 heard 1 = %t, reports %d, want %t", got, a.losses(2), tt.forward)
				}
				if got := len(a.messages()) == 1; got != tt.backward || (b.losses(1) == 0) != tt.backward {
					t.Errorf("1 heard 2 = %t, reports %d, want %t", got, b.losses(1), tt.backward)
				}
				both := tt.forward && tt.backward
				if got := !one.ActiveSince(2).IsZero(); got != both {
					t.Errorf("ActiveSince(2) is set = %t, want %t", got, both)
				}
				n.Heal()
				one.Send([]raftpb.Message{heartbeat(1, 2, 2)})
				synctest.Wait()
				if got := b.messages(); len(got) == 0 || got[len(got)-1].Commit != 2 {
					t.Errorf("messages after Heal = %v, want the new one last", got)
				}
			})
		})
	}
}

func TestNetworkQueueIsBounded(t *testing.T) {
	_, a, b := pairOnNetwork(t)
	entered, release := make(chan struct{}), make(chan struct{})
	b.recv.refuseWith(func(m raftpb.Message) error {
		if m.Commit == 0 {
			close(entered)
			<-release
		}
		return nil
	})
	a.sender.Send([]raftpb.Message{heartbeat(1, 2, 0)})
	<-entered
	for i := range uint64(linkQueueMax) {
		a.sender.Send([]raftpb.Message{heartbeat(1, 2, i+1)})
	}
	if a.recv.losses(2) != 0 {
		t.Fatal("a message was dropped before the queue was full")
	}
	a.sender.Send([]raftpb.Message{heartbeat(1, 2, linkQueueMax+1)})
	a.recv.wait(t, "report", func() bool { return a.recv.unreachable[2] > 0 }, nil)
	close(release)
	b.recv.wait(t, "the queued messages", func() bool { return len(b.recv.got) == linkQueueMax+1 }, nil)
}

func TestNetworkCutEndsASnapshot(t *testing.T) {
	const size = 1 << 20
	for _, tt := range []struct {
		name string
		end  func(*Network, *node)
	}{
		{"cut", func(n *Network, _ *node) { n.Cut(1, 2) }},
		{"target stopped", func(_ *Network, b *node) { go b.sender.Stop() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n, a, b := pairOnNetwork(t)
			body := &pattern{size: size}
			body.pace = func(at int64) {
				if at > size/2 {
					body.pace = nil
					tt.end(n, b)
					eventually(t, "no connection", func() bool { return a.sender.ActiveSince(2).IsZero() })
				}
			}
			a.sender.SendSnapshot(snapshotMessage(1, 2, 5), size, body)
			waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
			if got := files(t, b.dir); len(got) != 0 {
				t.Errorf("files = %v, want none", got)
			}
			if got := b.recv.messages(); len(got) != 0 {
				t.Errorf("messages = %v, want none", got)
			}
		})
	}
}

func TestSnapshotIntoAMissingDirectoryFails(t *testing.T) {
	rigs(t, func(t *testing.T, r rig) {
		a, b := r.start(t, 1, 2), r.start(t, 2, 1)
		r.link(t, a, b)
		if err := os.Remove(b.dir); err != nil {
			t.Fatal(err)
		}
		a.sender.SendSnapshot(snapshotMessage(1, 2, 5), 10, &pattern{size: 10})
		waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
		if got := b.recv.messages(); len(got) != 0 {
			t.Errorf("messages = %v, want none", got)
		}
	})
}

func TestSnapshotWhoseNameIsTakenByADirectoryLeavesNothing(t *testing.T) {
	n, a, b := pairOnNetwork(t)
	taken := filepath.Join(b.dir, "0000000000000005.snap.db")
	if err := os.MkdirAll(filepath.Join(taken, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	a.sender.SendSnapshot(snapshotMessage(1, 2, 5), 10, &pattern{size: 10})
	waitSnapshot(t, a, 1, snapshotReport{2, raft.SnapshotFailure})
	if got := files(t, b.dir); len(got) != 1 {
		t.Errorf("files = %v, want only the directory", got)
	}
	n.Heal()
}

func TestJoinReplacesAnEndpoint(t *testing.T) {
	n, a, b := pairOnNetwork(t)
	fresh := newRecorder()
	e := n.Join(JoinConfig{ID: 2, Receiver: fresh, SnapDir: t.TempDir()})
	defer e.Stop()
	b.sender.Stop() // ends the old one a second time, and must not take the new one off
	a.sender.Send([]raftpb.Message{heartbeat(1, 2, 1)})
	fresh.wait(t, "a message", func() bool { return len(fresh.got) == 1 }, nil)
	if err := n.endpoints[2].inbox.process(heartbeat(1, 3, 1)); !errors.Is(err, errRefused) {
		t.Errorf("process(message for another member) = %v, want %v", err, errRefused)
	}
	if got := len(b.recv.messages()); got != 0 {
		t.Errorf("the old endpoint got %d messages, want 0", got)
	}
}

func TestNetworkCutLosesTheAnswerOfACall(t *testing.T) {
	n, a, b := pairOnNetwork(t)
	n.CutOneWay(b.id, a.id)
	if _, err := a.sender.Call(t.Context(), b.id, nil); err == nil || errors.Is(err, ErrNotSent) {
		t.Errorf("Call() without a way back = %v, want an error that leaves the outcome open", err)
	}
	n.Cut(a.id, b.id)
	if _, err := a.sender.Call(t.Context(), b.id, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("Call() = %v, want %v", err, ErrNotSent)
	}
	n.Heal()
	a.sender.RemovePeer(b.id)
	if _, err := a.sender.Call(t.Context(), b.id, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("Call() to a peer that was dropped = %v, want %v", err, ErrNotSent)
	}
	silent := n.Join(JoinConfig{ID: 3, Receiver: newRecorder()})
	defer silent.Stop()
	if _, err := a.sender.Call(t.Context(), 3, nil); !errors.Is(err, ErrNotSent) {
		t.Errorf("Call() to a member that answers nothing = %v, want %v", err, ErrNotSent)
	}
}
