package store

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/marsevilspirit/deimos"
)

// requestsFrom cuts hostile requests and times out of data.
func requestsFrom(data []byte, yield func(r *deimos.Request, nowMS int64)) {
	text := func() string {
		if len(data) == 0 {
			return ""
		}
		n := min(int(data[0]), len(data)-1)
		s := string(data[1 : 1+n])
		data = data[1+n:]
		return s
	}
	number := func() int64 {
		v, n := binary.Varint(data)
		if n <= 0 {
			data = nil
			return v
		}
		data = data[n:]
		return v
	}
	for len(data) > 2 {
		op, flags := data[0], data[1]
		data = data[2:]
		yield(&deimos.Request{
			Op:           deimos.Op(op % 9),
			Key:          text(),
			Value:        text(),
			Dir:          flags&1 != 0,
			Recursive:    flags&2 != 0,
			Refresh:      flags&4 != 0,
			HasTTL:       flags&8 != 0,
			TTLSeconds:   number(),
			HasPrevValue: flags&16 != 0,
			PrevValue:    text(),
			PrevIndex:    uint64(number()),
		}, number())
	}
}

// FuzzApply applies whatever comes. Whatever that does, the tree stays one that
// a snapshot can bring back, and every success has exactly one event.
func FuzzApply(f *testing.F) {
	f.Add([]byte("\x01\x00\x02/a\x011\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x08\x04/a/b\x00\x02\x00\x00\x00" + "\x06\x02\x02/a\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x05\x00\x02/q\x00\x00\x00\x00\x00" + "\x04\x14\x02/q\x00\x00\x01x\x02\x00"))
	f.Add([]byte("\x01\x00\x05//../\x00\x00\x00\x00\x00" + "\x08\x00\x01a\x00\x00\x00\x00\x00"))
	f.Add([]byte("\x01\x09\x03/\x00/\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := New(Config{HistoryEvents: 4})
		w, err := s.Watch("/", true, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		requestsFrom(data, func(r *deimos.Request, nowMS int64) {
			before := s.index
			e := try(t, s, r, nowMS)
			if e == nil && s.index != before || e != nil && (s.index != before+1 || e.Index() != s.index) {
				t.Fatalf("Apply(%+v) = %v moved the index from %d to %d", *r, e, before, s.index)
			}
			before = s.index
			if n := s.Expire(nowMS, 2); s.index != before+uint64(n) {
				t.Fatalf("Expire(%d, 2) = %d moved the index from %d to %d", nowMS, n, before, s.index)
			}
			s.Publish(1)
			if _, err := s.View().Get(r.Key); err != nil && e != nil && !e.removes() && r.Op != deimos.OpCreateInOrder && !r.HasTTL {
				t.Fatalf("Get(%q) after it was written = %v", r.Key, err)
			}
		})
		body := snapshot(t, s.View())
		restored := New(Config{})
		if err := restored.Restore(1, bytes.NewReader(body)); err != nil {
			t.Fatalf("Restore() = %v, want no error", err)
		}
		if !bytes.Equal(snapshot(t, restored.View()), body) {
			t.Fatal("the snapshot of what was restored differs")
		}
	})
}

// FuzzRestore restores whatever comes. What is accepted is consistent: it can
// be written, restored and changed again.
func FuzzRestore(f *testing.F) {
	f.Add(body(headerOf(3), directory("/a"), file("/a/b"), file("/c")))
	f.Add(body(headerOf(2), file("/b"), file("/a")))
	f.Add(body(headerOf(1), file("/a/b")))
	f.Add(snapshot(f, New(Config{}).View()))
	f.Add(snapshot(f, newWith(f, set("/a/b/c", "1", ttl(5)), post("/q", "x"), set("/a/\x00", "", dir)).View()))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, data []byte) {
		s := New(Config{})
		if err := s.Restore(1, bytes.NewReader(data)); err != nil {
			if s.View().Index() != firstIndex || s.View().Len() != 0 {
				t.Fatalf("failed Restore() changed the store: %v", err)
			}
			return
		}
		first := snapshot(t, s.View())
		if err := s.Restore(2, bytes.NewReader(first)); err != nil {
			t.Fatalf("Restore() of what was restored = %v, want no error", err)
		}
		if !bytes.Equal(snapshot(t, s.View()), first) {
			t.Fatal("the snapshot of what was restored differs")
		}
		for n := range s.View().Descendants(s.root) {
			if _, err := s.View().Get(n.Key()); err != nil {
				t.Fatalf("Get(%q) = %v, want no error", n.Key(), err)
			}
		}
		s.Expire(1<<62, 1<<20)
		try(t, s, del("/a", recursive), 1)
		try(t, s, post("/q", "x"), 1)
		s.Publish(3)
	})
}
