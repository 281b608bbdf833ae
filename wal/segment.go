package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

const (
	segmentSuffix = ".wal"
	brokenSuffix  = ".broken"
	segmentHead   = 2 // records at the head of each segment: checksum, metadata
)

// segmentName is what the name of a segment tells.
type segmentName struct {
	seq uint64
	// index is the raft index of the entry after the last one that was
	// written when the segment was begun.
	index uint64
}

func (n segmentName) String() string {
	return fmt.Sprintf("%016x-%016x%s", n.seq, n.index, segmentSuffix)
}

func parseSegmentName(name string) (n segmentName, ok bool) {
	if _, err := fmt.Sscanf(name, "%016x-%016x"+segmentSuffix, &n.seq, &n.index); err != nil {
		return n, false
	}
	return n, n.String() == name
}

// listSegments returns the segments of a log in order. A gap between them, or
// a name that no log writes, is a [DamageError], with the segments before it.
func listSegments(fsys fsx.FS, dir string) ([]segmentName, error) {
	names, err := fsys.List(dir)
	if err != nil {
		return nil, ioError("list", dir, err)
	}
	var segments []segmentName
	for _, name := range names {
		if !strings.HasSuffix(name, segmentSuffix) {
			continue
		}
		n, ok := parseSegmentName(name)
		if !ok {
			return segments, &DamageError{File: filepath.Join(dir, name), Err: errors.New("no log has a file of this name")}
		}
		if k := len(segments); k > 0 && n.seq != segments[k-1].seq+1 {
			return segments, &DamageError{
				File: filepath.Join(dir, fmt.Sprintf("%016x-*%s", segments[k-1].seq+1, segmentSuffix)),
				Err:  fmt.Errorf("the segment between %s and %s is missing", segments[k-1], n),
			}
		}
		segments = append(segments, n)
	}
	return segments, nil
}

// segment is one segment in memory, without the zeros at its end.
type segment struct {
	name segmentName
	path string
	// size is the length of the file, zeros included.
	size int64
	// end is where the zeros at the end of the file begin.
	end  int64
	data []byte
}

// readSegment reads a segment up to the zeros at its end, into memory that may
// be given to it for use again. It takes no more than the file has bytes.
func readSegment(fsys fsx.FS, dir string, name segmentName, memory []byte) (s *segment, err error) {
	s = &segment{name: name, path: filepath.Join(dir, name.String())}
	f, err := fsys.Open(s.path)
	if err != nil {
		return nil, ioError("open", s.path, err)
	}
	defer func() {
		if cerr := f.Close(); err == nil && cerr != nil {
			err = ioError("close", s.path, cerr)
		}
	}()
	if s.size, err = f.Size(); err != nil {
		return nil, ioError("measure", s.path, err)
	}
	if s.end, err = lastNonzero(f, s.size); err != nil {
		return nil, ioError("read", s.path, err)
	}
	if s.data = memory; int64(cap(memory)) < s.end {
		s.data = make([]byte, s.end)
	}
	s.data = s.data[:s.end]
	if _, err := io.ReadFull(io.NewSectionReader(f, 0, s.end), s.data); err != nil {
		return nil, ioError("read", s.path, err)
	}
	return s, nil
}

// lastNonzero returns the offset behind the last byte that is not zero.
func lastNonzero(f io.ReaderAt, size int64) (int64, error) {
	const page = 4096
	block := make([]byte, min(size, 1<<20))
	for end := size; end > 0; {
		start := max(end-int64(len(block)), 0)
		b := block[:end-start]
		if _, err := f.ReadAt(b, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		// Whole pages at a time: most of a fresh segment is zeros.
		for len(b) >= page && bytes.Equal(b[len(b)-page:], blankBlock[:page]) {
			b = b[:len(b)-page]
		}
		for i, v := range slices.Backward(b) {
			if v != 0 {
				return start + int64(i) + 1, nil
			}
		}
		end = start
	}
	return 0, nil
}

// frame reads the length word at an offset and checks that the record fits
// into the file.
func (s *segment) frame(at int64) (length, size int64, ok bool) {
	if at+frameBytes > s.size {
		return 0, 0, false
	}
	word := binary.LittleEndian.Uint64(s.bytes(at, frameBytes))
	length, padding, ok := parseFrame(word)
	if !ok || length > s.size-at-frameBytes-padding {
		return 0, 0, false
	}
	return length, frameBytes + length + padding, true
}

// record reads the record at an offset. The checksum is not looked at.
func (s *segment) record(at int64) (record, bool) {
	length, size, ok := s.frame(at)
	if !ok {
		return record{}, false
	}
	r, ok := parseRecord(s.bytes(at+frameBytes, length))
	r.size = size
	return r, ok
}

// bytes returns a part of the file, which may reach into the zeros at its end
// but not beyond the file.
func (s *segment) bytes(at, n int64) []byte {
	if missing := at + n - int64(len(s.data)); missing > 0 {
		s.data = append(s.data, make([]byte, missing)...)
	}
	return s.data[at : at+n]
}

// pair returns the record at an offset and the one that follows it, if their
// checksums chain: then both are real.
func (s *segment) pair(at int64) (r, next record, ok bool) {
	if r, ok = s.record(at); !ok || !r.isBody() {
		return r, next, false
	}
	next, ok = s.record(at + r.size)
	return r, next, ok && next.isBody() && next.follows(r)
}

// lastEntry returns the highest raft index of an entry behind an offset of which
// two records that follow each other tell; 0 if there is none.
func (s *segment) lastEntry(at int64) (raftIndex uint64) {
	for at < s.end {
		r, next, ok := s.pair(at)
		if !ok {
			at += frameBytes
			continue
		}
		if v, _, ok := threeNumbers(next.data); ok && next.kind == kindEntry {
			raftIndex = max(raftIndex, v[2])
		}
		at += r.size
	}
	return raftIndex
}

// laterBatch reports whether behind the bad record at an offset there is a
// record of a batch that was begun after the bad one was durable. Two records
// whose checksums chain are real. A batch begins and ends with a record that
// says so, hence any real record behind such an end belongs to a later batch.
func (s *segment) laterBatch(bad int64) bool {
	at := bad + frameBytes
	if r, ok := s.record(bad); ok {
		at = bad + r.size // what it carries is data, not records
	}
	ended := false
	for at < s.end {
		r, next, ok := s.pair(at)
		if !ok {
			at += frameBytes
			continue
		}
		if ended {
			return true
		}
		for ok && next.isBody() && next.follows(r) {
			if r.endsBatch() {
				return true
			}
			at += r.size
			r = next
			next, ok = s.record(at + r.size)
		}
		ended = r.endsBatch()
		at += r.size
	}
	return false
}
