package store

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/marsevilspirit/deimos"
)

const benchValueBytes = 128

func benchKey(i int) string { return fmt.Sprintf("/bench/d%03d/key%07d", i%1000, i) }

// filled returns a published store with n files of 128 bytes in 1000
// directories. Each string is allocated on its own, like those of a log entry.
func filled(tb testing.TB, n int) *Store {
	tb.Helper()
	s := New(Config{})
	for i := range n {
		if _, err := s.Apply(set(benchKey(i), strings.Repeat("v", benchValueBytes)), 1000); err != nil {
			tb.Fatal(err)
		}
		if i%256 == 255 {
			s.Publish(1)
		}
	}
	s.Publish(1)
	return s
}

func sizes(b *testing.B, run func(b *testing.B, n int)) {
	for _, n := range []int{10000, 1000000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			if n > 10000 && testing.Short() {
				b.Skip("too large for -short")
			}
			run(b, n)
		})
	}
}

func BenchmarkSetExisting(b *testing.B) {
	sizes(b, func(b *testing.B, n int) {
		s := filled(b, n)
		for _, perPublish := range []int{1, 32} {
			b.Run(fmt.Sprintf("perPublish=%d", perPublish), func(b *testing.B) {
				b.ReportAllocs()
				r := set("", strings.Repeat("v", benchValueBytes))
				keys := make([]string, 4096)
				for i := range keys {
					keys[i] = benchKey(i * 7919 % n)
				}
				i := 0
				for b.Loop() {
					r.Key = keys[i%len(keys)]
					if _, err := s.Apply(r, 1000); err != nil {
						b.Fatal(err)
					}
					if i++; i%perPublish == 0 {
						s.Publish(uint64(i))
					}
				}
			})
		}
	})
}

func BenchmarkSetNew(b *testing.B) {
	sizes(b, func(b *testing.B, n int) {
		for _, perPublish := range []int{1, 32} {
			b.Run(fmt.Sprintf("perPublish=%d", perPublish), func(b *testing.B) {
				s := filled(b, n)
				b.ReportAllocs()
				value := strings.Repeat("v", benchValueBytes)
				i := 0
				for b.Loop() {
					if _, err := s.Apply(set(benchKey(n+i), value), 1000); err != nil {
						b.Fatal(err)
					}
					if i++; i%perPublish == 0 {
						s.Publish(uint64(i))
					}
				}
			})
		}
	})
}

func BenchmarkGet(b *testing.B) {
	sizes(b, func(b *testing.B, n int) {
		s := filled(b, n)
		b.ReportAllocs()
		keys := make([]string, 4096)
		for i := range keys {
			keys[i] = benchKey(i * 7919 % n)
		}
		i := 0
		for b.Loop() {
			if _, err := s.View().Get(keys[i%len(keys)]); err != nil {
				b.Fatal(err)
			}
			i++
		}
	})
}

func BenchmarkList(b *testing.B) {
	s := filled(b, 100000)
	for _, key := range []string{"/bench", "/bench/d001"} {
		b.Run("children="+key[1:], func(b *testing.B) {
			b.ReportAllocs()
			v := s.View()
			n, err := v.Get(key)
			if err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				for range v.Children(n) {
				}
			}
		})
	}
	b.Run("descendants=100000", func(b *testing.B) {
		b.ReportAllocs()
		v := s.View()
		for b.Loop() {
			for range v.Descendants(s.root) {
			}
		}
	})
}

// BenchmarkFanOut is one write to a key and its delivery to 1000 watchers, who
// each take it.
func BenchmarkFanOut(b *testing.B) {
	s := filled(b, 1000)
	var watchers []*Watcher
	for i := range 1000 {
		w, err := s.Watch([]string{"/bench", benchKey(7)}[i%2], i%2 == 0, 0)
		if err != nil {
			b.Fatal(err)
		}
		watchers = append(watchers, w)
	}
	b.ReportAllocs()
	ctx := context.Background()
	for b.Loop() {
		if _, err := s.Apply(set(benchKey(7), "v"), 1000); err != nil {
			b.Fatal(err)
		}
		s.Publish(1)
		for _, w := range watchers {
			if _, err := w.Next(ctx); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkUnmatched is a write beside 100000 idle watchers, and what one of
// them weighs.
func BenchmarkUnmatched(b *testing.B) {
	s := filled(b, 1000)
	before := heapBytes()
	const idle = 100000
	for i := range idle {
		if _, err := s.Watch(fmt.Sprintf("/bench/idle/%d", i), i%2 == 0, 0); err != nil {
			b.Fatal(err)
		}
	}
	perWatcher := float64(heapBytes()-before) / idle
	for b.Loop() {
		if _, err := s.Apply(set(benchKey(7), "v"), 1000); err != nil {
			b.Fatal(err)
		}
		s.Publish(1)
	}
	b.ReportMetric(perWatcher, "B/watcher")
	runtime.KeepAlive(s)
}

func BenchmarkSnapshotWrite(b *testing.B) {
	s := filled(b, 500000)
	b.ReportAllocs()
	for b.Loop() {
		n, err := s.View().WriteTo(io.Discard)
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(n)
	}
}

func BenchmarkSnapshotRestore(b *testing.B) {
	body := snapshot(b, filled(b, 500000).View())
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if err := New(Config{}).Restore(1, bytes.NewReader(body)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRecursiveDelete deletes a directory with 1,000,000 files, and the
// worst of it: half of all nodes, in a published tree, with or without
// deadlines.
func BenchmarkRecursiveDelete(b *testing.B) {
	for _, kept := range []int{0, 1000000} {
		for _, mortal := range []bool{false, true} {
			b.Run(fmt.Sprintf("kept=%d/ttl=%t", kept, mortal), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					s := filled(b, kept)
					for i := range 1000000 {
						r := set(fmt.Sprintf("/doomed/d%03d/key%07d", i%1000, i), "v")
						r.HasTTL, r.TTLSeconds = mortal, int64(1000+i*7919%1000)
						if _, err := s.Apply(r, 1000); err != nil {
							b.Fatal(err)
						}
					}
					s.Publish(1)
					runtime.GC()
					b.StartTimer()
					if _, err := s.Apply(&deimos.Request{Op: deimos.OpDelete, Key: "/doomed", Recursive: true}, 1000); err != nil {
						b.Fatal(err)
					}
					s.Publish(2)
				}
			})
		}
	}
}

func BenchmarkExpire(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		s := New(Config{})
		for i := range 100000 {
			if _, err := s.Apply(set(benchKey(i), "v", ttl(1)), 1000); err != nil {
				b.Fatal(err)
			}
		}
		s.Publish(1)
		b.StartTimer()
		for s.Expire(2001, 1000) > 0 {
			s.Publish(2)
		}
	}
}

// BenchmarkMemory reports what a key of 22 bytes with a value of 128 costs,
// with a full history and without any.
func BenchmarkMemory(b *testing.B) {
	const n = 500000
	for b.Loop() {
		before := heapBytes()
		s := filled(b, n)
		b.ReportMetric(float64(heapBytes()-before)/n, "B/key")
		if err := s.Restore(1, bytes.NewReader(snapshot(b, s.View()))); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(heapBytes()-before)/n, "B/restored-key")
		runtime.KeepAlive(s)
	}
}

func heapBytes() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
