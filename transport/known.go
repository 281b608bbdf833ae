package transport

import (
	"maps"
	"sync/atomic"
	"time"

	"github.com/marsevilspirit/deimos"
)

// known is the set of members that messages can be sent to. It is immutable.
type known struct {
	peers map[uint64][]string // id to peer URLs
	// strangers are members of which the log has not told yet.
	strangers map[uint64]*stranger
	// vouched are the incarnations that others have told, of strangers and of
	// the peers that were some. The log knows better.
	vouched map[uint64]deimos.Incarnation
}

// stranger is a member that another one vouches for.
type stranger struct {
	urls    []string     // its peer URLs
	heardMS atomic.Int64 // when it was let in last, in unix milliseconds
}

func newStranger(urls []string, now time.Time) *stranger {
	s := &stranger{urls: urls}
	s.heardMS.Store(now.UnixMilli())
	return s
}

func (k *known) has(id uint64) bool {
	_, ok := k.peers[id]
	return ok || k.strangers[id] != nil
}

// urls returns the peer URLs of a member.
func (k *known) urls(id uint64) []string {
	if s := k.strangers[id]; s != nil {
		return s.urls
	}
	return k.peers[id]
}

func (k *known) clone() *known {
	n := &known{peers: maps.Clone(k.peers), strangers: maps.Clone(k.strangers), vouched: maps.Clone(k.vouched)}
	if n.peers == nil {
		n.peers = make(map[uint64][]string)
	}
	if n.strangers == nil {
		n.strangers = make(map[uint64]*stranger)
	}
	if n.vouched == nil {
		n.vouched = make(map[uint64]deimos.Incarnation)
	}
	return n
}

// withPeer adds a peer, which is no stranger any more.
func (k *known) withPeer(id uint64, urls []string) *known {
	n := k.clone()
	n.peers[id] = urls
	delete(n.strangers, id)
	return n
}

// without forgets a peer or a stranger.
func (k *known) without(id uint64) *known {
	n := k.clone()
	delete(n.peers, id)
	delete(n.strangers, id)
	delete(n.vouched, id)
	return n
}

func (k *known) withStranger(id uint64, s *stranger, i deimos.Incarnation) *known {
	n := k.clone()
	n.strangers[id] = s
	if !i.IsZero() {
		n.vouched[id] = i
	}
	return n
}

// incarnationOf returns what the log says of a member's incarnation, and if it
// says nothing, what those say who vouch for the member, or else the one it had
// when this process first met it.
func (t *HTTP) incarnationOf(id uint64) deimos.Incarnation {
	if i := t.cfg.IncarnationOf(id); !i.IsZero() {
		return i
	}
	if i := t.known.Load().vouched[id]; !i.IsZero() {
		return i
	}
	met, _ := t.met.Load(id)
	i, _ := met.(deimos.Incarnation)
	return i
}

// meet remembers the incarnation of a member that was just found right in
// everything else, and reports whether it has no other. A member can vote before
// the log tells of its data directory; if it is wiped then, it must not vote
// again.
func (t *HTTP) meet(id uint64, i deimos.Incarnation) bool {
	first, _ := t.met.LoadOrStore(id, i)
	return first == i || !t.cfg.IncarnationOf(id).IsZero()
}

// heard notes that a stranger speaks.
func (t *HTTP) heard(id uint64) {
	if s := t.known.Load().strangers[id]; s != nil {
		s.heardMS.Store(time.Now().UnixMilli())
	}
}

// silent returns the stranger that has been silent for longest. One with an
// open connection speaks.
func (t *HTTP) silent(k *known) (longest uint64) {
	var sinceMS int64
	now := time.Now().UnixMilli()
	for id, s := range k.strangers {
		heardMS := s.heardMS.Load()
		if !t.ActiveSince(id).IsZero() {
			heardMS = now
		}
		if longest == 0 || heardMS < sinceMS {
			longest, sinceMS = id, heardMS
		}
	}
	return longest
}
