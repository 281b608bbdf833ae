package wal

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"github.com/marsevilspirit/deimos/internal/fsx"
	"github.com/marsevilspirit/deimos/internal/fsx/fsxtest"
)

const sectorBytes = 512

// crash is what may be left of the last batch of a history.
type crash struct {
	history
	from, to int64 // the last batch
	want     batchEnd
	whole    batchEnd
	dir      string
	images   int
}

// check starts from an image of the newest segment and wants every batch but
// the last, and what was cut off in a .broken file.
func (c *crash) check(t *testing.T, what string, data []byte) {
	t.Helper()
	c.images++
	name := c.im.newest()
	im := c.im.clone()
	im[name] = data
	im.put(t, c.dir)
	w, rec, err := Open(Config{Dir: c.dir}, newest)
	if err != nil {
		t.Fatalf("%s: Open() = %v", what, err)
	}
	w.Abandon()
	whole := int64(len(data)) >= c.to && bytes.Equal(bytes.TrimRight(data, "\x00"), bytes.TrimRight(c.im[name], "\x00"))
	want := c.want
	if whole {
		want = c.whole
	}
	if rec.LastRaftIndex != want.rec.LastRaftIndex || rec.HardState.Term != want.rec.HardState.Term ||
		rec.HardState.Vote != want.rec.HardState.Vote || rec.HardState.Commit < want.rec.HardState.Commit ||
		rec.Snapshot.Index+uint64(len(rec.Entries)) != rec.LastRaftIndex || len(rec.Snapshots) != len(want.rec.Snapshots) {
		t.Fatalf("%s: Open() = end %d, %v, %d snapshots; want end %d, %v, %d snapshots", what, rec.LastRaftIndex, rec.HardState,
			len(rec.Snapshots), want.rec.LastRaftIndex, want.rec.HardState, len(want.rec.Snapshots))
	}
	if rec.Repaired == nil {
		if rest := bytes.TrimRight(data, "\x00"); int64(len(rest)) > c.to && !whole {
			t.Fatalf("%s: nothing was cut off", what)
		}
		return
	}
	kept, err := os.ReadFile(rec.Repaired.KeptIn)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	cut := bytes.TrimRight(data[min(rec.Repaired.Offset, int64(len(data))):], "\x00")
	if rec.Repaired.Offset < c.from || !strings.Contains(rec.Repaired.KeptIn, brokenSuffix) || !bytes.Equal(kept, cut) {
		t.Fatalf("%s: cut at %d (batch begins at %d), %d bytes kept, want %d", what, rec.Repaired.Offset, c.from, len(kept), len(cut))
	}
}

func crashOf(t *testing.T, h history) (*crash, bool) {
	last, before := h.ends[len(h.ends)-1], h.ends[len(h.ends)-2]
	if last.segment != before.segment {
		return nil, false // a switch: the batch is in an older segment and durable
	}
	return &crash{history: h, from: before.end, to: last.end, want: before, whole: last, dir: filepath.Join(tempDir(t), "wal")}, true
}

// TestTornEndStartsUnaided is row D1: whatever a crash leaves of the last
// batch, the log starts with everything before it.
func TestTornEndStartsUnaided(t *testing.T) {
	images := 0
	for batches := 1; batches <= 16; batches++ {
		c, ok := crashOf(t, makeHistory(t, batches))
		if !ok {
			continue
		}
		whole := c.im[c.im.newest()]
		for at := c.from; at < c.to; at++ {
			zeroed := bytes.Clone(whole)
			clear(zeroed[at:])
			c.check(t, fmt.Sprintf("%d batches, zeros from %d", batches, at), zeroed)
			c.check(t, fmt.Sprintf("%d batches, cut at %d", batches, at), bytes.Clone(whole[:at]))
		}
		rng := rand.New(rand.NewPCG(1, uint64(batches)))
		for range 60 {
			c.check(t, fmt.Sprintf("%d batches, random words lost", batches), loseBlocks(whole, c.from, c.to, frameBytes, rng))
		}
		c.check(t, "nothing lost", whole)
		images += c.images
	}
	images += tornSectors(t)
	if images < 5000 {
		t.Errorf("images = %d, want at least 5000", images)
	}
	t.Logf("%d images", images)
}

