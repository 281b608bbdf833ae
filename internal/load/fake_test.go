package load

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// A real member leaves those of net/http's clients behind.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreTopFunction("net/http.(*persistConn).writeLoop"))
}

// fakeServer speaks HTTP/1.1 as a test tells it to. It answers what a connection
// asks to show that it is there by itself.
type fakeServer struct {
	// answer returns the whole response, byte by byte, or "" to close the
	// connection. number counts the requests of the server from 0.
	answer func(number int, r *http.Request, form url.Values) string

	mu     sync.Mutex
	number int
	conns  []net.Conn
	all    sync.WaitGroup
}

// answered is a response with a length.
func answered(status int, body string) string {
	return fmt.Sprintf("HTTP/1.1 %d %s\r\nContent-Length: %d\r\n\r\n%s", status, http.StatusText(status), len(body), body)
}

const aValue = `{"action":"get","node":{"key":"/bench/k0","value":"1","modifiedIndex":2,"createdIndex":2}}` + "\n"

// well answers every request as a store does that has all keys.
func well(int, *http.Request, url.Values) string { return answered(200, aValue) }

func (s *fakeServer) serve(conn net.Conn) {
	defer conn.Close()
	in := bufio.NewReader(conn)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		text := answered(200, "{}")
		if r.URL.Path != "/version" {
			form, err := url.ParseQuery(string(body))
			if err != nil {
				return
			}
			s.mu.Lock()
			number := s.number
			s.number++
			s.mu.Unlock()
			text = s.answer(number, r, form)
		}
		if _, err := io.WriteString(conn, text); err != nil || text == "" || r.Close {
			return
		}
	}
}

// start serves a connection until the test ends.
func (s *fakeServer) start(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, conn)
	s.all.Go(func() { s.serve(conn) })
}

func (s *fakeServer) stop() {
	s.mu.Lock()
	for _, c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// listen serves on loopback and returns the URL.
func (s *fakeServer) listen(t *testing.T) string {
	t.Helper()
	l := listener(t)
	var accepting sync.WaitGroup
	accepting.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.start(conn)
		}
	})
	t.Cleanup(func() {
		l.Close()
		accepting.Wait()
		s.stop()
	})
	return "http://" + l.Addr().String()
}

// piped returns an endpoint of the server without a network, for a synctest
// bubble. The caller stops the server.
func (s *fakeServer) piped() []*endpoint {
	return []*endpoint{{url: "http://fake", host: "fake", pipe: func(context.Context) (net.Conn, error) {
		near, far := net.Pipe()
		s.start(far)
		return near, nil
	}}}
}

// config is a small work on one endpoint.
func config(w Work, endpoint string) Config {
	cfg := Default(w)
	cfg.Target.Endpoints = []string{endpoint}
	cfg.Connections, cfg.Warmup, cfg.Keys.Count = 4, 0, 100
	cfg.Filled = true
	return cfg
}

// drivers runs a test with polling, where the system has it, and with goroutines.
func drivers(t *testing.T, test func(t *testing.T, change func(*Config))) {
	t.Run("polling", func(t *testing.T) { test(t, func(*Config) {}) })
	t.Run("goroutines", func(t *testing.T) { test(t, func(c *Config) { c.Goroutines = true }) })
}

func mustRun(t *testing.T, cfg Config) *Result {
	t.Helper()
	result, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatalf("Run(%s) = %v", cfg.Work, err)
	}
	return result
}

// wantFailures compares failures, written as "count kind status code".
func wantFailures(t *testing.T, r *Result, want ...string) {
	t.Helper()
	var got []string
	for _, f := range r.Failures {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%d %s %d %d", f.Count, f.Kind, f.Status, f.ErrorCode)))
	}
	if strings.Join(got, "; ") != strings.Join(want, "; ") {
		t.Errorf("failures are %q, want %q", got, want)
	}
}

// near tells whether a latency is what it should be, to the digits that are kept.
func near(seconds float64, want time.Duration) bool {
	return seconds >= want.Seconds()*0.999 && seconds <= want.Seconds()*1.001
}

func listener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
