package httpapi

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/syncbuf"
	"github.com/marsevilspirit/deimos/store"
)

// fakeBackend applies writes to a real store at once. The functions, when set,
// answer instead.
type fakeBackend struct {
	mu     sync.Mutex // the one writer of the store
	store  *store.Store
	raft   atomic.Uint64
	timeMS atomic.Int64

	event   *store.Event // of every write
	write   func(ctx context.Context, r *deimos.Request) (*store.Event, error)
	read    func(ctx context.Context, linearizable bool) (store.View, error)
	ready   func(ctx context.Context) error
	members []deimos.Member
	leader  atomic.Uint64
	change  func(ctx context.Context, change deimos.MemberChange) (deimos.Member, error)
	self    SelfStats
	lead    *LeaderStats // nil: another member leads
	applied StoreStats
	last    atomic.Pointer[deimos.Request]
	linear  atomic.Bool // level of the last read
	current bool        // linearizable reads need not ask
}

func newFake() *fakeBackend {
	return newFakeWith(store.Config{})
}

func newFakeWith(cfg store.Config) *fakeBackend {
	b := &fakeBackend{store: store.New(cfg)}
	b.raft.Store(5)
	b.timeMS.Store(1000)
	return b
}

func (b *fakeBackend) Write(deadline time.Time, r *deimos.Request, done func(*store.Event, error)) {
	switch {
	case b.event != nil:
		done(b.event, nil)
		return
	case b.write == nil:
		done(b.apply(r))
		return
	}
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		done(b.write(ctx, r))
	}()
}

// apply makes a write at once.
func (b *fakeBackend) apply(r *deimos.Request) (*store.Event, error) {
	b.last.Store(r)
	b.mu.Lock()
	defer b.mu.Unlock()
	e, err := b.store.Apply(r, b.timeMS.Load())
	b.store.Publish(b.raft.Add(1))
	return e, err
}

func (b *fakeBackend) Read(deadline time.Time, done func(store.View, error)) {
	b.linear.Store(true)
	if b.read == nil {
		done(b.store.View(), nil)
		return
	}
	go func() {
		ctx, cancel := context.WithDeadline(context.Background(), deadline)
		defer cancel()
		done(b.read(ctx, true))
	}()
}

func (b *fakeBackend) CurrentView() (store.View, bool) {
	if !b.current {
		return store.View{}, false
	}
	b.linear.Store(true)
	return b.store.View(), true
}

func (b *fakeBackend) View() (store.View, bool) {
	b.linear.Store(false)
	return b.store.View(), b.read == nil
}

func (b *fakeBackend) AwaitView(ctx context.Context) (store.View, error) { return b.read(ctx, false) }

func (b *fakeBackend) Watch(key string, recursive bool, from uint64) (*store.Watcher, error) {
	return b.store.Watch(key, recursive, from)
}

func (b *fakeBackend) expire() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.store.Expire(b.timeMS.Load(), 1000)
	b.store.Publish(b.raft.Add(1))
}

func (b *fakeBackend) ClusterTimeMS() int64     { return b.timeMS.Load() }
func (b *fakeBackend) Members() []deimos.Member { return b.members }

func (b *fakeBackend) Leader() uint64         { return b.leader.Load() }
func (b *fakeBackend) SelfStats() SelfStats   { return b.self }
func (b *fakeBackend) StoreStats() StoreStats { return b.applied }

func (b *fakeBackend) LeaderStats() (LeaderStats, bool) {
	if b.lead == nil {
		return LeaderStats{}, false
	}
	return *b.lead, true
}

func (b *fakeBackend) ChangeMembers(ctx context.Context, change deimos.MemberChange) (deimos.Member, error) {
	return b.change(ctx, change)
}

func (b *fakeBackend) Status() Status {
	return Status{ClusterID: 0x7e27652122e8b2ae, RaftIndex: b.raft.Load(), RaftTerm: 1}
}

func (b *fakeBackend) Ready(ctx context.Context) error {
	if b.ready != nil {
		return b.ready(ctx)
	}
	return nil
}

// wallClock is the wall clock of the tests: it began at the start of 2030,
// when the cluster time was 1000.
func (b *fakeBackend) wallClock() time.Time {
	start := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	return start.Add(time.Duration(b.timeMS.Load()-1000) * time.Millisecond)
}

// newHandler returns a handler over b with settings that change may change.
func newHandler(t testing.TB, b *fakeBackend, change func(*Config)) *Handler {
	t.Helper()
	cfg := Config{Backend: b, Version: "1.0.0", Now: b.wallClock, Gatherer: prometheus.NewRegistry()}
	if change != nil {
		change(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatalf("New() = %v, want nil", err)
	}
	return h
}

// testRequest is one request of a table. A body is urlencoded unless header
// says something else.
type testRequest struct {
	method, target, body string
	header               map[string]string
}

func (q testRequest) build() *http.Request {
	var body io.Reader
	if q.body != "" {
		body = strings.NewReader(q.body)
	}
	r := httptest.NewRequest(q.method, q.target, body)
	if q.body != "" {
		r.Header.Set("Content-Type", typeURLEncoded)
	}
	for k, v := range q.header {
		switch {
		case k == "Host":
			r.Host = v
		case v == "":
			r.Header.Del(k)
		default:
			r.Header.Set(k, v)
		}
	}
	return r
}

// do sends a request and returns its answer.
func do(h http.Handler, q testRequest) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, q.build())
	return w
}

// mustPut writes through the handler.
func mustPut(t testing.TB, h http.Handler, target, body string) {
	t.Helper()
	if w := do(h, testRequest{method: "PUT", target: target, body: body}); w.Code >= 300 {
		t.Fatalf("PUT %s %s = %d %s, want success", target, body, w.Code, w.Body)
	}
}

// keysHeadersOf reports whether the headers of the keys API are there and
// agree, and returns the index.
func keysHeadersOf(t *testing.T, header http.Header) string {
	t.Helper()
	for _, name := range []string{
		"X-Deimos-Index", "X-Etcd-Index", "X-Deimos-Cluster-Id", "X-Etcd-Cluster-Id", "X-Raft-Index", "X-Raft-Term",
	} {
		if len(header[name]) != 1 {
			t.Errorf("header %s = %q, want one value", name, header[name])
		}
	}
	if a, b := header.Get("X-Deimos-Index"), header.Get("X-Etcd-Index"); a != b {
		t.Errorf("X-Deimos-Index, X-Etcd-Index = %s, %s, want equal", a, b)
	}
	if a, b := header.Get("X-Deimos-Cluster-Id"), header.Get("X-Etcd-Cluster-Id"); a != b {
		t.Errorf("X-Deimos-Cluster-Id, X-Etcd-Cluster-Id = %s, %s, want equal", a, b)
	}
	return header.Get("X-Deimos-Index")
}

// logBuffer is a log that tests can read.
type logBuffer struct{ syncbuf.Buffer }

func (l *logBuffer) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }
