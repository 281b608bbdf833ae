package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/marsevilspirit/deimos"
)

const (
	// callPath is where calls are posted to.
	callPath = "/deimos/call"
	// callMaxBytes bounds the request of a call, and its answer.
	callMaxBytes = 64 << 10
	// callsServeMax bounds the calls that are being answered at one time.
	callsServeMax = 64
)

// ErrNotSent is the kind of the errors of Call after which the request was
// certainly not answered, and will not be. After any other error it may have
// been, or may be later.
var ErrNotSent = errors.New("transport: the request was not sent")

// Call sends a request of at most 64 KiB to a peer, which answers it with
// [Config].Answer, and returns the answer, of at most 64 KiB. It waits until
// ctx ends and not after Stop. A wrapped [ErrNotSent] means that the request
// was not processed: the peer is unknown, could not be connected with, refused
// the request or cannot answer it yet (and proved that it is the peer, where
// there is a secret).
// After any other error the outcome is unknown.
func (t *HTTP) Call(ctx context.Context, to uint64, request []byte) ([]byte, error) {
	t.mu.Lock()
	urls, ok := t.known.Load().peers[to]
	switch {
	case t.stopped:
		t.mu.Unlock()
		return nil, fmt.Errorf("transport: call member %x: %w: %w", to, ErrNotSent, ErrStopped)
	case !ok:
		t.mu.Unlock()
		return nil, fmt.Errorf("transport: call member %x: %w: %w", to, ErrNotSent, ErrUnknownPeer)
	case len(request) > callMaxBytes:
		t.mu.Unlock()
		return nil, fmt.Errorf("transport: call member %x: %w: %d bytes, at most %d are sent", to, ErrNotSent, len(request), callMaxBytes)
	}
	t.calling.Add(1)
	t.mu.Unlock()
	defer t.calling.Done()
	ctx, cancel := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-t.stop:
			cancel(ErrStopped)
		case <-ctx.Done():
		}
	}()
	defer func() { <-watched }()
	defer cancel(nil)
	err := fmt.Errorf("%w: no URL", ErrNotSent)
	for _, url := range urls {
		var data []byte
		if data, err = t.call(ctx, to, url, request); err == nil {
			return data, nil
		}
		if !errors.Is(err, ErrNotSent) || ctx.Err() != nil {
			break
		}
	}
	if cause := context.Cause(ctx); errors.Is(cause, ErrStopped) {
		err = fmt.Errorf("%w: %w", cause, err)
	}
	return nil, fmt.Errorf("transport: call member %x: %w", to, err)
}

// call tries one URL of the peer. Each call has a connection of its own, so
// that it is known whether a request has left.
func (t *HTTP) call(ctx context.Context, to uint64, url string, request []byte) ([]byte, error) {
	var left atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { left.Store(true) },
	})
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+callPath, bytes.NewReader(request))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	resp, a, err := t.opener.do(t.clients.calls, r, to, request)
	if err != nil {
		if !left.Load() {
			return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return nil, err
	}
	defer resp.Body.Close()
	if err := t.judge(ctx, to, url, a); err != nil {
		if a.refused != "" {
			return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
		}
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answers with status %d", url, resp.StatusCode)
	}
	return readAnswer(resp, a, callMaxBytes)
}

// readAnswer reads the body of an answer, which must be the one that the
// answer's header names.
func readAnswer(resp *http.Response, a answer, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer of member %x: %w", a.member, err)
	case int64(len(data)) > limit:
		return nil, fmt.Errorf("the answer of member %x has more than %d bytes", a.member, limit)
	case digest(data) != a.digest:
		return nil, fmt.Errorf("the answer of member %x is not the one that it sent", a.member)
	}
	return data, nil
}

// serveCall answers a call. Once the request was handed on, only who answers it
// can say that it was not processed.
func (t *HTTP) serveCall(c *conn, r *http.Request, o opening) *refusedOpen {
	select {
	case t.answering <- struct{}{}:
		defer func() { <-t.answering }()
	default:
		return refuse(refusedBusy, http.StatusServiceUnavailable, o.sender, "too many calls at one time")
	}
	request, refused := t.readBody(r, o, callMaxBytes)
	if refused != nil {
		return refused
	}
	data := t.cfg.Answer(r.Context(), o.sender, request)
	if data == nil && r.Context().Err() != nil {
		panic(http.ErrAbortHandler) // who gives up may have begun
	}
	if data == nil {
		return refuse(refusedNotReady, http.StatusServiceUnavailable, o.sender, "calls cannot be answered yet")
	}
	if len(data) > callMaxBytes {
		t.log.Error("answer to a call is too large", "caller", deimos.FormatID(o.sender), "bytes", len(data), "limit", callMaxBytes)
		http.Error(c, "answer too large", http.StatusInternalServerError)
		return nil
	}
	c.Header().Set("Content-Type", "application/octet-stream")
	c.Header().Set(headerDigest, digest(data))
	_, _ = c.Write(data) // the caller sees that it is cut short
	return nil
}

// Call sends a request of at most 64 KiB to a member and returns its answer, in
// the way of [HTTP.Call]. A cut between the two on the way back loses the
// answer, and what it was is unknown then.
func (e *Endpoint) Call(ctx context.Context, to uint64, request []byte) ([]byte, error) {
	target := e.network.target(e.id, to)
	e.mu.Lock()
	stopped, closed := e.stopped, e.closed[to]
	e.mu.Unlock()
	switch {
	case stopped:
		return nil, fmt.Errorf("transport: call member %x: %w: %w", to, ErrNotSent, ErrStopped)
	case len(request) > callMaxBytes:
		return nil, fmt.Errorf("transport: call member %x: %w: %d bytes, at most %d are sent", to, ErrNotSent, len(request), callMaxBytes)
	case closed || target == nil || target.answer == nil || e.network.isRemoved(e.id) || !target.expect():
		return nil, fmt.Errorf("transport: call member %x: %w: %w", to, ErrNotSent, errNoLink)
	}
	defer target.arriving.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-e.stop:
		case <-target.stop:
		case <-ctx.Done():
		}
		cancel()
	}()
	data := bytes.Clone(target.answer(ctx, e.id, bytes.Clone(request)))
	err := ctx.Err()
	cancel()
	<-watched
	switch {
	case err != nil:
		return nil, fmt.Errorf("transport: call member %x: %w", to, err)
	case e.network.target(to, e.id) != e:
		return nil, fmt.Errorf("transport: call member %x: %w", to, errNoLink)
	case data == nil:
		return nil, fmt.Errorf("transport: call member %x: %w: calls cannot be answered yet", to, ErrNotSent)
	case len(data) > callMaxBytes:
		return nil, fmt.Errorf("transport: call member %x: the answer has more than %d bytes", to, callMaxBytes)
	}
	return data, nil
}
