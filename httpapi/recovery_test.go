package httpapi

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/store"
)

// recovering is a backend that has just started: there is nothing to read from yet.
type recovering struct {
	*fakeBackend
	t         *testing.T
	waiting   chan struct{} // for each that waits for the recovery
	recovered chan struct{}
}

func (b *recovering) View() (store.View, bool) {
	select {
	case <-b.recovered:
		return b.store.View(), true
	default:
		return store.View{}, false
	}
}

func (b *recovering) AwaitView(ctx context.Context) (store.View, error) {
	b.waiting <- struct{}{}
	select {
	case <-b.recovered:
		return b.store.View(), nil
	case <-ctx.Done():
		return store.View{}, context.Cause(ctx)
	}
}

func (b *recovering) Watch(key string, recursive bool, from uint64) (*store.Watcher, error) {
	if _, ok := b.View(); !ok {
		b.t.Error("Watch() before the recovery, which may block")
		b.waiting <- struct{}{}
	}
	return b.store.Watch(key, recursive, from)
}

// Watches and local reads that have to wait for the recovery of the member keep
// nobody else waiting, however many there are.
func TestWaitingForTheRecoveryKeepsNobodyWaiting(t *testing.T) {
	n := 2 * runtime.GOMAXPROCS(0) // more than there are loops
	b := &recovering{fakeBackend: newFake(), t: t, waiting: make(chan struct{}, 2*n), recovered: make(chan struct{})}
	t.Cleanup(b.store.CloseWatches)
	h, err := New(Config{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	addr := realServer(t, h)
	ask := func(request string) *bufio.Reader {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = nc.Close() })
		if err := nc.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil { // it fails, and does not hang
			t.Fatal(err)
		}
		if _, err := io.WriteString(nc, request); err != nil {
			t.Fatal(err)
		}
		return bufio.NewReader(nc)
	}
	wantStatus := func(in *bufio.Reader, what string, want int) {
		t.Helper()
		resp, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("answer to %s = %v, want one", what, err)
		}
		if resp.StatusCode != want {
			t.Errorf("answer to %s = %d, want %d", what, resp.StatusCode, want)
		}
	}
	var waiting []*bufio.Reader
	for range n {
		waiting = append(waiting,
			ask("GET /keys/a?wait=true HTTP/1.1\r\nHost: h\r\n\r\n"),
			ask("GET /keys/?quorum=false HTTP/1.1\r\nHost: h\r\n\r\n"))
	}
	for range waiting {
		<-b.waiting
	}
	for range n {
		wantStatus(ask("PUT /keys/b HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 7\r\n\r\nvalue=1"),
			"a PUT during the recovery", http.StatusCreated)
		wantStatus(ask("DELETE /keys/b HTTP/1.1\r\nHost: h\r\n\r\n"), "a DELETE during the recovery", http.StatusOK)
	}
	close(b.recovered)
	for _, in := range waiting {
		wantStatus(in, "a request that waited for the recovery", http.StatusOK)
	}
}

// A watch whose client goes before the member has recovered is given up.
func TestWatchBeforeTheRecoveryIsGivenUpWithItsClient(t *testing.T) {
	b := &recovering{fakeBackend: newFake(), t: t, waiting: make(chan struct{}, 1), recovered: make(chan struct{})}
	h, err := New(Config{Backend: b})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodGet, "/keys/a?wait=true", nil))
	}()
	<-b.waiting
	cancel()
	<-answered
}
