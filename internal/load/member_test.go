package load

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos"
	"github.com/marsevilspirit/deimos/internal/clustertest"
)

func TestEveryWorkAgainstARealMember(t *testing.T) {
	url := clustertest.New(t, 1).Member(0).URL()
	for _, w := range []Work{Put, Get, GetLocal, Mixed, List, OpenLoop} {
		for _, prefix := range []string{"/keys", "/v2/keys"} {
			cfg := config(w, url)
			cfg.Target.Prefix = prefix
			cfg.Keys.Prefix = "/a b/" + string(w)
			cfg.Duration, cfg.Requests, cfg.Filled, cfg.Rate = 0, 200, false, cfg.Rate*4
			r := mustRun(t, cfg)
			wantFailures(t, r)
			if r.Operations != 200 {
				t.Errorf("%s under %s: %d operations, want 200", w, prefix, r.Operations)
			}
		}
	}
}

// TestFillWritesExactlyTheKeys lists what a fill has written.
func TestFillWritesExactlyTheKeys(t *testing.T) {
	m := clustertest.New(t, 1).Member(0)
	cfg := config(Fill, m.URL())
	cfg.Keys = Keys{Prefix: "/full", Count: 300, PerDir: 70, ValueBytes: 33}
	r := mustRun(t, cfg)
	wantFailures(t, r)
	if r.Operations != 300 {
		t.Errorf("%d operations, want 300", r.Operations)
	}
	status, body := m.Do(http.MethodGet, "/keys/full?recursive=true", nil)
	var e deimos.Event
	if err := json.Unmarshal([]byte(body), &e); err != nil || status != http.StatusOK {
		t.Fatalf("GET = %d %q, %v", status, body, err)
	}
	next := 0
	for i, dir := range e.Node.Nodes {
		if want := fmt.Sprintf("/full/d%d", i); dir.Key != want {
			t.Errorf("directory %d is %s, want %s", i, dir.Key, want)
		}
		for _, file := range dir.Nodes {
			if want := fmt.Sprintf("/full/d%d/k%03d", next/70, next); file.Key != want || file.Value == nil || len(*file.Value) != 33 {
				t.Errorf("key %d is %+v, want %s with 33 bytes", next, file, want)
			}
			if file.CreatedIndex != file.ModifiedIndex || file.CreatedIndex > 301 {
				t.Errorf("%s was written more than once, or others were: created at %d, changed at %d", file.Key, file.CreatedIndex, file.ModifiedIndex)
			}
			next++
		}
	}
	if next != 300 {
		t.Errorf("%d keys, want 300", next)
	}
}

func TestFanoutCountsEveryWatcher(t *testing.T) {
	url := clustertest.New(t, 1).Member(0).URL()
	drivers(t, func(t *testing.T, change func(*Config)) {
		cfg := config(WatchFanout, url)
		cfg.Watchers, cfg.Rate, cfg.Requests, cfg.Duration = 200, 100, 20, 0
		change(&cfg)
		r := mustRun(t, cfg)
		wantFailures(t, r)
		if r.Operations != 20 || r.Deliveries != 20*200 || r.Latency.Count != 20 || r.WriteLatency.Count != 20 {
			t.Errorf("%d events, %d deliveries, %d latencies, %d writes, want 20, 4000, 20, 20",
				r.Operations, r.Deliveries, r.Latency.Count, r.WriteLatency.Count)
		}
		if r.Latency.Min <= 0 || r.Latency.Max > 30 {
			t.Errorf("latencies are %v to %v s", r.Latency.Min, r.Latency.Max)
		}
	})
}

// fanServer gives events to its watchers, but for what skip takes out.
type fanServer struct {
	fakeServer
	watching []chan string
	skip     func(watcher, event int) bool
	events   int
}

func (s *fanServer) handle(_ int, r *http.Request, form url.Values) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.Method != http.MethodPut {
		return ""
	}
	line := `{"action":"set","node":{"key":"/bench/watched","value":"` + form.Get("value") + `"},"prevNode":{"value":"000000000000"}}` + "\n"
	for i, c := range s.watching {
		if s.skip == nil || !s.skip(i, s.events) {
			c <- line
		}
	}
	s.events++
	return answered(200, "{}")
}

// ServeHTTP is the same for net/http, which knows how to send chunks.
func (s *fanServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPut {
		if err := r.ParseForm(); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.handle(0, r, r.PostForm)
		return
	}
	if r.URL.Path == "/version" {
		return
	}
	events := make(chan string, 100)
	s.mu.Lock()
	s.watching = append(s.watching, events)
	s.mu.Unlock()
	w.WriteHeader(http.StatusOK)
	w.(http.Flusher).Flush()
	for {
		select {
		case line := <-events:
			for _, piece := range []string{line[:40], line[40:]} {
				_, _ = w.Write([]byte(piece))
				w.(http.Flusher).Flush()
			}
		case <-r.Context().Done():
			return
		}
	}
}

func TestFanoutNoticesAWatcherThatIsLeftOut(t *testing.T) {
	drivers(t, func(t *testing.T, change func(*Config)) {
		s := &fanServer{skip: func(watcher, event int) bool { return watcher == 7 && event == 3 || watcher < 2 && event == 5 }}
		cfg := config(WatchFanout, serveHTTP(t, s))
		cfg.Watchers, cfg.Rate, cfg.Requests, cfg.Duration, cfg.Timeout = 10, 200, 20, 0, 2*time.Second
		change(&cfg)
		r := mustRun(t, cfg)
		wantFailures(t, r, "3 missed 0 0")
		if r.Operations != 18 || r.Deliveries != 197 || r.Latency.Count != 20 || r.Latency.Max < 2 {
			t.Errorf("%d events, %d deliveries, %d latencies up to %v s, want 18, 197, 20, at least 2 s",
				r.Operations, r.Deliveries, r.Latency.Count, r.Latency.Max)
		}
	})
}

func TestFanoutDoesNotBeginWithoutAllWatchers(t *testing.T) {
	var mu sync.Mutex
	accepted := 0
	url := serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/version" {
			return
		}
		mu.Lock()
		accepted++
		hang := accepted > 3
		mu.Unlock()
		if !hang {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
		}
		<-r.Context().Done()
	}))
	cfg := config(WatchFanout, url)
	cfg.Watchers, cfg.Timeout = 5, 200*time.Millisecond
	if r, err := Run(t.Context(), cfg); err == nil {
		t.Errorf("Run() = %+v, want an error", r)
	}
}

// serveHTTP serves on loopback until the test ends, and then does not wait for
// clients that stay.
func serveHTTP(t *testing.T, h http.Handler) string {
	t.Helper()
	s := &http.Server{Handler: h}
	l := listener(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return "http://" + l.Addr().String()
}
