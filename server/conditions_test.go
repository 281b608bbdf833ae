package server

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/raftnode"
)

// gatedNode holds proposals until its gate is open.
type gatedNode struct {
	*fakeNode
	gate chan struct{}
}

func (n gatedNode) BeginPropose(deadline time.Time, data []byte, done raftnode.Done) {
	go func() {
		<-n.gate
		n.fakeNode.BeginPropose(deadline, data, done)
	}()
}

// All writes are proposed before the first one is applied. Whether a condition
// holds is decided one after the other, in the order of the log.
func TestOneOfManyConditionalWritesWins(t *testing.T) {
	for _, tt := range []struct {
		name    string
		request func(index uint64) deimos.Request
	}{
		{"by index", func(index uint64) deimos.Request {
			return deimos.Request{Op: deimos.OpCompareAndSwap, Key: "/lock", PrevIndex: index}
		}},
		{"by value", func(uint64) deimos.Request {
			return deimos.Request{Op: deimos.OpCompareAndSwap, Key: "/lock", HasPrevValue: true, PrevValue: "free"}
		}},
		{"by existence", func(uint64) deimos.Request { return deimos.Request{Op: deimos.OpCreate, Key: "/new"} }},
		{"a removal", func(index uint64) deimos.Request {
			return deimos.Request{Op: deimos.OpCompareAndDelete, Key: "/lock", PrevIndex: index}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := gatedNode{&fakeNode{machine: newTestMachine(), start: time.Now()}, make(chan struct{})}
				log := &logWriter{index: 100}
				apply(t, n.machine, log.set(t, "/lock", "free", -1))
				s := New(Config{Self: deimos.Member{ID: 1, Name: "a"}, Machine: n.machine, Node: n})
				t.Cleanup(s.Close)
				r := tt.request(n.machine.Store().View().Index())
				const writers = 5
				told := make(chan error, writers)
				for i := range writers {
					go func() {
						own := r
						own.Value = fmt.Sprintf("owner %d", i)
						_, err := write(s, &own)
						told <- err
					}()
				}
				synctest.Wait()
				close(n.gate)
				won := 0
				for range writers {
					var e *deimos.Error
					if err := <-told; err == nil {
						won++
					} else if !errors.As(err, &e) || e.Code == deimos.CodeRaftInternal {
						t.Errorf("Write = %v, want nil or what the condition says", err)
					}
				}
				if won != 1 {
					t.Errorf("%d of %d writers won, want 1", won, writers)
				}
			})
		})
	}
}

// Nobody knows whether a proposal without an answer takes effect, so a second
// one might make it take effect twice.
func TestARequestIsProposedOnce(t *testing.T) {
	for _, err := range []error{
		context.DeadlineExceeded, context.Canceled, raftnode.ErrLeaderChanged, raftnode.ErrNoLeader, raftnode.ErrOverloaded, raftnode.ErrStopped,
	} {
		t.Run(err.Error(), func(t *testing.T) {
			n := &fakeNode{err: err}
			s := startServer(t, n)
			if _, err := write(s, &deimos.Request{Op: deimos.OpSet, Key: "/a"}); err == nil {
				t.Error("Write = nil, want an error")
			}
			if got := n.proposed.Load(); got != 1 {
				t.Errorf("proposed %d times, want once", got)
			}
		})
	}
}
