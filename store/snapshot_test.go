package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/marsevilspirit/deimos/store/storepb"
)

func TestRestoreBringsEverythingBack(t *testing.T) {
	for _, tt := range []struct {
		name   string
		s      *Store
		oldest uint64
	}{
		{"empty", New(Config{}), 1},
		{"tree", newWith(t, set("/a/b/c", "1", ttl(5)), set("/a-b", ""), set("/a/_h", "2"), set("/d", "", dir, ttl(2)),
			set("/\xff/x", strings.Repeat("v", 1<<20)), update("/a", "", ttl(7)), del("/a-b")), 9},
	} {
		t.Run(tt.name, func(t *testing.T) {
			body := snapshot(t, tt.s.View())
			got := newWith(t, set("/old", "1", ttl(1)), set("/old2/x", "1"))
			if _, err := got.Apply(set("/unpublished", "1"), 1); err != nil {
				t.Fatal(err)
			}
			if err := got.Restore(77, iotest.HalfReader(bytes.NewReader(body))); err != nil {
				t.Fatalf("Restore() = %v, want no error", err)
			}
			v, want := got.View(), tt.s.View()
			if treeText(v) != treeText(want) || v.Index() != want.Index() || v.RaftIndex() != 77 {
				t.Errorf("restored tree at %d/%d:\n%swant at %d/77:\n%s", v.Index(), v.RaftIndex(), treeText(v), want.Index(), treeText(want))
			}
			if v.OldestIndex() != tt.oldest {
				t.Errorf("OldestIndex() = %d, want %d", v.OldestIndex(), tt.oldest)
			}
			gotMS, _ := v.NextDeadline()
			if wantMS, _ := want.NextDeadline(); gotMS != wantMS {
				t.Errorf("NextDeadline() = %d, want %d", gotMS, wantMS)
			}
			if !bytes.Equal(snapshot(t, v), body) {
				t.Error("the snapshot of what was restored differs")
			}
			for _, s := range []*Store{got, tt.s} {
				mustApply(t, s, set("/a/b/d", "3"), post("/a", "x"))
				s.Expire(100000, 100)
				s.Publish(78)
			}
			if treeText(got.View()) != treeText(tt.s.View()) {
				t.Error("restored and original store differ after the same writes")
			}
			if w := mustWatch(t, got, "/a", true, max(tt.oldest, 2)); len(indexes(t, w)) < 2 {
				t.Error("the history lacks events that were applied after Restore")
			}
		})
	}
}

