package raftnode

import "sync"

// mailbox is an unbounded queue with one reader. What is put in is bounded by
// the limits of raft's flow control (see core.go), not here: dropping a message
// to the append or apply loop would break raft.
type mailbox[T any] struct {
	mu    sync.Mutex
	items []T
	// wake holds a token while there may be items.
	wake chan struct{}
}

func newMailbox[T any]() *mailbox[T] {
	return &mailbox[T]{wake: make(chan struct{}, 1)}
}

// put adds items. It never blocks.
func (m *mailbox[T]) put(items ...T) {
	if len(items) == 0 {
		return
	}
	m.mu.Lock()
	m.items = append(m.items, items...)
	m.mu.Unlock()
	m.signal()
}

func (m *mailbox[T]) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take removes all items. The caller hands in the slice of its last take, so
// that two slices are reused in turn.
func (m *mailbox[T]) take(spare []T) []T {
	clear(spare)
	m.mu.Lock()
	items := m.items
	m.items = spare[:0]
	m.mu.Unlock()
	return items
}
