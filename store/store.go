// Package store is the replicated state of Deimos: one hierarchical tree of
// files and directories, the deadlines of its nodes, the history of its last
// events, and the hub that hands events to watchers.
//
// It refuses to have a clock, to write a log, to open a file or a socket, and
// to start a goroutine: time comes in as a number, snapshots go through an
// io.Writer and come from an io.Reader, and equal calls leave equal bytes on
// every member. It checks no configured limit either; limits are checked
// before a write is proposed. The only bounds it knows are those that keep
// every applied request restorable and cheap, see [Store.Apply].
//
// One goroutine, the apply loop of its user, writes. It changes a private
// draft with [Store.Apply], [Store.Expire] and [Store.SkipTo], and makes the
// draft visible with [Store.Publish]. Readers of [Store.View] take no lock and
// never see half a batch.
package store

import (
	"sync/atomic"

	"github.com/marsevilspirit/deimos"
)

// What the zero values of a [Config] mean.
const (
	DefaultHistoryEvents = 100000
	DefaultHistoryBytes  = 64 << 20
)

// firstIndex is the store index of an empty store.
const firstIndex = 1

// Config bounds the event history. See [Store.Apply] for what an event costs.
type Config struct {
	// HistoryEvents is how many events are kept at most. Zero or less means
	// [DefaultHistoryEvents].
	HistoryEvents int
	// HistoryBytes is how much the kept events may cost together, in bytes.
	// The newest event is kept whatever it costs. Zero or less means
	// [DefaultHistoryBytes].
	HistoryBytes int64
}

// Store is the tree with its history and its watchers. Apply, Expire, SkipTo,
// Publish and Restore belong to one goroutine; every other method may be
// called from any goroutine.
type Store struct {
	published atomic.Pointer[state]
	hub       hub

	// The draft. Only the writing goroutine touches what follows.
	tree      tree
	root      *Node
	deadlines deadlines
	index     uint64
	history   history
	batch     []*Event // since the last Publish, in order
}

// state is one published state. It never changes.
type state struct {
	tree        tree
	root        *Node
	index       uint64
	raftIndex   uint64
	deadlineMS  int64 // earliest; 0 when no node has one
	events      eventRange
	oldestIndex uint64
}

// New returns an empty store: index 1, raft index 0, no node but the root, and
// a history of which nothing has been cleared. That state is published.
func New(cfg Config) *Store {
	if cfg.HistoryEvents <= 0 {
		cfg.HistoryEvents = DefaultHistoryEvents
	}
	if cfg.HistoryBytes <= 0 {
		cfg.HistoryBytes = DefaultHistoryBytes
	}
	s := &Store{
		tree:      newTree(),
		root:      &Node{key: rootKey, dir: true},
		deadlines: newDeadlines(),
		index:     firstIndex,
		history:   history{eventsMax: cfg.HistoryEvents, bytesMax: cfg.HistoryBytes},
	}
	s.history.reset(firstIndex)
	s.hub.init()
	s.published.Store(s.freeze(0))
	return s
}

// View returns the state that was published last. It costs one atomic load.
// The state stays as it is, and stays in memory, as long as the View is kept.
func (s *Store) View() View { return View{s.published.Load()} }

// SkipTo raises the store index to index without an event, for a cluster that
// is forced to start anew from one member's data: indexes that the lost
// members may have handed out are never handed out again. The history begins
// after index. An index that is not above the present one changes nothing.
//
// Like Apply it works on the draft, until Publish.
func (s *Store) SkipTo(index uint64) {
	if index <= s.index {
		return
	}
	s.index = index
	s.history.reset(index + 1)
}

// Publish makes the draft visible to readers in one step, together with the
// raft index of the last entry in it, and then hands the events since the last
// Publish to the watchers they match. It takes time in proportion to those
// events and their watchers and never waits for a watcher.
func (s *Store) Publish(raftIndex uint64) {
	s.published.Store(s.freeze(raftIndex))
	s.hub.deliver(s.batch)
	clear(s.batch)
	s.batch = s.batch[:0]
	if cap(s.batch) > batchKeptMax {
		s.batch = nil
	}
}

// batchKeptMax is how many slots for events are kept from batch to batch.
const batchKeptMax = 4096

// Watch begins a watch on key, and on everything below it if recursive is set.
// The key must be cleaned; nothing need exist there.
//
// With fromIndex 0 the watch begins after the published index. Otherwise it
// begins at fromIndex: with events of the history if that lies in the past,
// later if it lies in the future. The scan of the history and the registration
// for later events are one step, so that no event is lost between them.
//
// The error is a *[deimos.Error] of code 401 if the history no longer reaches
// back to fromIndex, one of code 209 if key is not cleaned, or [ErrStopped]
// after [Store.CloseWatches].
//
// The caller must Close the watcher.
func (s *Store) Watch(key string, recursive bool, fromIndex uint64) (*Watcher, error) {
	if !isClean(key) {
		return nil, &deimos.Error{Code: deimos.CodeInvalidField, Cause: uncleanCause(key), Index: s.View().Index()}
	}
	return s.hub.watch(&s.published, key, recursive, fromIndex)
}

// CloseWatches ends all watches with [ErrWatchEnded] and makes every later
// Watch fail with [ErrStopped], because the member is stopping. It may be
// called more than once.
func (s *Store) CloseWatches() { s.hub.stop() }

// Watchers returns how many watches are registered. A watch counts from Watch
// until it is closed or ended by the store.
func (s *Store) Watchers() int { return s.hub.len() }

// freeze turns the draft into a state. The draft goes on with a tree that
// shares its content until it is changed.
func (s *Store) freeze(raftIndex uint64) *state {
	st := &state{
		tree:        s.tree.freeze(),
		root:        s.root,
		index:       s.index,
		raftIndex:   raftIndex,
		events:      s.history.eventRange,
		oldestIndex: s.history.oldestIndex,
	}
	if n, ok := s.deadlines.first(); ok {
		st.deadlineMS = n.deadlineMS
	}
	return st
}

// find looks a key up in the draft. The root is not in the tree.
func (s *Store) find(key string) (*Node, bool) { return s.tree.get(key) }

// put inserts n, or replaces the node with its key, which is old unless nil.
func (s *Store) put(n, old *Node) {
	s.tree.set(n)
	if old != nil {
		s.deadlines.remove(old)
	}
	s.deadlines.add(n)
}

// record ends a change of the draft: the index rises to that of the event.
func (s *Store) record(e *Event) *Event {
	s.index = e.Index()
	s.history.append(e)
	s.batch = append(s.batch, e)
	return e
}

// fail is the error of an operation that changed nothing.
func (s *Store) fail(code deimos.Code, cause string) error {
	return &deimos.Error{Code: code, Cause: cause, Index: s.index}
}
