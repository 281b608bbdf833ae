package httpapi

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/store"
)

// inBubble runs f with a server over a fake backend, on synctest's clock.
func inBubble(t *testing.T, f func(t *testing.T, b *fakeBackend, s *testServer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		s := serve(t, newHandler(t, b, nil))
		f(t, b, s)
		b.store.CloseWatches()
		s.stop()
		synctest.Wait()
		if got := b.store.Watchers(); got != 0 {
			t.Errorf("watchers left after the test = %d, want 0", got)
		}
	})
}

// set writes a key past the server.
func (b *fakeBackend) set(t *testing.T, key, value string) {
	t.Helper()
	if _, err := b.apply(&deimos.Request{Op: deimos.OpSet, Key: key, Value: value}); err != nil {
		t.Fatalf("Write(%s) = %v, want nil", key, err)
	}
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("reading the body = %v, want its end", err)
	}
	return string(b)
}

func TestLongPollGetsHeadersAtOnceAndOneEvent(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		b.set(t, "/w/a", "1")
		b.set(t, "/w/_h", "x")
		resp := s.open(t.Context(), "/v2/keys/w/a?wait=true")
		if got := keysHeadersOf(t, resp.Header); resp.StatusCode != 200 || got != "3" {
			t.Errorf("watch = %d at index %s, want 200 at 3", resp.StatusCode, got)
		}
		if got := resp.Header.Get("Content-Type"); got != "application/json" || resp.ContentLength != -1 {
			t.Errorf("watch: Content-Type %q, Content-Length %d, want application/json, none", got, resp.ContentLength)
		}
		b.set(t, "/w/b", "other")
		b.set(t, "/w/a", "2")
		b.set(t, "/w/a", "3")
		want := `{"action":"set","node":{"key":"/w/a","value":"2","modifiedIndex":5,"createdIndex":5},"prevNode":{"key":"/w/a","value":"1","modifiedIndex":2,"createdIndex":2}}` + "\n"
		if got := body(t, resp); got != want {
			t.Errorf("watch = %s, want %s", got, want)
		}
	})
}

func TestWatchesEndWithTheTimeout(t *testing.T) {
	for _, target := range []string{"/keys/a?wait=true", "/keys/a?wait=true&stream=true", "/keys/a?wait=true&waitIndex=99"} {
		t.Run(target, func(t *testing.T) {
			inBubble(t, func(t *testing.T, _ *fakeBackend, s *testServer) {
				start := time.Now()
				resp := s.open(t.Context(), target)
				if got := body(t, resp); got != "" {
					t.Errorf("watch without events = %q, want an empty body", got)
				}
				if took := time.Since(start); took != DefaultWatchTimeout {
					t.Errorf("watch ended after %v, want %v", took, DefaultWatchTimeout)
				}
			})
		})
	}
}

func TestStreamReplaysAndGoesOnLive(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		b.set(t, "/w/a", "1")
		b.set(t, "/w/_h", "x")
		b.set(t, "/w/a", "2")
		if _, err := b.apply(&deimos.Request{Op: deimos.OpDelete, Key: "/w", Recursive: true}); err != nil {
			t.Fatalf("Write() = %v, want nil", err)
		}
		resp := s.open(t.Context(), "/keys/w?wait=true&recursive=true&stream=true&waitIndex=2")
		if got := keysHeadersOf(t, resp.Header); got != "5" {
			t.Errorf("index = %s, want 5", got)
		}
		lines := bufio.NewReader(resp.Body)
		for _, want := range []string{
			`{"action":"set","node":{"key":"/w/a","value":"1","modifiedIndex":2,"createdIndex":2}}`,
			`{"action":"set","node":{"key":"/w/a","value":"2","modifiedIndex":4,"createdIndex":4},"prevNode":{"key":"/w/a","value":"1","modifiedIndex":2,"createdIndex":2}}`,
			`{"action":"delete","node":{"key":"/w","dir":true,"modifiedIndex":5,"createdIndex":2},"prevNode":{"key":"/w","dir":true,"modifiedIndex":2,"createdIndex":2}}`,
		} {
			if got := readLine(t, lines); got != want {
				t.Errorf("line = %s, want %s", got, want)
			}
		}
		for i := range 3 { // each live event arrives alone
			b.set(t, "/w/live", strconv.Itoa(i))
			if got := readLine(t, lines); !strings.Contains(got, `"value":"`+strconv.Itoa(i)+`"`) {
				t.Errorf("live line = %s, want value %d", got, i)
			}
		}
		b.store.CloseWatches()
		if got := readLine(t, lines); got != "" {
			t.Errorf("line after the end = %s, want the end", got)
		}
	})
}