// tornSectors loses every subset of the sectors of a large last batch.
func tornSectors(t *testing.T) int {
	images := 0
	for _, size := range []int{100, 700, 1500} {
		dir := filepath.Join(tempDir(t), "wal")
		w := mustCreate(t, Config{Dir: dir})
		mustAppend(t, w, state(1, 5, 1), entriesOf(1, 2, 3, 40))
		note := func(last uint64) batchEnd {
			r, err := Inspect(dir)
			if err != nil {
				t.Fatal(err)
			}
			return batchEnd{segment: w.segment, end: r.Segments[0].UsedBytes,
				rec: Recovered{HardState: r.HardState, LastRaftIndex: r.LastRaftIndex, Snapshots: r.Snapshots}}
		}
		before := note(3)
		mustAppend(t, w, state(1, 5, 3), entriesOf(1, 4, 4+uint64(3000/size), size))
		h := history{im: takeImage(t, dir), ends: []batchEnd{before, note(0)}}
		w.Abandon()
		c, ok := crashOf(t, h)
		if !ok {
			t.Fatal("the large batch is not in one segment")
		}
		whole := h.im[h.im.newest()]
		first, last := c.from/sectorBytes, (c.to-1)/sectorBytes
		for subset := range 1 << (last - first + 1) {
			data := bytes.Clone(whole)
			for s := first; s <= last; s++ {
				if subset>>(s-first)&1 == 1 {
					clear(data[max(s*sectorBytes, c.from):min((s+1)*sectorBytes, c.to)])
				}
			}
			c.check(t, fmt.Sprintf("entries of %d bytes, sectors %b lost", size, subset), data)
		}
		images += c.images
	}
	return images
}

func loseBlocks(whole []byte, from, to, block int64, rng *rand.Rand) []byte {
	data := bytes.Clone(whole)
	for at := from; at < to; at += block {
		if rng.IntN(3) == 0 {
			clear(data[at:min(at+block, to)])
		}
	}
	return data
}

func TestCutLogGoesOn(t *testing.T) {
	h := makeHistory(t, 16)
	c, ok := crashOf(t, h)
	if !ok {
		t.Fatal("the last batch began a segment")
	}
	im := h.im.clone()
	clear(im[im.newest()][c.to-8 : c.to])
	im.put(t, c.dir)
	for round := range uint64(3) {
		w, rec := mustOpen(t, Config{Dir: c.dir})
		if (rec.Repaired != nil) != (round == 0) {
			t.Errorf("start %d repaired %v", round, rec.Repaired)
		}
		last, hs := rec.LastRaftIndex, rec.HardState
		mustAppend(t, w, hs, entriesOf(hs.Term, last+1, last+1, 20))
		w.Abandon()
	}
}

// damaged wants an image to be refused and left as it is.
func damaged(t *testing.T, dir string, im image, what string) {
	t.Helper()
	im.put(t, dir)
	_, _, err := Open(Config{Dir: dir}, newest)
	var damage *DamageError
	if !errors.As(err, &damage) {
		t.Fatalf("%s: Open() = %v, want a DamageError", what, err)
	}
	if damage.File == "" || damage.RaftIndex == 0 {
		t.Fatalf("%s: %v names no file or no raft index", what, err)
	}
	if _, err := os.Stat(filepath.Join(dir, copyOf(im.newest()))); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("%s: the copy is still there: %v", what, err)
	}
	if after := takeImage(t, dir); len(after) != len(im) {
		t.Fatalf("%s: files changed", what)
	} else {
		for name := range im {
			if !bytes.Equal(after[name], im[name]) {
				t.Fatalf("%s: %s changed", what, name)
			}
		}
	}
}

// TestDamagedMiddleIsRefused is row D2a: damage with an intact later batch
// behind it is told from a torn write, wherever it is.
func TestDamagedMiddleIsRefused(t *testing.T) {
	h := makeHistory(t, 60)
	if n := len(h.im.segments()); n < 4 {
		t.Fatalf("the history has %d segments, want at least 4", n)
	}
	last, before := h.ends[len(h.ends)-1], h.ends[len(h.ends)-2]
	if last.segment != before.segment {
		t.Fatal("the last batch began a segment")
	}
	dir := filepath.Join(tempDir(t), "wal")
	rng := rand.New(rand.NewPCG(3, 3))
	places := 0
	for _, name := range h.im.segments() {
		limit := int64(len(h.im[name]))
		if name == h.im.newest() {
			limit = before.end
		}
		for _, block := range []int64{8, sectorBytes, 4096} {
			for at := int64(0); at < limit; at += block {
				im := h.im.clone()
				clear(im[name][at:min(at+block, limit)])
				if bytes.Equal(im[name], h.im[name]) || onlyPadding(t, h.im, im, name) {
					continue
				}
				damaged(t, dir, im, fmt.Sprintf("%d zeros at %d of %s", block, at, name))
				places++
			}
		}
		for range 150 {
			im := h.im.clone()
			at := rng.Int64N(limit)
			im[name][at] ^= 1 << rng.IntN(8)
			if onlyPadding(t, h.im, im, name) {
				continue
			}
			damaged(t, dir, im, fmt.Sprintf("a flipped bit at %d of %s", at, name))
			places++
		}
	}
	if places < 1000 {
		t.Errorf("places = %d, want at least 1000", places)
	}
	t.Logf("%d places", places)
}

