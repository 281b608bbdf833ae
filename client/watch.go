package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/marsevilspirit/deimos"
)

const (
	// resetPause is the least time between two reads of the state.
	resetPause = time.Second
	// The pauses between two tries to go on with a watch.
	resumeMin = 100 * time.Millisecond
	resumeMax = 5 * time.Second
	// steady is how long a stream has to last to count as one that works.
	steady = time.Second
	// settled is after which time a stream that has brought nothing had nothing of
	// the past to bring.
	settled = 10 * time.Second
)

// WatchEvent is one item of a watch: a change, or with Reset the whole state.
// A caller may do with it what it likes.
type WatchEvent struct {
	// Event is what happened. With [WithRecursive] Node.Key may be below the
	// watched key. It may also be above it, when a directory there was removed
	// with all that was in it; Action.Removes tells that in either case.
	//
	// For a Reset, Action is ActionGet, and Node is what a linearizable Get of the
	// watched key returns: with WithRecursive everything below. It is nil when
	// there is no such key.
	deimos.Event
	// Index is the store index of the change, or of the state. A watch with
	// WithWaitIndex(Index+1) continues behind it.
	Index uint64
	// Reset says that changes may be missing before this item: whatever was built
	// from earlier events has to be replaced by the state in Node.
	Reset bool
}

// errHistoryGone ends a stream whose place is no longer in the history.
var errHistoryGone = errors.New("the history does not reach back to where the watch was")

// Watch returns the changes of a key, each once and in order: those after the
// moment in which the loop begins, those from an index on ([WithWaitIndex]), or
// the current state and then those after it ([WithState]). To miss nothing, read
// first and go on with WithWaitIndex(r.Index+1). The key need not exist. A
// refresh is no change, see [Client.Refresh].
//
// A watch goes on at another endpoint, behind the last event, when a connection
// breaks, a member stops or the leader changes. A connection that is silent for
// 40 seconds counts as broken. An endpoint that has brought no event for 30
// seconds, or a little less, is asked whether it still has its cluster, if there
// are others: one that is cut off, and does not answer a linearizable read of
// the key within [Config.RequestTimeout], is left. When the history of the cluster no longer reaches
// back to where the watch was, or another cluster answers, it reads the state
// anew, once a second at most, delivers that as a Reset, and goes on from there.
// So a loop either sees every change or is told that it has missed some.
//
// The sequence ends only with an error, which is its last item: that of ctx,
// [ErrClosed], a [NoEndpointError] when nobody answers it at its start, or an
// answer that says that it will never work. Once it has been answered, it tries
// for ever. Everything runs in the loop, apart from that question, whose end it
// waits for: nothing is read or asked while its body is at work, no event is
// buffered but the one being read, and leaving the loop ends the watch. A second
// loop over the sequence watches anew.
func (c *Client) Watch(ctx context.Context, key string, opts ...WatchOption) iter.Seq2[WatchEvent, error] {
	p := newParams()
	for _, o := range opts {
		o.watch(p)
	}
	if p.state && p.waitIndex > 0 {
		p.fail("WithState and WithWaitIndex exclude each other")
	}
	return func(yield func(WatchEvent, error) bool) {
		if p.err != nil {
			yield(WatchEvent{}, p.err)
			return
		}
		r := &running{watch: true}
		ctx, err := c.begin(ctx, r)
		if err != nil {
			yield(WatchEvent{}, err)
			return
		}
		defer c.end(r)
		w := &watch{c: c, key: key, recursive: p.recursive, next: p.waitIndex, reset: p.state, yield: yield}
		if err := w.run(ctx); err != nil {
			yield(WatchEvent{}, err)
		}
	}
}

// watch is one loop over a sequence of events. It belongs to the goroutine of
// the loop.
type watch struct {
	c         *Client
	key       string
	recursive bool
	yield     func(WatchEvent, error) bool

	// next is the first index that was not delivered; 0: none is known yet.
	next uint64
	// reset asks for the state before the next stream.
	reset   bool
	resetAt time.Time // of the last one
	// cluster is where the events so far came from; 0: unknown.
	cluster uint64
	// answered tells that somebody has answered the watch.
	answered bool
	// failures counts the tries in a row that have brought nothing.
	failures int
}

// errLeft says that the loop was left.
var errLeft = errors.New("the loop was left")

// run delivers events until the loop is left, which is nil, or until there is an
// error that the loop has to know.
func (w *watch) run(ctx context.Context) error {
	deadline := time.Now().Add(w.c.cfg.RequestTimeout)
	for {
		err := w.step(ctx)
		var unreachable *NoEndpointError
		switch {
		case errors.Is(err, errLeft):
			return nil
		case ctx.Err() != nil:
			return fmt.Errorf("client: watch of %s: %w", w.key, context.Cause(ctx))
		case err == nil:
			w.failures = 0
			continue
		case errors.Is(err, errHistoryGone):
			w.reset = true
			w.c.log.Info("watch reads the state anew", "key", w.key, "next_index", w.next, "error", err)
			continue
		case errors.Is(err, errUnreadable):
			return fmt.Errorf("client: watch of %s: %w", w.key, err)
		case w.answered:
		case !isTemporary(err), !time.Now().Before(deadline),
			errors.As(err, &unreachable) && (w.reset || w.failures+1 >= roundsUnreachable):
			return err
		}
		w.c.log.Debug("watch interrupted", "key", w.key, "next_index", w.next, "error", err)
		if err := sleep(ctx, backoff(w.failures, resumeMin, resumeMax)); err != nil {
			return fmt.Errorf("client: watch of %s: %w", w.key, err)
		}
		w.failures++
	}
}

