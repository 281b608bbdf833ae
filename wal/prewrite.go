package wal

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
)

// prewriteBytes is how much of a segment is written in advance at a time. More
// would let the disk take longer over the batch whose fsync covers it too.
const prewriteBytes = 256 << 10

// prewriteMaxBatch is the largest batch that is worth it. Writing everything twice
// costs a larger one more than its part in a write of the journal.
const prewriteMaxBatch = 32 << 10

// blankBlock is what is written in advance, and what it is compared with.
var blankBlock [64 << 10]byte

// prewrite writes zeros where the next batches will go, before a batch of size
// bytes. They are there already as far as a reader can tell: the segment was
// allocated at its full length. But blocks that were only allocated have to be
// marked as written when they first are, so that nearly every fsync would write
// the file system's journal too, which takes as long as the data. (PostgreSQL
// fills its segments for the same reason, see wal_init_zero.)
//
// Zeros replace nothing but zeros: what is there is read first. An error loses
// nothing and is not the batch's, which will meet it itself if it has to; the
// rest of the segment is then left as it was allocated.
func (w *WAL) prewrite(size int64) {
	if size > prewriteMaxBatch || w.used+size <= w.prewritten {
		return
	}
	from := max(w.used, w.prewritten)
	to := min(from+size+prewriteBytes, etcdwal.SegmentSizeBytes)
	if from >= to {
		return
	}
	if err := w.blank(from, to); err != nil {
		w.cfg.Log.Warn("the log segment is not written in advance, its fsyncs will take longer", "file", w.path(), "error", err)
		to = etcdwal.SegmentSizeBytes
	}
	w.prewritten = to
}

// blank writes zeros over the zeros of a part of the segment, as far as the file
// reaches.
func (w *WAL) blank(from, to int64) (err error) {
	f, err := w.cfg.FS.Edit(w.path())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	found := make([]byte, len(blankBlock))
	for to = min(to, size); from < to; from += int64(len(found)) {
		found = found[:min(to-from, int64(len(found)))]
		blank := blankBlock[:len(found)]
		if _, err := f.ReadAt(found, from); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if !bytes.Equal(found, blank) {
			return fmt.Errorf("something is written above %d already", from)
		}
		if _, err := f.WriteAt(blank, from); err != nil {
			return err
		}
	}
	return nil
}
