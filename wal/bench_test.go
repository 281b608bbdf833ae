package wal

import (
	"fmt"
	"path/filepath"
	"testing"

	"go.etcd.io/raft/v3/raftpb"
)

// BenchmarkAppend supports the claim that one fsync carries a whole batch: 32
// entries of 128 bytes cost little more than one. In memory the fsync is free,
// and what is left is the cost of this package and etcd's.
func BenchmarkAppend(b *testing.B) {
	for _, place := range []string{"disk", "memory"} {
		for _, n := range []uint64{1, 32} {
			b.Run(fmt.Sprintf("%s/%d", place, n), func(b *testing.B) {
				defer SetSegmentBytes(64 * 1000 * 1000)()
				dir := b.TempDir()
				if place == "memory" {
					dir = tempDir(b)
				}
				w := mustCreate(b, Config{Dir: filepath.Join(dir, "wal"), MaxWALs: -1})
				defer w.Abandon()
				entries := make([]raftpb.Entry, n)
				data := make([]byte, 128)
				for i := range data {
					data[i] = byte(i)
				}
				last := uint64(1)
				b.ReportAllocs()
				for b.Loop() {
					for i := range entries {
						entries[i] = raftpb.Entry{Term: 1, Index: last + 1 + uint64(i), Data: data}
					}
					if err := w.Append(raftpb.HardState{Term: 1, Commit: last}, entries); err != nil {
						b.Fatal(err)
					}
					last += n
				}
			})
		}
	}
}
