package server

import (
	"sync/atomic"

	"github.com/marsevilspirit/deimos"
)

// Count is how many operations of one kind succeeded and failed.
type Count struct{ Success, Fail uint64 }

// WriteCounts are the writes that a member has applied since its process
// started.
type WriteCounts struct {
	Set, Create, Update, Delete, CompareAndSwap, CompareAndDelete Count
	// Expired is the number of nodes that have expired.
	Expired uint64
}

// counts counts writes by operation. The apply loop writes, anybody reads.
type counts [deimos.OpCompareAndDelete + 1]struct{ success, fail atomic.Uint64 }

func (c *counts) observe(op deimos.Op, failed bool) {
	if int(op) >= len(c) {
		return // an operation that the store does not know either
	}
	if failed {
		c[op].fail.Add(1)
	} else {
		c[op].success.Add(1)
	}
}

func (c *counts) of(op deimos.Op) Count {
	return Count{Success: c[op].success.Load(), Fail: c[op].fail.Load()}
}

// WriteCounts returns the writes applied since the process started. Any
// goroutine may call it.
func (m *Machine) WriteCounts() WriteCounts {
	create, inOrder := m.counts.of(deimos.OpCreate), m.counts.of(deimos.OpCreateInOrder)
	return WriteCounts{
		Set:              m.counts.of(deimos.OpSet),
		Create:           Count{create.Success + inOrder.Success, create.Fail + inOrder.Fail},
		Update:           m.counts.of(deimos.OpUpdate),
		Delete:           m.counts.of(deimos.OpDelete),
		CompareAndSwap:   m.counts.of(deimos.OpCompareAndSwap),
		CompareAndDelete: m.counts.of(deimos.OpCompareAndDelete),
		Expired:          m.expired.Load(),
	}
}