// onlyPadding reports whether two images hold the same records.
func onlyPadding(t *testing.T, a, b image, name string) bool {
	t.Helper()
	parts := func(im image) []byte {
		data := im[name]
		s := &segment{size: int64(len(data)), end: int64(len(data)), data: bytes.Clone(data)}
		var out []byte
		for at := int64(0); at < s.end; {
			length, size, ok := s.frame(at)
			if !ok {
				return append(out, data[at:]...)
			}
			out = append(out, data[at:at+frameBytes+length]...)
			at += size
		}
		return out
	}
	return bytes.Equal(parts(a), parts(b))
}

// TestEveryFlippedBitIsDamageOrHarmless goes through every bit of a log in
// memory: each is refused, or changes nothing that is read.
func TestEveryFlippedBitIsDamageOrHarmless(t *testing.T) {
	h := makeHistory(t, 36)
	disk := fsxtest.NewDisk(t)
	const dir = "/data/wal"
	for name, data := range h.im {
		disk.Put(filepath.Join(dir, name), data)
	}
	before := h.ends[len(h.ends)-2]
	harmless := 0
	for _, name := range h.im.segments() {
		limit := int64(len(h.im[name]))
		if name == h.im.newest() {
			limit = before.end
		}
		path := filepath.Join(dir, name)
		for at := range limit {
			for bit := range 8 {
				data := bytes.Clone(h.im[name])
				data[at] ^= 1 << bit
				disk.Put(path, data)
				r, err := inspect(disk, dir, false)
				if err != nil {
					t.Fatalf("inspect with bit %d of %d of %s flipped = %v", bit, at, name, err)
				}
				if r.Verdict == Damaged {
					continue
				}
				im := h.im.clone()
				im[name] = data
				if r.Verdict != Clean || !onlyPadding(t, h.im, im, name) {
					t.Fatalf("inspect with bit %d of %d of %s flipped = %v, want damaged", bit, at, name, r.Verdict)
				}
				harmless++
			}
		}
		disk.Put(path, h.im[name])
	}
	t.Logf("%d flips of padding change nothing", harmless)
}

func TestMissingSegmentIsDamage(t *testing.T) {
	h := makeHistory(t, 60)
	dir := filepath.Join(tempDir(t), "wal")
	segments := h.im.segments()
	for _, name := range segments[1 : len(segments)-1] {
		im := h.im.clone()
		delete(im, name)
		damaged(t, dir, im, "without "+name)
	}
	im := h.im.clone()
	im["1"+im.newest()] = nil
	im.put(t, dir)
	var damage *DamageError
	if _, _, err := Open(Config{Dir: dir}, newest); !errors.As(err, &damage) {
		t.Errorf("Open() with a strange name = %v, want a DamageError", err)
	}
}

func TestSegmentsOfAnotherMemberAreDamage(t *testing.T) {
	a, b := makeHistory(t, 40), makeHistory(t, 44)
	im := a.im.clone()
	for _, name := range b.im.segments() {
		if _, shared := a.im[name]; shared && name != a.im.segments()[0] {
			im[name] = bytes.Replace(b.im[name], testIdentity.Incarnation[:], bytes.Repeat([]byte{9}, 16), 1)
			damaged(t, filepath.Join(tempDir(t), "wal"), im, "a segment of another member")
			return
		}
	}
	t.Fatal("no segment to exchange")
}

