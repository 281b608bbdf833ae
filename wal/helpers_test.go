package wal

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

// testSegmentBytes is small, so that a few dozen batches fill a segment.
const testSegmentBytes = 4096

func TestMain(m *testing.M) {
	SetSegmentBytes(testSegmentBytes)
	debug.SetGCPercent(800) // each of tens of thousands of opened logs takes a buffer of 1 MiB
	os.Exit(m.Run())
}

var testIdentity = Identity{ClusterID: 0xc1, MemberID: 2, Incarnation: [16]byte{1, 2, 3}}

func metaAt(index, term uint64) raftpb.SnapshotMetadata {
	return raftpb.SnapshotMetadata{Index: index, Term: term, ConfState: raftpb.ConfState{Voters: []uint64{1, 2, 3}}}
}

func state(term, vote, commit uint64) raftpb.HardState {
	return raftpb.HardState{Term: term, Vote: vote, Commit: commit}
}

// entriesOf makes entries of a term whose data tells their index.
func entriesOf(term, from, to uint64, size int) []raftpb.Entry {
	var out []raftpb.Entry
	for i := from; i <= to; i++ {
		data := fmt.Appendf(nil, "entry %d of term %d ", i, term)
		for len(data) < size {
			data = append(data, byte(len(data)*int(i)))
		}
		out = append(out, raftpb.Entry{Term: term, Index: i, Data: data})
	}
	return out
}

// tempDir is in memory where there is a place for that: thousands of images
// are synced, and how fast is not what these tests are about.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "deimos-wal-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove %s: %v", dir, err)
		}
	})
	return dir
}

// operation is one of the operations of a run on the file system. What two
// goroutines do has no order, so that it is known by its file and by how often
// the same was done to that before.
type operation struct {
	op, file string
	nth      int
}

// eachOperation runs something with nothing failing, and then once for each of
// its operations with that one failing. The run has its files in a directory of
// its own each time.
func eachOperation(t *testing.T, cause error, run func(fsys fsx.FS, failing operation)) {
	t.Helper()
	once := func(failing operation) (done map[operation]bool) {
		count, done := map[operation]int{}, map[operation]bool{}
		run(&fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
			this := operation{op: op, file: filepath.Base(name)}
			count[this]++
			this.nth = count[this]
			done[this] = true
			if this == failing {
				return cause
			}
			return nil
		}}, failing)
		return done
	}
	all := once(operation{})
	if len(all) == 0 {
		t.Errorf("the run has no operations")
	}
	inOrder := func(a, b operation) int {
		return cmp.Or(strings.Compare(a.file, b.file), strings.Compare(a.op, b.op), a.nth-b.nth)
	}
	for _, failing := range slices.SortedFunc(maps.Keys(all), inOrder) {
		if !once(failing)[failing] {
			t.Errorf("%v was not reached", failing)
		}
	}
}

func mustCreate(t testing.TB, cfg Config) *WAL {
	t.Helper()
	w, err := Create(cfg, testIdentity, metaAt(1, 1), state(1, 0, 1))
	if err != nil {
		t.Fatalf("Create() = %v", err)
	}
	t.Cleanup(w.Abandon)
	return w
}

func newest(snapshots []raftpb.SnapshotMetadata) (raftpb.SnapshotMetadata, error) {
	return snapshots[len(snapshots)-1], nil
}

func mustOpen(t testing.TB, cfg Config) (*WAL, Recovered) {
	t.Helper()
	w, rec, err := Open(cfg, newest)
	if err != nil {
		t.Fatalf("Open() = %v", err)
	}
	t.Cleanup(w.Abandon)
	return w, rec
}

func mustAppend(t testing.TB, w *WAL, hs raftpb.HardState, entries []raftpb.Entry) {
	t.Helper()
	if err := w.Append(hs, entries); err != nil {
		t.Fatalf("Append(%v, %d entries) = %v", hs, len(entries), err)
	}
}

func mustClose(t testing.TB, w *WAL) {
	t.Helper()
	if err := w.Close(); err != nil {
		t.Fatalf("Close() = %v", err)
	}
}

func wantEqual(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("%s differs (-want +got):\n%s", what, diff)
	}
}

// image is the content of a log directory.
type image map[string][]byte

func takeImage(t testing.TB, dir string) image {
	t.Helper()
	names, err := fsx.OS{}.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	im := image{}
	for _, name := range names {
		if strings.HasSuffix(name, fsx.TempSuffix) {
			continue
		}
		if im[name], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return im
}

func (im image) put(t testing.TB, dir string) {
	t.Helper()
	err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, fsx.DirMode))
	for name, data := range im {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), data, fsx.FileMode))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (im image) clone() image {
	out := image{}
	for name, data := range im {
		out[name] = bytes.Clone(data)
	}
	return out
}

// segments returns the names of the segments in order.
func (im image) segments() []string {
	return slices.DeleteFunc(slices.Sorted(maps.Keys(im)), func(n string) bool { return !strings.HasSuffix(n, segmentSuffix) })
}

func (im image) newest() string {
	s := im.segments()
	return s[len(s)-1]
}

// batchEnd is what was durable after a batch.
type batchEnd struct {
	segment string
	end     int64
	rec     Recovered
}

// history is a log in which everything happens: votes, entries, replaced
// entries, own and received snapshots, several segments.
type history struct {
	im   image
	ends []batchEnd
}

func makeHistory(t testing.TB, batches int) history {
	t.Helper()
	dir := filepath.Join(tempDir(t), "wal")
	w := mustCreate(t, Config{Dir: dir})
	h := history{}
	note := func() {
		im := takeImage(t, dir)
		r, err := Inspect(dir)
		if err != nil || r.Verdict != Clean {
			t.Fatalf("Inspect() of a log in use = %+v, %v, want clean", r, err)
		}
		h.ends = append(h.ends, batchEnd{segment: im.newest(), end: r.Segments[len(r.Segments)-1].UsedBytes,
			rec: Recovered{HardState: r.HardState, LastRaftIndex: r.LastRaftIndex, Snapshots: r.Snapshots}})
	}
	note()
	term, last := uint64(1), uint64(1)
	for i := range batches {
		commit := last
		switch i % 7 {
		case 2: // a vote
			term++
			mustAppend(t, w, state(term, uint64(i)|1<<60, commit), nil)
		case 4: // many entries
			mustAppend(t, w, raftpb.HardState{Term: term, Vote: w.state.Vote, Commit: commit}, entriesOf(term, last+1, last+5, 10))
			last += 5
		case 5: // an own snapshot
			if err := w.SaveSnapshot(metaAt(commit, term)); err != nil {
				t.Fatalf("SaveSnapshot() = %v", err)
			}
		case 6: // a leader's empty entry
			mustAppend(t, w, state(term, w.state.Vote, commit), []raftpb.Entry{{Term: term, Index: last + 1}})
			last++
		default:
			mustAppend(t, w, state(term, w.state.Vote, commit), entriesOf(term, last+1, last+1, 30+i%3*250))
			last++
		}
		note()
	}
	h.im = takeImage(t, dir)
	w.Abandon()
	return h
}
