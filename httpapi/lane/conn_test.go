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
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are pipes, so that a server runs inside
// a bubble.
type pipes struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// rig is a server over pipes.
type rig struct {
	t      *testing.T
	pipes  *pipes
	full   *http.Server
	server *Server
	served chan error
	logged strings.Builder
}

const (
	headTimeout = 5 * time.Second
	idleTimeout = 2 * time.Minute
)

// bubble runs test with a server for h in a bubble. Which way a request took is
// shown by its header "X-Other", which is seen behind net/http only.
func bubble(t *testing.T, h http.HandlerFunc, test func(*rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, pipes: &pipes{conns: make(chan net.Conn), done: make(chan struct{})}, served: make(chan error, 1)}
		r.full = &http.Server{
			Handler: h, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout, ErrorLog: log.New(&r.logged, "", 0),
		}
		r.server = New(r.full, func(path string) bool { return strings.HasPrefix(path, "/keys") })
		go func() { r.served <- r.server.Serve(r.pipes) }()
		test(r)
		if err := r.server.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		if err := <-r.served; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("Serve() = %v, want %v", err, http.ErrServerClosed)
		}
	})
}

// client is the other end of a connection.
type client struct {
	net.Conn
	t  *testing.T
	in *bufio.Reader
}

func (r *rig) dial() *client {
	near, far := net.Pipe()
	r.pipes.conns <- far
	return &client{Conn: near, t: r.t, in: bufio.NewReader(near)}
}

// tcp returns the connection itself, without TLS.
func (c *client) tcp() *net.TCPConn {
	if secure, ok := c.Conn.(*tls.Conn); ok {
		return secure.NetConn().(*net.TCPConn)
	}
	return c.Conn.(*net.TCPConn)
}

// send writes without waiting for the server to read.
func (c *client) send(text string) {
	go func() { _, _ = io.WriteString(c, text) }() // the answer tells whether it arrived
}

// answer reads one answer.
func (c *client) answer() (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		c.t.Fatalf("answer = %v, want one", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("body = %v, want all of it", err)
	}
	return resp, string(body)
}

// ended waits for the end of the connection.
func (c *client) ended() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.in); err != nil || len(rest) > 0 {
		c.t.Errorf("rest = %q, %v, want the end of the connection", rest, err)
	}
}

// echo answers with what it was asked, and with which way the request came.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	way := "lane"
	if r.Header.Get("X-Other") != "" {
		way = "net/http"
	}
	text := fmt.Sprintf("%s %s %s %q %v", way, r.Method, r.URL.Path, body, err)
	w.Header()["Content-Length"] = []string{fmt.Sprint(len(text))}
	_, _ = io.WriteString(w, text)
}

func TestRequestsOfAConnection(t *testing.T) {
	bubble(t, echo, func(r *rig) {
		c := r.dial()
		defer c.Close()
		for _, tt := range []struct{ send, want string }{
			{"GET /keys/a HTTP/1.1\r\nHost: h\r\n\r\n", `lane GET /keys/a "" <nil>`},
			{"PUT /keys/%41 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc", `lane PUT /keys/A "abc" <nil>`},
			{"PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 10000\r\n\r\n" + strings.Repeat("x", 10000), `lane PUT /keys/a "` + strings.Repeat("x", 10000) + `" <nil>`},
			// Some clients send an empty line behind a body.
			{"\r\nGET /keys/a HTTP/1.1\r\nHost: h\r\n\r\n", `lane GET /keys/a "" <nil>`},
			// What net/http has to judge takes the connection there.
			{"PUT /keys/a HTTP/1.1\r\nHost: h\r\nX-Other: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", `net/http PUT /keys/a "x" <nil>`},
			{"GET /keys/a HTTP/1.1\r\nHost: h\r\nX-Other: 1\r\n\r\n", `net/http GET /keys/a "" <nil>`},
		} {
			c.send(tt.send)
			if resp, got := c.answer(); got != tt.want || resp.StatusCode != 200 || resp.Header.Get("Date") == "" {
				t.Errorf("answer to %.60q = %d %.100q, want %.100q", tt.send, resp.StatusCode, got, tt.want)
			}
		}
	})
}

