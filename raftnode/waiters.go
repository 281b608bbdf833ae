package raftnode

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Done is told once how a proposal or a read has ended, with the machine's
// result of a proposal. It is called by a goroutine that others wait for, and
// with locks held: it must not block or call the node.
type Done func(result any, err error)

// waiter is somebody who waits for a proposal or a read to end.
type waiter struct {
	done     Done
	seq      uint64     // of the proposal
	batch    *readBatch // of the read
	deadline deadline
}

// waiters is the registry of those who wait for their proposals to be applied.
type waiters struct {
	mu        sync.Mutex
	bySeq     map[uint64]*waiter
	deadlines deadlines
	err       error // set once: nobody will be told any more
	free      []*waiter
	failed    atomic.Uint64 // how many were told an error
}

// freeWaitersMax bounds the waiters kept for reuse.
const freeWaitersMax = 4096

func newWaiters() *waiters {
	w := &waiters{bySeq: make(map[uint64]*waiter)}
	w.deadlines.init(&w.mu, func(x *waiter) {
		// The entry may be applied later all the same: its outcome is unknown.
		w.tell(x.seq, nil, context.DeadlineExceeded)
	})
	return w
}

// add registers a proposal. done is told exactly one outcome, by the deadline,
// unless that is zero.
func (w *waiters) add(seq uint64, by time.Time, done Done) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	x := w.take()
	x.seq, x.done = seq, done
	w.bySeq[seq] = x
	w.deadlines.add(x, by)
	return nil
}

func (w *waiters) take() *waiter {
	n := len(w.free)
	if n == 0 {
		return new(waiter)
	}
	x := w.free[n-1]
	w.free = w.free[:n-1]
	return x
}

// applied completes those proposals of a batch that are waited for. It is called
// after their effects have been published.
func (w *waiters) applied(run uint64, entries []Entry, results []any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range entries {
		if entries[i].Run == run {
			w.tell(entries[i].Seq, results[i], nil)
		}
	}
}

// refuse completes a proposal, if it is still waited for, with err.
func (w *waiters) refuse(seq uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tell(seq, nil, err)
}

// giveUp completes all proposals up to a number with err.
func (w *waiters) giveUp(upTo uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for seq := range w.bySeq {
		if seq <= upTo {
			w.tell(seq, nil, err)
		}
	}
}

// tell completes a proposal. The caller holds the mutex.
func (w *waiters) tell(seq uint64, result any, err error) {
	x, ok := w.bySeq[seq]
	if !ok {
		return
	}
	delete(w.bySeq, seq)
	w.deadlines.remove(x)
	if err != nil {
		w.failed.Add(1)
	}
	x.done(result, err)
	if *x = (waiter{}); len(w.free) < freeWaitersMax {
		w.free = append(w.free, x)
	}
}

// close completes everything with err, now and later.
func (w *waiters) close(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	w.err = err
	for seq := range w.bySeq {
		w.tell(seq, nil, err)
	}
}

func (w *waiters) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.bySeq)
}
