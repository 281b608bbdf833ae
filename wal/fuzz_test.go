package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"path/filepath"
	"runtime"
	"testing"

	"go.etcd.io/etcd/server/v3/storage/wal/walpb"
	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

// seedSegments adds a good first segment, and cut and changed ones.
func seedSegments(f *testing.F) (name string) {
	f.Helper()
	h := makeHistory(f, 8)
	name = h.im.segments()[0]
	good := bytes.TrimRight(h.im[name], "\x00")
	huge := bytes.Clone(good)
	binary.LittleEndian.PutUint64(huge[len(huge)/16*8:], 1<<55)
	mark := (&marker{segment: name, end: 12, crc: 34}).encode()
	for _, rechained := range []bool{false, true} {
		f.Add(h.im[name][:2048], []byte(nil), rechained)
		f.Add(good, []byte(nil), rechained)
		f.Add(good[:300], []byte(nil), rechained)
		f.Add([]byte{}, []byte(nil), rechained)
		f.Add(huge, []byte(nil), rechained)
		f.Add(good, mark, rechained)
	}
	return name
}

// rechain gives changed records the checksums that they would have if they had
// been written so, to get at what is checked behind the checksum.
func rechain(data []byte) []byte {
	s := &segment{size: int64(len(data)), end: int64(len(data)), data: bytes.Clone(data)}
	var out []byte
	var crc uint32
	for at := int64(0); at < s.end; {
		r, ok := s.record(at)
		if !ok {
			return append(out, data[at:]...)
		}
		at += r.size
		if r.kind == kindCRC {
			crc = r.crc
		} else {
			crc = crc32.Update(crc, castagnoli, r.data)
		}
		b := binary.AppendUvarint([]byte{0x08, r.kind, 0x10}, uint64(crc))
		if r.kind != kindCRC {
			b = append(binary.AppendUvarint(append(b, 0x1a), uint64(len(r.data))), r.data...)
		}
		word, padding := uint64(len(b)), -len(b)&7
		if padding > 0 {
			word |= uint64(0x80|padding) << 56
		}
		out = append(binary.LittleEndian.AppendUint64(out, word), b...)
		out = append(out, make([]byte, padding)...)
	}
	return out
}

func imageOf(name string, data, mark []byte, rechained bool) image {
	if rechained {
		data = rechain(data)
	}
	im := image{name: data}
	if len(mark) > 0 {
		im[markerName] = mark
	}
	return im
}

// FuzzInspect gives hostile bytes as the only segment and as the marker: no
// panic, and no more memory than a small multiple of the file.
func FuzzInspect(f *testing.F) {
	name := seedSegments(f)
	f.Fuzz(func(t *testing.T, data, mark []byte, rechained bool) {
		disk := fsxtest.NewDisk(t)
		const dir = "/data/wal"
		im := imageOf(name, data, mark, rechained)
		for n, b := range im {
			disk.Put(filepath.Join(dir, n), b)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		r, err := inspect(disk, dir, false)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > uint64(16*len(im[name]))+1<<20 {
			t.Fatalf("inspect of %d bytes took %d bytes of memory", len(im[name]), took)
		}
		if err != nil && !errors.Is(err, ErrVersion) {
			t.Fatalf("inspect = %v", err)
		}
		if err == nil && r.Verdict != Damaged && len(r.Snapshots) == 0 {
			t.Fatalf("inspect lets a log through that names no snapshot")
		}
		s, err := salvage(disk, dir, []raftpb.SnapshotMetadata{metaAt(1, 1)})
		if err != nil && !errors.Is(err, ErrVersion) && !errors.Is(err, ErrNothingSalvaged) {
			t.Fatalf("salvage = %v", err)
		}
		if err == nil && s.LastRaftIndex != s.Snapshot.Index+uint64(len(s.Entries)) {
			t.Fatalf("salvage = %d entries from the snapshot at %d to %d", len(s.Entries), s.Snapshot.Index, s.LastRaftIndex)
		}
	})
}

// FuzzOpen opens what FuzzInspect would judge: etcd's package must accept what
// the inspection lets through, and the log must take another entry.
func FuzzOpen(f *testing.F) {
	name := seedSegments(f)
	f.Fuzz(func(t *testing.T, data, mark []byte, rechained bool) {
		dir := filepath.Join(tempDir(t), "wal")
		imageOf(name, data, mark, rechained).put(t, dir)
		r, err := Inspect(dir)
		if err != nil {
			return
		}
		w, rec, err := Open(Config{Dir: dir}, newest)
		if (err == nil) != (r.Verdict != Damaged) {
			t.Fatalf("Open() = %v after the verdict %v", err, r.Verdict)
		}
		if err != nil {
			return
		}
		defer w.Abandon()
		hs := rec.HardState
		hs.Term = max(hs.Term, 1)
		if err := w.Append(hs, []raftpb.Entry{{Term: hs.Term, Index: rec.LastRaftIndex + 1}}); err != nil {
			t.Fatalf("Append() = %v", err)
		}
	})
}

// FuzzParseRecord holds the strict parser against the generated one: what it
// accepts, the other reads the same, and writes back to the same bytes.
func FuzzParseRecord(f *testing.F) {
	for _, r := range []walpb.Record{{Type: 4, Crc: 7}, {Type: 2, Crc: 1 << 31, Data: []byte("x")}, {Type: 3, Data: []byte{}}} {
		b, err := r.Marshal()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x08, 0x02, 0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0x1a, 0x00})
	f.Fuzz(func(t *testing.T, b []byte) {
		got, ok := parseRecord(b)
		if !ok {
			return
		}
		var want walpb.Record
		if err := want.Unmarshal(b); err != nil {
			t.Fatalf("parseRecord(%x) accepts what walpb refuses: %v", b, err)
		}
		if int64(got.kind) != want.Type || got.crc != want.Crc || !bytes.Equal(got.data, want.Data) {
			t.Fatalf("parseRecord(%x) = %+v, want %+v", b, got, want)
		}
	})
}

func TestParseFrameAcceptsOnlyWhatIsWritten(t *testing.T) {
	for length := range int64(70) {
		word, padding := uint64(length), -length&7
		if padding > 0 {
			word |= uint64(0x80|padding) << 56
		}
		gotLength, gotPadding, ok := parseFrame(word)
		if gotLength != length || gotPadding != padding || ok != (length > 0) {
			t.Errorf("parseFrame(%x) = %d, %d, %v, want %d, %d, %v", word, gotLength, gotPadding, ok, length, padding, length > 0)
		}
		for bit := range 64 {
			if l, p, ok := parseFrame(word ^ 1<<bit); ok && (l == length || p == padding && l-length != 8<<max(bit-3, 0) && length-l != 8<<max(bit-3, 0)) {
				t.Errorf("parseFrame(%x) with bit %d flipped is accepted as %d, %d", word, bit, l, p)
			}
		}
	}
}
