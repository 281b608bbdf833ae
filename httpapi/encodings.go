package httpapi

import (
	"slices"
	"sync"

	"github.com/marsevilspirit/deimos/store"
)

// The bounds of what is kept of events that were encoded for watchers. A value can
// take six times its size in JSON, and its predecessor too, so that the history, which
// does not know of it, would grow to many times its bound.
const (
	encodingsBytes = 32 << 20
	encodingsCount = 1024
)

// encodings keeps the newest events' JSON with the events, so that it is made once for
// all their watchers, who come nearly at the same time. Whoever comes later makes it
// anew. Its methods may be called from any goroutine.
type encodings struct {
	bytesMax, countMax int

	mu     sync.Mutex     // guards the rest
	events []*store.Event // whose JSON is kept, the oldest first
	bytes  int
}

// keep keeps an event's JSON, unless somebody was faster, and returns what is kept.
func (k *encodings) keep(e *store.Event, line []byte) []byte {
	if cap(line) > k.bytesMax/4 {
		return line
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !e.KeepEncoding(line) {
		return e.Encoding() // it is dropped under the lock only
	}
	k.events = append(k.events, e)
	k.bytes += cap(line)
	drop := 0
	for k.bytes > k.bytesMax || len(k.events)-drop > k.countMax {
		k.bytes -= cap(k.events[drop].Encoding())
		k.events[drop].DropEncoding()
		drop++
	}
	k.events = slices.Delete(k.events, 0, drop)
	return line
}
