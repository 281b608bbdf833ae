package lane

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves a client port: the everyday requests itself, the others by
// net/http. Its methods may be called from any goroutine; make one with [New].
type Server struct {
	full   *http.Server
	takes  func(path string) bool
	secure *tls.Config // nil: no TLS; net/http sets that of full for its own purposes
	// base is the context of all requests; Close ends it.
	base   context.Context
	cancel context.CancelFunc
	others *handover
	date   date

	closing atomic.Bool
	wg      sync.WaitGroup // connections, loops, and full while it serves

	mu        sync.Mutex // guards the rest
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	// loops are started with the first connection for them, and looped tells
	// that; joined counts the connections that have gone to them.
	loops  []*loop
	looped bool
	joined int
}

// New returns a server with the handler, limits and hooks of full, which gets
// the connections with other requests. If its handler is a [Handler], one
// goroutine answers many connections, where the system has epoll(7). takes tells
// by its path, as it stands in the request, whether a request may be answered
// without net/http; its handler is shown the headers Accept and Content-Type
// only. Connections speak TLS if full has a TLSConfig. full is shut down and closed
// by the result, and its ConnState may be set until [Server.Serve].
func New(full *http.Server, takes func(path string) bool) *Server {
	s := &Server{
		full:      full,
		takes:     takes,
		secure:    full.TLSConfig,
		listeners: make(map[net.Listener]struct{}),
		conns:     make(map[*conn]struct{}),
	}
	s.base, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts and serves connections until l fails, or the server is shut
// down or closed; it returns [http.ErrServerClosed] then. It closes l.
func (s *Server) Serve(l net.Listener) error {
	if !s.open(l) {
		_ = l.Close() // nobody has used it
		return http.ErrServerClosed
	}
	defer s.close(l)
	var pause time.Duration
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.start(nc)
		case s.closing.Load():
			return http.ErrServerClosed
		case isTemporary(err):
			// Out of file descriptors, most likely: net/http waits like this.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.logf("http: Accept error: %v; retrying in %v", err, pause)
			select {
			case <-time.After(pause):
			case <-s.base.Done():
				return http.ErrServerClosed
			}
		default:
			return err
		}
	}
}

func isTemporary(err error) bool {
	t, ok := errors.AsType[net.Error](err)
	return ok && t.Temporary() //nolint:staticcheck // what it was deprecated for is not asked here
}

// open counts a listener, and starts net/http behind the first one.
func (s *Server) open(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing.Load() {
		return false
	}
	s.listeners[l] = struct{}{}
	if s.others == nil {
		s.others = newHandover(l.Addr())
		s.wg.Go(func() {
			if err := s.full.Serve(s.others); !errors.Is(err, http.ErrServerClosed) {
				s.logf("http: connections are not taken over any more: %v", err)
			}
		})
	}
	return true
}

func (s *Server) close(l net.Listener) {
	s.mu.Lock()
	delete(s.listeners, l)
	s.mu.Unlock()
	_ = l.Close() // closed already, where the server was
}

// start serves a connection.
func (s *Server) start(nc net.Conn) {
	c := newConn(s, nc)
	s.mu.Lock()
	if s.closing.Load() {
		s.mu.Unlock()
		_ = nc.Close() // it has sent nothing that was read
		return
	}
	s.conns[c] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	go c.serve()
}

// loop returns the loop for the next connection, nil if it is to have its
// goroutine.
func (s *Server) loop() *loop {
	h, ok := s.full.Handler.(Handler)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.looped && !s.closing.Load() {
		s.looped = true
		s.loops = startLoops(s, h)
	}
	if len(s.loops) == 0 {
		return nil
	}
	s.joined++
	return s.loops[s.joined%len(s.loops)]
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
}

// Shutdown stops accepting, closes connections once they have no request under
// way, and returns when all are closed or ctx is done, with its error then. A
// client that has just connected may still send its first request.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stopListening()
	s.mu.Lock()
	for c := range s.conns {
		if c.state.CompareAndSwap(stateIdle, stateClosed) {
			_ = c.nc.Close() // its goroutine finds out by it
		}
	}
	s.closeLoops()
	s.mu.Unlock()
	if err := s.full.Shutdown(ctx); err != nil {
		return err
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.wg.Wait()
	}()
	select {
	case <-closed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops accepting, closes all connections and cancels their requests. It
// does not wait for handlers, nor tell clients with TLS.
func (s *Server) Close() error {
	s.stopListening()
	s.cancel()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.socket.Close() // its goroutine finds out by it
	}
	s.closeLoops()
	s.mu.Unlock()
	return s.full.Close()
}

// stopListening closes the listeners. Connections that are being handed over
// still arrive, until net/http is shut down.
func (s *Server) stopListening() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing.Store(true)
	for l := range s.listeners {
		_ = l.Close() // Serve returns by it
	}
}

// logf writes what net/http would write.
func (s *Server) logf(format string, args ...any) {
	if s.full.ErrorLog != nil {
		s.full.ErrorLog.Printf(format, args...)
		return
	}
	log.Printf(format, args...)
}

// date is the value of the Date header, made once a second.
type date struct{ last atomic.Pointer[dateText] }

type dateText struct {
	second int64
	text   string
}

func (d *date) at(now time.Time) string {
	t := d.last.Load()
	if t == nil || t.second != now.Unix() {
		t = &dateText{second: now.Unix(), text: now.UTC().Format(http.TimeFormat)}
		d.last.Store(t)
	}
	return t.text
}
