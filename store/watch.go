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
// Next and Ready belong to one goroutine, the consumer. Close, StartIndex and
// everything the store does may run beside it.
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
	wake  chan struct{} // made when the consumer first has to wait
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
		if w.ended() {
			return nil, ErrWatchEnded
		}
		if e := w.fromHistory(); e != nil {
			w.replay.found = nil
			return e, nil
		}
		e, wake, err := w.fromQueue()
		if e != nil || err != nil {
			return e, err
		}
		select {
		case <-ctx.Done():
		case <-wake:
		}
	}
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

// fromQueue returns the first live event; if there is none, the end of the
// watch, or the channel that wakes the consumer when there is more.
func (w *Watcher) fromQueue() (*Event, <-chan struct{}, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.head == len(w.queue) {
		if w.end != nil {
			return nil, nil, w.end
		}
		if w.wake == nil {
			w.wake = make(chan struct{}, 1)
		}
		return nil, w.wake, nil
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
	return e, nil, nil
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

func (w *Watcher) notify() {
	if w.wake == nil {
		return
	}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}
