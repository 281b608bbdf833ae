package server

import (
	"fmt"
	"slices"

	"github.com/marsevilspirit/deimos/server/serverpb"
)

// Bounds of the record of applied proposals. They are part of the replicated
// state: members that differ in them would differ in what they apply.
const (
	// sessionWindow is how far behind the newest proposal of a run another one
	// may still be applied, in proposals. More than raftnode lets wait at once.
	sessionWindow = 32768
	// sessionsMax is how many runs are remembered; the one that has been silent
	// for the longest part of the log is forgotten first.
	sessionsMax = 32
)

// session records which proposals of one run of one process were applied.
type session struct {
	newest        uint64
	window        []uint64 // bit n%sessionWindow: whether n was applied
	lastRaftIndex uint64
}

// sessions makes each proposal take effect at most once, however often the
// network delivered it to a leader.
type sessions map[uint64]*session

// first reports whether the proposal is new, and records it. A proposal that
// is older than the window counts as known: nobody waits for it any more.
func (s sessions) first(run, seq, raftIndex uint64) bool {
	ses := s[run]
	if ses == nil {
		s.makeRoom()
		ses = &session{window: make([]uint64, sessionWindow/64)}
		s[run] = ses
	}
	ses.lastRaftIndex = raftIndex
	switch {
	case seq > ses.newest:
		ses.forget(ses.newest+1, seq)
		ses.newest = seq
	case ses.newest-seq >= sessionWindow:
		return false
	}
	bit := seq % sessionWindow
	word, mask := &ses.window[bit/64], uint64(1)<<(bit%64)
	if *word&mask != 0 {
		return false
	}
	*word |= mask
	return true
}

// forget clears the bits of the proposals from to through, whose places the
// window used for older ones.
func (ses *session) forget(from, through uint64) {
	if through-from >= sessionWindow-1 {
		clear(ses.window)
		return
	}
	for n := from; n <= through; n++ {
		bit := n % sessionWindow
		ses.window[bit/64] &^= uint64(1) << (bit % 64)
	}
}

// makeRoom forgets a run when there are too many.
func (s sessions) makeRoom() {
	if len(s) < sessionsMax {
		return
	}
	var oldest uint64
	var oldestSession *session
	for run, ses := range s {
		// Each entry belongs to one run, so no two have the same last index and
		// the order of the map does not matter.
		if oldestSession == nil || ses.lastRaftIndex < oldestSession.lastRaftIndex {
			oldest, oldestSession = run, ses
		}
	}
	delete(s, oldest)
}

// encode returns the sessions in the order of their runs.
func (s sessions) encode() []serverpb.Session {
	out := make([]serverpb.Session, 0, len(s))
	for run, ses := range s {
		out = append(out, serverpb.Session{
			Run: run, Newest: ses.newest, Window: slices.Clone(ses.window), LastRaftIndex: ses.lastRaftIndex,
		})
	}
	slices.SortFunc(out, func(a, b serverpb.Session) int {
		if a.Run < b.Run {
			return -1
		}
		return 1
	})
	return out
}

func decodeSessions(in []serverpb.Session) (sessions, error) {
	if len(in) > sessionsMax {
		return nil, fmt.Errorf("%d sessions, at most %d are kept", len(in), sessionsMax)
	}
	s := make(sessions, len(in))
	for i := range in {
		p := &in[i]
		if len(p.Window) != sessionWindow/64 {
			return nil, fmt.Errorf("session %x has a window of %d words, want %d", p.Run, len(p.Window), sessionWindow/64)
		}
		s[p.Run] = &session{newest: p.Newest, window: p.Window, lastRaftIndex: p.LastRaftIndex}
	}
	return s, nil
}
