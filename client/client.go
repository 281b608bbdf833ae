package client

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

// Client speaks to one cluster. Make it with [New]. Its methods may be called
// from any goroutine.
type Client struct {
	cfg       Config
	endpoints *endpoints
	transport http.RoundTripper
	log       *slog.Logger
	// The bounds of one answer and of one event; tests have smaller ones.
	answerMaxBytes int64
	lineMaxBytes   int

	stop chan struct{} // closed by Close

	mu      sync.Mutex
	closed  bool
	running map[*running]struct{}
	// calls counts what Close waits for: calls, and the goroutine of sync.
	calls sync.WaitGroup
}

// running is a call or a watch that is under way.
type running struct {
	cancel context.CancelCauseFunc
	watch  bool // Close does not wait for it
}

// New returns a client. It connects to nobody yet: endpoints that are down are
// found by the first call. An error says which field of cfg is wrong and wraps
// [ErrInvalidArgument].
func New(cfg Config) (*Client, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	return newClient(cfg, newTransport(cfg)), nil
}

// newClient makes a client of a checked configuration.
func newClient(cfg Config, transport http.RoundTripper) *Client {
	c := &Client{
		cfg:       cfg,
		endpoints: newEndpoints(cfg.Endpoints, cfg.Logger),
		transport: transport,
		log:       cfg.Logger,

		answerMaxBytes: answerMaxBytes,
		lineMaxBytes:   lineMaxBytes,

		stop:    make(chan struct{}),
		running: make(map[*running]struct{}),
	}
	if cfg.SyncInterval > 0 {
		c.calls.Go(c.keepSynced)
	}
	return c
}

// Close ends all calls and watches with [ErrClosed], waits for the calls and
// for what the client runs by itself, and closes the connections. A loop over
// a watch finds out when it asks for the next event; Close does not wait for the
// body of the loop, so it may be called from there. It may be called more than
// once, always returns nil, and later calls of other methods fail.
func (c *Client) Close() error {
	c.mu.Lock()
	if !c.closed {
		close(c.stop)
	}
	c.closed = true
	for r := range c.running {
		r.cancel(ErrClosed)
	}
	c.mu.Unlock()
	c.calls.Wait()
	if t, ok := c.transport.(*http.Transport); ok {
		t.CloseIdleConnections()
	}
	return nil
}

// Endpoints returns the endpoints that the client uses now, in no particular
// order: those of its configuration, or what [Client.Sync] has found.
func (c *Client) Endpoints() []string { return c.endpoints.urls() }

// begin registers a call or a watch, so that Close ends it, and returns its
// context. The caller has to end it.
func (c *Client) begin(ctx context.Context, r *running) (context.Context, error) {
	ctx, r.cancel = context.WithCancelCause(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		r.cancel(ErrClosed)
		return nil, fmt.Errorf("client: %w", ErrClosed)
	}
	c.running[r] = struct{}{}
	if !r.watch {
		c.calls.Add(1)
	}
	return ctx, nil
}

// end undoes begin.
func (c *Client) end(r *running) {
	r.cancel(nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, r)
	if !r.watch {
		c.calls.Done()
	}
}

// beginCall is begin for a call, which has a deadline.
func (c *Client) beginCall(ctx context.Context) (context.Context, func(), error) {
	r := &running{}
	ctx, err := c.begin(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RequestTimeout)
	return ctx, func() {
		cancel()
		c.end(r)
	}, nil
}

// sleep waits, and returns the cause of the end of ctx if that comes first.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
