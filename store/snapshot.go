package store

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"

	"github.com/marsevilspirit/deimos/store/storepb"
)

// snapshotVersion is the version of the format in the header.
const snapshotVersion = 1

const (
	headerMaxBytes = 1 << 10
	recordMaxBytes = AppliedKeyMaxBytes + AppliedValueMaxBytes + 1<<10
	// writeBufferBytes is how much of a snapshot is gathered for one Write, and
	// readBufferBytes how much is asked for with one Read.
	writeBufferBytes = 64 << 10
	readBufferBytes  = 64 << 10
	// restoredIndexMax leaves room for more writes than there will ever be.
	restoredIndexMax = math.MaxInt64
)

// WriteTo writes the state as the body of a snapshot, piece by piece, and
// returns how many bytes it wrote. It may run for long, beside all other work:
// the view does not change. The error wraps that of w.
//
// A body is a sequence of messages of package storepb, each after its length as
// an unsigned varint: one Header, then as many Node messages as it says, in
// tree order, so that a directory comes before its content. Nothing follows.
// The history and the raft index are not in it; checksums are the business of
// whoever keeps the file. Equal states have equal bodies.
func (v View) WriteTo(w io.Writer) (int64, error) {
	sw := snapshotWriter{w: w}
	sw.message(&storepb.Header{
		FormatVersion: snapshotVersion,
		Index:         v.st.index,
		NodeCount:     uint64(v.st.tree.length),
	})
	var record storepb.Node
	for n := range v.st.tree.all() {
		record = storepb.Node{
			Key:           n.key,
			Value:         n.value,
			Dir:           n.dir,
			DeadlineMs:    n.deadlineMS,
			ModifiedIndex: n.modifiedIndex,
			CreatedIndex:  n.createdIndex,
		}
		if sw.message(&record); sw.err != nil {
			break
		}
	}
	sw.flush()
	if sw.err != nil {
		return sw.written, fmt.Errorf("store: writing snapshot at index %d: %w", v.st.index, sw.err)
	}
	return sw.written, nil
}

// snapshotWriter gathers messages. After its first error it does nothing.
type snapshotWriter struct {
	w       io.Writer
	buf     []byte
	written int64
	err     error
}

func (sw *snapshotWriter) message(m interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
}) {
	if sw.err != nil {
		return
	}
	size := m.Size()
	sw.buf = binary.AppendUvarint(sw.buf, uint64(size))
	start := len(sw.buf)
	sw.buf = slices.Grow(sw.buf, size)[:start+size]
	if _, sw.err = m.MarshalToSizedBuffer(sw.buf[start:]); sw.err == nil && len(sw.buf) >= writeBufferBytes {
		sw.flush()
	}
}

func (sw *snapshotWriter) flush() {
	if sw.err != nil {
		return
	}
	n, err := sw.w.Write(sw.buf)
	sw.written += int64(n)
	sw.err = err
	sw.buf = sw.buf[:0]
	if cap(sw.buf) > 4*writeBufferBytes {
		sw.buf = nil
	}
}

// Restore replaces the whole state with what [View.WriteTo] wrote, publishes it
// as the state at raftIndex, and ends all watches with [ErrWatchEnded]. What
// was applied and not yet published is gone too. The history is empty and
// begins after the restored index, or lacks nothing if that is 1. It belongs to
// the writing goroutine.
//
// Restore reads r to its end. If it fails to, or what it reads is not one
// complete and consistent snapshot body, it returns an error and has changed
// nothing.
func (s *Store) Restore(raftIndex uint64, r io.Reader) error {
	l := loader{r: bufio.NewReaderSize(r, readBufferBytes), tree: newTree()}
	if err := l.load(); err != nil {
		return fmt.Errorf("store: restoring snapshot at raft index %d: %w", raftIndex, err)
	}
	s.tree = l.tree
	s.deadlines = newSortedDeadlines(l.mortal)
	s.index = l.index
	if s.index == firstIndex {
		s.history.reset(firstIndex)
	} else {
		s.history.reset(s.index + 1)
	}
	s.batch = nil
	s.hub.endAll(func() { s.published.Store(s.freeze(raftIndex)) })
	return nil
}

