package client

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
)

// quietMax is how long a watch believes in an endpoint that brings no event: a
// member that is cut off from its cluster has none to bring, and goes on with its
// signs of life. Then the endpoint is asked whether it still has its cluster.
// Each pause is shorter by up to a quarter, at random, so that clients that began
// together do not ask together.
const quietMax = 30 * time.Second

// errCutOff ends a stream whose endpoint does not show that it has its cluster.
var errCutOff = errors.New("the endpoint does not reach its cluster")

// inquiry asks the endpoint of a stream while no event comes, and ends the
// stream when the answer is bad. begin, end and close belong to the goroutine of
// the stream. It asks on the goroutine of its timer, so that events come through
// meanwhile; close waits for that.
type inquiry struct {
	// ask tells in what time to ask again, or why the stream has to end.
	ask    func() (time.Duration, error)
	giveUp context.CancelCauseFunc // ends the stream, and with it a question

	asking sync.WaitGroup

	mu      sync.Mutex
	timer   *time.Timer
	waiting bool // for an event
}

func newInquiry(ask func() (time.Duration, error), giveUp context.CancelCauseFunc) *inquiry {
	q := &inquiry{ask: ask, giveUp: giveUp}
	q.timer = time.AfterFunc(quietMax, q.fire)
	q.timer.Stop()
	return q
}

// begin says that an event is waited for.
func (q *inquiry) begin() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = true
	q.timer.Reset(quietPause())
}

// end says that the wait is over. A question that is under way counts for
// nothing, unless another wait has begun by then.
func (q *inquiry) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting = false
	q.timer.Stop()
}

// close waits until nothing is asked any more. The stream has to be over.
func (q *inquiry) close() {
	q.end()
	q.asking.Wait()
}

// fire is what the timer does.
func (q *inquiry) fire() {
	q.mu.Lock()
	if !q.waiting {
		q.mu.Unlock()
		return
	}
	q.asking.Add(1)
	q.mu.Unlock()
	defer q.asking.Done()
	again, err := q.ask()
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case !q.waiting:
	case err != nil:
		q.giveUp(err)
	default:
		q.timer.Reset(again)
	}
}

// quietPause returns after which time without an event to ask.
func quietPause() time.Duration { return backoff(0, quietMax, quietMax) }

// inquire asks the endpoint of a stream whether it still has its cluster, and
// tells in what time to ask again. One answer serves all watches of the client.
//
// The question is a linearizable read of the watched key, which is answered only
// by who reaches the leader and has applied what that has committed, and which
// whoever watches may make. A HEAD has no body, and that there is no such key is
// an answer too.
func (w *watch) inquire(ctx context.Context, e *endpoint) (again time.Duration, err error) {
	if due := w.c.endpoints.inquiryDue(e, quietPause()); due > 0 {
		return due, nil
	}
	ctx, end, err := w.c.beginCall(ctx)
	if err != nil {
		return 0, err
	}
	defer end()
	p := newParams()
	p.query.Set(deimos.ParamQuorum, "true")
	r := &request{method: http.MethodHead, path: w.c.keyPath(w.key), query: p.query}
	begun := time.Now()
	a, _, err := w.c.attempt(ctx, e, r, 0)
	if err == nil && a.judge(true) != final {
		err = a.err()
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errCutOff, err)
	}
	w.c.endpoints.hadCluster(e, begun)
	return quietPause(), nil
}