func TestEventStreamHasHeartbeatsAndIDs(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		b.set(t, "/w/a", "1")
		b.set(t, "/w/b", "2")
		start := time.Now()
		resp := s.open(t.Context(), "/keys/w?wait=true&recursive=true&waitIndex=99&stream=maybe&stream=true",
			"Accept", "text/event-stream", "Last-Event-ID", "2")
		if resp.StatusCode != 400 {
			t.Errorf("event stream with a bad flag = %d, want 400", resp.StatusCode)
		}
		body(t, resp)
		resp = s.open(t.Context(), "/keys/w?wait=true&recursive=true&waitIndex=99",
			"Accept", "application/json, Text/Event-Stream;q=0.9", "Last-Event-ID", "2")
		keysHeadersOf(t, resp.Header)
		if ct, cc := resp.Header.Get("Content-Type"), resp.Header.Get("Cache-Control"); ct != "text/event-stream" || cc != "no-cache" {
			t.Errorf("Content-Type, Cache-Control = %q, %q, want text/event-stream, no-cache", ct, cc)
		}
		in := bufio.NewReader(resp.Body)
		expect := func(lines ...string) {
			t.Helper()
			for _, want := range lines {
				if got := readLine(t, in); got != want {
					t.Errorf("line = %q, want %q", got, want)
				}
			}
		}
		expect(": heartbeat", "",
			"id: 3", "event: set", `data: {"action":"set","node":{"key":"/w/b","value":"2","modifiedIndex":3,"createdIndex":3}}`, "")
		expect(": heartbeat", "")
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("second heartbeat after %v, want 15s", took)
		}
		if _, err := b.apply(&deimos.Request{Op: deimos.OpDelete, Key: "/w", Recursive: true}); err != nil {
			t.Fatalf("Write() = %v, want nil", err)
		}
		expect("id: 4", "event: delete", `data: {"action":"delete","node":{"key":"/w","dir":true,"modifiedIndex":4,"createdIndex":2},"prevNode":{"key":"/w","dir":true,"modifiedIndex":2,"createdIndex":2}}`, "")
		for range 40 { // far beyond the watch timeout
			expect(": heartbeat", "")
		}
		if took := time.Since(start); took != 41*15*time.Second {
			t.Errorf("heartbeats took %v, want %v", took, 41*15*time.Second)
		}
		b.store.CloseWatches()
		expect("")
	})
}

func TestEmptyLastEventIDIsNone(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		b.set(t, "/a", "1")
		resp := s.open(t.Context(), "/keys/a?wait=true&waitIndex=2", "Accept", "text/event-stream", "Last-Event-ID", "")
		in := bufio.NewReader(resp.Body)
		for _, want := range []string{": heartbeat", "", "id: 2"} {
			if got := readLine(t, in); got != want {
				t.Errorf("line = %q, want %q", got, want)
			}
		}
	})
}

