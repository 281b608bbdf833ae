package transport

import (
	"errors"
	"fmt"
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/raftnode"
)

// refusal is the reason for which a message was not delivered, as the metric
// names it.
type refusal string

// The reasons that end up in the header X-Deimos-Refused are part of the
// protocol between members.
const (
	refusedCluster     refusal = "cluster"     // of another cluster
	refusedRecipient   refusal = "recipient"   // for another member
	refusedSender      refusal = "sender"      // without a sender, of an unknown one, or in the name of another
	refusedRemoved     refusal = "removed"     // from a removed member
	refusedIncarnation refusal = "incarnation" // from another data directory than the one that is known
	refusedTwin        refusal = "twin"        // from a second process of a member
	refusedUnsettled   refusal = "unsettled"   // from a process of which it is not known yet whether it is a second one
	refusedExpected    refusal = "expected"    // meant for another data directory of this member
	refusedSecret      refusal = "secret"      // without a good proof
	refusedRun         refusal = "run"         // with a proof for another run of this process
	refusedClock       refusal = "clock"       // with a good proof that is too old or too new
	refusedPaused      refusal = "paused"      // from an address that failed too often
	refusedBusy        refusal = "busy"        // too many at one time
	refusedNotReady    refusal = "not_ready"   // a call before somebody can answer it
	refusedTooLarge    refusal = "too_large"   // above a limit
	refusedReceiver    refusal = "receiver"    // the receiver said no
	refusedOpening     refusal = "opening"     // the request itself was not acceptable
	refusedPanic       refusal = "panic"       // a decoder gave up
)

// errRefused is the kind of the errors that refused has already been told of.
var errRefused = errors.New("transport: message refused")

// errSenderRemoved tells the sender of a message that it was removed.
type errSenderRemoved struct{ id uint64 }

func (e errSenderRemoved) Error() string {
	return fmt.Sprintf("transport: message refused: the sender %x was removed", e.id)
}

// Is makes it a refusal.
func (e errSenderRemoved) Is(target error) bool { return target == errRefused }

// inbox is the gate before a receiver: it refuses what is not for it, and lets
// nothing through once it is closed.
type inbox struct {
	self      uint64
	receiver  raftnode.Receiver
	isRemoved func(uint64) bool
	// onRefused is told of each refused message, on the delivering goroutine.
	onRefused func(*raftpb.Message, refusal, error)

	mu     sync.RWMutex // held for reading during a delivery
	closed bool
}

func newInbox(self uint64, r raftnode.Receiver, isRemoved func(uint64) bool) *inbox {
	return &inbox{
		self: self, receiver: r, isRemoved: isRemoved,
		onRefused: func(*raftpb.Message, refusal, error) {},
	}
}

// process delivers m or refuses it.
func (b *inbox) process(m raftpb.Message) error {
	switch {
	case m.To != b.self:
		return b.refuse(&m, refusedRecipient, fmt.Errorf("%w: %s for %x", errRefused, m.Type, m.To))
	case m.From == raft.None:
		return b.refuse(&m, refusedSender, fmt.Errorf("%w: %s without a sender", errRefused, m.Type))
	case b.isRemoved(m.From):
		return b.refuse(&m, refusedRemoved, errSenderRemoved{m.From})
	}
	b.mu.RLock()
	defer b.mu.RUnlock()
	if b.closed {
		return ErrStopped
	}
	from, kind := m.From, m.Type // m is the receiver's from here on
	if err := b.receiver.Process(m); err != nil {
		return b.refuse(&raftpb.Message{From: from, Type: kind}, refusedReceiver, fmt.Errorf("%w: %w", errRefused, err))
	}
	return nil
}

func (b *inbox) refuse(m *raftpb.Message, r refusal, err error) error {
	b.onRefused(m, r, err)
	return err
}

// close waits for deliveries that are under way and refuses all later ones.
func (b *inbox) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
}

// reporter tells a receiver about lost peers and ended transfers on a goroutine
// of its own, because a sender that is called back by what it calls can wait
// for itself. Reports about one peer that say the same are told once.
type reporter struct {
	receiver raftnode.Receiver
	wake     chan struct{} // holds a token while there may be reports

	mu      sync.Mutex
	lost    map[uint64]bool // nil when empty; bounded by the number of members
	ended   []snapshotReport
	closing bool
}

type snapshotReport struct {
	id     uint64
	status raft.SnapshotStatus
}

func newReporter(r raftnode.Receiver) *reporter {
	return &reporter{receiver: r, wake: make(chan struct{}, 1)}
}

// unreachable reports that messages to a peer were dropped.
func (r *reporter) unreachable(id uint64) {
	r.mu.Lock()
	if r.lost == nil {
		r.lost = make(map[uint64]bool)
	}
	r.lost[id] = true
	r.mu.Unlock()
	r.signal()
}

// snapshot reports the end of a transfer. The list is bounded by the messages
// that raft has outstanding: one a peer until it hears of its end.
func (r *reporter) snapshot(id uint64, status raft.SnapshotStatus) {
	r.mu.Lock()
	r.ended = append(r.ended, snapshotReport{id, status})
	r.mu.Unlock()
	r.signal()
}

// close makes run return once it has told what it was asked to tell.
func (r *reporter) close() {
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	r.signal()
}

func (r *reporter) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// run tells reports until the reporter is closed.
func (r *reporter) run() {
	for range r.wake {
		r.mu.Lock()
		lost, ended, closing := r.lost, r.ended, r.closing
		r.lost, r.ended = nil, nil
		r.mu.Unlock()
		for id := range lost {
			r.receiver.ReportUnreachable(id)
		}
		for _, e := range ended {
			r.receiver.ReportSnapshot(e.id, e.status)
		}
		if closing {
			return
		}
	}
}
