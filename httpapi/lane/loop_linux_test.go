package lane

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/marsevilspirit/deimos/internal/syncbuf"
)

// stepper is a handler whose calls take the steps that their paths name: "quick"
// and "slow" as the loop knows them, "paused" until the test lets them go on, and
// "stream" for a body that the test writes.
type stepper struct {
	paused chan func()
	// events are what streams write next; "" ends one. ended tells how the context
	// stood when a stream had ended.
	events chan string
	ended  chan error
	// seen is told of each step before it is taken, nil: nobody is.
	seen func(*stepCall)
}

// deadlineTime is for how long the step "deadline" bounds the writing.
const deadlineTime = 300 * time.Millisecond

type stepCall struct {
	w      http.ResponseWriter
	r      *http.Request
	resume func()
	h      *stepper
	steps  []string // that are still to be taken
	way    []string // that were taken, and how
	begun  bool     // the stream
}

func (h *stepper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resumed := make(chan struct{}, 1)
	c := h.Open(w, r, func() { resumed <- struct{}{} })
	for c.Next(false) == Paused {
		<-resumed
	}
}

func (h *stepper) Open(w http.ResponseWriter, r *http.Request, resume func()) Call {
	steps := strings.Split(strings.TrimPrefix(r.URL.Path, "/keys/"), "/")
	return &stepCall{w: w, r: r, resume: resume, h: h, steps: steps}
}

func (c *stepCall) Next(quick bool) State {
	if c.h.seen != nil {
		c.h.seen(c)
	}
	for len(c.steps) > 0 {
		step := c.steps[0]
		if step == "slow" && quick {
			c.way = append(c.way, "slow")
			return Slow
		}
		c.steps = c.steps[1:]
		switch step {
		case "paused":
			c.way = append(c.way, "paused")
			c.h.paused <- c.resume
			return Paused
		case "stream":
			if c.stream() {
				c.steps = append([]string{step}, c.steps...)
				return Streaming
			}
			return Done
		case "deadline": // as a large answer or a stream sets one
			if err := http.NewResponseController(c.w).SetWriteDeadline(time.Now().Add(deadlineTime)); err != nil {
				panic(err)
			}
		case "begun": // the head is written, and the body has to wait
			c.w.WriteHeader(http.StatusOK)
			released := make(chan struct{})
			c.h.paused <- func() { close(released) }
			<-released
		case "abort":
			panic(http.ErrAbortHandler)
		case "panic":
			panic("broken invariant 7")
		}
	}
	if !quick {
		c.way = append(c.way, "alone")
	}
	body, err := io.ReadAll(c.r.Body)
	text := fmt.Sprintf("%v %s %q %v", c.way, c.r.Method, body, err)
	if size := c.r.URL.Query().Get("size"); size != "" {
		n := 0
		_, _ = fmt.Sscan(size, &n)
		text = strings.Repeat("x", n)
	}
	c.w.Header()["Content-Length"] = []string{fmt.Sprint(len(text))}
	_, _ = io.WriteString(c.w, text)
	return Done
}

// stream writes the next event. It returns false at the stream's end.
func (c *stepCall) stream() bool {
	if !c.begun {
		c.begun = true
		c.w.WriteHeader(http.StatusOK)
		c.h.paused <- c.resume
	}
	if err := c.r.Context().Err(); err != nil {
		c.h.ended <- err
		return false
	}
	select {
	case e := <-c.h.events:
		_, _ = io.WriteString(c.w, e)
		if e == "" {
			c.h.ended <- nil
		}
		return e != ""
	default:
		return true
	}
}

// loopRig is a server over sockets, whose connections join a loop.
type loopRig struct {
	t       *testing.T
	handler *stepper
	server  *Server
	addr    string
	logged  syncbuf.Buffer
	served  chan error
}