func TestRequestsSentTogetherAreAnsweredInOrder(t *testing.T) {
	bubble(t, echo, func(r *rig) {
		c := r.dial()
		defer c.Close()
		c.send("PUT /keys/1 HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nxGET /keys/2 HTTP/1.1\r\nHost: h\r\n\r\n" +
			"GET /other HTTP/1.1\r\nHost: h\r\nX-Other: 1\r\n\r\nGET /keys/4 HTTP/1.1\r\nHost: h\r\nX-Other: 1\r\n\r\n")
		for _, want := range []string{
			`lane PUT /keys/1 "x" <nil>`, `lane GET /keys/2 "" <nil>`, `net/http GET /other "" <nil>`, `net/http GET /keys/4 "" <nil>`,
		} {
			if _, got := c.answer(); got != want {
				t.Errorf("answer = %q, want %q", got, want)
			}
		}
	})
}

func TestLastAnswerOfAConnection(t *testing.T) {
	for _, tt := range []struct{ name, send string }{
		{"as the client wishes", "GET /keys/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"},
		{"a body that was not read", "PUT /keys/ignored HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n" + strings.Repeat("x", 100)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/keys/ignored" {
					echo(w, r)
				}
			}, func(r *rig) {
				c := r.dial()
				c.send(tt.send)
				if resp, _ := c.answer(); !resp.Close {
					t.Errorf("answer = %v, want Connection: close", resp.Header)
				}
				c.ended()
			})
		})
	}
}

func TestBodyThatNobodyWantedIsSkipped(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Length"] = []string{"0"}
		w.Header()["X-Path"] = []string{r.URL.Path}
		w.WriteHeader(http.StatusTeapot)
	}, func(r *rig) {
		c := r.dial()
		defer c.Close()
		for range 2 {
			c.send("PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 40\r\n\r\nGET /keys/smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
			if resp, _ := c.answer(); resp.StatusCode != http.StatusTeapot || resp.Close || resp.Header.Get("X-Path") != "/keys/a" {
				t.Errorf("answer = %v, want 418 for /keys/a and the connection kept", resp)
			}
		}
	})
}

func TestTruncatedBodyIsAnError(t *testing.T) {
	var read chan error
	bubble(t, func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
	}, func(r *rig) {
		read = make(chan error, 1)
		c := r.dial()
		if _, err := io.WriteString(c, "PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc"); err != nil {
			t.Fatalf("sending = %v, want nil", err)
		}
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Fatalf("Close() = %v, want nil", err)
		}
		if err := <-read; !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("reading the body = %v, want %v", err, io.ErrUnexpectedEOF)
		}
	})
}

func TestDeadlineOfTheBodyCountsWhileItIsWaitedFor(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).SetReadDeadline(time.Now().Add(3 * time.Second)); err != nil {
			t.Errorf("SetReadDeadline() = %v, want nil", err)
		}
		began := time.Now()
		_, err := io.ReadAll(r.Body)
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() || time.Since(began) != 3*time.Second {
			t.Errorf("reading the body = %v after %v, want a timeout after 3s", err, time.Since(began))
		}
		w.WriteHeader(http.StatusRequestTimeout)
	}, func(r *rig) {
		c := r.dial()
		c.send("PUT /keys/a HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc")
		if resp, _ := c.answer(); resp.StatusCode != http.StatusRequestTimeout || !resp.Close {
			t.Errorf("answer = %v, want 408 and the end", resp)
		}
		c.ended()
	})
}

