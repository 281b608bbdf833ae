package snap

import (
	"hash/crc32"
	"io"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// FuzzDecoder reads hostile files: no panic, bounded memory, and whatever
// verifies is encoded to the same bytes.
func FuzzDecoder(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte(magic))
	good := encoded(f, metaAt(9, 3), bodyOf(1, 300))
	f.Add(good)
	f.Add(good[:len(good)-3])
	f.Add(encoded(f, metaAt(1, 1), nil))
	huge := append([]byte(magic), 1, 0, 0, 0, 255, 255, 255, 255)
	f.Add(huge)
	f.Fuzz(func(t *testing.T, data []byte) {
		disk := fsxtest.NewDisk(t)
		name := filepath.Join(testDir, "x")
		disk.Put(name, data)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		meta, err := verify(disk, name, false)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(2*len(data))+1<<20 {
			t.Fatalf("verify of %d bytes took %d bytes of memory", len(data), took)
		}
		if err != nil {
			return
		}
		file, err := disk.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		d, err := newDecoder(file, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, d); err != nil {
			t.Fatalf("verified file of raft index %d does not read: %v", meta.Index, err)
		}
	})
}

func FuzzParseName(f *testing.F) {
	f.Add(entryOf(metaAt(1, 2), false).name)
	f.Add(entryOf(metaAt(1<<63, 2), true).name)
	f.Add("0000000000000001-+000000000000002.snap")
	f.Add(receivedName(3))
	f.Fuzz(func(t *testing.T, name string) {
		if e, ok := parseName(name); ok && entryOf(metaAt(e.index, e.term), e.received).name != name {
			t.Errorf("parseName(%q) = %+v, which is another name", name, e)
		}
	})
}
