package httpapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/marsevilspirit/deimos/httpapi/lane"
)

// pipeListener hands out the server ends of pipes, so that a whole server runs
// inside a synctest bubble.
type pipeListener struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return pipeAddr{} }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "pipe" }

// testServer is a server over pipes, and its client.
type testServer struct {
	t        *testing.T
	listener *pipeListener
	server   *lane.Server
	served   chan error
	client   *http.Client
}

// serve starts a server for h. It must be stopped before the bubble ends.
func serve(t *testing.T, h http.Handler) *testServer {
	s := &testServer{
		t:        t,
		listener: &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})},
		server:   lane.New(Server(h, nil), IsEveryday),
		served:   make(chan error, 1),
	}
	s.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives:  true,
		DisableCompression: true,
		DialContext:        func(context.Context, string, string) (net.Conn, error) { return s.dial(), nil },
	}}
	go func() { s.served <- s.server.Serve(s.listener) }()
	return s
}

func (s *testServer) dial() net.Conn {
	client, server := net.Pipe()
	s.listener.conns <- server
	return client
}

func (s *testServer) stop() {
	s.t.Helper()
	if err := s.server.Close(); err != nil {
		s.t.Errorf("Close() = %v, want nil", err)
	}
	if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
		s.t.Errorf("Serve() = %v, want ErrServerClosed", err)
	}
	s.client.CloseIdleConnections()
}

// open sends a GET and returns the answer once its headers are there.
func (s *testServer) open(ctx context.Context, target string, header ...string) *http.Response {
	s.t.Helper()
	r, err := http.NewRequestWithContext(ctx, "GET", "http://member"+target, nil)
	if err != nil {
		s.t.Fatalf("NewRequest(%s) = %v, want nil", target, err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := s.client.Do(r)
	if err != nil {
		s.t.Fatalf("GET %s = %v, want an answer", target, err)
	}
	return resp
}

// readLine reads one line of a stream, without its end; "" at the end.
func readLine(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	line, err := r.ReadString('\n')
	if err != nil && err != io.EOF {
		t.Errorf("reading a line = %v, want a line or the end", err)
	}
	return strings.TrimSuffix(line, "\n")
}

// realServer listens on the loopback interface and returns its address.
func realServer(t *testing.T, h http.Handler) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("Listen() = %v, want nil", err)
	}
	srv := lane.New(Server(h, nil), IsEveryday)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		if err := srv.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve() = %v, want %v", err, http.ErrServerClosed)
		}
	})
	return l.Addr().String()
}

// raw sends bytes over a connection and returns everything that comes back
// until the server closes it.
func raw(t *testing.T, addr, send string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("Dial(%s) = %v, want nil", addr, err)
	}
	defer func() {
		if err := conn.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatalf("SetDeadline() = %v, want nil", err)
	}
	// The server may close before it has read everything: that is for the
	// answer to tell.
	if _, err := io.WriteString(conn, send); err != nil {
		t.Logf("sending: %v", err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && len(answer) == 0 {
		t.Fatalf("reading the answer to %.60q = %v, want an answer", send, err)
	}
	return string(answer)
}
