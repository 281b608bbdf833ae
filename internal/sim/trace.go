package sim

import (
	"fmt"
	"io"
	"os"
)

// tracer hashes all that happens, and writes it down when asked to.
type tracer struct {
	w    *world
	out  io.Writer
	hash uint64
}

const (
	fnvOffset = 14695981039346656037
	fnvPrime  = 1099511628211
)

func newTracer(w *world, out io.Writer) tracer { return tracer{w: w, out: out, hash: fnvOffset} }

// mix takes numbers into the hash of the run.
func (t *tracer) mix(vs ...uint64) {
	h := t.hash
	for _, v := range vs {
		h = (h ^ v) * fnvPrime
		h ^= h >> 29
	}
	t.hash = h
}

func (t *tracer) on() bool { return t.out != nil }

// logf writes a line for people. Facts that decide anything are mixed too.
func (t *tracer) logf(format string, args ...any) {
	if t.out == nil {
		return
	}
	if _, err := fmt.Fprintf(t.out, "%11.6f  %s\n", t.w.now.Seconds(), fmt.Sprintf(format, args...)); err != nil {
		fmt.Fprintln(os.Stderr, "sim: trace ends:", err)
		t.out = nil
	}
}

// hashBytes is FNV-1a, eight bytes at a time.
func hashBytes(h uint64, b []byte) uint64 {
	for len(b) >= 8 {
		v := uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
			uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
		h = (h ^ v) * fnvPrime
		h ^= h >> 32
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * fnvPrime
	}
	return h
}

func hashString(h uint64, s string) uint64 {
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * fnvPrime
	}
	return (h ^ uint64(len(s))) * fnvPrime
}