// TestNothingIsTornAfterACleanStop is rule 5: every place is damage, down to
// the last byte, even what would look like a clean end.
func TestNothingIsTornAfterACleanStop(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	w := mustCreate(t, Config{Dir: dir})
	mustAppend(t, w, state(2, 5, 1), entriesOf(2, 2, 6, 60))
	mustClose(t, w)
	im := takeImage(t, dir)
	name := im.newest()
	used := int64(len(bytes.TrimRight(im[name], "\x00")))
	r, err := Inspect(dir)
	if err != nil || !r.CleanStop || r.Verdict != Clean {
		t.Fatalf("Inspect() = %+v, %v, want a clean stop", r, err)
	}
	check := func(what string, change func(image)) {
		t.Helper()
		bad := im.clone()
		change(bad)
		if bytes.Equal(bad[name], im[name]) && bytes.Equal(bad[markerName], im[markerName]) || onlyPadding(t, im, bad, name) && bytes.Equal(bad[markerName], im[markerName]) {
			return
		}
		bad.put(t, dir)
		var damage *DamageError
		if _, _, err := Open(Config{Dir: dir}, newest); !errors.As(err, &damage) {
			t.Fatalf("%s: Open() = %v, want a DamageError", what, err)
		}
	}
	for at := range used {
		check(fmt.Sprintf("zeros from %d", at), func(b image) { clear(b[name][at:]) })
		check(fmt.Sprintf("cut at %d", at), func(b image) { b[name] = b[name][:at] })
		check(fmt.Sprintf("flip at %d", at), func(b image) { b[name][at] ^= 0x10 })
	}
	check("bytes behind the end", func(b image) { b[name][used+64] = 1 })
	for at := range im[markerName] {
		check(fmt.Sprintf("marker flip at %d", at), func(b image) { b[markerName][at] ^= 1 })
		check(fmt.Sprintf("marker cut at %d", at), func(b image) { b[markerName] = b[markerName][:at] })
	}
}

func TestMarkerIsGoneBeforeTheFirstWrite(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	w := mustCreate(t, Config{Dir: dir})
	mustClose(t, w)
	marker := filepath.Join(dir, markerName)
	synced := false
	cfg := Config{Dir: dir, FS: &fsxtest.Faults{FS: fsx.OS{}, Hook: func(op, name string) error {
		if op == fsxtest.OpSyncDir && name == dir {
			_, err := os.Stat(marker)
			synced = errors.Is(err, os.ErrNotExist)
		}
		return nil
	}}}
	w, _ = mustOpen(t, cfg)
	if !synced {
		t.Errorf("Open() did not make the removal of the marker durable")
	}
	mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 2, 10))
	w.Abandon()
	if _, err := os.Stat(marker); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the marker is there after a crash: %v", err)
	}
}

func TestCopiedDirectoryStartsInItsPlace(t *testing.T) {
	dir := filepath.Join(tempDir(t), "wal")
	w := mustCreate(t, Config{Dir: dir})
	mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 5, 10))
	mustClose(t, w)
	copied := filepath.Join(tempDir(t), "wal")
	takeImage(t, dir).put(t, copied)
	if _, rec := mustOpen(t, Config{Dir: copied}); rec.LastRaftIndex != 5 || rec.Identity != testIdentity {
		t.Errorf("Open() of a copy = end %d of %v, want 5 of %v", rec.LastRaftIndex, rec.Identity, testIdentity)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	newer, err := encodeIdentity(testIdentity)
	if err != nil {
		t.Fatal(err)
	}
	newer[1] = logFormat + 1
	if _, err := decodeIdentity(newer); !errors.Is(err, ErrVersion) || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("decodeIdentity() of a newer format = %v, want ErrVersion with both versions", err)
	}
	s := newScan(segmentName{})
	s.records = 1
	if err := s.takeMetadata(newer); !errors.Is(err, ErrVersion) {
		t.Errorf("takeMetadata() of a newer format = %v, want ErrVersion", err)
	}
}

// TestValueThatLooksLikeRecordsIsNotTakenForThem has a torn value whose bytes
// chain like two batches of their own.
func TestValueThatLooksLikeRecordsIsNotTakenForThem(t *testing.T) {
	h := makeHistory(t, 9)
	first := h.im[h.im.segments()[0]]
	dir := filepath.Join(tempDir(t), "wal")
	w := mustCreate(t, Config{Dir: dir})
	mustAppend(t, w, state(1, 0, 1), entriesOf(1, 2, 2, 10))
	r, err := Inspect(dir)
	if err != nil {
		t.Fatal(err)
	}
	from := r.Segments[0].UsedBytes
	for shift := range 8 { // one of them is aligned in the file
		value := append(bytes.Repeat([]byte{'x'}, 600+shift), first[:1200]...)
		entry := raftpb.Entry{Term: 1, Index: 3, Data: value}
		mustAppend(t, w, state(1, 0, 2), []raftpb.Entry{entry})
		im := takeImage(t, dir)
		w.Abandon()
		clear(im[im.newest()][from+300 : from+400]) // within the value, before the records
		im.put(t, dir)
		var rec Recovered
		w, rec = mustOpen(t, Config{Dir: dir})
		if rec.LastRaftIndex != 2 {
			t.Fatalf("shift %d: last raft index = %d, want 2", shift, rec.LastRaftIndex)
		}
		if r, err = Inspect(dir); err != nil {
			t.Fatal(err)
		}
		from = r.Segments[len(r.Segments)-1].UsedBytes
	}
}
