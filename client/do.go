package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

const (
	// The pauses between two rounds of the endpoints.
	pauseMin = 100 * time.Millisecond
	pauseMax = time.Second
	// roundsUnreachable is after how many rounds without any answer a call gives
	// up. With the pauses between them they take 0.7 s.
	roundsUnreachable = 4
	// readPatience is how long a read waits for an answer in the first round
	// before it goes to the next endpoint.
	readPatience = 2 * time.Second
	// slow is from when on it counts against an endpoint that a call ended while
	// it owed the answer: to that call, or to several one after the other, since
	// the deadlines of all of them may be shorter.
	slow = 200 * time.Millisecond
)

// errLate says that an endpoint was not waited for any longer.
var errLate = fmt.Errorf("no answer within %v", readPatience)

// errTooLarge says that an answer was not read to its end.
var errTooLarge = errors.New("the answer is too large")

// search is the way of one call from endpoint to endpoint.
type search struct {
	c *Client
	r *request
	// failures are those of endpoints that did not answer.
	failures []EndpointFailure
	// refused is the last answer that promised that nothing has happened.
	refused error
	// round holds what such answers of this round said.
	round map[verdict]bool
}

// do sends a request until it is answered. The answer is a success or an error
// that is final; see the package comment for what is sent again. Errors are
// those of the package comment, apart from what the answer itself says.
func (c *Client) do(ctx context.Context, r *request) (*answer, error) {
	ctx, end, err := c.beginCall(ctx)
	if err != nil {
		return nil, err
	}
	defer end()
	s := &search{c: c, r: r}
	for round := 0; ; round++ {
		order := c.endpoints.order()
		s.round = make(map[verdict]bool)
		for _, e := range order {
			if ctx.Err() != nil {
				return nil, s.over(ctx)
			}
			patience := time.Duration(0)
			if round == 0 && len(order) > 1 && r.isRead() {
				patience = readPatience
			}
			if a, err := s.visit(ctx, e, patience); a != nil || err != nil {
				return a, err
			}
		}
		switch {
		case s.refused == nil && round+1 >= roundsUnreachable:
			return nil, s.unreachable()
		case s.round[elsewhere] && !s.round[later]: // and there is nobody else
			return nil, s.refused
		case sleep(ctx, backoff(round, pauseMin, pauseMax)) != nil:
			return nil, s.over(ctx)
		}
	}
}

// visit sends the request to one endpoint. Without an answer and an error, it
// has to go elsewhere.
func (s *search) visit(ctx context.Context, e *endpoint, patience time.Duration) (*answer, error) {
	start := time.Now()
	a, sent, err := s.c.attempt(ctx, e, s.r, patience)
	if err != nil {
		if errors.Is(err, ErrInvalidArgument) {
			return nil, err
		}
		if ctx.Err() == nil || max(time.Since(start), s.c.endpoints.silence(e)) >= slow {
			s.c.endpoints.failed(e, err)
		}
		s.note(e, err)
		switch {
		case sent && !s.r.isRead():
			return nil, &UnknownOutcomeError{Op: s.r.op(), Endpoint: e.url, Err: err}
		case errors.Is(err, errTooLarge): // everywhere
			return nil, fmt.Errorf("client: %s at %s: %w", s.r.op(), e.url, err)
		}
		return nil, nil
	}
	v := a.judge(s.r.isRead())
	if v == final {
		s.c.endpoints.worked(e)
		return a, nil
	}
	err = a.err()
	s.c.endpoints.failed(e, err)
	if v == unknown {
		return nil, &UnknownOutcomeError{Op: s.r.op(), Endpoint: e.url, Err: err}
	}
	s.refused = err
	s.round[v] = true
	return nil, nil
}

// note remembers the last failure of an endpoint.
func (s *search) note(e *endpoint, err error) {
	for i := range s.failures {
		if s.failures[i].Endpoint == e.url {
			s.failures[i].Err = err
			return
		}
	}
	s.failures = append(s.failures, EndpointFailure{Endpoint: e.url, Err: err})
}

// over is the error of a call that ran out of time, or was ended.
func (s *search) over(ctx context.Context) error {
	cause := context.Cause(ctx)
	switch {
	case s.refused != nil:
		return fmt.Errorf("client: %s: %w; the last answer was: %w", s.r.op(), cause, s.refused)
	case errors.Is(cause, context.DeadlineExceeded) && len(s.failures) > 0:
		return s.unreachable()
	default:
		return fmt.Errorf("client: %s: %w", s.r.op(), cause)
	}
}

func (s *search) unreachable() error {
	return &NoEndpointError{Op: s.r.op(), Failures: s.failures}
}

// attempt sends a request to one endpoint and reads the answer. The head of it
// has to come within patience, unless that is 0. sent is that of [Client.try].
func (c *Client) attempt(ctx context.Context, e *endpoint, r *request, patience time.Duration) (a *answer, sent bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if patience > 0 {
		t := time.AfterFunc(patience, func() { cancel(errLate) })
		defer t.Stop()
	}
	resp, sent, err := c.try(ctx, e, r)
	if err != nil {
		return nil, sent, err
	}
	a, err = c.readAnswer(r, e, resp)
	if err != nil {
		return nil, true, endOf(ctx, fmt.Errorf("reading the answer: %w", err))
	}
	return a, true, nil
}

// readAnswer reads an answer to its end and closes it.
func (c *Client) readAnswer(r *request, e *endpoint, resp *http.Response) (*answer, error) {
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, c.answerMaxBytes+1))
	if err != nil {
		return nil, err
	}
	if int64(len(body)) > c.answerMaxBytes {
		return nil, fmt.Errorf("%w: it has more than %d bytes", errTooLarge, c.answerMaxBytes)
	}
	return newAnswer(r, e, resp, body), nil
}
