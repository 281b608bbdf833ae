package transport

import (
	"fmt"
	"sync"

	"github.com/marsevilspirit/deimos"
)

// WipedError is delivered by [HTTP.Err] when the cluster knows this member with
// another data directory than the one it runs with: it was wiped, or another
// one took its place. The member must stop, because it may have promised things
// that it does not know any more.
type WipedError struct {
	// Member is this member.
	Member uint64
	// Mine is the incarnation that this member runs with, Theirs the one that
	// the cluster knows.
	Mine, Theirs deimos.Incarnation
	// By is the peer that said so.
	By uint64
}

// Error implements the error interface.
func (e *WipedError) Error() string {
	return fmt.Sprintf("transport: member %x runs with the data directory %s, but member %x knows it with the data directory %s",
		e.Member, e.Mine, e.By, e.Theirs)
}

// ForeignError is delivered by [HTTP.Err] when more than half of the peers say
// that they belong to another cluster, and none has accepted this member since
// it started. The member must stop.
type ForeignError struct {
	// Mine and Theirs are cluster ids.
	Mine, Theirs uint64
	// By is the member that was expected at URL, one of those that said so.
	By  uint64
	URL string
}

// Error implements the error interface.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("transport: this member belongs to cluster %x, but %s, where member %x is expected, belongs to cluster %x",
		e.Mine, e.URL, e.By, e.Theirs)
}

// refusedError is what a member says when it refuses a request.
type refusedError struct {
	by     uint64
	at     string // the URL
	reason refusal
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("transport: member %x at %s refused the request (reason: %.40q)", e.by, e.at, string(e.reason))
}

// verdicts remembers which peers belong to another cluster, until one has
// accepted this member. The zero value is ready.
type verdicts struct {
	mu       sync.Mutex
	accepted bool
	foreign  map[uint64]*ForeignError
}

func (v *verdicts) accept() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.accepted, v.foreign = true, nil
}

// isForeign notes what a peer has said last; nil when it is no foreigner.
func (v *verdicts) isForeign(id uint64, err *ForeignError) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.accepted:
	case err == nil:
		delete(v.foreign, id)
	default:
		if v.foreign == nil {
			v.foreign = make(map[uint64]*ForeignError)
		}
		v.foreign[id] = err
	}
}

// judge returns an error when more than half of the peers are of another
// cluster.
func (v *verdicts) judge(peers map[uint64][]string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var last *ForeignError
	n := 0
	for id, err := range v.foreign {
		if _, ok := peers[id]; ok {
			n++
			last = err
		}
	}
	if last == nil || 2*n <= len(peers) {
		return nil
	}
	return last
}

// end delivers the error after which this member must stop.
func (t *HTTP) end(err error) {
	select {
	case t.fatal <- err:
	default: // told already
	}
}

// judge draws the conclusions from an answer whose proof is good: nil when the
// member that was asked has taken the request.
func (t *HTTP) judge(to uint64, at string, a answer) error {
	if a.cluster != t.cfg.ClusterID {
		foreign := &ForeignError{Mine: t.cfg.ClusterID, Theirs: a.cluster, By: to, URL: at}
		if a.refused == refusedCluster {
			t.verdicts.isForeign(to, foreign)
		}
		return foreign
	}
	t.verdicts.isForeign(to, nil)
	if a.member != to {
		return fmt.Errorf("transport: member %x answers at %s instead of member %x", a.member, at, to)
	}
	switch a.refused {
	case "":
	case refusedRemoved:
		t.end(fmt.Errorf("%w (member %x says so)", ErrRemoved, a.member))
		return &refusedError{to, at, a.refused}
	case refusedIncarnation:
		if !a.knows.IsZero() && a.knows != t.cfg.Incarnation {
			t.end(&WipedError{Member: t.cfg.MemberID, Mine: t.cfg.Incarnation, Theirs: a.knows, By: a.member})
		}
		return &refusedError{to, at, a.refused}
	}
	if known := t.cfg.IncarnationOf(to); !known.IsZero() && known != a.incarnation {
		return fmt.Errorf("transport: member %x at %s runs with the data directory %s, but is known with the data directory %s",
			to, at, a.incarnation, known)
	}
	if a.refused != "" {
		return &refusedError{to, at, a.refused}
	}
	t.verdicts.accept()
	return nil
}