func TestSilentConnectionsAreClosed(t *testing.T) {
	for _, tt := range []struct {
		name     string
		asks     bool
		min, max time.Duration
	}{
		{"nothing sent", false, headTimeout, headTimeout},
		{"idle", true, idleTimeout, idleTimeout + idleTimeout/4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, echo, func(r *rig) {
				c := r.dial()
				if tt.asks {
					c.send(simple + "\r\n")
					c.answer()
				}
				began := time.Now()
				c.ended()
				if took := time.Since(began); took < tt.min || took > tt.max {
					t.Errorf("closed after %v, want %v to %v", took, tt.min, tt.max)
				}
			})
		})
	}
}

func TestConnectionIsNotIdleWhileItsAnswerIsMade(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		<-time.After(2 * idleTimeout)
		echo(w, r)
	}, func(r *rig) {
		c := r.dial()
		for range 2 {
			c.send(simple + "\r\n")
			c.answer()
		}
		began := time.Now()
		c.ended()
		if took := time.Since(began); took < idleTimeout {
			t.Errorf("closed %v after the answer, want %v", took, idleTimeout)
		}
	})
}

// What one answer may take has no meaning once net/http has the connection.
func TestConnectionIsHandedOverWithoutADeadline(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/other" {
			if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Errorf("SetWriteDeadline() = %v, want nil", err)
			}
		}
		echo(w, r)
	}, func(r *rig) {
		c := r.dial()
		defer c.Close()
		c.send(simple + "\r\n")
		c.answer()
		<-time.After(time.Minute + time.Second)
		c.send("GET /other HTTP/1.1\r\nHost: h\r\n\r\n")
		if resp, _ := c.answer(); resp.StatusCode != http.StatusOK {
			t.Errorf("answer of net/http = %d, want 200", resp.StatusCode)
		}
	})
}

func TestStream(t *testing.T) {
	var events chan string
	var ended chan struct{ err error }
	stream := func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		w.WriteHeader(http.StatusOK)
		for {
			if err := rc.Flush(); err != nil {
				t.Errorf("Flush() = %v, want nil", err)
			}
			select {
			case e, ok := <-events:
				if !ok {
					ended <- struct{ err error }{}
					return
				}
				_, _ = io.WriteString(w, e)
			case <-r.Context().Done():
				ended <- struct{ err error }{r.Context().Err()}
				return
			}
		}
	}
	t.Run("ends with the handler", func(t *testing.T) {
		bubble(t, stream, func(r *rig) {
			events, ended = make(chan string), make(chan struct{ err error }, 1)
			c := r.dial()
			defer c.Close()
			for range 2 { // the connection is of use afterwards
				events = make(chan string)
				c.send(simple + "\r\n")
				resp, err := http.ReadResponse(c.in, nil)
				if err != nil {
					t.Fatalf("answer = %v, want one before any event", err)
				}
				body := bufio.NewReader(resp.Body)
				for _, e := range []string{"one\n", "two\n"} {
					events <- e
					if got, err := body.ReadString('\n'); got != e || err != nil {
						t.Errorf("event = %q, %v, want %q", got, err, e)
					}
				}
				close(events)
				if rest, err := io.ReadAll(body); len(rest) > 0 || err != nil {
					t.Errorf("rest = %q, %v, want the end of the body", rest, err)
				}
				<-ended
			}
		})
	})
	t.Run("ends with the client", func(t *testing.T) {
		bubble(t, stream, func(r *rig) {
			events, ended = make(chan string), make(chan struct{ err error }, 1)
			c := r.dial()
			c.send(simple + "\r\n")
			if _, err := http.ReadResponse(c.in, nil); err != nil {
				t.Fatalf("answer = %v, want one before any event", err)
			}
			if err := c.Close(); err != nil {
				t.Fatalf("Close() = %v, want nil", err)
			}
			if end := <-ended; !errors.Is(end.err, context.Canceled) {
				t.Errorf("context = %v, want %v", end.err, context.Canceled)
			}
		})
	})
	t.Run("the next request waits", func(t *testing.T) {
		bubble(t, stream, func(r *rig) {
			events, ended = make(chan string), make(chan struct{ err error }, 1)
			c := r.dial()
			defer c.Close()
			c.send(simple + "\r\n")
			resp, err := http.ReadResponse(c.in, nil)
			if err != nil {
				t.Fatalf("answer = %v, want one before any event", err)
			}
			c.send("GET /other HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			synctest.Wait()
			events <- "one\n"
			close(events)
			if body, err := io.ReadAll(resp.Body); string(body) != "one\n" || err != nil {
				t.Errorf("body = %q, %v, want the event", body, err)
			}
			<-ended
			go func() { <-ended }() // the events are over for the next one too
			if resp, _ := c.answer(); resp.StatusCode != 200 {
				t.Errorf("answer = %v, want 200", resp)
			}
		})
	})
}

