package queue

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/client"
)

// fakeLine is a line in memory, for tests with a fake clock. It removes a place
// exactly when its TTL is over, which is the earliest that a cluster may do.
type fakeLine struct {
	ttl time.Duration

	mu sync.Mutex
	// before is called before an operation has its effect, after when it has had
	// it; they may wait, and an error ends the operation. Nil: nothing.
	before, after hook
	index         uint64
	list          []Place
	due           map[string]*time.Timer
	removed       map[string]time.Time // when
	gone          map[string]uint64    // at which index
	changed       chan struct{}        // closed and replaced at each change
	calls         map[string]int
}

type hook func(ctx context.Context, op string) error

func newFakeLine(ttl time.Duration) *fakeLine {
	return &fakeLine{ttl: ttl, due: make(map[string]*time.Timer), removed: make(map[string]time.Time), gone: make(map[string]uint64),
		changed: make(chan struct{}), calls: make(map[string]int)}
}

// do runs an operation between before and after.
func (f *fakeLine) do(ctx context.Context, op string, effect func() error) error {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		if err := before(ctx, op); err != nil {
			return err
		}
	}
	f.mu.Lock()
	f.calls[op]++
	err := effect()
	after := f.after
	f.mu.Unlock()
	if err == nil && after != nil {
		err = after(ctx, op)
	}
	return err
}

// setBefore and setAfter change what operations meet from now on.
func (f *fakeLine) setBefore(h hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.before = h
}

func (f *fakeLine) setAfter(h hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.after = h
}

func (f *fakeLine) change() {
	f.index++
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeLine) find(key string) int {
	for i, p := range f.list {
		if p.Key == key {
			return i
		}
	}
	return -1
}

func (f *fakeLine) places(ctx context.Context, dir string) (list []Place, index uint64, err error) {
	err = f.do(ctx, "places", func() error {
		list, index = append(list, f.list...), f.index
		return nil
	})
	return list, index, err
}

func (f *fakeLine) enter(ctx context.Context, dir, value string, ttl time.Duration) (p Place, err error) {
	err = f.do(ctx, "enter", func() error {
		p = f.put(dir, value)
		return nil
	})
	return p, err
}

// put makes a place. It is for who holds mu.
func (f *fakeLine) put(dir, value string) Place {
	f.change()
	p := Place{Key: fmt.Sprintf("%s/%020d", dir, f.index), Value: value, Token: f.index}
	f.list = append(f.list, p)
	f.due[p.Key] = time.AfterFunc(f.ttl, func() { f.vanish(p.Key) })
	return p
}

// insert makes a place as a request does that is applied late.
func (f *fakeLine) insert(dir, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put(dir, value)
}

func (f *fakeLine) renew(ctx context.Context, p Place, ttl time.Duration) error {
	return f.do(ctx, "renew", func() error {
		if f.find(p.Key) < 0 {
			return deimos.ErrKeyNotFound
		}
		f.index++
		f.due[p.Key].Reset(f.ttl)
		return nil
	})
}

func (f *fakeLine) remove(ctx context.Context, p Place) error {
	return f.do(ctx, "remove", func() error {
		if f.find(p.Key) < 0 {
			return deimos.ErrKeyNotFound
		}
		f.take(p.Key)
		return nil
	})
}

func (f *fakeLine) await(ctx context.Context, key string, index uint64) error {
	for {
		f.mu.Lock()
		f.calls["await"]++
		gone, changed := f.gone[key], f.changed
		f.mu.Unlock()
		if gone > 0 && gone >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// vanish removes a place as somebody else does, or the end of its TTL.
func (f *fakeLine) vanish(key string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.take(key)
}

// take is vanish for who holds mu.
func (f *fakeLine) take(key string) {
	if at := f.find(key); at >= 0 {
		f.list = append(f.list[:at], f.list[at+1:]...)
		f.due[key].Stop()
		f.removed[key] = time.Now()
		f.change()
		f.gone[key] = f.index
	}
}

// whenRemoved tells when a place was removed.
func (f *fakeLine) whenRemoved(key string) (time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	at, ok := f.removed[key]
	return at, ok
}

// count tells how often an operation was called.
func (f *fakeLine) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// keys returns the names in the line.
func (f *fakeLine) keys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []string
	for _, p := range f.list {
		keys = append(keys, strings.TrimLeft(p.Key[strings.LastIndexByte(p.Key, '/')+1:], "0"))
	}
	return keys
}

// lines is a log handler that keeps the messages.
type lines struct {
	slog.Handler
	mu   sync.Mutex
	seen []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seen = append(l.seen, r.Message)
	return nil
}

func (l *lines) has(message string) bool { return slices.Contains(l.all(), message) }

// all returns the messages so far.
func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.seen)
}

// unknown is the error of a write whose answer was lost.
func unknown() error {
	return &client.UnknownOutcomeError{Op: "POST /keys/q", Endpoint: "http://127.0.0.1:1", Err: context.DeadlineExceeded}
}
