package store

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/tidwall/btree"

	"github.com/marsevilspirit/deimos"
)

// hub knows all watchers, grouped by the key they watch.
type hub struct {
	mu      sync.Mutex
	groups  map[string]*group
	ordered *btree.BTreeG[*group] // the same, in tree order
	count   int
	stopped bool
}

// group holds the watchers of one key.
type group struct {
	key      string
	watchers []*Watcher
}

func (h *hub) init() {
	h.groups = make(map[string]*group)
	h.ordered = btree.NewBTreeGOptions(func(a, b *group) bool {
		return compareKeys(a.key, b.key) < 0
	}, btree.Options{NoLocks: true})
}

func (h *hub) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.count
}

// watch registers a watcher. The published state is loaded under the lock that
// deliver takes after publishing: either this state holds a batch, and the
// watcher takes it from the history, or the batch is delivered later.
func (h *hub) watch(published *atomic.Pointer[state], key string, recursive bool, fromIndex uint64) (*Watcher, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return nil, ErrStopped
	}
	st := published.Load()
	w := &Watcher{hub: h, startIndex: st.index, fromIndex: fromIndex, recursive: recursive}
	if fromIndex != 0 {
		if fromIndex < st.oldestIndex {
			return nil, &deimos.Error{
				Code:  deimos.CodeIndexCleared,
				Cause: fmt.Sprintf("the requested history has been cleared [%d/%d]", st.oldestIndex, fromIndex),
				Index: st.index,
			}
		}
		events := st.events
		events.firstIndex = max(events.firstIndex, fromIndex)
		if events.firstIndex < events.nextIndex {
			w.replay = &replay{events: events}
		}
	}
	h.add(w, key)
	return w, nil
}

func (h *hub) add(w *Watcher, key string) {
	g := h.groups[key]
	if g == nil {
		g = &group{key: key}
		h.groups[key] = g
		h.ordered.Set(g)
	}
	w.group, w.slot = g, len(g.watchers)
	g.watchers = append(g.watchers, w)
	h.count++
}

func (h *hub) remove(w *Watcher) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.removeLocked(w)
}

func (h *hub) removeLocked(w *Watcher) {
	if w.slot < 0 {
		return
	}
	g := w.group
	last := len(g.watchers) - 1
	g.watchers[w.slot] = g.watchers[last]
	g.watchers[w.slot].slot = w.slot
	g.watchers[last] = nil
	g.watchers = g.watchers[:last]
	w.slot = -1
	h.count--
	if last == 0 {
		delete(h.groups, g.key)
		h.ordered.Delete(g)
	}
}

// deliver hands events that have just been published to their watchers.
func (h *hub) deliver(events []*Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count == 0 {
		return
	}
	for _, e := range events {
		h.deliverOne(e)
	}
}

// deliverOne finds the watchers for which [matches] is true by looking at the
// groups of the key, of each directory above it, and, when a directory was
// removed, of all keys below it. No watcher is in two of these.
func (h *hub) deliverOne(e *Event) {
	if e.refresh {
		return
	}
	at := e.node.key
	h.offer(h.groups[at], e, true)
	for key := at; key != rootKey && !isHiddenName(key); {
		key = parentKey(key)
		h.offer(h.groups[key], e, false)
	}
	if !e.removes() || !e.node.dir {
		return
	}
	var below []*group // offering may remove groups
	h.ordered.Ascend(&group{key: at + "/"}, func(g *group) bool {
		if !isBelow(g.key, at) {
			return false
		}
		below = append(below, g)
		return true
	})
	for _, g := range below {
		h.offer(g, e, true)
	}
}

// offer gives e to the watchers of g, or to the recursive ones alone.
func (h *hub) offer(g *group, e *Event, all bool) {
	if g == nil {
		return
	}
	// From the end, because one that overflows leaves and the last takes its slot.
	for i := len(g.watchers) - 1; i >= 0; i-- {
		w := g.watchers[i]
		if !all && !w.recursive || e.Index() <= w.startIndex || e.Index() < w.fromIndex {
			continue
		}
		if !w.offer(e) {
			h.removeLocked(w)
		}
	}
}

// endAll ends every watch after publish, which no new watch can precede.
func (h *hub) endAll(publish func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	publish()
	for _, g := range h.groups {
		for _, w := range g.watchers {
			w.slot = -1
			w.finish(ErrWatchEnded)
		}
	}
	clear(h.groups)
	h.ordered.Clear()
	h.count = 0
}

func (h *hub) stop() {
	h.endAll(func() { h.stopped = true })
}