func TestHandlerThatGivesUpEndsTheConnection(t *testing.T) {
	for _, tt := range []struct {
		name   string
		value  any
		logged bool
	}{{"in peace", http.ErrAbortHandler, false}, {"in panic", "boom", true}} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "half")
				panic(tt.value)
			}, func(r *rig) {
				c := r.dial()
				c.send(simple + "\r\n")
				c.ended()
				if got := strings.Contains(r.logged.String(), "boom"); got != tt.logged {
					t.Errorf("log = %q, want the panic: %v", r.logged.String(), tt.logged)
				}
			})
		})
	}
}

func TestHeadAsItIsSent(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header()["X-Map"] = []string{"1"}
		fields := []byte("X-Sent: 2\r\nContent-Length: 2\r\n")
		w.(HeadWriter).WriteHead(http.StatusCreated, fields)
		clear(fields)
		w.(HeadWriter).WriteHead(http.StatusOK, []byte("X-Late: 3\r\n")) // counts for nothing, like a second WriteHeader
		_, _ = io.WriteString(w, "ok")
	}, func(r *rig) {
		c := r.dial()
		defer c.Close()
		for range 2 {
			c.send(simple + "\r\n")
			resp, body := c.answer()
			resp.Header.Del("Date")
			if got, want := fmt.Sprint(resp.StatusCode, resp.Header, resp.TransferEncoding, body), "201 map[Content-Length:[2] X-Map:[1] X-Sent:[2]] []ok"; got != want {
				t.Errorf("answer = %s, want %s", got, want)
			}
		}
	})
}

func TestLargeAnswers(t *testing.T) {
	const part, parts = 100 << 10, 5
	for _, tt := range []struct {
		name   string
		length bool
	}{{"of known length", true}, {"in chunks", false}} {
		t.Run(tt.name, func(t *testing.T) {
			bubble(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.length {
					w.Header()["Content-Length"] = []string{fmt.Sprint(parts * (part + 1))}
				}
				for range parts {
					_, _ = io.WriteString(w, "y")
					_, _ = io.WriteString(w, strings.Repeat("x", part))
				}
			}, func(r *rig) {
				c := r.dial()
				defer c.Close()
				for range 2 {
					c.send(simple + "\r\n")
					if _, got := c.answer(); got != strings.Repeat("y"+strings.Repeat("x", part), parts) {
						t.Errorf("body has %d bytes, want %d", len(got), parts*(part+1))
					}
				}
			})
		})
	}
}

