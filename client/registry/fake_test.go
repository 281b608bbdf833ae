package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

var errLost = &client.UnknownOutcomeError{Op: "PUT", Endpoint: "http://m1:4001", Err: errors.New("the connection broke")}

// cluster is a store with one key and a clock that is that of the bubble. It
// implements keys.
type cluster struct {
	mu      sync.Mutex
	key     string
	there   bool
	entry   entry
	expires time.Time
	index   uint64
	calls   []string // since the start: "put@0s"
	start   time.Time
	// down makes calls fail and change nothing.
	down error
	// lose is how many answers of writes get lost.
	lose int
}

func newCluster() *cluster { return &cluster{index: 10, start: time.Now()} }

// begin notes a call. The caller holds the mutex.
func (c *cluster) begin(ctx context.Context, what, key string) error {
	c.calls = append(c.calls, fmt.Sprintf("%s@%v", what, time.Since(c.start).Round(time.Second)))
	c.key = key
	if c.there && !time.Now().Before(c.expires) {
		c.there = false
		c.index++
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return c.down
}

// end returns the answer to a write, or loses it.
func (c *cluster) end() (entry, error) {
	if c.lose > 0 {
		c.lose--
		return entry{}, errLost
	}
	return c.entry, nil
}

func (c *cluster) write(value string, ttl time.Duration) {
	c.index++
	c.there, c.entry, c.expires = true, entry{value, c.index, c.index}, time.Now().Add(ttl)
}

func (c *cluster) put(ctx context.Context, key, value string, ttl time.Duration) (entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "put", key); err != nil {
		return entry{}, err
	}
	c.write(value, ttl)
	return c.end()
}

func (c *cluster) get(ctx context.Context, key string) (entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.begin(ctx, "get", key); err != nil {
		return entry{}, err
	}
	if !c.there {
		return entry{}, &deimos.Error{Code: deimos.CodeKeyNotFound, Index: c.index}
	}
	return c.entry, nil
}

// compare is begin for a call that compares.
func (c *cluster) compare(ctx context.Context, what, key string, modified uint64) error {
	if err := c.begin(ctx, what, key); err != nil {
		return err
	}
	switch {
	case !c.there:
		return &deimos.Error{Code: deimos.CodeKeyNotFound, Index: c.index}
	case c.entry.modified != modified:
		return &deimos.Error{Code: deimos.CodeCompareFailed, Index: c.index}
	}
	c.index++
	return nil
}

func (c *cluster) refresh(ctx context.Context, key string, ttl time.Duration, modified uint64) (entry, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.compare(ctx, "refresh", key, modified); err != nil {
		return entry{}, err
	}
	c.entry.modified, c.expires = c.index, time.Now().Add(ttl)
	return c.end()
}

func (c *cluster) remove(ctx context.Context, key string, modified uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.compare(ctx, "remove", key, modified); err != nil {
		return err
	}
	c.there = false
	_, err := c.end()
	return err
}

// hanging is a cluster that is asked at a member that hangs. The client goes
// elsewhere once refreshes have waited there for so long.
type hanging struct {
	*cluster
	left time.Duration
}

func (h *hanging) refresh(ctx context.Context, key string, ttl time.Duration, modified uint64) (entry, error) {
	if h.left <= 0 {
		return h.cluster.refresh(ctx, key, ttl, modified)
	}
	begun := time.Now()
	<-ctx.Done()
	h.left -= time.Since(begun)
	return entry{}, errLost
}

// do changes the cluster.
func (c *cluster) do(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// alive reports whether the entry is there now.
func (c *cluster) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.there && time.Now().Before(c.expires)
}

// log returns the calls so far.
func (c *cluster) log() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.calls...)
}

// pass lets time go by in the bubble, and what is due happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// events collects those of a registration.
type events struct {
	mu   sync.Mutex
	list []string
}

func (e *events) take(ev Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, ev.State.String())
}

func (e *events) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return fmt.Sprint(e.list)
}

// instance is what most tests register.
var instance = Instance{Service: "web", Addr: "10.0.0.9:80", Metadata: "v1", TTL: 30 * time.Second}

// start registers the instance.
func start(t *testing.T, c *cluster, e *events) *Registration {
	t.Helper()
	r, err := register(t.Context(), c, instance, WithNotify(e.take))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return r
}