func TestWatchIsReleasedWhenItsClientGoes(t *testing.T) {
	for _, header := range []string{"", "text/event-stream"} {
		inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
			ctx, cancel := context.WithCancel(t.Context())
			resp := s.open(ctx, "/keys/a?wait=true&stream=true", "Accept", header)
			if got := b.store.Watchers(); resp.StatusCode != 200 || got != 1 {
				t.Fatalf("watch = %d with %d watchers, want 200 with 1", resp.StatusCode, got)
			}
			cancel()
			synctest.Wait()
			if got := b.store.Watchers(); got != 0 {
				t.Errorf("watchers after the client went = %d, want 0", got)
			}
		})
	}
}

// net/http stops watching a connection at the first byte behind a request, which
// may be of the body that the watch does not read, or of the next request.
func TestAWatchNoticesItsClientGoingWhateverStandsBehindIt(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system does not tell")
	}
	const long = "GET /keys/a?wait=true HTTP/1.1\r\nHost: h\r\n"
	for _, tt := range []struct{ name, send, behind string }{
		{"nothing", long + "\r\n", ""},
		{"an empty line", long + "\r\n", "\r\n"},
		{"an empty line, by net/http", long + "Origin: http://h\r\n\r\n", "\r\n"},
		{"a request, by net/http", long + "Origin: http://h\r\n\r\n", "GET /keys HTTP/1.1\r\nHost: h\r\n\r\n"},
		{"an event stream with an empty line", long + "Accept: text/event-stream\r\nLast-Event-ID: 1\r\n\r\n", "\r\n"},
		{"a body", long + "Content-Length: 5\r\n\r\n", "value"},
		{"a body that never comes", long + "Content-Length: 100\r\n\r\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newFake()
			conn, err := net.Dial("tcp", realServer(t, newHandler(t, b, nil)))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, tt.send); err != nil {
				t.Fatal(err)
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil || resp.StatusCode != http.StatusOK {
				t.Fatalf("watch = %v, %v, want 200 at once", resp, err)
			}
			if got := b.store.Watchers(); got != 1 {
				t.Errorf("watchers = %d, want 1", got)
			}
			if _, err := io.WriteString(conn, tt.behind); err != nil {
				t.Fatal(err)
			}
			if err := conn.Close(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "the watch to end", func() bool { return b.store.Watchers() == 0 })
		})
	}
}

func TestStuckStreamIsCutAfterTheWriteDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		conn := s.dial()
		if _, err := io.WriteString(conn, "GET /keys/a?wait=true&stream=true HTTP/1.1\r\nHost: h\r\n\r\n"); err != nil {
			t.Fatalf("sending = %v, want nil", err)
		}
		if _, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil); err != nil {
			t.Fatalf("reading the head = %v, want nil", err)
		}
		b.set(t, "/a", strings.Repeat("x", 10000)) // a pipe has no buffer: the write blocks
		synctest.Wait()
		start := time.Now()
		for b.store.Watchers() > 0 && time.Since(start) < time.Minute {
			<-time.After(time.Second) // the bubble's clock
			synctest.Wait()
		}
		if took := time.Since(start); took < 10*time.Second || took > 13*time.Second {
			t.Errorf("stuck stream was cut after %v, want 10s to 12.5s", took)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	})
}

func TestIdleStreamOutlivesTheWriteDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		resp := s.open(t.Context(), "/keys/a?wait=true&stream=true")
		in := bufio.NewReader(resp.Body)
		<-time.After(time.Minute) // the bubble's clock
		b.set(t, "/a", "late")
		if got := readLine(t, in); !strings.Contains(got, "late") {
			t.Errorf("line after an idle minute = %q, want the event", got)
		}
	})
}

func TestSlowStreamEndsAfterWholeLines(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		resp := s.open(t.Context(), "/keys/a?wait=true&stream=true")
		for i := range 2 * store.WatchEventsMax {
			b.set(t, "/a", strings.Repeat("x", 500)+strconv.Itoa(i))
		}
		lines := strings.Split(body(t, resp), "\n")
		if n := len(lines); n < store.WatchEventsMax/2 || n > 2*store.WatchEventsMax || lines[n-1] != "" {
			t.Errorf("slow stream = %d lines, the last %q, want some whole lines and the end", n, lines[n-1])
		}
		for i, line := range lines[:len(lines)-1] {
			if !strings.Contains(line, `"modifiedIndex":`+strconv.Itoa(i+2)+",") || !strings.HasSuffix(line, "}}") {
				t.Errorf("line %d = %.100s…, want the event of index %d", i, line, i+2)
				break
			}
		}
	})
}

