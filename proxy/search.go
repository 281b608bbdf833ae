package proxy

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// racersMax is how many members a request may be at, all but one of them with
// an answer overdue.
const racersMax = 3

// errLate ends an attempt when another one was faster.
var errLate = errors.New("another member was faster")

// reply is the answer of a member, the head of it.
type reply struct {
	*http.Response
	from *endpoint
	// giveUp breaks the reading of its body.
	giveUp func()
}

// search is the way of one request from member to member. It belongs to the
// goroutine of send.
type search struct {
	p        *Proxy
	out      *outgoing
	safe     bool
	left     []*endpoint // not tried yet
	end      time.Time
	tried    int
	running  map[*attempt]struct{}
	finished chan *attempt
	// patience runs out when a safe request ought to have an answer.
	patience *time.Timer
	// failure is what the client is told when nobody is left.
	failure error
}

// attempt is a request at one member, and what became of it once finished.
type attempt struct {
	e      *endpoint
	cancel context.CancelCauseFunc
	resp   *http.Response
	fate   fate
	err    error
}

// send gets the answer to a request from a member, the head of it, trying one
// after the other as the package comment says. Its errors are those that
// [call.fail] knows. The answer can be read until ctx ends.
func (p *Proxy) send(ctx context.Context, out *outgoing) (*reply, error) {
	s := &search{
		p: p, out: out, safe: isSafe(out.method),
		left: p.members.candidates(out.from), end: time.Now().Add(p.limits.search),
		running: make(map[*attempt]struct{}), finished: make(chan *attempt, racersMax),
		failure: errNobody,
	}
	defer s.abandon(ctx)
	var late <-chan time.Time
	if s.safe {
		s.patience = time.NewTimer(p.limits.overdue)
		defer s.patience.Stop()
		late = s.patience.C
	}
	for s.next(ctx); len(s.running) > 0; {
		select {
		case a := <-s.finished:
			delete(s.running, a)
			if a.fate == answered {
				p.members.up(a.e)
				return &reply{a.resp, a.e, func() { a.cancel(errHangs) }}, nil
			}
			if err := s.failed(ctx, a); err != nil {
				return nil, err
			}
			s.next(ctx)
		case <-late:
			s.next(ctx)
		}
	}
	p.members.lost()
	return nil, s.failure
}

// next goes to the next member unless there is none, the time is over or the
// request is at enough of them. One more is always tried with what can be sent
// any number of times.
func (s *search) next(ctx context.Context) {
	if s.patience != nil {
		s.patience.Reset(s.p.limits.overdue)
	}
	over := time.Now().After(s.end) && s.tried > 0 && (!s.safe || s.tried > 1)
	if len(s.left) == 0 || over || len(s.running) == racersMax {
		return
	}
	a := &attempt{e: s.left[0]}
	s.left = s.left[1:]
	s.tried++
	ctx, a.cancel = context.WithCancelCause(ctx)
	s.running[a] = struct{}{}
	go func() {
		s.p.attempt(ctx, a, s.out)
		s.finished <- a // it has room for all that run
	}()
}

// failed says what a failed attempt means. An error ends the search.
func (s *search) failed(ctx context.Context, a *attempt) error {
	defer a.cancel(nil)
	if err := s.out.body.broken(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		if a.fate == sent && !s.safe {
			return errUnknown
		}
		return ctx.Err()
	}
	switch a.fate {
	case unfit:
		return &unfitError{a.err}
	case aside: // the probe has noted it
	case givenUp:
		s.p.metrics.failures.Inc()
		s.failure = errLost
	case sent:
		s.p.metrics.failures.Inc()
		s.p.members.down(a.e, a.err)
		if s.failure = errLost; !s.safe {
			return errUnknown
		}
	default:
		s.p.metrics.failures.Inc()
		s.p.members.down(a.e, a.err)
	}
	if errors.Is(a.err, errRefused) {
		if s.failure == errNobody {
			s.failure = errRefused
		}
		if a.fate == refused && !s.out.body.all() {
			return errRefused // the body is gone
		}
	}
	return nil
}

// abandon ends the attempts that are still running and waits for them.
func (s *search) abandon(ctx context.Context) {
	for a := range s.running {
		a.cancel(errLate)
	}
	for range s.running {
		a := <-s.finished
		switch {
		case a.resp != nil:
			s.p.closeBody(a.resp)
		case a.fate != aside && ctx.Err() == nil:
			s.p.metrics.failures.Inc()
		}
	}
}

// attempt sends a request to one member. One that was put aside has to answer
// a probe first.
func (p *Proxy) attempt(ctx context.Context, a *attempt, out *outgoing) {
	if p.members.isAside(a.e) {
		if a.err = p.sentry.ask(ctx, a.e); a.err != nil {
			a.fate = aside
			return
		}
	}
	// A write that a hanging member has goes on waiting: when the member wakes,
	// the client learns what became of it, and never would from a 502.
	var giveUp func()
	if isSafe(out.method) {
		giveUp = func() { a.cancel(errHangs) }
	}
	wait := p.sentry.expect(a.e, giveUp)
	for tries := 1; ; tries++ {
		a.resp, a.fate, a.err = p.try(ctx, a.e, out)
		if a.fate != stale || tries == staleMax || ctx.Err() != nil || out.body.broken() != nil {
			break
		}
	}
	wait.end()
	if context.Cause(ctx) != errHangs {
		return
	}
	if a.resp != nil {
		p.closeBody(a.resp)
		a.resp = nil
	}
	a.fate, a.err = givenUp, errHangs
}
