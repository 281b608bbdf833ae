package server

import (
	"math/rand/v2"
	"testing"
)

func TestSessionsAgreeWithASet(t *testing.T) {
	s := sessions{}
	seen := map[uint64]bool{}
	var newest uint64
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range uint64(200_000) {
		seq := newest + 1 + rnd.Uint64N(3)
		switch rnd.IntN(4) {
		case 0:
			seq = newest - min(newest, rnd.Uint64N(2*sessionWindow))
		case 1:
			if rnd.IntN(1000) == 0 {
				seq = newest + rnd.Uint64N(3*sessionWindow)
			}
		}
		tooOld := seq+sessionWindow <= newest
		want := !seen[seq] && !tooOld
		if got := s.first(1, seq, i); got != want {
			t.Fatalf("first(%d) with %d as the newest = %v, want %v", seq, newest, got, want)
		}
		if want {
			seen[seq] = true
		}
		newest = max(newest, seq)
	}
}

func TestTheRunThatIsSilentForLongestIsForgotten(t *testing.T) {
	s := sessions{}
	for run := range uint64(sessionsMax) {
		s.first(run, 1, run+1)
	}
	s.first(0, 2, 100)
	s.first(1000, 1, 101)
	if len(s) != sessionsMax || s[0] == nil || s[1] != nil || s[1000] == nil {
		t.Errorf("%d sessions are kept; run 1, the silent one, should have made room", len(s))
	}
}

func TestSessionsOfAnotherShapeAreRefused(t *testing.T) {
	s := sessions{}
	s.first(1, 1, 1)
	encoded := s.encode()
	encoded[0].Window = encoded[0].Window[1:]
	if _, err := decodeSessions(encoded); err == nil {
		t.Error("decodeSessions with a short window = nil, want an error")
	}
}