func newLoopRig(t *testing.T, change func(*http.Server)) *loopRig {
	t.Helper()
	t.Cleanup(func() { goleak.VerifyNone(t) })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &stepper{paused: make(chan func(), 100), events: make(chan string, 100), ended: make(chan error, 100)}
	r := &loopRig{t: t, handler: h, addr: l.Addr().String(), served: make(chan error, 1)}
	full := &http.Server{Handler: r.handler, ErrorLog: log.New(&r.logged, "", 0)}
	if rigsAreSecure {
		full.TLSConfig = serverTLS()
	}
	if change != nil {
		change(full)
	}
	r.server = New(full, func(path string) bool { return strings.HasPrefix(path, "/keys/") })
	go func() { r.served <- r.server.Serve(l) }()
	t.Cleanup(func() {
		if err := r.server.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if err := <-r.served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve() = %v, want %v", err, http.ErrServerClosed)
		}
	})
	return r
}

// dial connects and lets the connection join a loop, by its first request.
func (r *loopRig) dial() *client {
	r.t.Helper()
	c := r.connect()
	c.get("quick", "[]")
	return c
}

func (r *loopRig) connect() *client {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil { // it fails, and does not hang
		r.t.Fatal(err)
	}
	if rigsAreSecure {
		nc = tls.Client(nc, clientTLS)
	}
	return &client{Conn: nc, t: r.t, in: bufio.NewReader(nc)}
}

func request(path string) string {
	return "GET /keys/" + path + " HTTP/1.1\r\nHost: h\r\n\r\n"
}

// get asks for a path and compares the way that the answer tells.
func (c *client) get(path, way string) {
	c.t.Helper()
	c.say(request(path))
	c.want(way, "GET", "")
}

func (c *client) say(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatalf("sending = %v, want nil", err)
	}
}

func (c *client) want(way, method, body string) {
	c.t.Helper()
	want := fmt.Sprintf("%s %s %q <nil>", way, method, body)
	if resp, got := c.answer(); got != want || resp.StatusCode != 200 || resp.Header.Get("Date") == "" {
		c.t.Errorf("answer = %d %.100q, want 200 %.100q", resp.StatusCode, got, want)
	}
}

