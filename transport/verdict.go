package transport

import (
	"context"
	"fmt"
	"sync"
	"time"

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

// ForeignError is delivered by [HTTP.Err] when more than half of the peers that
// have answered since this member started say, for 3 s on end, that they belong
// to another cluster, and none has accepted this member. The member must stop.
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
	// clockMS is what its clock says, sentMS what ours said, in unix
	// milliseconds. 0: not said.
	clockMS, sentMS int64
}

func (e *refusedError) Error() string {
	s := fmt.Sprintf("transport: member %x at %s refused the request (reason: %.40q)", e.by, e.at, string(e.reason))
	if e.reason == refusedClock && e.clockMS != 0 && e.sentMS != 0 {
		s += ": " + clocksApart("its clock", e.clockMS, "the clock of this member", e.sentMS)
	}
	return s
}

// clocksApart says that two clocks are too far apart.
func clocksApart(one string, oneMS int64, other string, otherMS int64) string {
	say := func(ms int64) string { return time.UnixMilli(ms).UTC().Format(time.RFC3339) }
	return fmt.Sprintf("%s says %s, %s says %s: they must not be more than %s apart", one, say(oneMS), other, say(otherMS), proofWindow)
}

// foreignPatience is how long a peer must go on saying that it belongs to
// another cluster. When it says nothing for that long, it begins anew.
const foreignPatience = 3 * time.Second

// twinPatience is for how long peers must go on to say that another process
// speaks for this member, if this one came to the cluster first.
const twinPatience = time.Minute

// verdicts remembers what the peers say of their cluster, until one has accepted
// this member. The zero value is ready.
type verdicts struct {
	mu       sync.Mutex
	accepted bool
	since    time.Time // when a peer accepted this process first
	// twinFirst and twinLast are when peers said on end that this is a second
	// process.
	twinFirst, twinLast time.Time
	answered            map[uint64]*verdict // by peer
}

// verdict is what a peer has said last.
type verdict struct {
	foreign *ForeignError // nil: it is of this cluster
	// first and last are when it said so on end.
	first, last time.Time
}

func (v *verdicts) accept() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.accepted {
		v.since = time.Now()
	}
	v.accepted, v.answered = true, nil
}

// isSecond notes that a peer takes another process for this member, which it has
// known for so long, and reports whether this one has to end. The one that came
// to the cluster first does not, unless it is told so for long: a peer that has
// started anew can have met the other one first, but it is the other one then
// that ends, if any peer knows better.
func (v *verdicts) isSecond(known time.Duration, now time.Time) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.accepted || known >= now.Sub(v.since) {
		return true
	}
	if now.Sub(v.twinLast) > runSilence {
		v.twinFirst = now
	}
	v.twinLast = now
	return now.Sub(v.twinFirst) >= twinPatience
}

// isForeign notes what a peer says; nil when it is no foreigner.
func (v *verdicts) isForeign(id uint64, err *ForeignError, now time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.accepted {
		return
	}
	old := v.answered[id]
	if old == nil || old.foreign == nil || err == nil || now.Sub(old.last) > foreignPatience {
		if v.answered == nil {
			v.answered = make(map[uint64]*verdict)
		}
		v.answered[id] = &verdict{foreign: err, first: now, last: now}
		return
	}
	old.foreign, old.last = err, now
}

// judge returns an error when more than half of the peers that have answered
// are of another cluster for certain. A peer that is down says nothing.
func (v *verdicts) judge(peers map[uint64][]string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var last *ForeignError
	answered, foreign := 0, 0
	for id, one := range v.answered {
		if _, ok := peers[id]; !ok {
			continue
		}
		answered++
		if one.foreign != nil && one.last.Sub(one.first) >= foreignPatience {
			foreign++
			last = one.foreign
		}
	}
	if last == nil || 2*foreign <= answered {
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
// member that was asked has taken the request. It can wait for a few seconds when
// another process than before answers for the member.
func (t *HTTP) judge(ctx context.Context, to uint64, at string, a answer) error {
	if a.cluster != t.cfg.ClusterID {
		foreign := &ForeignError{Mine: t.cfg.ClusterID, Theirs: a.cluster, By: to, URL: at}
		if a.refused == refusedCluster {
			t.verdicts.isForeign(to, foreign, time.Now())
		}
		return foreign
	}
	t.verdicts.isForeign(to, nil, time.Now())
	if a.member != to {
		return fmt.Errorf("transport: member %x answers at %s instead of member %x", a.member, at, to)
	}
	switch a.refused {
	case "":
	case refusedRemoved:
		t.end(fmt.Errorf("%w (member %x says so)", ErrRemoved, a.member))
		return a.refusal(at)
	case refusedTwin:
		t.endTwin(&a, at)
		return a.refusal(at)
	case refusedClock:
		t.warnOfClock(&a, at)
		return a.refusal(at)
	case refusedIncarnation:
		if !a.knows.IsZero() && a.knows != t.cfg.Incarnation {
			t.end(&WipedError{Member: t.cfg.MemberID, Mine: t.cfg.Incarnation, Theirs: a.knows, By: a.member})
		}
		return a.refusal(at)
	}
	if known := t.incarnationOf(to); !known.IsZero() && known != a.incarnation {
		return fmt.Errorf("transport: member %x at %s runs with the data directory %s, but is known with the data directory %s",
			to, at, a.incarnation, known)
	}
	if a.refused != "" {
		return a.refusal(at)
	}
	if !a.incarnation.IsZero() && !t.meet(to, a.incarnation) {
		return fmt.Errorf("transport: member %x at %s runs with the data directory %s, but was first met with another one", to, at, a.incarnation)
	}
	if err := t.judgeRun(ctx, to, at, a.run); err != nil {
		return err
	}
	t.verdicts.accept()
	return nil
}

// warnOfClock tells the operator, once a minute at most, that a peer takes no
// requests because of the time in them.
func (t *HTTP) warnOfClock(a *answer, at string) {
	now := time.Now()
	if a.clockMS == 0 || a.sentMS == 0 || !t.clockWarning.pass(now, complaintPause) {
		return
	}
	t.log.Warn("a peer refuses the requests of this member: one of the two clocks is wrong",
		"peer", deimos.FormatID(a.member), "url", at, "its clock", time.UnixMilli(a.clockMS).UTC(),
		"clock of this member", time.UnixMilli(a.sentMS).UTC(), "allowed", proofWindow)
}