func TestReaderThatTakesNothingIsGivenUp(t *testing.T) {
	for _, tt := range []struct {
		name  string
		limit time.Duration // that the handler sets; 0: none
		size  int
		most  time.Duration
	}{
		{"by the handler", 3 * time.Second, 1 << 20, 3 * time.Second},
		{"where the handler sets no limit", 0, 100, takeTime * 5 / 4},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var wrote chan error
			bubble(t, func(w http.ResponseWriter, _ *http.Request) {
				if tt.limit > 0 {
					if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(tt.limit)); err != nil {
						t.Errorf("SetWriteDeadline() = %v, want nil", err)
					}
				}
				_, err := w.Write(make([]byte, tt.size))
				if flusher, ok := w.(interface{ FlushError() error }); ok && err == nil {
					err = flusher.FlushError()
				}
				wrote <- err
			}, func(r *rig) {
				wrote = make(chan error, 1)
				began := time.Now()
				c := r.dial()
				defer c.Close()
				c.send(simple + "\r\n")
				if timeout, ok := errors.AsType[net.Error](<-wrote); !ok || !timeout.Timeout() {
					t.Errorf("Write() = nil, want a timeout")
				}
				if took := time.Since(began); took > tt.most || took < tt.most*4/5 {
					t.Errorf("given up after %v, want at most %v and four fifths of that", took, tt.most)
				}
			})
		})
	}
}

func TestAClientHasMoreTimeForMoreBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a answer
		if got, want := time.Until(a.takenBy(1<<20)), (takeTime+64*takeStep)*5/4; got != want {
			t.Errorf("takenBy(1 MiB) is %v away, want %v", got, want)
		}
		a.bound = time.Now().Add(takeTime * 9 / 8)
		if got := a.takenBy(100); got != a.bound {
			t.Errorf("takenBy(100) = %v, want the bound that there is, %v: moving it is dear", got, a.bound)
		}
		a.writeBy = time.Now().Add(time.Second)
		if got := a.takenBy(1 << 20); got != a.writeBy {
			t.Errorf("takenBy(1 MiB) = %v, want the handler's %v", got, a.writeBy)
		}
	})
}

func TestTheDateIsThatOfTheAnswer(t *testing.T) {
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		<-time.After(5 * time.Second)
		echo(w, r)
	}, func(r *rig) {
		c := r.dial()
		defer c.Close()
		c.send(simple + "\r\n")
		resp, _ := c.answer()
		if got, want := resp.Header.Get("Date"), time.Now().UTC().Format(http.TimeFormat); got != want {
			t.Errorf("Date = %s, want %s", got, want)
		}
	})
}

func TestShutdown(t *testing.T) {
	var release chan struct{}
	bubble(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys/slow" {
			<-release
		}
		echo(w, r)
	}, func(r *rig) {
		release = make(chan struct{})
		idle, busy, fresh := r.dial(), r.dial(), r.dial()
		idle.send(simple + "\r\n")
		idle.answer()
		busy.send("GET /keys/slow HTTP/1.1\r\nHost: h\r\n\r\n")
		synctest.Wait()
		done := make(chan error, 1)
		go func() { done <- r.server.Shutdown(r.t.Context()) }()
		synctest.Wait()
		idle.ended()
		select {
		case err := <-done:
			t.Errorf("Shutdown() = %v, want it to wait for the request", err)
		default:
		}
		close(release)
		if resp, got := busy.answer(); got != `lane GET /keys/slow "" <nil>` || !resp.Close {
			t.Errorf("answer = %q, want one that closes the connection", got)
		}
		busy.ended()
		fresh.send(simple + "\r\n")
		if resp, _ := fresh.answer(); !resp.Close {
			t.Errorf("first answer = %v, want one that closes the connection", resp)
		}
		if err := <-done; err != nil {
			t.Errorf("Shutdown() = %v, want nil", err)
		}
	})
}

func TestShutdownGivesUpWithItsContext(t *testing.T) {
	var release chan struct{}
	bubble(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(release)
	}, func(r *rig) {
		release = make(chan struct{})
		c := r.dial()
		c.send(simple + "\r\n")
		synctest.Wait()
		ctx, cancel := context.WithTimeout(r.t.Context(), time.Second)
		defer cancel()
		if err := r.server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown() = %v, want %v", err, context.DeadlineExceeded)
		}
		if err := r.server.Close(); err != nil {
			t.Errorf("Close() = %v, want nil", err)
		}
		<-release
	})
}
