package raftnode

import (
	"slices"
	"sync"
)

// readRoundsMax bounds the rounds under way: reads that arrive meanwhile share
// the next one.
const readRoundsMax = 2

// readBatch is all the reads that share one round.
type readBatch struct {
	done      chan struct{}
	raftIndex uint64 // that has to be applied; 0 before the confirmation
	err       error  // written before done is closed
}

func (b *readBatch) end(err error) {
	b.err = err
	close(b.done)
}

// readers gathers linearizable reads into batches.
type readers struct {
	mu      sync.Mutex
	next    *readBatch            // gathers; not begun
	begun   map[uint64]*readBatch // by round, waiting for their confirmation
	behind  []*readBatch          // confirmed, waiting for the apply loop
	applied uint64
	err     error
}

func newReaders(applied uint64) *readers {
	return &readers{begun: make(map[uint64]*readBatch), applied: applied}
}

// join returns the batch that will begin next. fresh means that the loop has
// to be woken for it.
func (r *readers) join() (b *readBatch, fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, false, r.err
	}
	if r.next == nil {
		r.next, fresh = &readBatch{done: make(chan struct{})}, true
	}
	return r.next, fresh, nil
}

// begin starts a round for the gathered reads, unless enough are under way.
func (r *readers) begin(c *Core) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next != nil && len(r.begun) < readRoundsMax {
		r.begun[c.BeginRead()] = r.next
		r.next = nil
	}
}

// waiting reports whether gathered reads could begin now.
func (r *readers) waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.next != nil && len(r.begun) < readRoundsMax
}

// finish ends the round of a result, or leaves it to the apply loop.
func (r *readers) finish(results []ReadResult) {
	if len(results) == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, res := range results {
		b := r.begun[res.ID]
		if b == nil {
			continue
		}
		delete(r.begun, res.ID)
		switch {
		case res.Err != nil:
			b.end(res.Err)
		case res.RaftIndex <= r.applied:
			b.end(nil)
		default:
			b.raftIndex = res.RaftIndex
			r.behind = append(r.behind, b)
		}
	}
}

// confirmed reports whether only the apply loop keeps the batch waiting.
func (r *readers) confirmed(b *readBatch) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return b.raftIndex != 0
}

// advance tells that the state up to raftIndex has been published.
func (r *readers) advance(raftIndex uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = raftIndex
	r.behind = slices.DeleteFunc(r.behind, func(b *readBatch) bool {
		if b.raftIndex <= raftIndex {
			b.end(nil)
			return true
		}
		return false
	})
}

// close ends all reads with err, now and later.
func (r *readers) close(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return
	}
	r.err = err
	if r.next != nil {
		r.next.end(err)
		r.next = nil
	}
	for id, b := range r.begun {
		b.end(err)
		delete(r.begun, id)
	}
	for _, b := range r.behind {
		b.end(err)
	}
	r.behind = nil
}
