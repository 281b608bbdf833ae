package wal

import (
	"path/filepath"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

// ahead reads the newest segment while the older ones are read and judged, and
// after an unclean stop copies it: the disk has to take the copy anyway, and
// needs about as long for it as the processor for the inspection. The copy
// holds the bytes that are inspected, from the same memory. It means nothing,
// and has a name that no log uses, until [ahead.take]. A nil ahead is one that
// has ended.
type ahead struct {
	fsys fsx.FS
	path string // of the segment

	read    chan struct{} // closed when what follows is set
	seg     *segment
	readErr error

	ended   chan struct{} // closed when the goroutine ends
	copyErr error         // set before that

	copied bool // whether there is, or will be, a copy that was neither taken nor discarded
}

// readAhead begins. Its goroutine ends by itself; wait and discard wait for it.
func readAhead(fsys fsx.FS, dir string, name segmentName, copies bool) *ahead {
	a := &ahead{
		fsys: fsys, path: filepath.Join(dir, name.String()),
		read: make(chan struct{}), ended: make(chan struct{}), copied: copies,
	}
	go func() {
		defer close(a.ended)
		seg, err := readSegment(fsys, dir, name, nil)
		a.seg, a.readErr = seg, err
		if err != nil || !copies {
			close(a.read)
			return
		}
		data, size := seg.data, wholeWords(seg.size) // a reader may lengthen seg.data, in other memory
		close(a.read)
		a.copyErr = writeCopy(fsys, a.path, data, size)
	}()
	return a
}

// segment returns the segment when it has been read.
func (a *ahead) segment() (*segment, error) {
	<-a.read
	return a.seg, a.readErr
}

// wait returns what the copy met when it has been made.
func (a *ahead) wait() error {
	<-a.ended
	return a.copyErr
}

// take puts the copy, which wait has found to be good, in the place of the
// segment.
func (a *ahead) take() error {
	a.copied = false
	return placeCopy(a.fsys, a.path)
}

// discard waits for the goroutine and removes the copy, unless it was taken.
func (a *ahead) discard() error {
	if a == nil {
		return nil
	}
	<-a.ended
	if !a.copied {
		return nil
	}
	a.copied = false
	temp := a.path + fsx.TempSuffix
	if err := fsx.RemoveIfExists(a.fsys, temp); err != nil {
		return ioError("remove", temp, err)
	}
	return nil
}

// uses reports whether a file in the directory of the log is the copy.
func (a *ahead) uses(name string) bool {
	return a.copied && name == filepath.Base(a.path)+fsx.TempSuffix
}
