package raftnode

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// readRoundsMax bounds the rounds under way: reads that arrive meanwhile share
// the next one.
const readRoundsMax = 2

// readBatch is all the reads that share one round.
type readBatch struct {
	waiters   []*waiter
	raftIndex uint64 // that has to be applied; 0 before the confirmation
}

// readers gathers linearizable reads into batches.
type readers struct {
	mu        sync.Mutex
	deadlines deadlines
	next      *readBatch            // gathers; not begun
	begun     map[uint64]*readBatch // by round, waiting for their confirmation
	behind    []*readBatch          // confirmed, waiting for the apply loop
	applied   uint64
	err       error
}

func newReaders(applied uint64) *readers {
	r := &readers{begun: make(map[uint64]*readBatch), applied: applied}
	r.deadlines.init(&r.mu, func(x *waiter) { r.giveUp(x, context.DeadlineExceeded) })
	return r
}

// join adds a read to the batch that will begin next. done is told exactly one
// outcome, by the deadline, unless that is zero. fresh means that the loop has to
// be woken for the batch.
func (r *readers) join(by time.Time, done Done) (x *waiter, fresh bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil, false, r.err
	}
	if r.next == nil {
		r.next, fresh = new(readBatch), true
	}
	x = &waiter{done: done, batch: r.next}
	r.next.waiters = append(r.next.waiters, x)
	r.deadlines.add(x, by)
	return x, fresh, nil
}

// end completes the reads of a batch. The caller holds the mutex.
func (r *readers) end(b *readBatch, err error) {
	for _, x := range b.waiters {
		r.deadlines.remove(x)
		x.done(nil, err)
	}
	b.waiters = nil
}

// leave completes one read, if it has not ended yet, with err.
func (r *readers) leave(x *waiter, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadlines.remove(x)
	r.giveUp(x, err)
}

// giveUp completes one read without its batch. The caller holds the mutex.
func (r *readers) giveUp(x *waiter, err error) {
	i := slices.Index(x.batch.waiters, x)
	if i < 0 {
		return
	}
	x.batch.waiters = slices.Delete(x.batch.waiters, i, i+1)
	if x.batch.raftIndex != 0 { // only the apply loop keeps it waiting
		err = fmt.Errorf("%w: %w", ErrBehind, err)
	}
	x.done(nil, err)
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
			r.end(b, res.Err)
		case res.RaftIndex <= r.applied:
			r.end(b, nil)
		default:
			b.raftIndex = res.RaftIndex
			r.behind = append(r.behind, b)
		}
	}
}

// advance tells that the state up to raftIndex has been published.
func (r *readers) advance(raftIndex uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.applied = raftIndex
	r.behind = slices.DeleteFunc(r.behind, func(b *readBatch) bool {
		if b.raftIndex <= raftIndex {
			r.end(b, nil)
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
		r.end(r.next, err)
		r.next = nil
	}
	for id, b := range r.begun {
		r.end(b, err)
		delete(r.begun, id)
	}
	for _, b := range r.behind {
		r.end(b, err)
	}
	r.behind = nil
}
