package lane

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
)

// script is a request, what its call does, and what has become of that. The test
// writes the fields up to gate before it sends the request.
type script struct {
	world        *world
	path, method string
	kind         string // "quick", "paused", "slow", "stream", or "panic"
	slowly       bool   // the first step of a stream is slow
	body, text   string // of the request; of the answer, as far as the test has emitted it
	cut          bool   // the stream panics after the text
	peer         *peer
	gate, ended  chan struct{}

	mu       sync.Mutex // guards the rest
	events   []event    // that the stream has not written
	over     bool       // there will be no more
	released bool       // gate is closed, and a call that is paused has been told
	resume   func()     // of the call, while it may be called
	waits    bool       // for resume, the call does
	opened   bool
	told     bool  // resume was called since the last step
	stepping bool  // Next has not returned
	last     State // that Next has returned, Done for the end
	steps    int
}

type event struct {
	text         string
	slow, panics bool
}

// world is a server and its handler, and what the test makes of them.
type world struct {
	*rand.Rand // of the test's goroutine
	server     *Server
	addr       string
	secure     bool // connections speak TLS
	served     chan error
	mu         sync.Mutex // guards the rest
	scripts    map[string]*script
	faults     []string
	closed     []chan struct{} // for each connection that was accepted
}

func (w *world) fault(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// tellingListener tells when the server closes a connection.
type tellingListener struct {
	net.Listener
	world *world
}

type tellingConn struct {
	*net.TCPConn
	once   sync.Once
	closed chan struct{}
}

func (l tellingListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &tellingConn{TCPConn: nc.(*net.TCPConn), closed: make(chan struct{})}
	if err := c.SetWriteBuffer(socketBytes); err != nil {
		return nil, err
	}
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	l.world.closed = append(l.world.closed, c.closed)
	return c, nil
}

func (c *tellingConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.TCPConn.Close()
}

type scriptCall struct {
	*script
	w    http.ResponseWriter
	r    *http.Request
	gone bool // the client, where the context does not tell
}

func (w *world) Open(rw http.ResponseWriter, r *http.Request, resume func()) Call {
	w.mu.Lock()
	s := w.scripts[r.URL.Path]
	w.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opened {
		w.fault("%s was opened twice", s.path)
	}
	s.opened, s.resume = true, func() { s.told = true; resume() }
	return &scriptCall{script: s, w: rw, r: r}
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	resumed := make(chan struct{}, 1)
	c := w.Open(rw, r, func() {
		select {
		case resumed <- struct{}{}:
		default:
		}
	}).(*scriptCall)
	for {
		switch c.Next(false) {
		case Paused:
			<-resumed
		case Streaming:
			if c.gone = http.NewResponseController(rw).Flush() != nil; c.gone {
				continue
			}
			select {
			case <-resumed:
			case <-r.Context().Done():
			}
		default:
			return
		}
	}
}

// Next holds the loop to the contract of [Call], and takes the step. Like those of
// httpapi, a call that has ended does not resume.
func (c *scriptCall) Next(quick bool) (state State) {
	s := c.script
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stepping:
		s.world.fault("%s: two steps at once", s.path)
	case s.resume == nil:
		s.world.fault("%s: a step after the end", s.path)
	case s.last == Paused && !s.told:
		s.world.fault("%s: a step of a paused call that was not resumed", s.path)
	case s.last == Slow && quick:
		s.world.fault("%s: a quick step after %v", s.path, Slow)
	}
	s.stepping, s.told, s.waits = true, false, false
	defer func() {
		s.stepping, s.last = false, state
		if s.steps++; state == Done { // also by a panic
			s.resume = nil
			close(s.ended)
		}
	}()
	if s.kind == "slow" || s.kind == "stream" && s.slowly && s.last != Streaming {
		if quick {
			return Slow
		}
		s.unlocked(func() { <-s.gate })
	}
	switch {
	case s.kind == "panic":
		panic(http.ErrAbortHandler)
	case s.kind == "stream":
		return c.follow(quick)
	case s.kind == "paused" && s.steps == 0:
		if s.waits = true; s.released {
			s.resume() // sooner than Next has returned
		}
		return Paused
	}
	s.unlocked(func() {
		body, err := io.ReadAll(c.r.Body)
		if string(body) != s.body && err == nil || c.r.Method != s.method {
			s.world.fault("%s: request = %s with %d bytes, want %s with %d", s.path, c.r.Method, len(body), s.method, len(s.body))
		}
		c.w.Header()["Content-Length"] = []string{fmt.Sprint(len(s.text))}
		_, _ = io.WriteString(c.w, s.text)
	})
	return Done
}

// follow writes the events that are there, as a watch does.
func (c *scriptCall) follow(quick bool) State {
	s := c.script
	if s.last != Streaming {
		s.unlocked(func() { c.w.WriteHeader(http.StatusOK) })
	}
	for sent := 0; c.r.Context().Err() == nil && !c.gone; {
		switch {
		case len(s.events) == 0 && s.over:
			return Done
		case len(s.events) == 0:
			s.waits = true
			return Streaming
		case sent > gatherMaxBytes: // the others have their turn
			s.resume()
			return Streaming
		case s.events[0].slow && quick:
			return Slow
		case s.events[0].panics:
			panic(http.ErrAbortHandler)
		}
		e := s.events[0]
		s.events = s.events[1:]
		sent += len(e.text)
		s.unlocked(func() {
			if _, err := io.WriteString(c.w, e.text); err != nil {
				c.gone = true
			}
		})
	}
	return Done
}

// unlocked does what may take time.
func (s *script) unlocked(do func()) {
	s.mu.Unlock()
	defer s.mu.Lock()
	do()
}

// change changes what the call waits for, and resumes it if it does.
func (s *script) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
	if s.waits && s.resume != nil {
		s.waits = false
		s.resume()
	}
}

func (s *script) release() {
	if s.released { // the test alone writes it
		return
	}
	s.change(func() { s.released = true; close(s.gate) })
}

func (s *script) emit(e event) {
	s.text += e.text
	s.cut = s.cut || e.panics
	s.change(func() { s.events = append(s.events, e) })
}

func (s *script) finish() { s.change(func() { s.over = true }) }

// nudge resumes a stream without need.
func (s *script) nudge() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kind == "stream" && s.resume != nil && s.steps > 0 {
		s.resume()
	}
}
