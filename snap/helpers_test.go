package snap

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

const testDir = "/data/snap"

func metaAt(index, term uint64) raftpb.SnapshotMetadata {
	return raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}}}
}

func bodyOf(seed, n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(uint64(seed), 7))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func writer(body []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		for len(body) > 0 { // odd pieces, so that chunks do not follow the calls
			n := min(len(body), 1000)
			if _, err := w.Write(body[:n]); err != nil {
				return err
			}
			body = body[n:]
		}
		return nil
	}
}

func mustOpen(t testing.TB, fsys fsx.FS, keep int) *Snapshots {
	t.Helper()
	s, err := Open(Config{Dir: testDir, MaxSnapshots: keep, FS: fsys})
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	return s
}

func mustSave(t testing.TB, s *Snapshots, meta raftpb.SnapshotMetadata, body []byte) {
	t.Helper()
	if err := s.Save(meta, writer(body)); err != nil {
		t.Fatalf("Save(%d) = %v", meta.Index, err)
	}
}

func mustLoad(t testing.TB, s *Snapshots, index uint64) []byte {
	t.Helper()
	var got []byte
	err := s.Load(index, func(r io.Reader) (err error) {
		got, err = io.ReadAll(r)
		return err
	})
	if err != nil {
		t.Fatalf("Load(%d) = %v", index, err)
	}
	return got
}

// encoded returns a whole file.
func encoded(t testing.TB, meta raftpb.SnapshotMetadata, body []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	e, err := newEncoder(&b, meta)
	if err == nil {
		err = errors.Join(writer(body)(e), e.finish())
	}
	if err != nil {
		t.Fatalf("encode %d bytes: %v", len(body), err)
	}
	return b.Bytes()
}

func verifyBytes(t testing.TB, data []byte) (raftpb.SnapshotMetadata, error) {
	t.Helper()
	disk := fsxtest.NewDisk(t)
	disk.Put(filepath.Join(testDir, "x"), data)
	return verify(disk, filepath.Join(testDir, "x"), false)
}

func wantEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", what, diff)
	}
}

func wantSettled(t testing.TB, disk *fsxtest.Disk, after string) {
	t.Helper()
	if open := disk.Unsynced(); len(open) > 0 {
		t.Errorf("after %s these are not durable: %v", after, open)
	}
}
