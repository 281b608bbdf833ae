package raftnode

import (
	"context"
	"sync"
)

// outcome is what the proposer of an entry is told.
type outcome struct {
	result any
	err    error
}

// waiters is the registry of those who wait for their proposals to be applied.
type waiters struct {
	mu    sync.Mutex
	bySeq map[uint64]chan outcome
	err   error // set once: nobody will be told any more
	free  []chan outcome
}

// freeWaitersMax bounds the channels kept for reuse.
const freeWaitersMax = 4096

func newWaiters() *waiters { return &waiters{bySeq: make(map[uint64]chan outcome)} }

// add registers a proposal. The channel gets exactly one outcome, unless the
// proposal is removed before.
func (w *waiters) add(seq uint64) (chan outcome, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return nil, w.err
	}
	var ch chan outcome
	if n := len(w.free); n > 0 {
		ch, w.free = w.free[n-1], w.free[:n-1]
	} else {
		ch = make(chan outcome, 1)
	}
	w.bySeq[seq] = ch
	return ch, nil
}

// wait returns the outcome of a registered proposal, or the context's error if
// that comes first; the outcome is unknown then.
func (w *waiters) wait(ctx context.Context, seq uint64, ch chan outcome) outcome {
	var out outcome
	select {
	case out = <-ch:
	case <-ctx.Done():
		if w.remove(seq) {
			out = outcome{err: ctx.Err()}
		} else {
			out = <-ch // it was just being told
		}
	}
	w.mu.Lock()
	if len(w.free) < freeWaitersMax {
		w.free = append(w.free, ch)
	}
	w.mu.Unlock()
	return out
}

func (w *waiters) remove(seq uint64) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.bySeq[seq]
	delete(w.bySeq, seq)
	return ok
}

// tell completes those proposals of a batch that are waited for. It is called
// after their effects have been published.
func (w *waiters) tell(run uint64, entries []Entry, results []any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range entries {
		if entries[i].Run != run {
			continue
		}
		w.tellLocked(entries[i].Seq, outcome{result: results[i]})
	}
}

// refuse completes a proposal that was not made.
func (w *waiters) refuse(seq uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.tellLocked(seq, outcome{err: err})
}

// giveUp completes all proposals up to a number with err.
func (w *waiters) giveUp(upTo uint64, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for seq := range w.bySeq {
		if seq <= upTo {
			w.tellLocked(seq, outcome{err: err})
		}
	}
}

func (w *waiters) tellLocked(seq uint64, out outcome) {
	if ch, ok := w.bySeq[seq]; ok {
		delete(w.bySeq, seq)
		ch <- out
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
		w.tellLocked(seq, outcome{err: err})
	}
}

func (w *waiters) pending() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.bySeq)
}