func TestManyReadyEventsComeWholeAndInOrder(t *testing.T) {
	inBubble(t, func(t *testing.T, b *fakeBackend, s *testServer) {
		for i := range 1000 {
			b.set(t, "/a", strings.Repeat("x", 300)+strconv.Itoa(i))
		}
		resp := s.open(t.Context(), "/keys/a?wait=true&stream=true&waitIndex=2")
		in := bufio.NewReader(resp.Body)
		for i := range 1000 {
			if got := readLine(t, in); !strings.Contains(got, `x`+strconv.Itoa(i)+`"`) {
				t.Fatalf("line %d = %.400s, want event %d", i, got, i)
			}
		}
	})
}

func TestClearedHistoryIsAPlainError(t *testing.T) {
	b := newFakeWith(store.Config{HistoryEvents: 10})
	h := newHandler(t, b, nil)
	for range 29 {
		b.set(t, "/w", "x")
	}
	for _, accept := range []string{"", "text/event-stream"} {
		w := do(h, testRequest{"GET", "/keys/w?wait=true&waitIndex=20", "", map[string]string{"Accept": accept}})
		want := `{"errorCode":401,"message":"The event in requested index is outdated and cleared","cause":"the requested history has been cleared [21/20]","index":30}` + "\n"
		if w.Code != 400 || w.Body.String() != want || w.Header().Get("Content-Type") != "application/json" {
			t.Errorf("watch from cleared history = %d %s %s, want 400 %s", w.Code, w.Header().Get("Content-Type"), w.Body, want)
		}
		if got := keysHeadersOf(t, w.Header()); got != "30" {
			t.Errorf("index = %s, want 30", got)
		}
	}
}

func TestWatchOnAStoppingMemberIsRefused(t *testing.T) {
	b := newFake()
	b.store.CloseWatches()
	h := newHandler(t, b, nil)
	w := do(h, testRequest{method: "GET", target: "/keys/w?wait=true"})
	want := `{"errorCode":300,"message":"Raft Internal Error","cause":"the server is stopping","index":0}` + "\n"
	if w.Code != 500 || w.Body.String() != want {
		t.Errorf("watch while stopping = %d %s, want 500 %s", w.Code, w.Body, want)
	}
}

func TestWatchIgnoresReadLevelAndLeader(t *testing.T) {
	b := newFake()
	b.read = func(_ context.Context, linearizable bool) (store.View, error) {
		if linearizable {
			return store.View{}, &deimos.Error{Code: deimos.CodeLeaderElection, Cause: deimos.CauseNoLeader}
		}
		return b.store.View(), nil
	}
	h := newHandler(t, b, nil)
	b.set(t, "/a", "1")
	w := do(h, testRequest{method: "GET", target: "/keys/a?wait=true&quorum=true&waitIndex=2"})
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"value":"1"`) {
		t.Errorf("watch with quorum=true = %d %s, want the event", w.Code, w.Body)
	}
}

func TestWatchGaugeCountsOpenWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newFake()
		h := newHandler(t, b, nil)
		s := serve(t, h)
		resp := s.open(t.Context(), "/keys/a?wait=true")
		if got := testutil.ToFloat64(h.metrics.watches); got != 1 {
			t.Errorf("deimos_http_watches = %v, want 1", got)
		}
		b.set(t, "/a", "1")
		body(t, resp)
		synctest.Wait()
		if got := testutil.ToFloat64(h.metrics.watches); got != 0 {
			t.Errorf("deimos_http_watches after the end = %v, want 0", got)
		}
		s.stop()
	})
}