// isTemporary reports whether a watch that nobody has answered yet goes on after
// the error.
func isTemporary(err error) bool {
	var status *StatusError
	var e *deimos.Error
	switch {
	case errors.As(err, &status):
		return status.Status >= http.StatusInternalServerError
	case errors.As(err, &e):
		return e.Code == deimos.CodeRaftInternal || e.Code == deimos.CodeLeaderElection
	default:
		return !errors.Is(err, ErrInvalidArgument) && !errors.Is(err, ErrClosed)
	}
}

// step delivers the state if it is due, and else one stream of events. It
// returns nil when it has come any further.
func (w *watch) step(ctx context.Context) error {
	if w.reset {
		return w.deliverState(ctx)
	}
	s, err := w.open(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	w.answered = true
	if w.cluster != 0 && s.start.ClusterID != 0 && s.start.ClusterID != w.cluster {
		return fmt.Errorf("%w: cluster %s answers, and it was cluster %s",
			errHistoryGone, deimos.FormatID(s.start.ClusterID), deimos.FormatID(w.cluster))
	}
	w.cluster = s.start.ClusterID
	if w.next == 0 {
		w.next = s.start.Index + 1
	}
	return w.follow(s)
}

// follow delivers the events of one stream.
func (w *watch) follow(s *stream) error {
	began := time.Now()
	delivered := false
	for {
		e, index, err := s.next()
		switch {
		case err == nil && index < w.next: // nobody should send it
		case err == nil:
			delivered = true
			w.next = index + 1
			if !w.yield(WatchEvent{Event: *e, Index: index}, nil) {
				return errLeft
			}
		default:
			if !delivered && s.alive.Sub(began) >= settled {
				// Everything up to where the stream began would have come by now.
				w.next = max(w.next, s.start.Index+1)
			}
			// Whether a connection broke because of the endpoint, the next one shows;
			// after silence there would be another 40 s, and one that is cut off opens
			// any watch.
			if errors.Is(err, errSilent) || errors.Is(err, errCutOff) {
				w.c.endpoints.failed(s.endpoint, err)
			}
			if !errors.Is(err, errUnreadable) && (delivered || time.Since(began) >= steady) {
				return nil
			}
			return err
		}
	}
}

// deliverState reads the state and delivers it as a Reset.
func (w *watch) deliverState(ctx context.Context) error {
	if pause := time.Until(w.resetAt.Add(resetPause)); !w.resetAt.IsZero() && pause > 0 {
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	w.resetAt = time.Now()
	item, cluster, err := w.state(ctx)
	if err != nil {
		return err
	}
	w.answered, w.reset = true, false
	w.next, w.cluster = item.Index+1, cluster
	if !w.yield(item, nil) {
		return errLeft
	}
	return nil
}

// state reads the state of the key and tells its cluster. That there is no such
// key is a state too.
func (w *watch) state(ctx context.Context) (item WatchEvent, cluster uint64, err error) {
	p := newParams()
	p.query.Set(deimos.ParamQuorum, "true")
	p.recursive = w.recursive
	r, err := w.c.keysRequest(http.MethodGet, w.key, p)
	if err != nil {
		return WatchEvent{}, 0, err
	}
	a, err := w.c.do(ctx, r)
	if err != nil {
		return WatchEvent{}, 0, err
	}
	if a.index > 0 && (a.code == deimos.CodeKeyNotFound || a.code == deimos.CodeNotDir) {
		none := WatchEvent{Event: deimos.Event{Action: deimos.ActionGet}, Index: a.index, Reset: true}
		return none, responseOf(a.header).ClusterID, nil
	}
	if err := a.err(); err != nil {
		return WatchEvent{}, 0, err
	}
	resp, err := a.response()
	if err != nil {
		return WatchEvent{}, 0, err
	}
	if resp.Index == 0 {
		return WatchEvent{}, 0, noIndex(a.op, a.endpoint)
	}
	return WatchEvent{Event: resp.Event, Index: resp.Index, Reset: true}, resp.ClusterID, nil
}

// noIndex is the error of an answer that does not say which state it shows: no
// watch can go on from there.
func noIndex(op, endpoint string) error {
	return &StatusError{Op: op, Endpoint: endpoint, Status: http.StatusOK,
		Message: fmt.Sprintf("not an answer of the keys API: it has no header %s or %s", deimos.HeaderIndex, deimos.HeaderEtcdIndex)}
}

// request returns the request for what comes next. A Deimos answers it with an
// event stream; other servers do not look at Accept and answer a long poll.
func (w *watch) request() *request {
	p := newParams()
	p.query.Set(deimos.ParamWait, "true")
	if w.recursive {
		p.query.Set(deimos.ParamRecursive, "true")
	}
	if w.next > 0 {
		p.query.Set(deimos.ParamWaitIndex, strconv.FormatUint(w.next, 10))
	}
	return &request{method: http.MethodGet, path: w.c.keyPath(w.key), query: p.query, accept: typeEvents + ", " + typeJSON}
}
