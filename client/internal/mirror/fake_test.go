package mirror

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// item is what a watch brings.
type item struct {
	event client.WatchEvent
	err   error
}

// source is a cluster that a test plays. It answers reads with state, and each
// watch with what is sent to items.
type source struct {
	items chan item

	mu      sync.Mutex
	watches int
	state   *deimos.Node
	index   uint64
	err     error // of reads
}

func newSource() *source { return &source{items: make(chan item)} }

// become makes n the state at index.
func (s *source) become(index uint64, n *deimos.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state, s.index = n, index
}

// fail makes reads fail, or work again.
func (s *source) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// opened tells how many watches there have been.
func (s *source) opened() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.watches
}

func (s *source) Get(context.Context, string, ...client.GetOption) (*client.Response, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.err != nil:
		return nil, s.err
	case s.state == nil:
		return nil, &deimos.Error{Code: deimos.CodeKeyNotFound, Index: s.index}
	}
	return &client.Response{Event: deimos.Event{Action: deimos.ActionGet, Node: s.state}, Index: s.index}, nil
}

func (s *source) Watch(ctx context.Context, _ string, _ ...client.WatchOption) iter.Seq2[client.WatchEvent, error] {
	return func(yield func(client.WatchEvent, error) bool) {
		s.mu.Lock()
		s.watches++
		s.mu.Unlock()
		for {
			select {
			case <-ctx.Done():
				yield(client.WatchEvent{}, ctx.Err())
				return
			case i := <-s.items:
				if !yield(i.event, i.err) || i.err != nil {
					return
				}
			}
		}
	}
}

// reset sends the state to the watch.
func (s *source) reset() {
	s.mu.Lock()
	e := client.WatchEvent{Event: deimos.Event{Action: deimos.ActionGet, Node: s.state}, Index: s.index, Reset: true}
	s.mu.Unlock()
	s.items <- item{event: e}
}

// event sends a change to the watch.
func (s *source) event(index uint64, action deimos.Action, n *deimos.Node) {
	s.items <- item{event: client.WatchEvent{Event: deimos.Event{Action: action, Node: n}, Index: index}}
}

// pass lets time go by in the bubble, and what is due happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func file(key, value string) *deimos.Node { return &deimos.Node{Key: key, Value: &value} }

func dir(key string, nodes ...*deimos.Node) *deimos.Node {
	return &deimos.Node{Key: key, Dir: true, Nodes: nodes}
}

// receiver keeps what is delivered. It belongs to the bubble of its test.
type receiver struct {
	last  Files
	count int
}

func (r *receiver) take(f Files) {
	r.last = f
	r.count++
}

// openPlayed opens a mirror of /d while the source sends its state.
func openPlayed(t *testing.T, s *source, r *receiver) *Mirror {
	t.Helper()
	go s.reset()
	m, err := Open(t.Context(), s, "d/", slog.New(slog.DiscardHandler), r.take)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.Close)
	return m
}
