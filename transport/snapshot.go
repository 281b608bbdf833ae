package transport

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// errSnapshotLong tells that a snapshot has more bytes than were announced.
var errSnapshotLong = errors.New("transport: snapshot is longer than announced")

// snapshotBody reads exactly the announced number of bytes and turns everything
// else into an error, so that the peer never takes a part for the whole. It is
// closed once, however many of its users close it, and never during a read.
type snapshotBody struct {
	sent atomic.Int64 // bytes read so far

	mu     sync.Mutex
	body   io.ReadCloser
	left   int64
	closed bool
}

func newSnapshotBody(body io.ReadCloser, size int64) *snapshotBody {
	return &snapshotBody{body: body, left: size}
}

// Read implements io.Reader.
func (b *snapshotBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, os.ErrClosed
	}
	if len(p) == 0 {
		return 0, nil
	}
	if b.left == 0 {
		return 0, b.atEnd()
	}
	n, err := b.body.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.sent.Add(int64(n))
	if errors.Is(err, io.EOF) {
		err = nil
		if b.left > 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// atEnd makes sure that nothing follows the last announced byte.
func (b *snapshotBody) atEnd() error {
	n, err := io.ReadFull(b.body, make([]byte, 1))
	if n > 0 {
		return errSnapshotLong
	}
	return err // io.EOF when all is well
}

// Close implements io.Closer. It has nothing to say: what was read is what
// counts.
func (b *snapshotBody) Close() error {
	b.close()
	return nil
}

func (b *snapshotBody) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.closed = true
	_ = b.body.Close() // it was read, not written: there is nothing to lose
}

// transfers are the snapshots on their way, at most one to a peer. The zero
// value is ready.
type transfers struct {
	wg sync.WaitGroup

	mu   sync.Mutex
	byID map[uint64]*transfer
}

type transfer struct {
	body *snapshotBody
	// seen is what the last look found, and since when.
	seen  int64
	since time.Time
}

// begin registers a transfer; false when one is under way. It must not run
// beside wait.
func (t *transfers) begin(id uint64, b *snapshotBody) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.byID[id] != nil {
		return false
	}
	if t.byID == nil {
		t.byID = make(map[uint64]*transfer)
	}
	t.byID[id] = &transfer{body: b, seen: -1}
	t.wg.Add(1)
	return true
}

// finish makes room for the next transfer to the peer, before raft is told that
// it may begin one. The goroutine of the transfer calls t.wg.Done afterwards.
func (t *transfers) finish(id uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byID, id)
}

func (t *transfers) wait() { t.wg.Wait() }

// stalled returns the peers that have taken nothing for timeout.
func (t *transfers) stalled(now time.Time, timeout time.Duration) []uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	var ids []uint64
	for id, tr := range t.byID {
		if sent := tr.body.sent.Load(); sent != tr.seen {
			tr.seen, tr.since = sent, now
			continue
		}
		if now.Sub(tr.since) >= timeout {
			tr.since = now // the restart is asked for once
			ids = append(ids, id)
		}
	}
	return ids
}