func TestEqualWritesMakeEqualSnapshots(t *testing.T) {
	write := func(s *Store, publishEvery int) []byte {
		for i := range 5000 {
			r := set(fmt.Sprintf("/d%d/k%d", i*7%11, i*31%997), fmt.Sprint(i))
			r.HasTTL, r.TTLSeconds = i%3 == 0, int64(i%50)
			try(t, s, r, int64(i))
			if i%501 == 0 {
				try(t, s, del(fmt.Sprintf("/d%d", i%11), recursive), int64(i))
			}
			s.Expire(int64(i), 3)
			if i%publishEvery == 0 {
				s.Publish(uint64(i))
			}
		}
		s.Publish(5000)
		return snapshot(t, s.View())
	}
	one := New(Config{})
	a, b := write(one, 1), write(New(Config{HistoryEvents: 3}), 64)
	if !bytes.Equal(a, b) {
		t.Error("snapshots of equal writes differ")
	}
	restored := New(Config{})
	if err := restored.Restore(1, bytes.NewReader(a)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(write(restored, 7), write(one, 32)) {
		t.Error("snapshots of equal writes differ after a restore")
	}
}

func TestWriteToReportsTheError(t *testing.T) {
	v := newWith(t, set("/a", strings.Repeat("v", 300000)), set("/b", "1")).View()
	full := int64(len(snapshot(t, v)))
	for _, room := range []int64{0, 1, 70000, full - 1} {
		n, err := v.WriteTo(&limitedWriter{room: room})
		if !errors.Is(err, io.ErrShortWrite) || n > room {
			t.Errorf("WriteTo(room for %d) = %d, %v, want %v", room, n, err, io.ErrShortWrite)
		}
	}
}

type limitedWriter struct{ room int64 }

func (w *limitedWriter) Write(p []byte) (int, error) {
	n := min(int64(len(p)), w.room)
	w.room -= n
	if n < int64(len(p)) {
		return int(n), io.ErrShortWrite
	}
	return int(n), nil
}

// body builds a snapshot body from a header and nodes that may be wrong.
func body(header storepb.Header, nodes ...storepb.Node) []byte {
	var b []byte
	message := func(m interface{ Marshal() ([]byte, error) }) {
		encoded, err := m.Marshal()
		if err != nil {
			panic(err)
		}
		b = append(binary.AppendUvarint(b, uint64(len(encoded))), encoded...)
	}
	message(&header)
	for _, n := range nodes {
		message(&n)
	}
	return b
}

func headerOf(nodes uint64) storepb.Header {
	return storepb.Header{FormatVersion: 1, Index: 10, NodeCount: nodes}
}

func file(key string) storepb.Node {
	return storepb.Node{Key: key, Value: "v", ModifiedIndex: 5, CreatedIndex: 4}
}

func directory(key string) storepb.Node {
	return storepb.Node{Key: key, Dir: true, ModifiedIndex: 5, CreatedIndex: 4}
}

func with(n storepb.Node, change func(n *storepb.Node)) storepb.Node {
	change(&n)
	return n
}

func TestDamagedSnapshotsAreRefusedAndChangeNothing(t *testing.T) {
	good := body(headerOf(3), directory("/a"), file("/a/b"), file("/c"))
	for _, tt := range []struct {
		name, want string
		body       []byte
	}{
		{"nothing", "unexpected EOF", nil},
		{"half a header", "unexpected EOF", good[:3]},
		{"header alone", "node 1 of 3: unexpected EOF", good[:7]},
		{"half a node", "unexpected EOF", good[:len(good)-1]},
		{"one node short", "node 3 of 3: unexpected EOF", body(headerOf(3), directory("/a"), file("/a/b"))},
		{"one node more", "something follows", body(headerOf(1), file("/a"), file("/b"))},
		{"trailing byte", "something follows", append(bytes.Clone(good), 0)},
		{"no version", "format version is 0", body(storepb.Header{Index: 10})},
		{"later version", "format version is 2", body(storepb.Header{FormatVersion: 2, Index: 10})},
		{"no index", "index 0 is out of range", body(storepb.Header{FormatVersion: 1})},
		{"huge index", "is out of range", body(storepb.Header{FormatVersion: 1, Index: 1 << 63})},
		{"huge header", "at most 1024 are allowed", binary.AppendUvarint(nil, 1<<40)},
		{"huge node", "are allowed", binary.AppendUvarint(body(headerOf(1)), 1<<40)},
		{"length overflows", "overflows", bytes.Repeat([]byte{0xff}, 20)},
		{"header is no message", "decoding the header", []byte{1, 0xff}},
		{"node is no message", "decoding", append(body(headerOf(1)), 1, 0xff)},
		{"duplicate", "/a comes after /a", body(headerOf(2), file("/a"), file("/a"))},
		{"unsorted", "/a comes after /b", body(headerOf(2), file("/b"), file("/a"))},
		{"bytewise order", "/a/b comes after /a-b", body(headerOf(3), directory("/a"), file("/a-b"), file("/a/b"))},
		{"orphan", "/a/b has no parent", body(headerOf(1), file("/a/b"))},
		{"orphan of a neighbour", "/ab/c has no parent", body(headerOf(2), directory("/a"), file("/ab/c"))},
		{"grandchild", "/a/b/c has no parent", body(headerOf(2), directory("/a"), file("/a/b/c"))},
		{"below a file", "/a/b has no parent", body(headerOf(2), file("/a"), file("/a/b"))},
		{"root", "is not clean", body(headerOf(1), directory("/"))},
		{"unclean key", "is not clean", body(headerOf(1), file("/a/"))},
		{"no key", "is not clean", body(headerOf(1), file(""))},
		{"long key", "is not clean", body(headerOf(1), file("/"+strings.Repeat("k", AppliedKeyMaxBytes)))},
		{"directory with a value", "has a value", body(headerOf(1), with(directory("/a"), func(n *storepb.Node) { n.Value = "v" }))},
		{"negative deadline", "has the deadline -1", body(headerOf(1), with(file("/a"), func(n *storepb.Node) { n.DeadlineMs = -1 }))},
		{"created too early", "created at 1", body(headerOf(1), with(file("/a"), func(n *storepb.Node) { n.CreatedIndex = 1 }))},
		{"modified before created", "created at 6", body(headerOf(1), with(file("/a"), func(n *storepb.Node) { n.CreatedIndex = 6 }))},
		{"modified after the index", "modified at 11", body(headerOf(1), with(file("/a"), func(n *storepb.Node) { n.ModifiedIndex = 11 }))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newWith(t, set("/kept", "1", ttl(3)))
			w := mustWatch(t, s, "/kept", false, 0)
			before := snapshot(t, s.View())
			err := s.Restore(9, bytes.NewReader(tt.body))
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "raft index 9") {
				t.Fatalf("Restore() = %v, want an error with %q", err, tt.want)
			}
			mustApply(t, s, set("/kept", "1"))
			if got := indexes(t, w); len(got) != 1 || got[0] != 3 {
				t.Errorf("watcher got %d after a failed Restore, want 3", got)
			}
			if _, err := s.Apply(del("/kept"), 1); err != nil || len(before) == 0 {
				t.Errorf("Apply() after a failed Restore = %v, want no error", err)
			}
		})
	}
	if err := New(Config{}).Restore(9, bytes.NewReader(good)); err != nil {
		t.Errorf("Restore() of the sound body = %v, want no error", err)
	}
}

func TestRestorePassesReadErrorsOn(t *testing.T) {
	good := body(headerOf(2), directory("/a"), file("/a/b"))
	broken := errors.New("broken disk")
	for cut := range len(good) + 1 {
		r := io.MultiReader(bytes.NewReader(good[:cut]), iotest.ErrReader(broken))
		if err := New(Config{}).Restore(9, r); !errors.Is(err, broken) {
			t.Errorf("Restore() cut after %d bytes = %v, want %v", cut, err, broken)
		}
	}
}
