package wal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"

	"github.com/marsevilspirit/deimos/internal/fsx"
)

const (
	markerName     = "clean-stop"
	markerMaxBytes = 256
)

// marker says where the log ended when it was closed in order. A nil marker
// says that it was not.
type marker struct {
	file    string
	segment string
	end     int64
	crc     uint32
}

func (m *marker) encode() []byte {
	line := fmt.Sprintf("%s %d %08x", m.segment, m.end, m.crc)
	return fmt.Appendf(nil, "%s %08x\n", line, crc32.Checksum([]byte(line), castagnoli))
}

// readMarker returns nil if there is no marker.
func readMarker(fsys fsx.FS, dir string) (*marker, error) {
	m := &marker{file: filepath.Join(dir, markerName)}
	data, err := fsx.ReadFile(fsys, m.file, markerMaxBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var path *fs.PathError
	if errors.As(err, &path) {
		return nil, ioError("read", m.file, err)
	}
	var sum uint32
	if err == nil {
		_, err = fmt.Sscanf(string(data), "%s %d %08x %08x\n", &m.segment, &m.end, &m.crc, &sum)
	}
	if err != nil || string(m.encode()) != string(data) {
		return nil, &DamageError{File: m.file, Err: errors.New("it is not what a clean stop writes")}
	}
	return m, nil
}

// check holds a log that was read to its end against the marker.
func (m *marker) check(r *Report) error {
	if m == nil {
		return nil
	}
	newest := r.Segments[len(r.Segments)-1]
	if newest.Name == m.segment && newest.UsedBytes == m.end && r.crc == m.crc {
		return nil
	}
	return &DamageError{
		File:      filepath.Join(filepath.Dir(m.file), newest.Name),
		Offset:    newest.UsedBytes,
		RaftIndex: r.LastRaftIndex + 1,
		Err:       fmt.Errorf("the log ends here, and after the clean stop it ended at offset %d of %s", m.end, m.segment),
	}
}

// writeMarker writes the marker for a log that was closed and synced.
func writeMarker(fsys fsx.FS, dir string) error {
	names, err := listSegments(fsys, dir)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("wal: mark %s: %w", dir, ErrNotFound)
	}
	seg, err := readSegment(fsys, dir, names[len(names)-1], nil)
	if err != nil {
		return err
	}
	m := &marker{segment: seg.name.String()}
	var last record
	for m.end < seg.end {
		r, ok := seg.record(m.end)
		if !ok || (m.end > 0 && !r.follows(last)) {
			return &DamageError{File: seg.path, Offset: m.end, Err: errors.New("what was written cannot be read back")}
		}
		m.end, last = m.end+r.size, r
	}
	m.crc = last.crc
	name := filepath.Join(dir, markerName)
	if err := fsx.WriteFile(fsys, name, m.encode()); err != nil {
		return ioError("mark the clean stop in", name, err)
	}
	return nil
}

func removeMarker(fsys fsx.FS, dir string) error {
	name := filepath.Join(dir, markerName)
	if err := fsx.RemoveIfExists(fsys, name); err != nil {
		return ioError("remove", name, err)
	}
	return syncDir(fsys, dir)
}
