package wal

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

// TestMemoryOfAnotherSegmentIsNotSeen reads a short segment into memory that a
// longer one has left full.
func TestMemoryOfAnotherSegmentIsNotSeen(t *testing.T) {
	disk := fsxtest.NewDisk(t)
	name := segmentName{seq: 1}
	content := append([]byte("12345678"), make([]byte, 56)...)
	disk.Put(filepath.Join("/d", name.String()), content)
	s, err := readSegment(disk, "/d", name, bytes.Repeat([]byte{0xff}, 100))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.bytes(0, s.size); s.end != 8 || !bytes.Equal(got, content) {
		t.Errorf("readSegment() = end %d, bytes %x, want 8 and %x", s.end, got, content)
	}
}

func TestLastNonzero(t *testing.T) {
	const block, page = 1 << 20, 4096
	ends := map[int64]bool{}
	for _, near := range []int64{0, 8, 64, page, 2 * page, block, block + 64} {
		for d := int64(-9); d <= 9; d++ {
			ends[max(near+d, 0)] = true
		}
	}
	for _, size := range []int64{0, 1, 7, 8, 9, 23, 64, page, page + 1, 2*page + 8, block, block + 5, block + 73} {
		data := make([]byte, size)
		for _, end := range slices.Sorted(maps.Keys(ends)) {
			if end > size {
				continue
			}
			clear(data)
			if end > 0 {
				data[end-1] = 1
				data[0] = max(data[0], 1)
			}
			if got, err := lastNonzero(bytes.NewReader(data), size); got != end || err != nil {
				t.Errorf("lastNonzero() of %d bytes = %d, %v, want %d", size, got, err, end)
			}
		}
	}
	if _, err := lastNonzero(failingReader{}, 10); !errors.Is(err, syscall.EIO) {
		t.Errorf("lastNonzero() of a bad disk = %v, want EIO", err)
	}
}

type failingReader struct{}

// ReadAt implements [io.ReaderAt].
func (failingReader) ReadAt([]byte, int64) (int, error) {
	return 0, fmt.Errorf("read: %w", syscall.EIO)
}
