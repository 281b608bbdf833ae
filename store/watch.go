package store

import (
	"context"
	"errors"
	"sync"
)

// The bounds of what waits for a watcher. Events that it still has to read
// from the history do not count.
const (
	// WatchEventsMax is how many live events may wait.
	WatchEventsMax = 1024
	// WatchBytesMax is what waiting live events may cost together, in bytes
	// as [Store.Apply] counts them. One event may wait whatever it costs.
	WatchBytesMax = 1 << 20
)

// The ends of a watch.
var (
	// ErrSlowWatcher is returned by [Watcher.Next] once it has handed out all
	// events from before the first one that found no room.
	ErrSlowWatcher = errors.New("store: the watcher is too slow")
	// ErrWatchEnded is returned by [Watcher.Next] after the watcher was closed,
	// or the store ended all watches: it installed a snapshot or is stopping.
	ErrWatchEnded = errors.New("store: the watch has ended")
	// ErrStopped is returned by [Store.Watch] after [Store.CloseWatches].
	ErrStopped = errors.New("store: no more watches, the store is stopping")
)

// Watcher hands out the events that match one watch, each exactly once, with
// rising indexes and without a gap, until it ends. However it ends, a new
// watch from the last index + 1 misses nothing, or is told that the history
// no longer reaches back.
//
// Next, Poll, Ready, Replays and Await belong to the consumer, one goroutine at a time.
// Close, StartIndex and everything the store does may run beside it.
type Watcher struct {
	hub        *hub
	group      *group
	slot       int // in group.watchers; -1 when not registered; guarded by hub.mu
	startIndex uint64
	fromIndex  uint64
	recursive  bool

	// The consumer's own: what is left of the history, nil when it is done.
	replay *replay

	mu    sync.Mutex
	queue []*Event // live events from head on
	head  int
	bytes int64
	end   error
	wake  func() // of Await; nil when nobody waits

	woken chan struct{} // of Next, made when it first has to wait
}

// replay is the part of the history that a watch began with. It is pinned at
// registration, so whatever the history clears later is still handed out.
type replay struct {
	events eventRange // from the next event to look at
	found  *Event     // a match that Ready has found
}

// StartIndex returns the store index at which the watch began: what Next hands
// out up to this index comes from the history, the rest is live.
func (w *Watcher) StartIndex() uint64 { return w.startIndex }

// Next returns the next event, history first, and waits for one if need be.
//
// The error is ctx.Err() as soon as ctx is done, even if events wait;
// [ErrWatchEnded] as soon as the watch was closed or ended by the store, with
// events that still waited dropped; or [ErrSlowWatcher] when the watch has
// overflowed and all events from before that were handed out. After one of the
// latter two, every call returns the same error.
func (w *Watcher) Next(ctx context.Context) (*Event, error) {
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if e, err := w.Poll(); e != nil || err != nil {
			return e, err
		}
		if w.woken == nil {
			w.woken = make(chan struct{}, 1)
		}
		if !w.Await(w.wakeNext) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-w.woken:
		}
	}
}

func (w *Watcher) wakeNext() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

// Poll is Next for a consumer that does not wait: it returns no event and no
// error when there is nothing yet. See [Watcher.Await].
func (w *Watcher) Poll() (*Event, error) {
	if w.ended() {
		return nil, ErrWatchEnded
	}
	if e := w.fromHistory(); e != nil {
		w.replay.found = nil
		return e, nil
	}
	return w.fromQueue()
}

// Await calls f once, as soon as Poll has something to return, instead of an f
// that was given before. It returns false, and does not call f, if Poll has
// something already. f is called with locks held, by a goroutine that others wait
// for, or by Close: it must neither block nor call the watcher. Once Close has
// returned, f is not called any more.
func (w *Watcher) Await(f func()) bool {
	if w.fromHistory() != nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.head < len(w.queue) || w.end != nil {
		return false
	}
	w.wake = f
	return true
}

// Ready reports whether Next would return at once, so that a writer can send
// several events in one flush. It may scan history.
func (w *Watcher) Ready() bool {
	if w.fromHistory() != nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.head < len(w.queue) || w.end != nil
}

// Replays reports whether there may be something left of the history, which can
// take long to look through.
func (w *Watcher) Replays() bool { return w.replay != nil }

// Close ends the watch and releases what it holds. It may be called more than
// once, from any goroutine, and touches no other watcher.
func (w *Watcher) Close() {
	w.hub.remove(w)
	w.finish(ErrWatchEnded)
}

func (w *Watcher) ended() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != ErrWatchEnded {
		return false
	}
	w.replay = nil
	return true
}

// fromHistory returns the first matching event of the history that was not
// handed out, or nil when there is none left.
func (w *Watcher) fromHistory() *Event {
	p := w.replay
	if p == nil {
		return nil
	}
	for p.found == nil && p.events.firstIndex < p.events.nextIndex {
		e := p.events.at(p.events.firstIndex)
		p.events.firstIndex++
		if matches(e, w.group.key, w.recursive) {
			p.found = e
		}
	}
	if p.found == nil {
		w.replay = nil
		return nil
	}
	return p.found
}

// fromQueue returns the first live event, or the end of the watch.
func (w *Watcher) fromQueue() (*Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.head == len(w.queue) {
		return nil, w.end
	}
	e := w.queue[w.head]
	w.queue[w.head] = nil
	w.head++
	w.bytes -= e.cost()
	if w.head == len(w.queue) {
		w.queue, w.head = w.queue[:0], 0
		if cap(w.queue) > queueKeptMax {
			w.queue = nil
		}
	}
	return e, nil
}

// queueKeptMax is how many empty slots an idle watcher keeps.
const queueKeptMax = 8

// offer queues a live event for the consumer. It returns false if there is no
// room, and then the watch has ended.
func (w *Watcher) offer(e *Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	waiting, cost := len(w.queue)-w.head, e.cost()
	full := waiting == WatchEventsMax || waiting > 0 && w.bytes+cost > WatchBytesMax
	switch {
	case w.end != nil:
		return false
	case full:
		w.end = ErrSlowWatcher
	default:
		if len(w.queue) == cap(w.queue) && w.head > 0 {
			w.queue = append(w.queue[:0], w.queue[w.head:]...)
			clear(w.queue[waiting:cap(w.queue)])
			w.head = 0
		}
		w.queue = append(w.queue, e)
		w.bytes += cost
	}
	w.notify()
	return !full
}

// finish ends the watch and drops what waits. The first end of a watch stays,
// except that closing an overflowed watch drops its events too.
func (w *Watcher) finish(end error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.end = end
	w.queue, w.head, w.bytes = nil, 0, 0
	w.notify()
}

// notify wakes the consumer. The caller holds the mutex.
func (w *Watcher) notify() {
	if f := w.wake; f != nil {
		w.wake = nil
		f()
	}
}
