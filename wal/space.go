package wal

import (
	"errors"
	"io/fs"
	"path/filepath"

	etcdwal "go.etcd.io/etcd/server/v3/storage/wal"
)

// SetSegmentBytes sets at which size segments are ended, for tests that need
// many of them, and returns what sets it back. It is for the whole process and
// may be called only while no log is open. The default is 64,000,000.
func SetSegmentBytes(n int64) (restore func()) {
	before := etcdwal.SegmentSizeBytes
	etcdwal.SegmentSizeBytes = n
	return func() { etcdwal.SegmentSizeBytes = before }
}

// SegmentBytes returns at which size segments are ended.
func SegmentBytes() int64 { return etcdwal.SegmentSizeBytes }

// etcdBufferBytes is how much etcd's package keeps in memory before it writes
// to the file, whose offset tells it whether the segment is full.
const etcdBufferBytes = 128 << 10

// makeRoom runs before a batch is written. If the batch ends the segment and the
// next one was not allocated in advance, the log is opened again, because etcd's
// package gives up allocating at its first failure and would fail at the switch
// for lack of space that has long come back.
func (w *WAL) makeRoom(size int64) error {
	if !w.ends(size) {
		return nil
	}
	if err := w.measure(); err != nil {
		w.cfg.Log.Debug("the end of the log segment was not found, it counts as a little fuller", "file", w.path(), "error", err)
	}
	if !w.ends(size) {
		return nil
	}
	ready, err := w.spareReady()
	if ready || err != nil {
		return err
	}
	return w.reopen()
}

// ends reports whether a batch of size bytes may end the segment. One that etcd's
// package writes at its end, all at once, does so only if the segment was full
// before. To open the log again earlier would be of no use: what is there for
// the next segment now need not be there then.
func (w *WAL) ends(size int64) bool {
	if size < etcdBufferBytes {
		size = 0
	}
	return w.used+size >= etcdwal.SegmentSizeBytes
}

// measure corrects how much of the segment counts as used. Each batch is counted
// as the most that it may take, which over a whole segment is more than it took.
// Nothing is unsynced when it is called, so that all that was written is in the
// file.
func (w *WAL) measure() (err error) {
	f, err := w.cfg.FS.Open(w.path())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	size, err := f.Size()
	if err != nil {
		return err
	}
	end, err := lastNonzero(f, size)
	if err != nil {
		return err
	}
	w.used = min(w.used, wholeWords(end+1)) // a record may end with one zero
	return nil
}

// spareReady reports whether a file of full size waits to be the next segment.
func (w *WAL) spareReady() (bool, error) {
	for _, name := range []string{"0.tmp", "1.tmp"} {
		f, err := w.cfg.FS.Open(filepath.Join(w.cfg.Dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, ioError("open", name, err)
		}
		size, err := f.Size()
		if err := errors.Join(err, f.Close()); err != nil {
			return false, ioError("measure", name, err)
		}
		if size >= etcdwal.SegmentSizeBytes {
			return true, nil
		}
	}
	return false, nil
}

// reopen closes etcd's log and opens it again at its end. Nothing is unsynced
// when it is called.
func (w *WAL) reopen() error {
	w.cfg.Log.Debug("opening the log again, the next segment was not allocated", "directory", w.cfg.Dir)
	log := w.log
	w.log = nil
	if err := guard(log.Close); err != nil {
		return ioError("close", w.path(), err)
	}
	at := w.snapshot
	if w.last > at.Index {
		// The segments with the last entry are enough; nothing is read from them.
		at.Index, at.Term = w.last, 0
	}
	log, _, err := openLog(w.zap, w.cfg.Dir, at)
	if err != nil {
		return ioError("open again", w.cfg.Dir, err)
	}
	w.log, w.prewritten = log, 0 // opening it allocates the rest of the segment anew
	return w.nameEnd(w.last > w.snapshot.Index)
}

// nameEnd tells etcd's package where the log ends when it has read no entry,
// so that the next segment is named for the entry that comes next.
func (w *WAL) nameEnd(entriesRead bool) error {
	if entriesRead || w.snapshot.Index == 0 {
		return nil
	}
	return w.saveAgain()
}

// saveAgain repeats the record of the newest snapshot. It goes before the
// state, which may begin a new segment.
func (w *WAL) saveAgain() error {
	record := etcdSnapshot(w.snapshot)
	begin := w.begin()
	w.used += recordSizeMax(record.Size()) + recordSizeMax(begin.Size())
	return guard(func() error {
		if err := w.log.SaveSnapshot(record); err != nil {
			return err
		}
		if err := w.log.Save(begin, nil); err != nil {
			return err
		}
		return w.log.Sync()
	})
}

// follow notices that a new segment was begun before or behind a batch of size
// bytes.
func (w *WAL) follow(size int64) error {
	if w.used < etcdwal.SegmentSizeBytes {
		return nil
	}
	segments, err := listSegments(w.cfg.FS, w.cfg.Dir)
	if err != nil {
		return w.fail(err)
	}
	if newest := segments[len(segments)-1].String(); newest != w.segment {
		w.segment, w.used, w.prewritten = newest, headSizeMax+size, 0
		w.cfg.Log.Debug("log segment begun", "file", w.path())
	}
	return nil
}

// headSizeMax is more than the head of a segment takes.
const headSizeMax = 256
