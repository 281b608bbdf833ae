package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"
)

// errHangs ends what waits at a member that did not answer a probe.
var errHangs = errors.New("the member does not answer")

// sentry finds members that hang: those that owe an answer for too long, and
// those that have watches, which are silent by nature. It asks them at GET
// /livez, which costs a member nothing and waits for nothing, and puts those
// that do not answer aside. Its methods may be called from any goroutine; each
// member that is watched over has one goroutine, and each probe another.
type sentry struct {
	p *Proxy

	mu     sync.Mutex
	closed bool
	posts  map[*endpoint]*post
	probes map[*endpoint]*probe // under way
}

// post is where one member is watched over. The mutex of the sentry guards it.
type post struct {
	stop  context.CancelFunc
	waits map[*wait]struct{}
	// overdue is how many of the waits are for an answer that has yet to begin.
	overdue int
	// wake tells that the waits have changed. It holds one signal.
	wake chan struct{}
}

// wait is one thing that a member owes.
type wait struct {
	sentry *sentry
	e      *endpoint
	// giveUp is called when the member fails a probe; nil: whoever waits goes on
	// waiting.
	giveUp func()
	// timer enters the wait when the answer is overdue; nil: it is a watch that
	// waits, and has been entered.
	timer  *time.Timer
	answer bool // an answer is waited for
	over   bool // guarded by the mutex of the sentry
}

// probe is one question whether a member lives, and its answer once done.
type probe struct {
	stop context.CancelFunc
	done chan struct{}
	err  error
}

func newSentry(p *Proxy) *sentry {
	return &sentry{p: p, posts: make(map[*endpoint]*post), probes: make(map[*endpoint]*probe)}
}

// expect begins the wait for the head of an answer of e. The caller ends it;
// after that giveUp is not called any more.
func (s *sentry) expect(e *endpoint, giveUp func()) *wait {
	w := &wait{sentry: s, e: e, giveUp: giveUp, answer: true}
	w.timer = time.AfterFunc(s.p.limits.overdue, w.enter)
	return w
}

// hold begins the wait for whatever a watch at e will bring. The caller ends it;
// after that giveUp is not called any more.
func (s *sentry) hold(e *endpoint, giveUp func()) *wait {
	w := &wait{sentry: s, e: e, giveUp: giveUp}
	w.enter()
	return w
}

// enter puts the wait on the list of its member.
func (w *wait) enter() {
	s := w.sentry
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.over || s.closed {
		return
	}
	at := s.posts[w.e]
	if at == nil {
		ctx, stop := context.WithCancel(context.Background())
		at = &post{stop: stop, waits: make(map[*wait]struct{}), wake: make(chan struct{}, 1)}
		s.posts[w.e] = at
		s.p.goroutines.Go(func() {
			defer stop()
			s.keep(ctx, w.e, at)
		})
	}
	at.waits[w] = struct{}{}
	if w.answer {
		at.overdue++
	}
	at.signal()
}

// end ends the wait.
func (w *wait) end() {
	if w.timer != nil && w.timer.Stop() {
		return // it was never entered
	}
	s := w.sentry
	s.mu.Lock()
	defer s.mu.Unlock()
	w.over = true
	at := s.posts[w.e]
	if at == nil {
		return
	}
	if _, ok := at.waits[w]; !ok {
		return
	}
	delete(at.waits, w)
	if w.answer {
		at.overdue--
	}
	at.signal()
}

func (at *post) signal() {
	select {
	case at.wake <- struct{}{}:
	default:
	}
}

// keep probes a member as long as anybody waits there: at once and then at short
// distances while an answer is overdue, at long ones for watches.
func (s *sentry) keep(ctx context.Context, e *endpoint, at *post) {
	last := time.Now()
	if every, _ := s.due(e, at); every == s.p.limits.overdue {
		last = last.Add(-every)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		every, ok := s.due(e, at)
		if !ok {
			return
		}
		timer.Reset(time.Until(last.Add(every)))
		select {
		case <-ctx.Done():
			return
		case <-at.wake:
			continue
		case <-timer.C:
		}
		last = time.Now()
		// What follows from a failure is done by the probe itself.
		if err := s.ask(ctx, e); err != nil {
			s.p.log.Debug("member failed a probe", "url", e.url(), "error", err)
		}
	}
}

// due returns the time between two probes, or false and removes the post when
// nobody waits there any more.
func (s *sentry) due(e *endpoint, at *post) (every time.Duration, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(at.waits) == 0 {
		delete(s.posts, e)
		return 0, false
	}
	if at.overdue > 0 {
		return s.p.limits.overdue, true
	}
	return s.p.limits.watchProbe, true
}

// ask probes a member, or waits for the probe of it that is under way. A nil
// says that the member lives; it does not bring back a member that was put
// aside, which is for those who get an answer of it.
func (s *sentry) ask(ctx context.Context, e *endpoint) error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return errStopping
	}
	b := s.probes[e]
	if b == nil {
		bounded, stop := context.WithTimeout(context.Background(), s.p.limits.probe)
		b = &probe{stop: stop, done: make(chan struct{})}
		s.probes[e] = b
		s.p.goroutines.Go(func() {
			defer stop()
			s.probe(bounded, e, b)
		})
	}
	s.mu.Unlock()
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// probe asks a member whether it lives and acts on the answer.
func (s *sentry) probe(ctx context.Context, e *endpoint, b *probe) {
	b.err = s.p.livez(ctx, e)
	if b.err != nil && !errors.Is(b.err, context.Canceled) {
		s.p.metrics.failures.Inc()
		s.p.members.down(e, b.err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.probes, e)
	if at := s.posts[e]; at != nil && b.err != nil {
		for w := range at.waits {
			if w.giveUp != nil {
				w.giveUp()
			}
		}
	}
	close(b.done)
}

// close ends all probes and lets none begin. The goroutines end soon.
func (s *sentry) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, at := range s.posts {
		at.stop()
	}
	for _, b := range s.probes {
		b.stop()
	}
}

// livez returns nil if e answers at all. What it answers does not matter: that
// is for the client to see, as with any request.
func (p *Proxy) livez(ctx context.Context, e *endpoint) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, e.url()+"/livez", nil)
	if err != nil {
		return fmt.Errorf("probing %s: %w", e.url(), err)
	}
	r.Header.Set(headerProxy, p.run)
	resp, err := p.transport.RoundTrip(r)
	if err != nil {
		return fmt.Errorf("probing %s: %w", e.url(), noteRefusal(err))
	}
	p.closeBody(resp)
	return nil
}