// loader builds a tree from a snapshot body.
type loader struct {
	r      *bufio.Reader
	buf    []byte
	index  uint64
	tree   tree
	mortal []*Node // the nodes with a deadline
	last   *Node
	way    []*Node // the directories above and including last
}

func (l *loader) load() error {
	body, err := l.message(headerMaxBytes)
	if err != nil {
		return fmt.Errorf("reading the header: %w", err)
	}
	var header storepb.Header
	if err := header.Unmarshal(body); err != nil {
		return fmt.Errorf("decoding the header: %w", err)
	}
	switch {
	case header.FormatVersion != snapshotVersion:
		return fmt.Errorf("format version is %d, want %d", header.FormatVersion, snapshotVersion)
	case header.Index < firstIndex || header.Index > restoredIndexMax:
		return fmt.Errorf("index %d is out of range", header.Index)
	}
	l.index = header.Index
	for i := range header.NodeCount {
		if err := l.node(); err != nil {
			return fmt.Errorf("node %d of %d: %w", i+1, header.NodeCount, err)
		}
	}
	switch _, err := l.r.ReadByte(); {
	case err == nil:
		return fmt.Errorf("something follows the %d nodes", header.NodeCount)
	case err != io.EOF:
		return err
	}
	return nil
}

// message reads one message, which is valid until the next call.
func (l *loader) message(sizeMax uint64) ([]byte, error) {
	size, err := binary.ReadUvarint(l.r)
	if err != nil {
		return nil, unexpectedEOF(err)
	}
	if size > sizeMax {
		return nil, fmt.Errorf("message of %d bytes, at most %d are allowed", size, sizeMax)
	}
	if uint64(cap(l.buf)) < size {
		l.buf = make([]byte, size)
	}
	l.buf = l.buf[:size]
	if _, err := io.ReadFull(l.r, l.buf); err != nil {
		return nil, unexpectedEOF(err)
	}
	return l.buf, nil
}

// unexpectedEOF tells a body that ends too early from one that ends.
func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func (l *loader) node() error {
	body, err := l.message(recordMaxBytes)
	if err != nil {
		return err
	}
	var record storepb.Node
	if err := record.Unmarshal(body); err != nil {
		return fmt.Errorf("decoding: %w", err)
	}
	n := &Node{
		key:           record.Key,
		value:         record.Value,
		deadlineMS:    record.DeadlineMs,
		modifiedIndex: record.ModifiedIndex,
		createdIndex:  record.CreatedIndex,
		depth:         depthOf(record.Key),
		dir:           record.Dir,
	}
	if err := l.check(n); err != nil {
		return err
	}
	l.tree.push(n)
	if n.deadlineMS != 0 {
		l.mortal = append(l.mortal, n)
	}
	if n.dir {
		l.way = append(l.way, n)
	}
	l.last = n
	return nil
}

// check makes sure that n is sound, comes after the last node in tree order,
// and that its parent is a directory that came before.
func (l *loader) check(n *Node) error {
	switch {
	case n.key == rootKey || len(n.key) > AppliedKeyMaxBytes || !isClean(n.key):
		return errors.New(uncleanCause(n.key))
	case len(n.value) > AppliedValueMaxBytes || n.dir && n.value != "":
		return fmt.Errorf("%s has a value of %d bytes", n.key, len(n.value))
	case n.deadlineMS < 0:
		return fmt.Errorf("%s has the deadline %d", n.key, n.deadlineMS)
	case n.createdIndex <= firstIndex || n.modifiedIndex < n.createdIndex || n.modifiedIndex > l.index:
		return fmt.Errorf("%s was created at %d and modified at %d, the index is %d",
			n.key, n.createdIndex, n.modifiedIndex, l.index)
	case l.last != nil && compareKeys(l.last.key, n.key) >= 0:
		return fmt.Errorf("%s comes after %s", n.key, l.last.key)
	}
	for len(l.way) > 0 && !isBelow(n.key, l.way[len(l.way)-1].key) {
		l.way = l.way[:len(l.way)-1]
	}
	if int(n.depth) != len(l.way)+1 {
		return fmt.Errorf("%s has no parent directory", n.key)
	}
	return nil
}
