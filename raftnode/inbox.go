package raftnode

import (
	"errors"
	"sync"

	"go.etcd.io/raft/v3/raftpb"
)

// Bounds of what waits for the loop. Proposals wait there while there is no
// leader too.
const (
	queuedMax      = 16384
	queuedBytesMax = 64 << 20
	peersMax       = 8192
	peersBytesMax  = 64 << 20
)

// ErrOverloaded says that too many proposals wait already. Nothing was
// proposed.
var ErrOverloaded = errors.New("raftnode: too many proposals are waiting")

// inputs is what the loop takes in at one turn.
type inputs struct {
	locals    []raftpb.Message // responses of the append and apply loops
	peers     []raftpb.Message
	proposals []Proposal
	calls     []func(*Core)
}

// inbox collects inputs for the loop.
type inbox struct {
	mu sync.Mutex
	inputs
	// queued and queuedBytes count proposals from their arrival until the core
	// has handed them to raft or given them back.
	queued, queuedBytes int
	peersBytes          int // of the entries in peers
	// seq numbers the proposals in the order of their arrival.
	seq  uint64
	wake chan struct{}
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// nextSeq numbers a proposal.
func (b *inbox) nextSeq() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.seq++
	return b.seq
}

// lastSeq returns the number of the newest proposal.
func (b *inbox) lastSeq() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seq
}

// propose queues a proposal, or returns [ErrOverloaded].
func (b *inbox) propose(p Proposal) error {
	b.mu.Lock()
	if b.queued >= queuedMax || b.queuedBytes+len(p.Data) > queuedBytesMax {
		b.mu.Unlock()
		return ErrOverloaded
	}
	b.queued++
	b.queuedBytes += len(p.Data)
	b.proposals = append(b.proposals, p)
	b.mu.Unlock()
	b.signal()
	return nil
}

// dequeued tells that proposals are out of the queue.
func (b *inbox) dequeued(count, bytes int) {
	if count == 0 {
		return
	}
	b.mu.Lock()
	b.queued -= count
	b.queuedBytes -= bytes
	b.mu.Unlock()
}

// peer queues a message of a peer. It reports false when the message was
// dropped because the loop is far behind; raft asks again.
func (b *inbox) peer(m raftpb.Message) bool {
	bytes := 0
	for i := range m.Entries {
		bytes += len(m.Entries[i].Data)
	}
	b.mu.Lock()
	if len(b.peers) >= peersMax || b.peersBytes+bytes > peersBytesMax {
		b.mu.Unlock()
		return false
	}
	b.peersBytes += bytes
	b.peers = append(b.peers, m)
	b.mu.Unlock()
	b.signal()
	return true
}

// local queues responses. They are never dropped: how many there are is
// bounded by what the append and apply loops were given.
func (b *inbox) local(ms ...raftpb.Message) {
	b.mu.Lock()
	b.locals = append(b.locals, ms...)
	b.mu.Unlock()
	b.signal()
}

func (b *inbox) call(f func(*Core)) {
	b.mu.Lock()
	b.calls = append(b.calls, f)
	b.mu.Unlock()
	b.signal()
}

// take removes everything. The slices of spare are reused for what comes next.
func (b *inbox) take(spare inputs) inputs {
	clear(spare.locals)
	clear(spare.peers)
	clear(spare.proposals)
	clear(spare.calls)
	b.mu.Lock()
	defer b.mu.Unlock()
	in := b.inputs
	b.peersBytes = 0
	b.inputs = inputs{
		locals: spare.locals[:0], peers: spare.peers[:0],
		proposals: spare.proposals[:0], calls: spare.calls[:0],
	}
	return in
}
