// Package syncbuf has a buffer that one goroutine or process writes, such as a
// log, while a test reads it. It is for tests; it refuses to be bounded.
package syncbuf

import (
	"bytes"
	"sync"
)

// Buffer is empty at first and ready to use. Its methods may be called from any
// goroutine. It must not be copied.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write implements [io.Writer]. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// String returns what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// Reset forgets what was written so far.
func (b *Buffer) Reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf.Reset()
}