func TestRequestsInALoop(t *testing.T) {
	r := newLoopRig(t, nil)
	c := r.dial()
	c.get("quick", "[]")
	c.get("slow", "[slow alone]")
	c.get("quick", "[]")
	c.say("PUT /keys/quick HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc")
	c.want("[]", "PUT", "abc")
	// A body that has yet to arrive is waited for elsewhere.
	c.say("PUT /keys/quick HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n" + strings.Repeat("x", 5000))
	c.say(strings.Repeat("x", 5000))
	c.want("[alone]", "PUT", strings.Repeat("x", 10000))
	c.get("quick", "[]")
	// Some clients send an empty line behind a body.
	c.say("\r\n" + request("quick") + "\r\n")
	c.want("[]", "GET", "")
	c.say("\r\n")
	c.get("quick", "[]")
	for _, tt := range []struct{ path, way string }{
		{"paused", "[paused]"}, {"paused/slow", "[paused slow alone]"}, {"paused/paused/quick", "[paused paused]"},
	} {
		c.say(request(tt.path))
		for range strings.Count(tt.path, "paused") {
			(<-r.handler.paused)()
		}
		c.want(tt.way, "GET", "")
	}
	// What net/http has to judge takes the connection there.
	c.say("GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
	if _, body := c.answer(); !strings.HasSuffix(body, `alone] GET "" <nil>`) {
		t.Errorf("answer of net/http = %q, want one of the handler", body)
	}
	c.get("quick", "[alone]")
}

func TestRequestsOfALoopSentTogetherAreAnsweredInOrder(t *testing.T) {
	r := newLoopRig(t, nil)
	c, other := r.dial(), r.dial()
	const rounds = 12 // as many as a buffer holds, and more than a turn answers
	var text strings.Builder
	for range rounds {
		for _, path := range []string{"quick", "paused", "slow", "quick/paused/slow", "quick", "quick"} {
			text.WriteString(request(path))
		}
	}
	go func() {
		for range 2 * rounds {
			(<-r.handler.paused)()
		}
	}()
	c.send(text.String())
	for range rounds {
		for _, way := range []string{"[]", "[paused]", "[slow alone]", "[paused slow alone]", "[]", "[]"} {
			c.want(way, "GET", "")
		}
		other.get("quick", "[]") // is not kept waiting
	}
}

// A client that does not read what it asks for must not keep the others waiting.
func TestALoopDoesNotWaitForAReader(t *testing.T) {
	r := newLoopRig(t, nil)
	c, other := r.dial(), r.dial()
	const size = 16 << 20 // more than two sockets hold
	c.say(request(fmt.Sprintf("quick?size=%d", size)))
	for range 10 {
		other.get("quick", "[]")
	}
	if _, body := c.answer(); len(body) != size {
		t.Errorf("answer has %d bytes, want %d", len(body), size)
	}
	c.get("quick", "[]")

	c.say(request(fmt.Sprintf("quick?size=%d", size)))
	if _, err := c.in.Peek(1); err != nil { // it is being sent
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	other.get("quick", "[]")
}

// A bound of an answer's writing is of no meaning to the answers after it.
func TestDeadlineOfAnAnswerEndsWithIt(t *testing.T) {
	r := newLoopRig(t, nil)
	first, later := r.dial(), r.dial()
	for _, c := range []*client{first, later} {
		began := time.Now()
		c.get("slow/deadline", "[slow alone]")
		for time.Since(began) < 2*deadlineTime {
			c.get("quick", "[]")
		}
	}
}

func TestTheEndOfAConnectionInALoop(t *testing.T) {
	t.Run("by the client", func(t *testing.T) {
		defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one loop
		r := newLoopRig(t, nil)
		c, other := r.dial(), r.dial()
		other.say(request("begun"))
		release := <-r.handler.paused // the loop stands still until all has come
		c.say(request("quick") + request("paused"))
		if err := c.tcp().CloseWrite(); err != nil {
			t.Fatal(err)
		}
		release()
		other.want("[]", "GET", "")
		c.want("[]", "GET", "")
		(<-r.handler.paused)()
		c.want("[paused]", "GET", "")
		c.ended()
	})
	t.Run("by the client while its call waits", func(t *testing.T) {
		r := newLoopRig(t, nil)
		c := r.dial()
		c.say(request("paused"))
		resume := <-r.handler.paused
		if err := c.tcp().SetLinger(0); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		resume()
		r.dial().get("quick", "[]")
	})
	t.Run("as asked", func(t *testing.T) {
		r := newLoopRig(t, nil)
		c := r.dial()
		c.say("GET /keys/quick HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		c.want("[]", "GET", "")
		c.ended()
	})
	for _, way := range []string{"", "paused/", "slow/", "paused/slow/"} {
		for _, panics := range []string{"abort", "panic"} {
			t.Run(way+panics, func(t *testing.T) {
				r := newLoopRig(t, nil)
				c := r.dial()
				c.say(request(way + panics))
				if strings.HasPrefix(way, "paused") {
					(<-r.handler.paused)()
				}
				c.ended()
				if logged := strings.Contains(r.logged.String(), "broken invariant 7"); logged != (panics == "panic") {
					t.Errorf("log = %q, want the panic, unless it gives up", r.logged.String())
				}
				r.dial().get("quick", "[]")
			})
		}
	}
	t.Run("idle for too long", func(t *testing.T) {
		r := newLoopRig(t, func(s *http.Server) { s.IdleTimeout = 50 * time.Millisecond })
		c, busy := r.dial(), r.dial()
		busy.say(request("paused"))
		resume := <-r.handler.paused
		c.ended()
		resume()
		busy.want("[paused]", "GET", "")
		busy.ended()
	})
}

// How long a stream was is no time in which its connection was idle.
func TestConnectionIsNotIdleSinceItsStreamBegan(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one loop
	for _, path := range []string{"stream", "slow/stream"} {
		t.Run(path, func(t *testing.T) {
			r := newLoopRig(t, nil)
			c, other := r.dial(), r.dial()
			body, resume := c.open(r, path)
			r.handler.seen = func(call *stepCall) {
				switch call.steps[0] {
				case "stream":
					call.w.(*answer).began = time.Now().Add(-time.Hour)
				case "sweep":
					r.server.loops[0].closeIdle(time.Minute)
				}
			}
			r.handler.events <- ""
			resume()
			if _, err := io.ReadAll(body); err != nil {
				t.Fatal(err)
			}
			other.get("sweep", "[]")
			c.get("quick", "[]")
		})
	}
}

func TestShutdownOfALoop(t *testing.T) {
	r := newLoopRig(t, nil)
	idle, busy, alone := r.dial(), r.dial(), r.dial()
	busy.say(request("paused"))
	resume := <-r.handler.paused
	alone.say("PUT /keys/paused HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab")
	goOn := <-r.handler.paused
	down := make(chan error, 1)
	go func() { down <- r.server.Shutdown(context.Background()) }()
	idle.ended()
	resume()
	goOn()
	alone.say("c")
	for c, want := range map[*client]string{busy: `[paused] GET "" <nil>`, alone: `[paused alone] PUT "abc" <nil>`} {
		if resp, got := c.answer(); got != want {
			t.Errorf("answer while the server stops = %q, want %q", got, want)
		} else if !resp.Close {
			t.Errorf("answer %q while the server stops does not end the connection", got)
		}
		c.ended()
	}
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

// A connection that was accepted before the server stopped may still send its
// first request, though the loops may have ended.
func TestShutdownOfALoopLeavesAFirstRequestItsAnswer(t *testing.T) {
	r := newLoopRig(t, nil)
	first := r.connect()
	idle := r.dial() // later: the first one is accepted too
	down := make(chan error, 1)
	go func() { down <- r.server.Shutdown(context.Background()) }()
	idle.ended()
	first.say(request("quick"))
	if resp, _ := first.answer(); resp.StatusCode != 200 || !resp.Close {
		t.Errorf("answer while the server stops = %d, end of the connection %t, want 200 and its end", resp.StatusCode, resp.Close)
	}
	first.ended()
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

// An answer that was begun before the server stopped says nothing of its end, so
// its connection has to be found idle afterwards.
func TestShutdownFindsConnectionsThatComeBackLate(t *testing.T) {
	r := newLoopRig(t, nil)
	late := r.dial()
	late.say(request("slow/begun"))
	goOn := <-r.handler.paused
	idle := make([]*client, runtime.GOMAXPROCS(0)) // one for each loop
	for i := range idle {
		idle[i] = r.dial()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second) // it fails, and does not hang
	defer cancel()
	down := make(chan error, 1)
	go func() { down <- r.server.Shutdown(ctx) }()
	for _, c := range idle {
		c.ended()
	}
	goOn()
	late.want("[slow alone]", "GET", "")
	late.ended()
	if err := <-down; err != nil {
		t.Errorf("Shutdown() = %v, want nil", err)
	}
}

// Close cuts connections off; calls that wait end when what they wait for does.
func TestCloseOfALoop(t *testing.T) {
	r := newLoopRig(t, nil)
	idle, busy := r.dial(), r.dial()
	busy.say(request("paused"))
	resume := <-r.handler.paused
	if err := r.server.Close(); err != nil {
		t.Errorf("Close() = %v, want nil", err)
	}
	idle.ended()
	busy.ended()
	resume()
}

func TestConnectionsThatNoLoopCanWatch(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	s := New(&http.Server{Handler: &stepper{}}, func(string) bool { return true })
	c := newConn(s, far)
	if c.join() {
		t.Error("join() of a pipe = true, want false")
	}
	s.full.Handler = http.NotFoundHandler()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if newConn(s, nc).join() {
		t.Error("join() for a handler without calls = true, want false")
	}
}
