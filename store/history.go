package store

import (
	"slices"
	"sort"
)

const (
	// chunkEvents is how many events share a chunk.
	chunkEvents = 256
	// chunkShare is which part of the history's bytes ends a chunk early.
	// Cleared events stay in memory until their whole chunk is cleared, so it
	// bounds how much the history may hold beyond its bound.
	chunkShare = 16
)

// chunk is a fixed piece of the history. The writer fills slots that no
// published range reaches yet, so readers need no lock.
type chunk struct {
	firstIndex uint64
	// costs are those of the events. An event that is cleared has not been looked
	// at for long, and is far away in memory.
	costs  [chunkEvents]int64
	events [chunkEvents]*Event
}

// eventRange is a range of events without a gap. A copy of it is a fixed
// picture: what the writer adds or clears afterwards does not touch it.
type eventRange struct {
	chunks []*chunk
	// firstIndex is that of the first event, nextIndex that of the first one
	// beyond the range; they are equal when it is empty.
	firstIndex, nextIndex uint64
}

// at returns the event with the given index, which must be in the range.
func (r *eventRange) at(index uint64) *Event {
	i := sort.Search(len(r.chunks), func(i int) bool { return r.chunks[i].firstIndex > index }) - 1
	return r.chunks[i].events[index-r.chunks[i].firstIndex]
}

// history is the range of events that the draft keeps. It belongs to the
// writing goroutine.
type history struct {
	eventRange
	eventsMax int
	bytesMax  int64
	// oldestIndex is the smallest index from which nothing is missing.
	oldestIndex uint64
	bytes       int64 // cost of all events in the range
	chunkBytes  int64 // cost of the events in the last chunk
}

// reset empties the history: from oldestIndex on it will lack nothing.
func (h *history) reset(oldestIndex uint64) {
	next := max(oldestIndex, firstIndex+1)
	h.eventRange = eventRange{firstIndex: next, nextIndex: next}
	h.oldestIndex = oldestIndex
	h.bytes, h.chunkBytes = 0, 0
}

// append adds the event with index nextIndex and clears what is then too much.
func (h *history) append(e *Event) {
	cost := e.cost()
	if h.needsChunk() {
		// A published range may share the backing array, but not this slot: all
		// chunks are appended to the latest range, and clearing copies it.
		h.chunks = append(h.chunks, &chunk{firstIndex: h.nextIndex})
		h.chunkBytes = 0
	}
	last := h.chunks[len(h.chunks)-1]
	last.events[h.nextIndex-last.firstIndex] = e
	last.costs[h.nextIndex-last.firstIndex] = cost
	h.nextIndex++
	h.bytes += cost
	h.chunkBytes += cost
	h.clear()
}

func (h *history) needsChunk() bool {
	if len(h.chunks) == 0 {
		return true
	}
	last := h.chunks[len(h.chunks)-1]
	return h.nextIndex-last.firstIndex == chunkEvents || h.chunkBytes > h.bytesMax/chunkShare
}

// clear drops the oldest events until the bounds are met or one is left.
func (h *history) clear() {
	whole := 0 // chunks that are cleared completely
	for h.nextIndex-h.firstIndex > 1 &&
		(h.nextIndex-h.firstIndex > uint64(h.eventsMax) || h.bytes > h.bytesMax) {
		first := h.chunks[whole]
		h.bytes -= first.costs[h.firstIndex-first.firstIndex]
		h.firstIndex++
		h.oldestIndex = h.firstIndex
		if whole+1 < len(h.chunks) && h.chunks[whole+1].firstIndex == h.firstIndex {
			whole++
		}
	}
	if whole > 0 {
		// A copy, so that the array of a published range is not all that keeps
		// the cleared chunks in memory.
		h.chunks = slices.Clone(h.chunks[whole:])
	}
}
