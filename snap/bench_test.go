package snap

import (
	"io"
	"path/filepath"
	"testing"
)

const benchBytes = 64 << 20

// BenchmarkSave supports the claim that a snapshot is written, synced and read
// back in constant memory at the speed of the disk.
func BenchmarkSave(b *testing.B) {
	s, err := Open(Config{Dir: filepath.Join(b.TempDir(), "snap")})
	if err != nil {
		b.Fatal(err)
	}
	piece := bodyOf(1, 4096)
	b.SetBytes(benchBytes)
	b.ReportAllocs()
	for b.Loop() {
		err := s.Save(metaAt(1, 1), func(w io.Writer) error {
			for range benchBytes / len(piece) {
				if _, err := w.Write(piece); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLoad supports the claim that a restart is not held up by checksums.
func BenchmarkLoad(b *testing.B) {
	s, err := Open(Config{Dir: filepath.Join(b.TempDir(), "snap")})
	if err != nil {
		b.Fatal(err)
	}
	mustSave(b, s, metaAt(1, 1), make([]byte, benchBytes))
	b.SetBytes(benchBytes)
	b.ReportAllocs()
	for b.Loop() {
		if err := s.Load(1, func(r io.Reader) error { _, err := io.Copy(io.Discard, r); return err }); err != nil {
			b.Fatal(err)
		}
	}
}
